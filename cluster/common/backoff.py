"""Waiting for peers: the pause before the next attempt, and how late a peer is."""

from __future__ import annotations

import time

# Event loops poll for at most a second, so a longer gap means that the owner was not polling.
_MAX_TURN = 2.0
# Keeps 2.0 ** failures a finite float; any pause has reached its maximum long before.
_MAX_DOUBLINGS = 32


def backoff(failures: int, first: float, longest: float) -> float:
    """Exponential backoff: the pause before the next attempt.

    Args:
        failures: consecutive failures before this pause, from 0.
        first: seconds to wait at ``failures`` = 0; doubled by each failure.
        longest: upper limit of the pause, in seconds.

    Returns:
        Seconds to wait.
    """
    return min(first * 2.0 ** min(failures, _MAX_DOUBLINGS), longest)


class ListeningClock:
    """A clock that advances only while its owner polls; peers' timeouts are measured on it.

    While the owner itself is blocked (a slow disk, a full terminal buffer, a suspended machine),
    no peer is late: their messages are waiting to be read.

    Attributes:
        now: seconds, as of the last call of :meth:`look`.
    """

    def __init__(self) -> None:
        self.now = self._last_look = time.monotonic()

    def look(self) -> float:
        """Advance the clock, by at most one turn of the owner's loop; returns its seconds."""
        monotonic = time.monotonic()
        self.now += min(monotonic - self._last_look, _MAX_TURN)
        self._last_look = monotonic
        return self.now
