"""What kernels print, in a run's log."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from cluster.dispatch.events import Event, Observer, Printed

# Bytes in one session: kernels that print without end must not fill the disk.
_MOST = 1 << 20


class PrintLog:
    """An observer that appends what kernels print to a log, then passes every event on.

    If the log cannot be written, the run goes on and nothing more is logged.

    Args:
        path: of the log.
        then: the next observer.
    """

    def __init__(self, path: Path, then: Observer) -> None:
        self._path, self._then, self._left = path, then, _MOST

    def __call__(self, event: Event) -> None:
        """Handle an event."""
        if isinstance(event, Printed):
            if self._left > 0:
                # The log of a sweep is that of all its runs.
                whose = "" if self._path.stem == event.run else f"{event.run}, "
                self._write(f"{whose}{line}" for line in event.described())
            event = replace(event, log=str(self._path))
        self._then(event)

    def _write(self, lines: Iterable[str]) -> None:
        text = "".join(f"{line}\n" for line in lines)
        data = text.encode(errors="replace")
        self._left -= len(data)
        if self._left <= 0:
            data += b"kernels print more than is kept of one start\n"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            log = os.open(self._path, flags, 0o600)
            try:
                os.write(log, data)
            finally:
                os.close(log)
        except OSError:
            self._left = 0
