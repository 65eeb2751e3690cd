"""Whose fault it was: hosts that fail what others do, and blocks that nodes go away with."""

from __future__ import annotations

from typing import NamedTuple

from cluster.common.backoff import backoff
from cluster.sampling.plan import Ranges
from cluster.sampling.progress import Count

# A host is set aside when so many tasks that it failed were then done by others.
STRIKES = 3
# A block that was out on a lost node so often is a suspect: it may be what takes nodes down.
STRANDED = 5
# A node that was lost so often rests before it gets tasks again, at first so many seconds.
LOSSES = 3
_REST, _LONGEST_REST = 5.0, 300.0


class Failed(NamedTuple):
    """Blocks that a node failed, until somebody has done them all."""

    node: str
    first: int
    stop: int


class Failures:
    """What each host failed that nobody has done yet."""

    def __init__(self) -> None:
        self._open: list[Failed] = []

    def add(self, node: str, first: int, stop: int) -> None:
        """A node failed these blocks."""
        self._open.append(Failed(node, first, stop))

    def done_by(self, node: str, first: int, stop: int, count: Count) -> list[str]:
        """A node has done these blocks: the others that had failed a task which is now whole."""
        struck, kept = [], []
        for failed in self._open:
            if failed.stop <= first or stop <= failed.first:
                kept.append(failed)
            elif failed.node == node:
                continue  # it could do it after all
            elif count.done.missing(failed.first, failed.stop):
                kept.append(failed)
            else:
                struck.append(failed.node)
        self._open = kept
        return struck


class Stranded:
    """How often each block was out on a node that was lost."""

    def __init__(self) -> None:
        self._levels = [Ranges() for _ in range(STRANDED - 1)]

    def add(self, first: int, stop: int) -> bool:
        """These blocks were; True if one of them has been so often that it is a suspect."""
        spans = [(first, stop)]
        for level in self._levels:
            before = [held for span in spans for held in _held(level, *span)]
            for span in spans:
                level.add(*span)
            spans = before
        return bool(spans)


def rest_after(losses: int) -> float:
    """Seconds that a node rests after so many losses."""
    if losses < LOSSES:
        return 0.0
    return backoff(losses - LOSSES, _REST, _LONGEST_REST)


def _held(level: Ranges, first: int, stop: int) -> list[tuple[int, int]]:
    """The parts of [first, stop) that a level has."""
    held, at = [], first
    for low, high in level.missing(first, stop):
        held.append((at, low))
        at = high
    held.append((at, stop))
    return [(low, high) for low, high in held if low < high]
