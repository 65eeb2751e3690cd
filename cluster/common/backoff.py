"""Waiting for others: how long until the next try, and how late they are."""

from __future__ import annotations

import time

# A loop listens for a second at most; a turn that took longer was not spent with that.
_TURN = 2.0
# 2**32 times any first pause is longer than any longest one; more cannot be told as a float.
_MOST_DOUBLINGS = 32


def backoff(failures: int, first: float, longest: float) -> float:
    """Seconds before the next try after so many failures: doubled by each, up to the longest."""
    return min(first * 2.0 ** min(failures, _MOST_DOUBLINGS), longest)


class ListeningClock:
    """A clock that runs only while its owner listens, for telling how late others are.

    While the owner is held up itself (by a disk, by a terminal that takes no more output, by a
    machine that sleeps), nobody is late: what they said meanwhile waits to be read.

    Attributes:
        now: its seconds, at the last look.
    """

    def __init__(self) -> None:
        self.now = self._looked = time.monotonic()

    def look(self) -> float:
        """Let it go on, by one turn of the owner's loop at most; its seconds."""
        looked = time.monotonic()
        self.now += min(looked - self._looked, _TURN)
        self._looked = looked
        return self.now
