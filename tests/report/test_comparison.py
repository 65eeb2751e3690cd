"""Whether two runs agree, and whether a node's throughput changed, against known answers."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster.ledger import Speed
from cluster.report.comparison import Comparison, Side, compare
from cluster.sampling.tally import Histogram, Hits, Moments, Tally
from tests.cli.shell import ask, spec
from tests.report.made import made


def side(
    tally: Tally | None, seed: int = 1, speeds: Sequence[Speed] = (), scale: float = 1.0
) -> Side:
    """A run of that tally."""
    return Side(made(tally, scale, seed=seed), (scale, 0.0), (seed, 0), speeds)


def judged(a: Tally | None, b: Tally | None, among: int = 1) -> Comparison:
    """Two runs of different seeds, compared."""
    return compare(side(a, 1), side(b, 2), among=among)


def test_two_fractions_are_compared_by_the_pooled_error() -> None:
    """The two-proportion test: 400 and 460 of 1000 each."""
    found = judged(Hits(400, 1000), Hits(460, 1000))
    assert found.difference == pytest.approx(-0.06)
    assert found.z == pytest.approx(-0.06 / math.sqrt(0.43 * 0.57 * 2 / 1000))
    assert found.p == pytest.approx(0.0067, abs=1e-4)
    assert (found.verdict, found.independent) == ("differ", True)


def test_a_scale_stretches_the_difference_and_not_z() -> None:
    """Pi by four times a fraction."""
    plain = judged(Hits(400, 1000), Hits(460, 1000))
    four = compare(side(Hits(400, 1000), 1, scale=4), side(Hits(460, 1000), 2, scale=4))
    assert four.difference == pytest.approx(4 * (plain.difference or 0))
    assert four.z == pytest.approx(plain.z)


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e200, 1e300, -1e200])
def test_no_scale_takes_z_out_of_the_range_of_doubles(scale: float) -> None:
    """Squares of such errors are no doubles: z and p are those of the unscaled ones."""
    for a, b in (
        (Hits(400, 1000), Hits(460, 1000)),
        (Moments.of([1.0, 2.0, 3.0, 4.0, 5.0]), Moments.of([2.0, 4.0, 6.0, 8.0, 10.0, 12.0])),
    ):
        plain = judged(a, b)
        found = compare(side(a, 1, scale=scale), side(b, 2, scale=scale))
        few = 1e-2 if scale == 1e-320 else 1e-9
        assert found.z == pytest.approx(math.copysign(1, scale) * (plain.z or 0), rel=few)
        assert found.p == pytest.approx(plain.p, rel=10 * few)
        assert found.verdict == plain.verdict


@pytest.mark.parametrize("far", [1e-300, 1e300, 1.7e308])
def test_means_many_errors_apart_differ(far: float) -> None:
    """Their difference, or its square in standard errors, is beyond the doubles."""
    one, other = Moments.of([far, far * 1.01, far]), Moments.of([-far, -far * 1.01, -far])
    assert judged(one, other).z == pytest.approx(2 / 0.0047, rel=0.1)
    close = Moments.of([far, math.nextafter(far, 0)] * 3)
    assert judged(close, other).verdict == "differ"


def test_one_sample_agrees_with_nothing() -> None:
    """Its standard error is not known, so nor is z."""
    found = judged(Moments.of([1.0]), Moments.of([2.0, 3.0]))
    assert (found.verdict, found.z) == ("unknown", None)


def test_no_hit_in_one_of_them_is_comparable_all_the_same() -> None:
    """Its own standard error is nought."""
    assert judged(Hits(0, 1000), Hits(1, 1000)).verdict == "agree"
    assert judged(Hits(0, 1000), Hits(50, 1000)).verdict == "differ"


def test_two_means_are_compared_by_welch() -> None:
    """Unequal variances and lengths; p by the tail of Student's density."""
    a, b = Moments.of([1.0, 2.0, 3.0, 4.0, 5.0]), Moments.of([2.0, 4.0, 6.0, 8.0, 10.0, 12.0])
    found = judged(a, b)
    assert found.difference == pytest.approx(-4.0)
    assert found.z == pytest.approx(-4 / math.sqrt(2.5 / 5 + 14 / 6))
    # Of 6.97 degrees of freedom the six whole ones count.
    assert found.p == pytest.approx(0.0550, abs=1e-3)


@pytest.mark.parametrize("share", [0.01, 0.3])
def test_runs_that_estimate_the_same_differ_as_rarely_as_is_said(share: float) -> None:
    """About one in a hundred pairs; and of a hundred pairs together about one in a hundred."""
    rng = random.Random(4)

    def drawn() -> Hits:
        return Hits(sum(rng.random() < share for _ in range(400)), 400)

    pairs = [judged(drawn(), drawn()) for _ in range(800)]
    differ = sum(pair.verdict == "differ" for pair in pairs)
    assert 1 <= differ <= 20
    assert sum((pair.p or 0) * 100 < 0.01 for pair in pairs) <= 3


