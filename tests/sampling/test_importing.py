"""What a kernel's file does on import: prevented, bounded, and reported with a fix."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import cli
from cluster.sampling.kernels import load

GUARD = 'put code that runs the file as a script under if __name__ == "__main__":'
ARGPARSE = "import argparse\np = argparse.ArgumentParser()\np.add_argument('x')\n"
KERNEL = (
    "\nfrom cluster import Moments\n\ndef k(rng, samples):\n"
    "    return Moments.of(rng.random(samples))\n"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache and a working folder of this test's own, and no kernel loaded before or after."""
    monkeypatch.setenv("CLUSTER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.chdir(tmp_path)
    load.cache_clear()
    yield
    load.cache_clear()


def written(top: str, **keys: str) -> Path:
    """A spec of a kernel whose file begins with these lines."""
    Path("k.py").write_text(top + KERNEL)
    more = "".join(f"{key}: {value}\n" for key, value in keys.items())
    Path("k.yaml").write_text(f"kernel: k.py:k\nsamples: 1e3\nblock: 1e3\nseed: 1\n{more}")
    return Path("k.yaml")


@pytest.mark.parametrize("verb", ["validate", "submit", "plan"])
@pytest.mark.parametrize(
    ("top", "words"),
    [
        (
            'import cluster\ncluster.submit(cluster.load("k.yaml"))\n',
            "k.py starts a run when it is imported (at k.py:2)",
        ),
        (
            'import cluster\ncluster.resume("x", ".")\n',
            "k.py starts a run when it is imported (at k.py:2)",
        ),
        (
            "import sys\nsys.exit(main() if 0 else 3)\n",
            "k.py does not import: SystemExit: 3 (at k.py:2)",
        ),
        (ARGPARSE + "p.parse_args()\n", "k.py does not import: SystemExit: 2 (at k.py:4)"),
    ],
)
def test_a_file_that_runs_itself_at_import_is_told_of_the_guard(
    capfd: pytest.CaptureFixture[str], verb: str, top: str, words: str
) -> None:
    """A run, an end of the process, a read of the terminal: the line, the cure, exit code 2."""
    assert cli.run([verb, str(written(top))]) == 2
    err = capfd.readouterr().err
    assert f"k.yaml:1:9: kernel: {words}; {GUARD}\n" in err
    assert "Traceback" not in err
    assert not Path("runs").exists()


def test_a_file_that_reads_input_at_import_finds_it_at_its_end() -> None:
    """The kernel cannot read the command's input: a worker has none either."""
    spec = written("n = int(input())\n")
    command = [sys.executable, "-m", "cluster", "validate", str(spec)]
    done = subprocess.run(
        command, input="5\n", capture_output=True, text=True, timeout=60, check=False
    )
    words = f"EOFError: EOF when reading a line (at k.py:1); {GUARD}\n"
    assert (done.returncode, done.stderr.endswith(words)) == (2, True)


def test_a_process_that_a_file_starts_at_import_cannot_start_it_again(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """``cluster`` in a subprocess at import is refused: each would start the next."""
    top = "import subprocess, sys\n"
    top += "subprocess.run([sys.executable, '-m', 'cluster', 'submit', 'k.yaml'])\n"
    assert cli.run(["validate", str(written(top))]) == 0
    assert f"k.py starts a run when it is imported\n  {GUARD}" in capfd.readouterr().err
    assert not Path("runs").exists()
    assert cli.run(["submit", str(written("")), "--quiet"]) == 0


def test_optional_arguments_of_a_file_have_their_defaults() -> None:
    """The file's own argparse does not see our arguments, and its changes are undone."""
    top = "import argparse\np = argparse.ArgumentParser()\np.add_argument('--n', default=1)\n"
    before = sys.argv
    assert cli.run(["validate", str(written(top + "assert p.parse_args().n == 1\n"))]) == 0
    assert sys.argv is before


@pytest.mark.parametrize(
    "top",
    [
        "while True: pass\n",
        "import time\nwhile True:\n  try: time.sleep(9)\n  except Exception: 0\n",
    ],
)
def test_an_import_without_an_end_is_ended(top: str) -> None:
    """A slow import is reported, and ended at retry.timeout, with its line."""
    written(top, retry="{timeout: 0.5s}")
    code = "import sys; from cluster import cli; from cluster.sampling.kernels import importing\n"
    code += "importing._SLOW = 0.2; sys.exit(cli.run(['validate', 'k.yaml']))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.count("k.py is still being imported after 0.2 s (Ctrl-C ends it)") == 1
    assert "does not import: ImportTimeout: over 0.5 s, the limit of retry.timeout" in done.stderr
    assert "(at k.py:" in done.stderr
    assert GUARD in done.stderr


@pytest.mark.parametrize("base", ["BaseException", "Exception"])
def test_any_error_of_an_import_is_told_on_one_line(
    capsys: pytest.CaptureFixture[str], base: str
) -> None:
    """Whatever its base class, and however many lines its message has."""
    top = f"class Odd({base}): pass\nraise Odd('one\\n  two')\n"
    assert cli.run(["validate", str(written(top))]) == 2
    assert "k.py does not import: Odd: one two (at k.py:2)\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("top", "words"),
    [
        (
            "T = open(__file__[:-4] + 'data/t.csv')\n",
            "'data/t.csv' (at k.py:1); add it to the spec: include: [data/t.csv]\n",
        ),
        ("T = open('t.csv')\n", "include: [t.csv], and open Path(__file__).parent / 't.csv'\n"),
        (
            "T = open(__file__[:-4] + 'b.npy')\n",
            "(at k.py:1); only text is frozen with a kernel (include): put other",
        ),
        ("T = open('nowhere.csv')\n", "'nowhere.csv' (at k.py:1)\n"),
        ("import lib.h\n", "(at k.py:1); only files below the kernel's folder can be frozen"),
        ("import lib.h\n", "jobs/lib and write include: [lib/h.py], or install it here and on"),
        ("import zzz.h\n", "No module named 'zzz' (at k.py:1); install zzz here and on every host"),
        ("import pack.a\n", "add it to the spec: include: [pack/__init__.py, pack/a.py]\n"),
    ],
)
def test_what_an_import_does_not_find_is_told_with_how_to_bring_it(
    capsys: pytest.CaptureFixture[str], top: str, words: str
) -> None:
    """Text beside the kernel goes into include, other data and modules elsewhere do not."""
    for folder in ("jobs/data", "jobs/pack", "lib"):
        Path(folder).mkdir(parents=True)
    for name in (
        "jobs/data/t.csv",
        "jobs/t.csv",
        "lib/h.py",
        "jobs/pack/__init__.py",
        "jobs/pack/a.py",
    ):
        Path(name).write_text("1\n")
    Path("jobs/b.npy").write_bytes(b"\x93NUMPY")
    Path("jobs/k.py").write_text(top + KERNEL)
    Path("k.yaml").write_text("kernel: jobs/k.py:k\nsamples: 1e3\n")
    assert cli.run(["validate", "k.yaml"]) == 2
    assert words in capsys.readouterr().err


def test_a_file_of_bytes_in_include_is_refused_with_what_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Data that is not text cannot be frozen."""
    Path("b.npy").write_bytes(b"\x93NUMPY")
    assert cli.run(["validate", str(written("", include="[b.npy]"))]) == 2
    assert "b.npy is not UTF-8 at byte 0 (at b.npy); only text is frozen" in capsys.readouterr().err
