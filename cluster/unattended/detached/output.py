"""The child's side of a detached run: its log, and the startup message to its parent.

The parent's side is :mod:`cluster.unattended.detached.launch`.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster.common.errors import ClusterError, StoreError
from cluster.dispatch.events import Event, NodeChanged, Printed, Progress, Started
from cluster.hosts.scratch import hostname
from cluster.ledger import log_of
from cluster.report.result import Result

# Of the output before the run has an id, at most this many bytes are copied to its log.
_MOST_COPIED = 1 << 20


class DetachedOutput:
    """An observer that redirects standard output and error to the run's log once it has an id.

    Args:
        parent: the descriptor for the startup message; None: no parent waits for one.
        arguments: of the command, for the log's first line.
        copy: copy what was printed so far into the log; standard output is then a file that can
            also be read. Otherwise that output stays, and a last line there names the log.
    """

    def __init__(self, parent: int | None, arguments: Sequence[str], *, copy: bool) -> None:
        self._parent, self._arguments, self._copy = parent, tuple(arguments), copy
        self._run: str | None = None
        self._sent: dict[str, Any] = {}

    def observer(self, store: Path, then: Callable[[Event], None]) -> Callable[[Event], None]:
        """An observer of a run's events that passes them on.

        Args:
            store: the folder of the ledger, beside which the log is.
            then: receives each event afterwards, except for what kernels print.

        Raises:
            StoreError: from the observer: the log could not be opened.
        """

        def observe(event: Event) -> None:
            if isinstance(event, Started):
                self._begin(event.run, store)
            elif isinstance(event, NodeChanged) and event.slots:
                self._send(ready=True)
            elif isinstance(event, Progress) and any(node.tasks for node in event.nodes):
                self._send(works=True)
            if not isinstance(event, Printed):  # the log has it already, and is our output
                then(event)

        return observe

    def _begin(self, run: str, store: Path) -> None:
        """A sweep over several backends begins once for each of them; its log begins once."""
        if run != self._run:
            self._run = run
            self._redirect(log_of(run, store))
            self._send(run=run)

    def ended(self, result: Result) -> None:
        """Report how the run or the sweep ended, if the parent still waits."""
        self._send(run=result.run, state=result.state, code=result.exit_code, over=True)

    def failed(self, error: ClusterError) -> None:
        """Report the error that ended the run, if the parent still waits."""
        self._send(error=error.to_json(), code=error.code, over=True)

    def _send(self, **fields: Any) -> None:
        if self._parent is None or fields.items() <= self._sent.items():
            return
        self._sent |= fields
        try:
            os.write(self._parent, json.dumps(fields).encode() + b"\n")
        except OSError:  # the parent has stopped waiting and is gone
            self._parent = None

    def _redirect(self, path: Path) -> None:
        if not self._copy:
            sys.stderr.write(f"further output goes to {path}\n")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        early = b""
        if self._copy:
            with suppress(OSError):
                early = os.pread(1, _MOST_COPIED, 0)
        redirect_to_log(path, self._arguments)
        os.write(1, early)


def redirect_to_log(path: Path, arguments: Sequence[str]) -> None:
    """Redirect standard output and error to the end of a log, and write a line that heads them.

    Args:
        path: the log; it is created if it is missing, readable by this user only.
        arguments: of this command, for the heading.

    Raises:
        StoreError: the log could not be opened.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = os.open(path, flags, 0o600)
    except OSError as error:
        raise StoreError(f"{error.strerror or error}", where=str(path)) from None
    stamp = time.strftime("%Y-%m-%d %H:%M:%S%z")
    place = f"process {os.getpid()} on {hostname()}"
    line = f"== {stamp} {place}: cluster {shlex.join(arguments)}\n"
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    os.write(1, line.encode(errors="replace"))
