"""The blocks counted so far, their tally, and whether the goal is reached.

Kept in memory while a dispatcher runs; the ledger holds the authoritative copy.
"""

from __future__ import annotations

from cluster.sampling.plan import Checkpoints, Goal, Ranges
from cluster.sampling.tally import Estimate, Tally, merged


class Count:
    """Adds up tallies of block ranges, and judges the goal at each completed checkpoint.

    Args:
        goal: when the run is complete.
        scale, offset: the estimate is ``offset + scale * x``.

    Attributes:
        done: the counted blocks.
        blocks: their number.
        met_at: the checkpoint at which the target was met, or None.
    """

    def __init__(self, goal: Goal, scale: float, offset: float) -> None:
        self.goal = goal
        self.checkpoints = Checkpoints(goal)
        self.done = Ranges()
        self.blocks = 0
        self.met_at: int | None = None
        self._scale, self._offset = scale, offset
        self._example: Tally | None = None
        # The prefix holds the blocks before _judged; later ones wait, by the first block of their
        # segment, as (number of blocks, tally). Only complete prefixes are judged: which blocks
        # beyond one have arrived depends on timing, and the stop must not.
        self._prefix: Tally | None = None
        self._judged = goal.first
        self._segments: dict[int, tuple[int, Tally]] = {}

    @property
    def complete(self) -> bool:
        """Whether every block that the goal allows is counted."""
        return self.goal.blocks is not None and self._judged >= self.goal.blocks

    @property
    def finished(self) -> bool:
        """Whether nothing remains to be drawn."""
        return self.complete or self.met_at is not None

    @property
    def counted(self) -> int | None:
        """The result is that of the blocks below this index; None: of all that are done."""
        return self.goal.blocks if self.met_at is None else self.met_at

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The blocks of the result, as disjoint ranges [first, stop)."""
        end = self.counted
        if end is None:
            return list(self.done)
        return [(first, min(stop, end)) for first, stop in self.done if first < end]

    def add(self, first: int, stop: int, tally: Tally) -> None:
        """Count the blocks [first, stop), none of which is counted yet.

        Args:
            first: index of the first block.
            stop: index after the last; the range must not cross a checkpoint.
            tally: of these blocks.

        Raises:
            TallyError: it is of another kind than what is counted; nothing has changed.
        """
        self._example = self._example or tally
        self._example.check_like(tally)
        self.done.add(first, stop)
        self.blocks += stop - first
        start = self.checkpoints.segment(first).first
        blocks, so_far = self._segments.get(start, (0, None))
        together = tally if so_far is None else so_far.merge(tally)
        self._segments[start] = (blocks + stop - first, together)
        if start == self._judged:
            self._judge()

    def tally(self) -> Tally | None:
        """The exact tally of the result if the run ended now; None if nothing is counted."""
        parts = [self._prefix] if self._prefix is not None else []
        if self.met_at is None:
            parts += [tally for _, tally in self._segments.values()]
        return merged(parts)

    def estimate(self) -> Estimate | None:
        """The estimate from :meth:`tally` at the goal's confidence; None if nothing is counted."""
        tally = self.tally()
        if tally is None:
            return None
        return tally.estimate(self.goal.confidence, self._scale, self._offset)

    def _judge(self) -> None:
        """Extend the prefix by completed segments, in order, until the goal is met."""
        while not self.finished:
            segment = self.checkpoints.segment(self._judged)
            blocks, tally = self._segments.get(self._judged, (0, None))
            if tally is None or blocks < segment.stop - segment.first:
                return
            del self._segments[self._judged]
            self._prefix = tally if self._prefix is None else self._prefix.merge(tally)
            self._judged = segment.stop
            target = self.goal.target
            if target and target.met_by(self._prefix, self._scale, self._offset):
                self.met_at = segment.stop
