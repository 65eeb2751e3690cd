"""The states of a run: each owns its word, its symbol and its exit code."""

from __future__ import annotations

import signal
from enum import Enum


class State(Enum):
    """What a run is in; the value is the word used everywhere.

    ``damaged`` is reported for a run whose row in the ledger is damaged; it is never recorded.
    """

    RUNNING = "running"
    INTERRUPTED = "interrupted"
    PARTIAL = "partial"
    FAILED = "failed"
    DONE = "done"
    DAMAGED = "damaged"

    @property
    def symbol(self) -> str:
        """One character for tables."""
        return _SYMBOLS[self.value]

    def exit_code(self, stopped_by: str | None = None) -> int:
        """The exit code of a command that leaves a run so; after a signal, 128 + its number."""
        if self is State.INTERRUPTED and stopped_by and stopped_by.startswith("SIG"):
            return 128 + signal.Signals[stopped_by]
        return _CODES[self.value]


_SYMBOLS = {
    "running": "▸",
    "interrupted": "…",
    "partial": "◐",
    "failed": "✗",
    "done": "✓",
    "damaged": "!",
}
_CODES = {"running": 0, "interrupted": 3, "partial": 3, "failed": 1, "done": 0, "damaged": 74}
