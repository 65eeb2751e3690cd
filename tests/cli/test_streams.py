"""Where output goes: pipes that close, full disks, missing streams, terminals of every kind."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.shell import (
    COMMAND,
    PATIENCE,
    ROOT,
    ask,
    environment,
    in_terminal,
    newest,
    only_document,
    screen,
    spec,
)


def shell(line: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash, in which ``cluster`` is the command; its code is that of its first."""
    text = f'set -o pipefail; cluster() {{ {" ".join(COMMAND)} "$@"; }}; {line}'
    return subprocess.run(
        ["bash", "-c", text],
        cwd=cwd,
        env=environment(PYTHONPATH=str(ROOT), **env),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a spec that is quick, and a store with a run."""
    folder = tmp_path_factory.mktemp("streams")
    spec(folder, backend="threads")
    ask("submit", "quarter.yaml", cwd=folder)
    return folder


@pytest.mark.fault(40)
@pytest.mark.parametrize("verb", ["schema", "show quarter --json", "submit quarter.yaml -q"])
def test_a_reader_that_leaves_is_no_error(verb: str, folder: Path, tmp_path: Path) -> None:
    """Nothing is told, the code is the shell's own, and what was computed is in the store."""
    run = newest(folder)
    line = f"cluster {verb.replace('quarter --', f'{run} --')}"
    process = shell(
        f"{{ {line} --store elsewhere; echo $? >&2; }} | true"
        if verb.startswith("submit")
        else f"{{ {line}; echo $? >&2; }} | true",
        folder,
    )
    assert process.stderr.split() in (["141"], ["0"])
    if verb.startswith("submit"):
        assert ask("ls", "--store", "elsewhere", cwd=folder)[0]["state"] == "done"


@pytest.mark.fault(44)
@pytest.mark.parametrize("flag", ["", "--json"])
def test_output_that_cannot_be_written_is_74(flag: str, folder: Path) -> None:
    """It is told on stderr, without a traceback."""
    process = shell(f"cluster ls {flag} > /dev/full", folder)
    assert process.returncode == 74
    assert "No space left" in process.stderr
    assert len(process.stderr.splitlines()) == 1


@pytest.mark.fault(44)
@pytest.mark.parametrize("words", ["", "--help"])
def test_a_help_that_cannot_be_written_is_told(words: str, folder: Path) -> None:
    """Though it is printed before any verb is loaded; without a stream it goes nowhere."""
    full = shell(f"cluster {words} > /dev/full", folder)
    assert (full.returncode, len(full.stderr.splitlines())) == (74, 1)
    assert "No space left" in full.stderr
    closed = shell(f"cluster {words} >&-", folder)
    assert (closed.returncode, closed.stderr) == (0, "")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("function", ["quarter", "loud"])
def test_a_missing_standard_stream_is_replaced(closed: str, function: str, tmp_path: Path) -> None:
    """No file of the store takes its number, into which a kernel would print."""
    path = spec(tmp_path, function, backend="threads")
    process = shell(f"cluster submit {path.name} {closed}", tmp_path)
    assert process.returncode == 0
    assert ask("ls", cwd=tmp_path)[0]["samples"] == 40_000
    whole = ask("doctor", cwd=tmp_path)["findings"][-1]
    assert (whole["check"], whole["status"]) == ("ledger", "ok")


def test_progress_is_on_stderr_and_the_result_on_stdout(folder: Path) -> None:
    """And --quiet leaves only what goes wrong."""
    loud = shell("cluster submit quarter.yaml", folder)
    assert "blocks of 1,000 samples are counted" in loud.stderr
    assert loud.stdout.startswith("✓ quarter: 0.2")
    assert "counted" not in loud.stdout
    assert shell("cluster submit quarter.yaml --quiet", folder).stderr == ""


def test_an_encoding_without_our_symbols_gets_others(folder: Path) -> None:
    """A page never fails for its check mark."""
    process = shell("cluster ls", folder, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert process.returncode == 0
    assert "+ done" in process.stdout
    assert process.stdout.isascii()


def test_a_terminal_shows_the_bar_and_then_the_result(tmp_path: Path) -> None:
    """The bar is redrawn in place, and nothing of it is left on the final screen."""
    path = spec(tmp_path, "slow", params={"pause": 0.02})
    code, received = in_terminal(["submit", path], tmp_path)
    assert code == 0
    assert "\x1b[" in received
    assert "━" in received
    shown = screen(received)
    text = "\n".join(shown)
    assert "━" not in text
    assert re.search(r"^✓ quarter: |^✓ slow: 0\.2", text, re.MULTILINE)
    assert [line for line in shown if line.startswith("node")] == [shown[-3]]
    assert shown[-2].startswith("localhost")


@pytest.mark.parametrize("columns", [40, 20, 300])
def test_any_width_will_do(columns: int, tmp_path: Path) -> None:
    """A narrow terminal folds; no word of the result is lost."""
    path = spec(tmp_path, "slow", params={"pause": 0.01})
    code, received = in_terminal(["submit", path], tmp_path, columns)
    assert code == 0
    text = "".join(screen(received, columns))
    assert str(newest(tmp_path)) in text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    "size",
    [
        {"COLUMNS": "0"},
        {"COLUMNS": "0", "LINES": "0"},
        {"COLUMNS": "²"},
        {"COLUMNS": "-5"},
        {"COLUMNS": "abc"},
        {"COLUMNS": "9" * 5000},
        {"COLUMNS": "0", "TERM": "dumb"},
        {"COLUMNS": "0", "NO_COLOR": "1"},
        {"COLUMNS": None, "TERM": None},
    ],
    ids=lambda size: " ".join(f"{name}={(value or '')[:4]}" for name, value in size.items()),
)
def test_a_size_that_cannot_be_is_none(size: dict[str, str | None], folder: Path) -> None:
    """The terminal's own is taken, or 80 columns where it does not know: this one does not."""
    code, received = in_terminal(["ls"], folder, 0, **size)
    shown = screen(received, 80)
    assert code == 0
    assert any(line.startswith("quarter-") and "done" in line for line in shown)
    assert max(map(len, shown)) <= 80


def test_a_run_is_shown_in_a_terminal_of_no_size(tmp_path: Path) -> None:
    """Its bar, and then its result."""
    path = spec(tmp_path, "slow", params={"pause": 0.02})
    code, received = in_terminal(["submit", path], tmp_path, 0, LINES="0")
    assert code == 0
    assert "━" in received
    assert any(line.startswith("✓ slow: 0.2") for line in screen(received, 80))


@pytest.mark.parametrize(
    ("env", "bar", "colour"),
    [({"TERM": "dumb"}, False, False), ({"NO_COLOR": "1"}, True, False), ({}, True, True)],
    ids=["dumb", "no colour", "plain"],
)
def test_a_terminal_gets_what_it_can_show(
    env: dict[str, Any], bar: bool, colour: bool, tmp_path: Path
) -> None:
    """TERM=dumb gets lines, NO_COLOR a bar without colours."""
    path = spec(tmp_path, "slow", params={"pause": 0.01})
    code, received = in_terminal(["submit", path], tmp_path, **env)
    assert code == 0
    assert ("━" in received) is bar
    assert bool(re.search(r"\x1b\[[0-9;]*3[0-9]m", received)) is colour


@pytest.mark.fault(38)
def test_ctrl_c_in_a_terminal_drains(tmp_path: Path) -> None:
    """The key reaches the workers too, which leave it to the one who gave them work."""
    path = spec(tmp_path, "slow", params={"pause": 0.1})
    line = f"sleep 0.01; {' '.join(COMMAND)} submit {path} --json > out.json; exit $?"
    pid, terminal = os.forkpty()
    if not pid:
        os.chdir(tmp_path)
        changed = environment(PYTHONPATH=str(ROOT), TERM="xterm")
        os.execve("/bin/bash", ["bash", "-c", line], changed)
    while not (tmp_path / "begun").exists():
        os.read(terminal, 1 << 16)
    os.write(terminal, b"\x03")
    try:
        while os.read(terminal, 1 << 16):
            pass
    except OSError:  # Linux's way to say that the other side is gone
        pass
    os.close(terminal)
    os.waitpid(pid, 0)
    result = only_document((tmp_path / "out.json").read_text(), "submit")
    assert (result["stopped_by"], result["drained"], result["failures"]) == ("SIGINT", True, [])


@pytest.mark.parametrize("verb", ["validate", "plan", "submit", "repro"])
def test_a_kernel_that_prints_where_it_is_imported_leaves_stdout_alone(
    verb: str, tmp_path: Path
) -> None:
    """Whichever verb imports or draws it here: stdout is one document, the prints are not in it."""
    (tmp_path / "noisy.py").write_text(
        "import os\nfrom cluster import Hits\n"
        "print('imported'); os.write(1, b'raw')\n"
        "def f(stream, samples):\n    print('drawn')\n    return Hits(1, samples)\n"
    )
    (tmp_path / "noisy.yaml").write_text("kernel: noisy.py:f\nsamples: 40\nblock: 1\n")
    run = json.loads(shell("cluster submit noisy.yaml -q --json", tmp_path).stdout)["run"]
    arguments = {"repro": f"{run} --block 3", "plan": "noisy.yaml --seconds 0.1"}
    process = shell(f"cluster {verb} {arguments.get(verb, 'noisy.yaml')} --json", tmp_path)
    assert process.returncode == 0, process.stderr
    assert isinstance(json.loads(process.stdout), dict)
    assert "imported" in process.stderr
