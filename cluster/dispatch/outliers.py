"""Nodes whose numbers cannot be of the same kernel: bad memory, a library that computes wrongly.

Blocks are drawn independently wherever they are drawn, so the means of two nodes differ by chance
alone. How much that may be is estimated from the tasks themselves, not from the samples in them:
a kernel may correlate these as it likes. In a sweep the tasks of all points of a kernel are judged
together, each beside those of its own point.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate

from cluster.sampling.tally import Histogram, Hits, Moments, Tally

# By chance a mean lies so many standard errors off once in 10^15 comparisons.
SIGMAS = 8.0
_LEAST_OF_NODE, _LEAST_OF_REST = 10, 30
_MOST_BINS = 32
_LARGE = 256


@dataclass
class NodeMean:
    """What a node has: weighted sums over its tasks' means, each less the first one of all."""

    sums: list[float]
    squares: list[float]
    blocks: int = 0
    tasks: int = 0

    @classmethod
    def of(cls, means: int) -> NodeMean:
        """Nothing yet, of so many means a task."""
        return cls([0.0] * means, [0.0] * means)

    def add(self, blocks: int, values: Sequence[float]) -> None:
        """The means of a further task."""
        self.blocks += blocks
        self.tasks += 1
        for at, value in enumerate(values):
            weighted = value * blocks
            self.sums[at] += weighted
            self.squares[at] += weighted * value

    def with_all_of(self, other: NodeMean) -> NodeMean:
        """Both together."""
        return NodeMean(
            [a + b for a, b in zip(self.sums, other.sums, strict=True)],
            [a + b for a, b in zip(self.squares, other.squares, strict=True)],
            self.blocks + other.blocks,
            self.tasks + other.tasks,
        )

    def standardised(self, like: NodeMean) -> NodeMean:
        """The same in units of the scatter of ``like``, about its mean; what never varied is 0."""
        scaled = NodeMean([], [], self.blocks, self.tasks)
        for at, (total, square) in enumerate(zip(self.sums, self.squares, strict=True)):
            mean, scatter = like.sums[at] / like.blocks, like.variance(at)
            inside = square - 2 * mean * total + mean * mean * self.blocks
            scaled.sums.append((total - mean * self.blocks) / math.sqrt(scatter) if scatter else 0)
            scaled.squares.append(max(0.0, inside) / scatter if scatter else 0)
        return scaled

    def variance(self, at: int) -> float:
        """The variance of one block's mean."""
        inside = self.squares[at] - self.sums[at] * self.sums[at] / self.blocks
        return max(0.0, inside) / (self.tasks - 1)


class NodeMeans:
    """What each node of a run has counted in this start of it."""

    def __init__(self) -> None:
        self._nodes: dict[str, NodeMean] = {}
        self._origin: list[float] = []
        self._exponent = 0

    def add(self, node: str, blocks: int, tally: Tally) -> None:
        """A task was counted."""
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

    def take_in(self, other: NodeMeans) -> None:
        """Add what another run of the same kernel has, which may draw of another distribution.

        So each of its tasks counts by how far it lies off that run's mean, in units of that run's
        scatter. Runs that are taken in have equally many means; nothing else is added to this.
        """
        nothing = NodeMean.of(len(other._origin))
        whole = reduce(NodeMean.with_all_of, other._nodes.values(), nothing)
        if whole.tasks < 2:
            return  # it has no scatter
        self._origin = self._origin or [0.0] * len(other._origin)
        for name, part in other._nodes.items():
            scaled, own = part.standardised(whole), self._nodes.get(name)
            self._nodes[name] = own.with_all_of(scaled) if own else scaled

    @property
    def means(self) -> int:
        """How many means each task has."""
        return len(self._origin)

    def verdict(self) -> tuple[str, str] | None:
        """The odd node, and what there is to say of it."""
        if (found := self.odd()) is None:
            return None
        node, off = found
        return node, f"its estimate lies {off:.1f} standard errors off that of the others"

    def odd(self) -> tuple[str, float] | None:
        """The node that lies farthest off the others, and by how many standard errors.

        None where none lies impossibly far. Of two nodes either one may be wrong.
        """
        worst = max(self.distances().items(), key=lambda pair: pair[1], default=("", 0.0))
        return worst if worst[1] > SIGMAS else None

    def distances(self) -> dict[str, float]:
        """By how many standard errors each node lies off all the others together."""
        parts = list(self._nodes.values())
        nothing = NodeMean.of(len(self._origin))
        # Added up from both ends: a difference of sums would lose the small ones.
        before = accumulate(parts, NodeMean.with_all_of, initial=nothing)
        behind = list(accumulate(reversed(parts), NodeMean.with_all_of, initial=nothing))[-2::-1]
        rests = map(NodeMean.with_all_of, before, behind)
        return {
            name: _off(own, rest)
            for (name, own), rest in zip(self._nodes.items(), rests, strict=True)
        }


def _off(own: NodeMean, rest: NodeMean) -> float:
    if own.tasks < _LEAST_OF_NODE or rest.tasks < _LEAST_OF_REST:
        return 0.0
    return max((_distance(own, rest, at) for at in range(len(own.sums))), default=0.0)


def _distance(own: NodeMean, rest: NodeMean, at: int) -> float:
    """Standard errors between two means; 0 where the values never vary.

    A node may have had the one rare event, or none of many: the larger variance counts for it.
    """
    known = rest.variance(at)
    error = math.sqrt(max(own.variance(at), known) / own.blocks + known / rest.blocks)
    apart = abs(own.sums[at] / own.blocks - rest.sums[at] / rest.blocks)
    return apart / error if error else 0.0


def _exponent(values: Sequence[float]) -> int:
    """The power of two in which means are counted whose squares would not be doubles; else 0."""
    exponent = math.frexp(max(map(abs, values), default=0.0))[1]
    return exponent if abs(exponent) > _LARGE else 0


def _means(tally: Tally) -> list[float]:
    """The means that a tally holds: of hits, of values, or one a bin of a short histogram."""
    match tally:
        case Hits():
            return [tally.hits / tally.samples]
        case Moments():
            return [tally.mean]
        case Histogram() if len(tally.counts) <= _MOST_BINS:
            return [count / tally.samples for count in tally.counts]
    return []
