"""What is counted so far, in memory: which blocks, their tally, and whether it is enough.

Pure: the ledger is the truth, this is its mirror while a dispatcher runs.
"""

from __future__ import annotations

from cluster.sampling.plan import Checkpoints, Goal, Ranges
from cluster.sampling.tally import Estimate, Tally, merged


class Count:
    """Adds tallies of block ranges, and judges the goal at each checkpoint that is complete.

    Attributes:
        done: the blocks that are counted.
        blocks: how many they are.
        met_at: the checkpoint at which the target was met; None so far.
    """

    def __init__(self, goal: Goal, scale: float, offset: float) -> None:
        self.goal = goal
        self.checkpoints = Checkpoints(goal)
        self.done = Ranges()
        self.blocks = 0
        self.met_at: int | None = None
        self._scale, self._offset = scale, offset
        self._example: Tally | None = None
        self._prefix: Tally | None = None
        self._judged = goal.first
        self._segments: dict[int, tuple[int, Tally]] = {}

    @property
    def complete(self) -> bool:
        """Every block that the goal allows is counted."""
        return self.goal.blocks is not None and self._judged >= self.goal.blocks

    @property
    def finished(self) -> bool:
        """Nothing more is to be drawn."""
        return self.complete or self.met_at is not None

    @property
    def counted(self) -> int | None:
        """The result is that of the blocks below it; None: of all that is done."""
        return self.goal.blocks if self.met_at is None else self.met_at

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The blocks of the result, as merged ranges."""
        end = self.counted
        if end is None:
            return list(self.done)
        return [(first, min(stop, end)) for first, stop in self.done if first < end]

    def add(self, first: int, stop: int, tally: Tally) -> None:
        """Count a range of blocks that is not counted yet; it must not cross a checkpoint.

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
        """The exact tally of what the result would be if the run ended now; None: nothing."""
        parts = [self._prefix] if self._prefix is not None else []
        if self.met_at is None:
            parts += [tally for _, tally in self._segments.values()]
        return merged(parts)

    def estimate(self) -> Estimate | None:
        """The estimate of :meth:`tally`, at the goal's confidence; None: nothing is counted."""
        tally = self.tally()
        if tally is None:
            return None
        return tally.estimate(self.goal.confidence, self._scale, self._offset)

    def _judge(self) -> None:
        """Walk over the segments that are complete, in order, until the goal is met."""
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
