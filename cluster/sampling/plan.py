"""From a goal to blocks, checkpoints and task lengths. Pure: no clock, no disk, no chance."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from cluster.sampling.tally import Tally

# The rule by which every run places its checkpoints; recorded with it (see docs/design.md).
FIRST_CHECKPOINT = 30
GROWTH = 10  # a checkpoint is its forerunner plus a tenth of it
MIN_HITS = 10

# Task lengths in seconds: long enough to hide what a task costs, short enough to lose, to wait
# for at the end, and to adapt by.
AIM = 1.0
SHORTEST = 0.02
# A slot whose speed has been seen on n blocks is trusted with so many times n.
TRUST = 8


@dataclass(frozen=True)
class Target:
    """A precision to reach; of several measures all must hold, each in the scaled unit.

    Attributes:
        half_width: half the confidence interval.
        rel_error: standard error / abs(estimate).
        std_error: standard error.
        confidence: of the interval.
        min_samples: the target is not judged on fewer.
        min_hits: nor on fewer of the rarest event (Hits).
    """

    half_width: float | None = None
    rel_error: float | None = None
    std_error: float | None = None
    confidence: float = 0.95
    min_samples: int = 0
    min_hits: int = MIN_HITS

    @property
    def limits(self) -> tuple[float | None, ...]:
        """What is asked of each of ``MEASURES``; None: nothing."""
        return self.half_width, self.rel_error, self.std_error

    @property
    def blind(self) -> bool:
        """A plain standard error is judged, which does not see what was never drawn."""
        return self.rel_error is not None or self.std_error is not None

    def met_by(self, tally: Tally, scale: float, offset: float) -> bool:
        """Whether a tally of a complete prefix of blocks is precise enough."""
        scarce = tally.scarce(plain=self.blind)
        if tally.samples < self.min_samples or (scarce is not None and scarce < self.min_hits):
            return False
        estimate = tally.estimate(self.confidence, scale, offset)
        pairs = zip(self.limits, estimate.measures, strict=True)
        return all(limit is None or got <= limit for limit, got in pairs)


@dataclass(frozen=True)
class Goal:
    """When a run has what it was asked for.

    Attributes:
        blocks: so many, or at most so many where there is a target; None: no such limit.
        target: the precision to reach, or None.
        max_time: seconds after which a start of the run drains, or None.
        confidence: of the interval that is reported.
        first_checkpoint, growth: the rule that places the checkpoints.
        first: the blocks before it are computed elsewhere: this run is a shard of another.
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
        """How many blocks that is at most; None: no such limit."""
        return None if self.blocks is None else self.blocks - self.first

    def to_json(self) -> dict[str, Any]:
        """A JSON-safe mapping, from which :meth:`from_json` makes an equal Goal."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Goal:
        """Read what ``to_json`` wrote."""
        target = Target(**data["target"]) if data["target"] else None
        return cls(**{**data, "target": target})


def blocks_for(samples: int, block: int) -> int:
    """Whole blocks that hold at least so many samples."""
    return -(-samples // block)


class Segment(NamedTuple):
    """The blocks [first, stop) between two neighbouring checkpoints."""

    first: int
    stop: int


class Checkpoints:
    """The block counts at which a target is judged, and which no task crosses.

    They come from a formula over block counts alone, so that every cluster stops at the same one:
    the first at 30 blocks, each next a tenth of its forerunner further (rounded down, at least 1).
    The goal's own ends cut the first and the last segment short.
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
        """The checkpoints in order, to the goal's end, or without one."""
        at = self._first
        while self._end is None or at < self._end:
            at = self.segment(at).stop
            yield at

    def crosses(self, first: int, stop: int) -> bool:
        """Whether a range of blocks lies in more than one segment, or beyond the end."""
        return stop > self.segment(first).stop


class Ranges:
    """A set of block indices, kept as disjoint sorted ranges; neighbours are joined."""

    def __init__(self) -> None:
        self._first: list[int] = []
        self._stop: list[int] = []

    def __bool__(self) -> bool:
        return bool(self._first)

    def __iter__(self) -> Any:
        return zip(self._first, self._stop, strict=True)

    def add(self, first: int, stop: int) -> None:
        """Add [first, stop), whatever of it is there already."""
        if stop <= first:
            return
        low = bisect_left(self._stop, first)
        high = bisect_right(self._first, stop)
        if low < high:
            first, stop = min(first, self._first[low]), max(stop, self._stop[high - 1])
        self._first[low:high] = [first]
        self._stop[low:high] = [stop]

    def remove(self, first: int, stop: int) -> None:
        """Remove [first, stop), whatever of it is there."""
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
    half of a slot's even share of what is owed, between the shortest worth sending and ``aim``.

    Args:
        pace: seconds that this slot takes for a block.
        seen: blocks of the longest task that the node has finished.
        owed_seconds: what is owed, spread evenly over all slots, in seconds.
        aim: seconds of a task where much is owed.
    """
    seconds = min(aim, max(SHORTEST, owed_seconds / 2))
    return max(1, min(int(seconds / pace) if pace > 0 else seen * TRUST, seen * TRUST))
