"""The parent's side of a detached run: start it, and wait for its startup message.

The child's side is :mod:`cluster.unattended.detached.output`.
"""

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

# Seconds until the run has its id: a kernel may be slow to import and to compile.
_PATIENCE = 120.0
# Seconds from there to the first usable slot; hosts that take longer are not waited for.
_SETTLING = 5.0
# Seconds from there to the first finished task, to catch a kernel that fails at once.
_GRACE = 1.0
_BOOTSTRAP = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import cluster; del sys.path[0]; "
    "from cluster.__main__ import main; sys.exit(main())"
)


@dataclass
class StartupMessage:
    """What a detached run has reported to its parent so far.

    Attributes:
        run: its id; None until it has one.
        state: its state, as in the ledger.
        code: the exit code, once it is over.
        error: the error that ended it, as JSON, or None.
        ready: it has a usable slot.
        works: it has computed a task.
        over: it has ended.
    """

    run: str | None = None
    state: str = "running"
    code: int = 0
    error: dict[str, Any] | None = None
    ready: bool = False
    works: bool = False
    over: bool = False

    def update(self, line: bytes) -> None:
        """Set the attributes in one JSON line from the run."""
        for name, value in json.loads(line).items():
            setattr(self, name, value)


def launch(arguments: Sequence[str], stdin: IO[bytes] | None = None) -> StartupMessage:
    """Start a ``cluster`` command in a session of its own, and wait for its startup message.

    Args:
        arguments: those of ``cluster``, without ``--detach``.
        stdin: the file to use as its standard input; without one, it is empty.

    Returns:
        The run, once it has computed a task or the time for that has passed; or how it ended, if
        that came first.

    Raises:
        ClusterError: the error with which the command ended before it had a run.
        EngineError: it ended without any message.
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
        message = StartupMessage()
        try:
            for line in _lines(reader, message):
                message.update(line)
        finally:
            if message.run is None and not message.over:
                _end(process)
        if message.error is not None:
            raise retold(message.code, message.error)
        if message.run is None:
            raise _no_message(process, early)
        return message


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        os.close(reader)


def _lines(reader: int, message: StartupMessage) -> Iterator[bytes]:
    """Yield the run's lines until it computes, ends, or the time for its next step has passed."""
    begun, named, ready = time.monotonic(), 0.0, 0.0
    rest = b""
    while not (message.over or message.works):
        now = time.monotonic()
        named = named or (now if message.run else 0.0)
        ready = ready or (now if message.ready else 0.0)
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
    """End a start that has no id yet, by SIGTERM, then SIGKILL: no command could stop it later."""
    for number, seconds in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 2.0)):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            return


def _no_message(process: subprocess.Popen[bytes], early: IO[bytes]) -> EngineError:
    """The error for a start that ended, or was ended, without any message."""
    early.seek(0)
    printed = early.read(2000).decode(errors="replace").strip()
    return EngineError(
        f"the detached run did not start (exit code {process.poll()})",
        fix=printed or "try it without --detach, to see where it stops",
    )
