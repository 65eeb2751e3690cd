"""The run's own side: where it puts what it says, and its first word to who started it."""

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

_MOST_COPIED = 1 << 20


class DetachedOutput:
    """An observer that moves standard output and error into the run's log once it has a name.

    Args:
        word: the descriptor to tell the first word on; None where nobody listens.
        arguments: of the command, for the log's first line.
        copy: what was printed so far goes along; it lies in a file, open for reading too. Else it
            stays where it is, and the log is named there.
    """

    def __init__(self, word: int | None, arguments: Sequence[str], *, copy: bool) -> None:
        self._word, self._arguments, self._copy = word, tuple(arguments), copy
        self._name: str | None = None
        self._told: dict[str, Any] = {}

    def observer(self, store: Path, then: Callable[[Event], None]) -> Callable[[Event], None]:
        """Observe the events of a run in a store, each before ``then`` does."""

        def observe(event: Event) -> None:
            if isinstance(event, Started):
                self._begin(event.run, store)
            elif isinstance(event, NodeChanged) and event.slots:
                self._tell(ready=True)
            elif isinstance(event, Progress) and any(node.tasks for node in event.nodes):
                self._tell(works=True)
            if not isinstance(event, Printed):  # which is in the log, where we speak
                then(event)

        return observe

    def _begin(self, name: str, store: Path) -> None:
        """A sweep begins once for each of its backends; its log begins once."""
        if name != self._name:
            self._name = name
            self._to_log(log_of(name, store))
            self._tell(run=name)

    def ended(self, result: Result) -> None:
        """Tell how the run, or the sweep, ended, where anybody listens still."""
        self._tell(run=result.run, state=result.state, code=result.exit_code, over=True)

    def failed(self, error: ClusterError) -> None:
        """Tell the error that ended it."""
        self._tell(error=error.to_json(), code=error.code, over=True)

    def _tell(self, **words: Any) -> None:
        if self._word is None or words.items() <= self._told.items():
            return
        self._told |= words
        try:
            os.write(self._word, json.dumps(words).encode() + b"\n")
        except OSError:  # who started it has heard enough, and is gone
            self._word = None

    def _to_log(self, path: Path) -> None:
        if not self._copy:
            sys.stderr.write(f"what it says from here on is in {path}\n")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        early = b""
        if self._copy:
            with suppress(OSError):
                early = os.pread(1, _MOST_COPIED, 0)
        speak_into(path, self._arguments)
        os.write(1, early)


def speak_into(path: Path, arguments: Sequence[str]) -> None:
    """Have standard output and error go to the end of a log, after a line that says whose it is.

    Raises:
        StoreError: it could not be opened.
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
