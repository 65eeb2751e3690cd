"""Whether two runs agree, and whether their nodes were as fast. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster.ledger import Speed
from cluster.report.result import Result, finite
from cluster.sampling.quantiles import tail

# Two runs differ where this little would differ so by chance; corrected for how many are asked.
LEVEL = 0.01
# A node's throughput has changed where chance is that rare, and it is by more than this part.
_CHANGED = 0.05


@dataclass(frozen=True)
class Side:
    """One of two runs.

    Attributes:
        result: as it stands.
        scaling: scale and offset of its estimate.
        stream: seed and point: runs of one stream draw the same numbers.
        speeds: of its nodes.
    """

    result: Result
    scaling: tuple[float, float]
    stream: tuple[int, int]
    speeds: Sequence[Speed]


@dataclass(frozen=True)
class Throughput:
    """A node's samples per busy second of one slot, in both; ``p`` of a ratio so far from 1."""

    node: str
    a: float
    b: float
    ratio: float
    p: float | None
    changed: bool | None


@dataclass(frozen=True)
class Comparison:
    """Two runs, compared.

    Attributes:
        a, b: their ids.
        given: what a sweep gives both, where they are points of sweeps.
        verdict: agree, differ, identical, or unknown: nothing is counted, or they are not
            independent.
        difference, std_error: of the estimates; of a histogram, those of its worst bin.
        z: the difference in standard errors, which takes both errors in.
        p: how likely one so large is where both estimate the same; of a histogram, corrected for
            the number of its bins.
        independent: they drew from different streams; else z and p say nothing.
        note: why, in words.
    """

    a: str
    b: str
    given: Mapping[str, Any] | None
    verdict: str
    difference: float | None
    std_error: float | None
    z: float | None
    p: float | None
    independent: bool
    note: str | None
    nodes: Sequence[Throughput]

    def to_json(self) -> dict[str, Any]:
        """The JSON object."""
        document: dict[str, Any] = finite(
            {**asdict(self), "nodes": [vars(node) for node in self.nodes]}
        )
        return document


def compare(
    a: Side, b: Side, *, among: int = 1, given: Mapping[str, Any] | None = None
) -> Comparison:
    """Compare two runs; ``among`` so many pairs: the more are asked, the rarer must chance be."""
    independent = a.stream != b.stream
    nodes = throughputs(a, b)
    found = _difference(a, b)
    own = (a.result.run, b.result.run, given)
    if found is None:
        why = "nothing is counted of one of them, or they are not of one kind"
        return Comparison(*own, "unknown", None, None, None, None, independent, why, nodes)
    difference, error, z, p = found
    if not math.isfinite(error) and not math.isinf(difference):
        why = "the standard error of one of them is not known: one sample has none"
        return Comparison(*own, "unknown", difference, None, None, None, independent, why, nodes)
    same = _same_tally(a.result, b.result)
    verdict = "differ" if p * among < LEVEL else "agree"
    note: str | None = None
    if not independent:
        verdict, note = _of_one_stream(a.result, b.result, same)
    return Comparison(*own, verdict, difference, error, z, p, independent, note, nodes)


def _same_tally(a: Result, b: Result) -> bool:
    return (a.ranges, a.tally) == (b.ranges, b.tally)


def _of_one_stream(a: Result, b: Result, same: bool) -> tuple[str, str | None]:
    """Runs that drew the same numbers are not independent: they are equal, or nothing is known."""
    if same:
        return "identical", "same streams, and the same tally to the last bit"
    if a.identity == b.identity and a.ranges == b.ranges:
        return "differ", "the same blocks of the same run, and another tally: one is wrong"
    if a.identity == b.identity:
        return "unknown", "same streams: one is the other with more blocks, z and p say nothing"
    return "unknown", "same streams: they are not independent, z and p say nothing"


def _difference(a: Side, b: Side) -> tuple[float, float, float, float] | None:
    """Difference, its standard error, z and p; None where there is nothing to compare."""
    one, other = a.result.estimate, b.result.estimate
    if one is None or other is None or isinstance(one, list) != isinstance(other, list):
        return None
    if _edges(a.result) != _edges(b.result):  # the bins are not of the same values
        return None
    if not isinstance(one, list):
        return _of_values(a, b)
    if len(one) != len(other):
        return None
    bins = zip(one, other, a.result.std_error, b.result.std_error, strict=True)
    worst = max((_judged(x - y, math.hypot(s, t)) for x, y, s, t in bins), key=lambda f: abs(f[2]))
    return (*worst[:3], min(1.0, worst[3] * len(one)))


