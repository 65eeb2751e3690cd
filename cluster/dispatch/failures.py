"""Attributing failures to hosts (others can do what they failed) or to blocks."""

from __future__ import annotations

from typing import NamedTuple

from cluster.common.backoff import backoff
from cluster.sampling.plan import Ranges
from cluster.sampling.progress import Count

# A host is set aside after this many tasks that it failed and others then did.
STRIKES = 3
# A block that was in flight on this many lost nodes is a suspect: it may take the nodes down.
STRANDED = 5
# A node that was lost this often rests before it gets tasks again; the first and the longest rest
# in seconds.
LOSSES = 3
_REST, _MAX_REST = 5.0, 300.0


class Failed(NamedTuple):
    """Blocks [first, stop) that a node failed; kept until all are done."""

    node: str
    first: int
    stop: int


class Failures:
    """The blocks that each host failed and that are not done yet."""

    def __init__(self) -> None:
        self._open: list[Failed] = []

    def add(self, node: str, first: int, stop: int) -> None:
        """Record that a node failed a task.

        Args:
            node: its name.
            first: index of the first block.
            stop: index after the last one.
        """
        self._open.append(Failed(node, first, stop))

    def done_by(self, node: str, first: int, stop: int, count: Count) -> list[str]:
        """Record that a node did some blocks; returns the nodes that this speaks against.

        Args:
            node: its name.
            first: index of the first block.
            stop: index after the last one.
            count: all counted blocks, including these.

        Returns:
            For each task that is now done completely, the other node that had failed it.
        """
        struck, kept = [], []
        for failed in self._open:
            if failed.stop <= first or stop <= failed.first:
                kept.append(failed)
            elif failed.node == node:
                continue  # the node succeeded itself after all
            elif count.done.missing(failed.first, failed.stop):
                kept.append(failed)
            else:
                struck.append(failed.node)
        self._open = kept
        return struck


class Stranded:
    """How often each block was in flight on a node that was lost."""

    def __init__(self) -> None:
        # Level n holds the blocks that were stranded more than n times.
        self._levels = [Ranges() for _ in range(STRANDED - 1)]

    def add(self, first: int, stop: int) -> bool:
        """Record that these blocks were; True if one of them is now a suspect."""
        spans = [(first, stop)]
        for level in self._levels:
            before = [held for span in spans for held in _held(level, *span)]
            for span in spans:
                level.add(*span)
            spans = before
        return bool(spans)


def rest_after(losses: int) -> float:
    """Seconds that a node rests when it is back after its ``losses``-th loss."""
    if losses < LOSSES:
        return 0.0
    return backoff(losses - LOSSES, _REST, _MAX_REST)


def _held(level: Ranges, first: int, stop: int) -> list[tuple[int, int]]:
    """The parts of [first, stop) that are in a level."""
    held, at = [], first
    for low, high in level.missing(first, stop):
        held.append((at, low))
        at = high
    held.append((at, stop))
    return [(low, high) for low, high in held if low < high]
