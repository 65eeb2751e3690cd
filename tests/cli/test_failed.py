"""How a run that failed is told: what broke where, once, and what helps."""

from __future__ import annotations

from pathlib import Path

from .shell import cluster

HEAD = "import ctypes\nfrom cluster import Hits\n\n"


def failing(folder: Path, body: str, **keys: str) -> Path:
    """A spec of a kernel ``k`` with this body, one slot and few attempts."""
    (folder / "k.py").write_text(f"{HEAD}def k(rng, samples):\n{body}")
    more = "".join(f"{key}: {value}\n" for key, value in keys.items())
    path = folder / "k.yaml"
    path.write_text(
        "kernel: k.py:k\nsamples: 40\nblock: 10\nseed: 1\nnodes: localhost:1\n"
        f"retry: {{attempts: 1}}\n{more}"
    )
    return path


def test_a_crash_is_told_by_its_line_of_the_kernel_and_its_trace_once(tmp_path: Path) -> None:
    """The signal, the function, file and line on one short line; the calls below each other."""
    failing(tmp_path, "    return inner()\n\ndef inner():\n    ctypes.string_at(0)\n")
    done = cluster("submit", "k.yaml", cwd=tmp_path)
    assert done.returncode == 1
    words = "WorkerLost: its process died of SIGSEGV in inner (k.py:8)"
    assert f"attempt 1: {words}; no attempts are left\n" in done.stderr
    assert f"attempt 1: {words}\n  Fatal Python error: Segmentation fault\n" in done.stdout
    both = done.stdout + done.stderr
    assert both.count("Segmentation fault") == 1
    assert "Extension modules" not in both
    assert "/cluster/work.py" not in both


def test_the_last_words_of_a_process_are_told_as_it_wrote_them(tmp_path: Path) -> None:
    """The last line beside how it ended, and all of them below each other in the report."""
    failing(tmp_path, "    import os\n    os.write(2, b'one\\ntwo\\n')\n    os._exit(7)\n")
    done = cluster("submit", "k.yaml", cwd=tmp_path)
    words = "WorkerLost: its process exited with 7; its last words: two"
    assert f"attempt 1: {words}\n  one\n  two\n" in done.stdout
