"""From a goal to blocks, checkpoints and task lengths. Deterministic: no clock, disk or chance."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from cluster.sampling.tally import Tally

# Where new runs place their checkpoints; recorded with each run (see docs/design.md).
FIRST_CHECKPOINT = 30
GROWTH = 10  # each checkpoint is the previous one plus a tenth of it
MIN_HITS = 10

# Task lengths in seconds. Long enough to amortize the cost of a task; short enough that losing
# one, or waiting for the last one, costs little, and that speeds are measured often.
AIM = 1.0
SHORTEST = 0.02
# A task has at most this many times the blocks of the longest that its node has finished, since
# a pace measured on a few blocks says little about many.
TRUST = 8


@dataclass(frozen=True)
class Target:
    """A precision to reach: every limit that is given must hold for the scaled estimate.

    Attributes:
        half_width: limit of half the width of the confidence interval.
        rel_error: limit of standard error / abs(estimate).
        std_error: limit of the standard error.
        confidence: level of the interval, between 0 and 1.
        min_samples: the target is not judged on fewer samples.
        min_hits: nor on fewer of the rarest event (see :meth:`Tally.scarce`).
    """

    half_width: float | None = None
    rel_error: float | None = None
    std_error: float | None = None
    confidence: float = 0.95
    min_samples: int = 0
    min_hits: int = MIN_HITS

    @property
    def limits(self) -> tuple[float | None, ...]:
        """The limits in the order of ``MEASURES``; None where there is none."""
        return self.half_width, self.rel_error, self.std_error

    @property
    def blind(self) -> bool:
        """Whether a plain standard error is judged: it is zero if an event was never drawn."""
        return self.rel_error is not None or self.std_error is not None

    def met_by(self, tally: Tally, scale: float, offset: float) -> bool:
        """Whether the tally of a complete prefix of blocks is precise enough.

        Args:
            tally: of all blocks up to a checkpoint.
            scale: the estimate is ``offset + scale * x``.
            offset: likewise.
        """
        scarce = tally.scarce(plain=self.blind)
        if tally.samples < self.min_samples or (scarce is not None and scarce < self.min_hits):
            return False
        estimate = tally.estimate(self.confidence, scale, offset)
        pairs = zip(self.limits, estimate.measures, strict=True)
        return all(limit is None or got <= limit for limit, got in pairs)


@dataclass(frozen=True)
class Goal:
    """When a run is complete.

    Attributes:
        blocks: the number of blocks, or its maximum if there is a target; None: unlimited.
        target: the precision to reach, or None.
        max_time: seconds after which a start of the run drains, or None.
        confidence: level of the reported interval.
        first_checkpoint, growth: where the checkpoints lie, see :class:`Checkpoints`.
        first: index of the first block; above 0 if this run is a shard, whose earlier blocks
            are computed at another site.
    """

    blocks: int | None
    target: Target | None = None
    max_time: float | None = None
    confidence: float = 0.95
    first_checkpoint: int = FIRST_CHECKPOINT
    growth: int = GROWTH
    first: int = 0

    @property
    def size(self) -> int | None:
        """The maximum number of blocks to compute; None: unlimited."""
        return None if self.blocks is None else self.blocks - self.first

    def to_json(self) -> dict[str, Any]:
        """A JSON-safe mapping; :meth:`from_json` restores an equal Goal from it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Goal:
        """Read what ``to_json`` wrote."""
        target = Target(**data["target"]) if data["target"] else None
        return cls(**{**data, "target": target})


