"""The submitter's side of a detached run: start it, and hear its first word."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cluster.common.errors import EngineError, retold

# A kernel may be slow to import, and compile at that.
_PATIENCE = 120.0
# From its start to a first usable slot; a run on far hosts is not waited for longer.
_SETTLING = 5.0
# From there on to its first task, for what fails in that.
_GRACE = 1.0
_BOOTSTRAP = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import cluster; del sys.path[0]; "
    "from cluster.__main__ import main; sys.exit(main())"
)


@dataclass
class Word:
    """What a detached run has said so far: its id and state, or the error that ended it."""

    run: str | None = None
    state: str = "running"
    code: int = 0
    error: dict[str, Any] | None = None
    ready: bool = False
    works: bool = False
    over: bool = False

    def hear(self, line: bytes) -> None:
        """Take in one line of what it says."""
        for name, value in json.loads(line).items():
            setattr(self, name, value)


def launch(arguments: Sequence[str], stdin: IO[bytes] | None = None) -> Word:
    """Start a command of ours in a session of its own; returns its first word.

    That is: its run, once it has computed a task, or its time for that is over; or how it ended,
    where that was sooner.

    Args:
        arguments: as they follow ``cluster``, less ``--detach``.
        stdin: a file with what it reads from standard input; without one there is nothing.

    Raises:
        ClusterError: it ended at once, by this error.
    """
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-P", "-c", _BOOTSTRAP, root, *arguments]
    with tempfile.TemporaryFile() as early, _pipe() as (reader, writer):
        process = subprocess.Popen(
            [*command, "--word", str(writer)],
            stdin=stdin or subprocess.DEVNULL,
            stdout=early,
            stderr=early,
            pass_fds=(writer,),
            start_new_session=True,
        )
        os.close(writer)
        word = Word()
        try:
            for line in _lines(reader, word):
                word.hear(line)
        finally:
            if word.run is None and not word.over:
                _end(process)
        if word.error is not None:
            raise retold(word.code, word.error)
        if word.run is None:
            raise _silence(process, early)
        return word


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        os.close(reader)


def _lines(reader: int, word: Word) -> Iterator[bytes]:
    """What it says, line by line, for as long as it is worth to listen."""
    begun, named, ready = time.monotonic(), 0.0, 0.0
    rest = b""
    while not (word.over or word.works):
        now = time.monotonic()
        named = named or (now if word.run else 0.0)
        ready = ready or (now if word.ready else 0.0)
        limit = begun + _PATIENCE
        limit = min(limit, named + _SETTLING) if named else limit
        limit = min(limit, ready + _GRACE) if ready else limit
        if now >= limit or not select.select([reader], [], [], limit - now)[0]:
            return
        data = os.read(reader, 1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


def _end(process: subprocess.Popen[bytes]) -> None:
    """A start that nobody knows by name must not live on: ask it, then make it."""
    for number, seconds in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


def _silence(process: subprocess.Popen[bytes], early: IO[bytes]) -> EngineError:
    """The error of a start that has ended, or was ended, without a word."""
    early.seek(0)
    said = early.read(2000).decode(errors="replace").strip()
    return EngineError(
        f"the detached run did not start (exit code {process.poll()})",
        fix=said or "try it without --detach, to see where it stops",
    )
