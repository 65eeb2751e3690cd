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


class Unstepped:
    """A clock that agrees with another one's wall clock now, and goes on from there steadily.

    What is measured between two of its times is right also where the wall clock steps meanwhile.
    """

    def __init__(self, clock: Clock) -> None:
        self._steady = clock.steady
        self._zero = clock.now() - clock.steady()

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._zero + self._steady()

    def at(self, steady: float) -> float:
        """Seconds since the epoch at a time of the steady clock."""
        return self._zero + steady

    def steady(self) -> float:
        """Seconds on a clock that never steps."""
        return self._steady()


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def steady(self) -> float:
        """Seconds on a clock that never steps."""
        return time.monotonic()
