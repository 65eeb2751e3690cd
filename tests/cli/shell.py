"""The command line as a person has it: processes, their output, terminals; and kernels for them."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator

from cluster import api
from cluster.common.errors import StoreError
from cluster.report.schema import output_schema
from tests.cli import warm

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "cluster"]
PATIENCE = 60.0

KERNELS = '''\
"""Kernels that are quick, slow, loud and wrong."""

import os
import sys
import time

from cluster import Hits, kernel


@kernel(reference=0.25, block=1000)
def quarter(rng, samples, share=0.25):
    return Hits((rng.random(samples) < share).sum(), samples)


@kernel(reference=0.25, block=1000)
def slow(rng, samples, pause=0.1):
    open("begun", "w").close()
    time.sleep(pause)
    return Hits((rng.random(samples) < 0.25).sum(), samples)


@kernel(reference=0.25, block=1000)
def held(stream, samples):
    while 4 < stream.block < 1000 and os.path.exists("hold"):
        time.sleep(0.01)
    return Hits((stream.generator().random(samples) < 0.25).sum(), samples)


@kernel(block=1000)
def breaks(stream, samples):
    if stream.block == 3:
        raise ValueError("out of cheese")
    return Hits((stream.generator().random(samples) < 0.25).sum(), samples)


@kernel(block=1000)
def loud(rng, samples):
    print('{"not": "ours"}' * 100, flush=True)
    os.write(1, b"[1, 2, 3]" * 100)
    sys.stdout.write("without an end")
    return Hits((rng.random(samples) < 0.25).sum(), samples)


@kernel(block=1000)
def other(rng, samples):
    return 0.25
'''


def spec(folder: Path, function: str = "quarter", **keys: object) -> Path:
    """A spec of one of the kernels, 40 blocks under seed 7 on two slots if nothing else is said."""
    (folder / "kernels.py").write_text(KERNELS)
    document = {"kernel": f"kernels.py:{function}", "samples": 40_000, "seed": 7, **keys}
    document.setdefault("nodes", "localhost:2")
    path = folder / f"{function}.yaml"
    kept = {key: value for key, value in document.items() if value is not None}
    path.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in kept.items()))
    return path


def environment(**env: str | None) -> dict[str, str]:
    """This process's, with changes; None takes a variable out. The coverage of CI goes on."""
    merged = {**os.environ, **env}
    return {name: value for name, value in merged.items() if value is not None}


def cluster(
    *arguments: object, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; its output is split from its messages.

    Where an environment is given, Python starts it, as a shell would; else it is forked off a
    process that has loaded what commands need.
    """
    words = [*map(str, arguments)]
    if env is None and (done := warm.run(words, cwd, environment(PYTHONPATH=str(ROOT)), PATIENCE)):
        return done
    return subprocess.run(
        [*COMMAND, *words],
        cwd=cwd,
        env=env or environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def arguments(command: str) -> list[str]:
    """What a told command says to the program, however that is called."""
    words = shlex.split(command)
    return words[words.index("cluster") + 1 :]


def started(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """A command that runs, its output in pipes."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(PYTHONPATH=str(ROOT)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str], *signals: int) -> tuple[int, str, str]:
    """Send signals to a command, a moment apart, and wait: exit code, stdout, stderr."""
    for number in signals:
        process.send_signal(number)
        time.sleep(0.2)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, err


def wait_for(condition: Callable[[], object], seconds: float = PATIENCE) -> Any:
    """What a condition answers as soon as it holds."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)
    return answer


def only_document(text: str, verb: str) -> Any:
    """The one JSON document that an output is, checked against a verb's schema."""
    document = json.loads(text)
    problems = Draft7Validator(output_schema(verb)).iter_errors(document)
    assert [problem.message for problem in problems] == []
    return document


def ask(verb: str, *arguments: object, cwd: Path, code: int = 0) -> Any:
    """The checked document of a command that ends with a code."""
    process = cluster(verb, *arguments, "--json", cwd=cwd)
    assert process.returncode == code, process.stderr + process.stdout
    return only_document(process.stdout, verb if code in (0, 1, 3) else "error")


def counted(cwd: Path, store: str = "runs") -> int:
    """How many blocks the newest run of a store has, as another process sees it."""
    run = newest(cwd, store)
    return api.show(run, cwd / store).blocks if run else 0


def newest(cwd: Path, store: str = "runs") -> str | None:
    """The id of the newest run of a store, or None while there is none."""
    try:
        found = api.runs(cwd / store)
    except StoreError:  # its folder is there, its tables are not yet
        return None
    return found[0].run if found else None


def interrupted(path: Path, *arguments: object, cwd: Path, number: int = signal.SIGKILL) -> str:
    """A run that a signal ended when some of its blocks were counted; its id."""
    process = started("submit", path, "--quiet", *arguments, cwd=cwd)
    try:
        wait_for(lambda: counted(cwd))
    finally:
        ended(process, number)
    run = newest(cwd)
    assert run
    return run


def in_terminal(
    arguments: Sequence[object], cwd: Path, columns: int = 100, **env: str | None
) -> tuple[int, str]:
    """Run a command in a pseudo terminal: exit code, and all that its screen received."""
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(cwd)
        size = {"COLUMNS": str(columns), "LINES": "40", "TERM": "xterm", "PYTHONPATH": str(ROOT)}
        changed = environment(**{**size, "NO_COLOR": None, **env})
        os.execve(COMMAND[0], [*COMMAND, *map(str, arguments)], changed)
    received = b""
    while True:
        try:
            data = os.read(terminal, 1 << 16)
        except OSError:  # Linux's way to say that the other side is gone
            break
        received += data
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), received.decode()


_TOKEN = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n])")


def screen(received: str, columns: int = 100) -> list[str]:
    """The lines that a terminal shows in the end: enough of one for a bar that is redrawn."""
    lines: list[list[str]] = [[]]
    row = column = 0
    for count, act, home, down, character in _TOKEN.findall(received):
        if act == "A":
            row = max(0, row - int(count or 1))
        elif act == "K":
            lines[row][0 if count == "2" else column :] = []
        elif home:
            column = 0
        elif down or (character and column >= columns):
            row, column = row + 1, 0 if character else column
        while len(lines) <= row:
            lines.append([])
        if character:
            lines[row] += [" "] * (column + 1 - len(lines[row]))
            lines[row][column] = character
            column += 1
    return ["".join(line).rstrip() for line in lines]
