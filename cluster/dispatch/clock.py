"""Injected time: no decision code reads the system clock."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A source of time; tests pass one that they advance themselves."""

    def now(self) -> float:
        """Wall-clock time, in seconds since the epoch; may be adjusted at any moment."""

    def steady(self) -> float:
        """Seconds on a monotonic clock."""


class Unstepped:
    """A wall clock that starts at another clock's time and then advances monotonically.

    So the difference of two of its times is right even if the system clock is adjusted between.
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