def test_the_more_pairs_are_asked_the_rarer_must_chance_be() -> None:
    """What differs alone is nothing much among a hundred."""
    assert judged(Hits(400, 1000), Hits(460, 1000), among=100).verdict == "agree"


def test_of_histograms_the_worst_bin_counts() -> None:
    """And p is corrected for the number of bins; other edges are other values."""
    edges = [0.0, 1.0, 2.0, 3.0]
    one = Histogram.of([0.5] * 300 + [1.5] * 300 + [2.5] * 400, edges)
    other = Histogram.of([0.5] * 300 + [1.5] * 400 + [2.5] * 300, edges)
    found = judged(one, other)
    assert found.verdict == "differ"
    assert abs(found.difference or 0) == pytest.approx(0.1)
    wider = Histogram.of([0.5] * 300 + [1.5] * 300 + [2.5] * 400, [0.0, 1.0, 2.0, 4.0])
    assert judged(one, wider).verdict == "unknown"


def test_what_cannot_be_compared_is_unknown() -> None:
    """Nothing counted, another kind, or the same streams with another number of blocks."""
    assert judged(None, Hits(1, 10)).verdict == "unknown"
    assert judged(Hits(1, 1000), Histogram.of([0.5], [0.0, 1.0])).verdict == "unknown"
    same = compare(side(Hits(400, 1000)), side(Hits(860, 2000)))
    assert (same.verdict, same.independent) == ("unknown", False)
    assert compare(side(Hits(400, 1000)), side(Hits(400, 1000))).verdict == "identical"


def speed(rng: random.Random, pace: float, tasks: int = 40, node: str = "n1") -> Speed:
    """The sums of tasks of unequal lengths, at so many seconds a block, give or take a tenth."""
    lengths = [rng.randint(1, 20) for _ in range(tasks)]
    walls = [n * pace * rng.uniform(0.9, 1.1) for n in lengths]
    pairs = list(zip(lengths, walls, strict=True))
    return Speed(
        node,
        tasks,
        sum(lengths),
        sum(walls),
        sum(n * n for n in lengths),
        sum(n * w for n, w in pairs),
        sum(w * w for w in walls),
    )


def changed(a: Speed, b: Speed) -> bool | None:
    """Whether a node's throughput is said to have changed."""
    (node,) = compare(side(Hits(1, 1000), 1, [a]), side(Hits(1, 1000), 2, [b])).nodes
    assert node.ratio == pytest.approx((b.n / b.w) / (a.n / a.w))
    return node.changed


def test_a_slower_node_is_told_and_chance_is_not() -> None:
    """A fifth slower: nearly always; as fast as before: hardly ever; by a hair: never."""
    rng = random.Random(5)
    assert sum(changed(speed(rng, 1.0), speed(rng, 1.2)) is True for _ in range(200)) > 195
    assert sum(changed(speed(rng, 1.0), speed(rng, 1.0)) is True for _ in range(200)) < 4
    long = [changed(speed(rng, 1.0, 4000), speed(rng, 1.03, 4000)) for _ in range(5)]
    assert long == [False] * 5


def test_of_one_task_nobody_knows() -> None:
    """There is nothing to tell chance by; a node that only one of them had is left out."""
    rng = random.Random(6)
    assert changed(speed(rng, 1.0, 1), speed(rng, 2.0)) is None
    a, b = side(Hits(1, 1000), 1, [speed(rng, 1.0)]), side(Hits(1, 1000), 2, [])
    assert compare(a, b).nodes == []


def test_of_blocks_that_took_no_time_nothing_is_compared() -> None:
    """A clock that was set back, or a damaged row, gives such."""
    good = speed(random.Random(7), 1.0)
    for bad in (good._replace(w=0.0), good._replace(w=-1.0), good._replace(n=0)):
        for pair in ((good, bad), (bad, good)):
            a, b = (side(Hits(1, 1000), seed, [one]) for seed, one in enumerate(pair))
            assert compare(a, b).nodes == []


def test_compare_tells_a_node_that_got_slower(tmp_path: Path) -> None:
    """By the command line, from what the ledger has of two runs."""
    for name, pause in (("quick", 0.01), ("slow", 0.1)):
        path = spec(tmp_path, "slow", name=name, params={"pause": pause}, backend="serial")
        ask("submit", path, "--task-blocks", "1", cwd=tmp_path)
    (pair,) = ask("compare", "quick", "slow", cwd=tmp_path)["pairs"]
    assert (pair["verdict"], pair["independent"]) == ("agree", True)
    (node,) = pair["nodes"]
    assert (node["node"], node["changed"]) == ("localhost", True)
    assert 0.02 < node["ratio"] < 0.7