def _edges(result: Result) -> Any:
    return (result.tally or {}).get("edges")


def _of_values(a: Side, b: Side) -> tuple[float, float, float, float]:
    one, other = a.result, b.result
    difference = one.estimate - other.estimate
    if a.scaling == b.scaling and (pooled := _pooled(one, other)) is not None:
        # From the fractions themselves: a scale may leave few digits, or none, of their errors.
        apart, error = pooled
        _, _, z, p = _judged(math.copysign(1, a.scaling[0]) * apart, error)
        return difference, abs(a.scaling[0]) * error, z, p
    first, second = one.std_error, other.std_error
    freedom = _freedom(one, other)
    if math.isfinite(difference) and math.isfinite(math.hypot(first, second)):
        return _judged(difference, math.hypot(first, second), freedom)
    # Beyond the doubles: a quarter of each is within them.
    error = math.hypot(first / 4, second / 4)
    _, _, z, p = _judged(one.estimate / 4 - other.estimate / 4, error, freedom)
    return difference, math.hypot(first, second), z, p


def _pooled(a: Result, b: Result) -> tuple[float, float] | None:
    """Difference of two hit fractions, and its standard error if both are one in truth.

    It has width also where one of them has no hit, or nothing but hits.
    """
    first, second = a.tally or {}, b.tally or {}
    if first.get("kind") != "hits" or second.get("kind") != "hits":
        return None
    n, m = first["samples"], second["samples"]
    share = (first["hits"] + second["hits"]) / (n + m)
    apart = first["hits"] / n - second["hits"] / m
    return apart, math.sqrt(share * (1 - share) * (1 / n + 1 / m))


def _freedom(a: Result, b: Result) -> float:
    """Welch's degrees of freedom, from the ratio of the two errors: their squares may be none."""
    largest: float = max(a.std_error, b.std_error)
    if not 0 < largest < math.inf:
        return math.inf
    first: float = (a.std_error / largest) ** 2
    second: float = (b.std_error / largest) ** 2
    parts = first**2 / max(1, a.samples - 1) + second**2 / max(1, b.samples - 1)
    return (first + second) ** 2 / parts


def _judged(
    difference: float, error: float, freedom: float = math.inf
) -> tuple[float, float, float, float]:
    if not error:
        z = 0.0 if not difference else math.copysign(math.inf, difference)
    else:
        z = difference / error
    return difference, error, z, tail(z, freedom)


def throughputs(a: Side, b: Side) -> list[Throughput]:
    """The nodes that both have."""
    others = {speed.node: speed for speed in b.speeds if _is_speed(speed)}
    return [
        _throughput(speed, others[speed.node], a.result.block, b.result.block)
        for speed in a.speeds
        if speed.node in others and _is_speed(speed)
    ]


def _is_speed(speed: Speed) -> bool:
    """Whether its blocks took time: a clock that was set back, or a damaged row, gives none."""
    return speed.n > 0 and speed.w > 0


def _throughput(a: Speed, b: Speed, block: int, other: int) -> Throughput:
    first, second = a.n * block / a.w, b.n * other / b.w
    ratio = second / first
    spread = _spread(a) + _spread(b)
    if not math.isfinite(spread) or spread <= 0:
        return Throughput(a.node, first, second, ratio, None, None)
    p = tail(math.log(ratio) / math.sqrt(spread), min(a.tasks, b.tasks) - 1)
    return Throughput(a.node, first, second, ratio, p, p < LEVEL and abs(ratio - 1) > _CHANGED)


def _spread(speed: Speed) -> float:
    """Relative variance of seconds per block, a ratio of two sums over tasks."""
    if speed.tasks < 2:
        return math.inf
    slope = speed.w / speed.n
    residual = speed.ww - 2 * slope * speed.nw + slope**2 * speed.nn
    return max(0.0, residual) / speed.w**2 * speed.tasks / (speed.tasks - 1)