def blocks_for(samples: int, block: int) -> int:
    """The number of blocks that ``samples`` samples need, rounded up."""
    return -(-samples // block)


class Segment(NamedTuple):
    """The blocks [first, stop) between two neighbouring checkpoints."""

    first: int
    stop: int


class Checkpoints:
    """The block counts at which a target is judged; no task crosses one.

    They are a function of the goal alone, so every cluster stops at the same checkpoint: the
    first at ``goal.first_checkpoint`` blocks, each next one ``1 / goal.growth`` further (rounded
    down, at least 1). The first and last blocks of the goal cut the outer segments short.
    """

    def __init__(self, goal: Goal) -> None:
        self._first, self._end = goal.first, goal.blocks
        self._growth = goal.growth
        self._at = [goal.first_checkpoint]

    def segment(self, block: int) -> Segment:
        """The segment that holds a block."""
        while self._at[-1] <= block:
            self._at.append(self._at[-1] + max(1, self._at[-1] // self._growth))
        place = bisect_right(self._at, block)
        first = max(self._at[place - 1] if place else 0, self._first)
        stop = self._at[place]
        return Segment(first, stop if self._end is None else min(stop, self._end))

    def stops(self) -> Iterator[int]:
        """The checkpoints in order, up to the goal's last block; endless if it has none."""
        at = self._first
        while self._end is None or at < self._end:
            at = self.segment(at).stop
            yield at

    def crosses(self, first: int, stop: int) -> bool:
        """Whether a range of blocks lies in more than one segment, or beyond the end."""
        return stop > self.segment(first).stop


class Ranges:
    """A set of block indices, stored as sorted disjoint ranges; adjacent ones are joined."""

    def __init__(self) -> None:
        self._first: list[int] = []
        self._stop: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._first)

    def __iter__(self) -> Any:
        return zip(self._first, self._stop, strict=True)

    def add(self, first: int, stop: int) -> None:
        """Add [first, stop), which may overlap the set."""
        if stop <= first:
            return
        # Ranges low to high - 1 overlap [first, stop) or touch it.
        low = bisect_left(self._stop, first)
        high = bisect_right(self._first, stop)
        if low < high:
            first, stop = min(first, self._first[low]), max(stop, self._stop[high - 1])
        self._first[low:high] = [first]
        self._stop[low:high] = [stop]

    def remove(self, first: int, stop: int) -> None:
        """Remove [first, stop), which need not be in the set."""
        # Ranges low to high - 1 overlap [first, stop); what sticks out at either end is kept.
        low = bisect_right(self._stop, first)
        high = bisect_left(self._first, stop)
        if low >= high or stop <= first:
            return
        kept = [
            (a, b) for a, b in ((self._first[low], first), (stop, self._stop[high - 1])) if a < b
        ]
        self._first[low:high] = [a for a, _ in kept]
        self._stop[low:high] = [b for _, b in kept]

    def missing(self, first: int, stop: int) -> list[tuple[int, int]]:
        """The parts of [first, stop) that are not in the set, in order."""
        gaps, at = [], first
        for place in range(bisect_right(self._stop, first), len(self._first)):
            if self._first[place] >= stop:
                break
            if self._first[place] > at:
                gaps.append((at, self._first[place]))
            at = self._stop[place]
        if at < stop:
            gaps.append((at, stop))
        return gaps

    def overlaps(self, first: int, stop: int) -> bool:
        """Whether any block of [first, stop) is in the set."""
        place = bisect_right(self._stop, first)
        return first < stop and place < len(self._first) and self._first[place] < stop

    def lowest(self) -> tuple[int, int]:
        """The first range; the set must not be empty."""
        return self._first[0], self._stop[0]

    @property
    def count(self) -> int:
        """How many blocks are in the set."""
        return sum(self._stop) - sum(self._first)


def task_blocks(pace: float, seen: int, owed_seconds: float, aim: float = AIM) -> int:
    """How many blocks a slot's next task should have.

    Guided self-scheduling (Polychronopoulos & Kuck, IEEE Trans. Computers C-36 (1987) 1425):
    half of the slot's even share of the remaining work, between ``SHORTEST`` and ``aim`` seconds.

    Args:
        pace: seconds per block on this slot.
        seen: blocks of the longest task that the node has finished.
        owed_seconds: remaining work in seconds, if spread evenly over all slots.
        aim: length in seconds of a task while much work remains.
    """
    seconds = min(aim, max(SHORTEST, owed_seconds / 2))
    return max(1, min(int(seconds / pace) if pace > 0 else seen * TRUST, seen * TRUST))
