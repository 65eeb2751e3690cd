"""Detection of nodes with wrong results, as from bad memory or a miscompiled library.

Blocks are independent and identically distributed wherever they are drawn, so the means of two
nodes differ only by chance. The size of that difference is estimated from the means of tasks and
not from the samples in them, which a kernel may correlate. In a sweep the tasks of all points with
the same kernel are tested together, each standardised by the mean and scatter of its own point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate

from cluster.sampling.tally import Histogram, Hits, Moments, Tally

# A normal deviate exceeds this about once in 10**15 comparisons.
SIGMAS = 8.0
# Fewer tasks, of a node and of all others, are not tested: their means are far from normal.
_MIN_TASKS, _MIN_OTHER_TASKS = 10, 30
_MAX_BINS = 32
# Means beyond 2**256 or below 2**-256 are scaled, so that their squares stay within doubles.
_LARGE = 256


@dataclass
class NodeMean:
    """Sums over the tasks of a node, weighted by their blocks.

    Attributes:
        sums: of the tasks' means, shape (means,); relative to an origin common to all nodes, so
            that a large mean does not cost digits.
        squares: of the squares of these, shape (means,).
        blocks, tasks: how many.
    """

    sums: list[float]
    squares: list[float]
    blocks: int = 0
    tasks: int = 0

    @classmethod
    def of(cls, means: int) -> NodeMean:
        """An empty sum for tasks with this number of means (the bins of a histogram, else 1)."""
        return cls([0.0] * means, [0.0] * means)

    def add(self, blocks: int, values: Sequence[float]) -> None:
        """Add a task of so many blocks with these means."""
        self.blocks += blocks
        self.tasks += 1
        for at, value in enumerate(values):
            weighted = value * blocks
            self.sums[at] += weighted
            self.squares[at] += weighted * value

    def merged_with(self, other: NodeMean) -> NodeMean:
        """The sums over the tasks of both."""
        return NodeMean(
            [a + b for a, b in zip(self.sums, other.sums, strict=True)],
            [a + b for a, b in zip(self.squares, other.squares, strict=True)],
            self.blocks + other.blocks,
            self.tasks + other.tasks,
        )

    def standardised(self, like: NodeMean) -> NodeMean:
        """These sums, relative to the mean of ``like`` and in units of its standard deviation.

        Components that never vary become 0.
        """
        scaled = NodeMean([], [], self.blocks, self.tasks)
        for at, (total, square) in enumerate(zip(self.sums, self.squares, strict=True)):
            mean, scatter = like.sums[at] / like.blocks, like.variance(at)
            inside = square - 2 * mean * total + mean * mean * self.blocks
            scaled.sums.append((total - mean * self.blocks) / math.sqrt(scatter) if scatter else 0)
            scaled.squares.append(max(0.0, inside) / scatter if scatter else 0)
        return scaled

    def variance(self, at: int) -> float:
        """An estimate of the variance of a single block's mean, of component ``at``."""
        inside = self.squares[at] - self.sums[at] * self.sums[at] / self.blocks
        return max(0.0, inside) / (self.tasks - 1)


class NodeMeans:
    """The results of each node, for one start of a run, or for several runs of one kernel."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeMean] = {}
        self._origin: list[float] = []
        self._exponent = 0

    def add(self, node: str, blocks: int, tally: Tally) -> None:
        """Add a counted task.

        Args:
            node: that drew it.
            blocks: how many.
            tally: of these blocks.
        """
        values = _means(tally)
        if not self._origin:
            self._exponent = _exponent(values)
        if self._exponent:
            values = [math.ldexp(value, -self._exponent) for value in values]
        self._origin = self._origin or values
        shifted = [value - zero for value, zero in zip(values, self._origin, strict=True)]
        part = self._nodes.get(node)
        if part is None:
            part = self._nodes[node] = NodeMean.of(len(values))
        part.add(blocks, shifted)

    def add_run(self, other: NodeMeans) -> None:
        """Add the tasks of another run of the same kernel, standardised.

        Its parameters differ, and so does its distribution: each task counts by its deviation
        from that run's mean in units of that run's standard deviation. All runs must have the
        same number of means; :meth:`add` must not be used on the same object.
        """
        nothing = NodeMean.of(len(other._origin))
        whole = reduce(NodeMean.merged_with, other._nodes.values(), nothing)
        if whole.tasks < 2:
            return  # its variance is unknown
        self._origin = self._origin or [0.0] * len(other._origin)
        for name, part in other._nodes.items():
            scaled, own = part.standardised(whole), self._nodes.get(name)
            self._nodes[name] = own.merged_with(scaled) if own else scaled

    @property
    def means(self) -> int:
        """The number of means of each task."""
        return len(self._origin)

    def verdict(self) -> tuple[str, str] | None:
        """The outlier and a message about it, or None."""
        if (found := self.outlier()) is None:
            return None
        node, off = found
        return node, f"its estimate is {off:.1f} standard errors away from that of the others"

    def outlier(self) -> tuple[str, float] | None:
        """The node farthest from the others, and its distance in standard errors.

        None if no distance exceeds ``SIGMAS``. If there are only two nodes, either may be wrong.
        """
        worst = max(self.distances().items(), key=lambda pair: pair[1], default=("", 0.0))
        return worst if worst[1] > SIGMAS else None

    def distances(self) -> dict[str, float]:
        """The distance of each node from all others together, in standard errors."""
        parts = list(self._nodes.values())
        nothing = NodeMean.of(len(self._origin))
        # The sum over the others is prefix plus suffix: total minus own would cancel digits.
        before = accumulate(parts, NodeMean.merged_with, initial=nothing)
        behind = list(accumulate(reversed(parts), NodeMean.merged_with, initial=nothing))[-2::-1]
        rests = map(NodeMean.merged_with, before, behind)
        return {
            name: _farthest(own, rest)
            for (name, own), rest in zip(self._nodes.items(), rests, strict=True)
        }


def _farthest(own: NodeMean, rest: NodeMean) -> float:
    if own.tasks < _MIN_TASKS or rest.tasks < _MIN_OTHER_TASKS:
        return 0.0
    return max((_distance(own, rest, at) for at in range(len(own.sums))), default=0.0)


def _distance(own: NodeMean, rest: NodeMean, at: int) -> float:
    """The distance of two means in standard errors; 0 if the values never vary.

    By chance a node may have seen none of many rare events, or the only one, so its own variance
    may be far off: the larger of the two estimates is used for it.
    """
    known = rest.variance(at)
    error = math.sqrt(max(own.variance(at), known) / own.blocks + known / rest.blocks)
    apart = abs(own.sums[at] / own.blocks - rest.sums[at] / rest.blocks)
    return apart / error if error else 0.0


def _exponent(values: Sequence[float]) -> int:
    """The power of two to scale means by whose squares would leave a double's range; else 0."""
    exponent = math.frexp(max(map(abs, values), default=0.0))[1]
    return exponent if abs(exponent) > _LARGE else 0


def _means(tally: Tally) -> list[float]:
    """The means of a tally: of hits, of values, or of each bin of a short histogram."""
    match tally:
        case Hits():
            return [tally.hits / tally.samples]
        case Moments():
            return [tally.mean]
        case Histogram() if len(tally.counts) <= _MAX_BINS:
            return [count / tally.samples for count in tally.counts]
    return []
