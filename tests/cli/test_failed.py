"""How a run that failed is told: what broke where, once, and what helps."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from cluster import api
from cluster.common.commands import command
from cluster.dispatch.events import Event, Noted
from cluster.lifecycle.notify.messages import of_result
from cluster.report import text
from cluster.report.result import Result

from .shell import cluster, wait_for

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


RAISES = "    raise ValueError('out of cheese')\n"
GOOD = "    return Hits(5, samples)\n"
DIFFERS = "k.py changed since submit: the run continues with the frozen text"


def ran(folder: Path, body: str, **keys: str) -> Result:
    """The result of a run of such a kernel, in this process."""
    return api.submit(api.load(failing(folder, body, backend="serial", **keys)))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working folder is the test's, and so is the cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLUSTER_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("body", [RAISES, "    return 5\n"])
def test_a_kernel_that_failed_is_to_be_mended_and_submitted_again(
    tmp_path: Path, body: str
) -> None:
    """What it raised or returned is frozen in the run, so no resume is advised, by any verb."""
    path = failing(tmp_path, body, backend="serial")
    result = api.submit(api.load("k.yaml", ["seed=2"]))
    again = command("submit", path.name, "--set", "seed=2")
    frozen = "a resume repeats the kernel as it is frozen in the run"
    assert result.advice == f"fix k.py, then {again}; {frozen}"
    for page in (text.result(result), text.status(api.status(result.run).to_json())):
        shown = io.StringIO()
        text.show(page, shown)
        assert result.advice in shown.getvalue()
        assert "continue " not in shown.getvalue()
    assert result.to_json()["advice"] == api.status(result.run).to_json()["advice"] == result.advice


def test_a_crash_is_no_proof_against_the_kernel(tmp_path: Path) -> None:
    """A worker that was lost may have been killed by the machine: a resume may help."""
    failing(tmp_path, "    import os\n    os._exit(7)\n")
    result = api.submit(api.load("k.yaml"))
    assert (result.state, result.advice) == ("failed", None)


@pytest.mark.parametrize("verb", ["resume", "extend"])
def test_going_on_says_that_the_kernel_s_file_differs_now(tmp_path: Path, verb: str) -> None:
    """The frozen text is what is computed, which whoever has mended the file must be told."""

    def gone_on(samples: int) -> Result:
        more: Any = {"overrides": [f"samples={samples}"]} if verb == "extend" else {}
        result: Result = getattr(api, verb)(run, observe=events.append, **more)
        return result

    events: list[Event] = []
    run = ran(tmp_path, GOOD if verb == "extend" else RAISES).run
    gone_on(60)
    assert noted(events) == []
    failing(tmp_path, "    return Hits(0, samples)\n")
    result = gone_on(80)
    assert len(noted(events)) == 1
    assert any(DIFFERS in event["text"] for event in result.events)
    (tmp_path / "k.py").unlink()
    gone_on(100)
    assert len(noted(events)) == 1


def noted(events: list[Event]) -> list[str]:
    """What was said of a kernel's file that differs."""
    return [each.text for each in events if isinstance(each, Noted) and DIFFERS in each.text]


def test_a_detached_resume_says_it_in_its_log(tmp_path: Path) -> None:
    """The words are there for whoever asks what a run without a terminal has said."""
    run = ran(tmp_path, RAISES).run
    failing(tmp_path, GOOD)
    cluster("resume", run, "--detach", cwd=tmp_path)
    wait_for(lambda: api.status(run).holder is None)
    assert DIFFERS in (tmp_path / "runs" / "logs" / f"{run}.log").read_text()


def test_a_sweep_with_failed_points_is_told_alike(tmp_path: Path) -> None:
    """Its table ends with the advice; its resume says that the file differs, once."""
    path = failing(tmp_path, RAISES, backend="serial", sweep="{matrix: {params.a: [1, 2]}}")
    (tmp_path / "k.py").write_text((tmp_path / "k.py").read_text().replace("les)", "les, a)"))
    events: list[Event] = []
    result = api.submit(api.load(path))
    assert str(result.advice).startswith("fix k.py, then ")
    shown = io.StringIO()
    text.show(text.sweep(result), shown)
    assert "fix k.py, then " in shown.getvalue()
    assert "continue " not in shown.getvalue()
    (tmp_path / "k.py").write_text("# mended\n")
    api.resume(result.run, observe=events.append)
    assert len(noted(events)) == 1


def test_a_notifier_is_told_what_helps(tmp_path: Path) -> None:
    """The line of text that chat services show has the advice, and the message has it by itself."""
    message = of_result(ran(tmp_path, RAISES))
    assert message["advice"].startswith("fix k.py, then ")
    assert message["text"].endswith(f"; {message['advice']}")
