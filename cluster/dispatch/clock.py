"""Time, passed in, so that nobody who decides has a clock of his own."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Time, passed in, so that tests need not wait for it."""

    def now(self) -> float:
        """Seconds since the epoch."""

    def steady(self) -> float:
        """Seconds on a clock that never steps."""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def steady(self) -> float:
        """Seconds on a clock that never steps."""
        return time.monotonic()
