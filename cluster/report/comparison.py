"""Statistical comparison of two runs: their estimates, and the throughput of their nodes. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cluster.ledger import Speed
from cluster.report.result import Result, finite
from cluster.sampling.quantiles import tail

# Significance level: runs differ if p is below it, Bonferroni-corrected for the number of pairs.
LEVEL = 0.01
# A throughput has changed if its p is below LEVEL and it changed by more than this fraction:
# with many tasks even a change that nobody cares about is significant.
_CHANGED = 0.05


@dataclass(frozen=True)
class Side:
    """One of the two runs to compare.

    Attributes:
        result: its present result.
        scaling: scale and offset of its estimate.
        stream: seed and point key; runs in which both are equal draw the same random numbers.
        speeds: sums over the tasks of each node, for its throughput.
    """

    result: Result
    scaling: tuple[float, float]
    stream: tuple[int, int]
    speeds: Sequence[Speed]


@dataclass(frozen=True)
class Throughput:
    """The throughput of a node in both runs.

    Attributes:
        node: its name.
        a, b: samples per busy second of one slot, in each run.
        ratio: b / a.
        p: two-sided probability of a ratio this far from 1 by chance; None: too few tasks to tell.
        changed: whether p is significant and the change is not tiny; None if p is.
    """

    node: str
    a: float
    b: float
    ratio: float
    p: float | None
    changed: bool | None


@dataclass(frozen=True)
class Comparison:
    """The comparison of two runs.

    Attributes:
        a, b: their ids.
        given: for points of sweeps, the values that both have of the keys that the sweeps vary.
        verdict: agree, differ, identical or unknown.
        difference, std_error: of the two estimates, a - b; for a histogram, of its worst bin.
        z: the difference in units of its standard error.
        p: two-sided probability of such a z if both estimate the same value; for a histogram,
            Bonferroni-corrected for the number of bins.
        independent: whether they drew from different streams; if not, z and p are meaningless.
        note: the reason for the verdict, where it is not plain from p.
        nodes: throughput of the nodes that both runs used.
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
    """Compare two runs.

    Args:
        a: one run.
        b: the other one.
        among: number of pairs that are compared together, for the Bonferroni correction.
        given: see :class:`Comparison`.
    """
    independent = a.stream != b.stream
    nodes = throughputs(a, b)
    found = _difference(a, b)
    own = (a.result.run, b.result.run, given)
    if found is None:
        why = "one of them has no counted blocks, or their tallies are of different kinds"
        return Comparison(*own, "unknown", None, None, None, None, independent, why, nodes)
    difference, error, z, p = found
    if not math.isfinite(error) and not math.isinf(difference):
        why = "the standard error of one of them is unknown: a single sample has none"
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
    """The verdict on runs of the same stream, which z cannot judge: they are not independent."""
    if same:
        return "identical", "same streams, and the same tally to the last bit"
    if a.identity == b.identity and a.ranges == b.ranges:
        return "differ", "the same blocks of the same run have different tallies: one is wrong"
    if a.identity == b.identity:
        return "unknown", "same streams: one is the other with more blocks; z and p mean nothing"
    return "unknown", "same streams: they are not independent; z and p mean nothing"


def _difference(a: Side, b: Side) -> tuple[float, float, float, float] | None:
    """Difference, its standard error, z and p; None if the estimates cannot be compared."""
    one, other = a.result.estimate, b.result.estimate
    if one is None or other is None or isinstance(one, list) != isinstance(other, list):
        return None
    if _edges(a.result) != _edges(b.result):  # their bins are different intervals
        return None
    if not isinstance(one, list):
        return _of_values(a, b)
    if len(one) != len(other):
        return None
    bins = zip(one, other, a.result.std_error, b.result.std_error, strict=True)
    worst = max((_judged(x - y, math.hypot(s, t)) for x, y, s, t in bins), key=lambda f: abs(f[2]))
    # Bonferroni: the worst of many bins is far off more often than any single one.
    return (*worst[:3], min(1.0, worst[3] * len(one)))


def _edges(result: Result) -> Any:
    return (result.tally or {}).get("edges")


def _of_values(a: Side, b: Side) -> tuple[float, float, float, float]:
    one, other = a.result, b.result
    difference = one.estimate - other.estimate
    if a.scaling == b.scaling and (pooled := _pooled(one, other)) is not None:
        # From the unscaled fractions: scale and offset may cancel the digits of the difference.
        apart, error = pooled
        # A negative scale reverses the order of the estimates.
        _, _, z, p = _judged(math.copysign(1, a.scaling[0]) * apart, error)
        return difference, abs(a.scaling[0]) * error, z, p
    first, second = one.std_error, other.std_error
    freedom = _freedom(one, other)
    if math.isfinite(difference) and math.isfinite(math.hypot(first, second)):
        return _judged(difference, math.hypot(first, second), freedom)
    # The difference overflows; that of quarters does not, and has the same z.
    error = math.hypot(first / 4, second / 4)
    _, _, z, p = _judged(one.estimate / 4 - other.estimate / 4, error, freedom)
    return difference, math.hypot(first, second), z, p


def _pooled(a: Result, b: Result) -> tuple[float, float] | None:
    """Difference of two hit fractions, and its standard error under the null hypothesis.

    The pooled error is positive even if one run has no hits or only hits, where its own is 0.
    """
    first, second = a.tally or {}, b.tally or {}
    if first.get("kind") != "hits" or second.get("kind") != "hits":
        return None
    n, m = first["samples"], second["samples"]
    share = (first["hits"] + second["hits"]) / (n + m)
    apart = first["hits"] / n - second["hits"] / m
    return apart, math.sqrt(share * (1 - share) * (1 / n + 1 / m))


def _freedom(a: Result, b: Result) -> float:
    """Welch-Satterthwaite degrees of freedom; from a ratio, as squared errors may underflow."""
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
    """The throughput of each node that both runs used."""
    others = {speed.node: speed for speed in b.speeds if _is_speed(speed)}
    return [
        _throughput(speed, others[speed.node], a.result.block, b.result.block)
        for speed in a.speeds
        if speed.node in others and _is_speed(speed)
    ]


def _is_speed(speed: Speed) -> bool:
    """Whether it took a positive time; not after a clock step, or in a damaged row."""
    return speed.n > 0 and speed.w > 0


def _throughput(a: Speed, b: Speed, block: int, other: int) -> Throughput:
    first, second = a.n * block / a.w, b.n * other / b.w
    ratio = second / first
    spread = _spread(a) + _spread(b)
    if not math.isfinite(spread) or spread <= 0:
        return Throughput(a.node, first, second, ratio, None, None)
    # The log of a ratio is nearly normal, and symmetric in a and b; the smaller number of tasks
    # gives a conservative number of degrees of freedom.
    p = tail(math.log(ratio) / math.sqrt(spread), min(a.tasks, b.tasks) - 1)
    return Throughput(a.node, first, second, ratio, p, p < LEVEL and abs(ratio - 1) > _CHANGED)


def _spread(speed: Speed) -> float:
    """Relative variance of seconds per block, by the linearization of a ratio of sums over tasks.

    See W. G. Cochran, Sampling Techniques, 3rd ed., chapter 6 (ratio estimators).
    """
    if speed.tasks < 2:
        return math.inf
    slope = speed.w / speed.n
    residual = speed.ww - 2 * slope * speed.nw + slope**2 * speed.nn
    return max(0.0, residual) / speed.w**2 * speed.tasks / (speed.tasks - 1)
