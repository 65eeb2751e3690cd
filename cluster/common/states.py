"""The states of a run, each with its name, symbol and exit code."""

from __future__ import annotations

import signal
from enum import Enum


class State(Enum):
    """The state of a run; its value is the name used in tables, JSON and the ledger.

    ``damaged`` is only ever reported, for a run whose ledger row fails its checks; it is never
    stored.
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
        """The exit code of a command that leaves a run in this state.

        Args:
            stopped_by: the name of the signal that stopped the run, as ``SIGINT``: then an
                interrupted run has 128 + its number.
        """
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
