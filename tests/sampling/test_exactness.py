"""Merging is exact: neither the order nor the partition of the blocks can matter."""

from __future__ import annotations

import math
from fractions import Fraction
from statistics import variance

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cluster.sampling.tally import Histogram, Hits, Moments, Tally, from_json, merged

COUNTS = st.integers(0, 10**18)
HITS = st.tuples(COUNTS, COUNTS).map(lambda pair: Hits(min(pair), max(pair)))
VALUES = st.floats(-1e150, 1e150)
MOMENTS = st.lists(VALUES, min_size=1, max_size=9).map(Moments.of)
HISTOGRAMS = st.lists(st.floats(-2, 3), max_size=9).map(lambda v: Histogram.of(v, (0, 0.5, 1)))
BLOCKS = st.one_of(
    *(st.lists(kind, min_size=1, max_size=12) for kind in (HITS, MOMENTS, HISTOGRAMS))
)


@given(BLOCKS, st.randoms(), st.data())
def test_order_and_partition_cannot_matter(
    blocks: list[Tally], shuffler: object, data: st.DataObject
) -> None:
    """Blocks in any order, merged in any groups, give equal tallies."""
    straight = merged(blocks)
    order = data.draw(st.permutations(blocks))
    cuts = data.draw(st.lists(st.integers(0, len(blocks)), max_size=4).map(sorted))
    ends = zip([0, *cuts], [*cuts, len(blocks)], strict=True)
    groups = [merged(order[a:b]) for a, b in ends]
    assert merged(group for group in groups if group is not None) == straight


@given(BLOCKS)
def test_json_round_trip_keeps_a_tally_equal(blocks: list[Tally]) -> None:
    """What to_json writes, from_json reads back as an equal tally."""
    total = merged(blocks)
    assert total is not None
    assert from_json(total.to_json()) == total


@given(st.lists(VALUES, min_size=2, max_size=300))
def test_moments_agree_with_rational_arithmetic(values: list[float]) -> None:
    """Mean and variance of one block are those of exact fractions, to the last few digits."""
    exact = [Fraction(value) for value in values]
    mean, spread = sum(exact, Fraction(0)) / len(exact), variance(exact)
    # Below this size squares underflow, which is no property of the method.
    assume(spread == 0 or spread > Fraction(1, 10**280))
    tally = Moments.of(values)
    # A rounded deviation is off by 2**-53 of itself, which is what bounds the error of the mean.
    slack = 2.0**-50 * max(map(abs, values))
    assert abs(Fraction(tally.mean) - mean) <= Fraction(slack)
    assert tally.variance == pytest.approx(float(spread), rel=1e-12, abs=0)


@pytest.mark.fault(64)
def test_a_large_mean_costs_no_digit_of_the_variance() -> None:
    """Mean 1e9 and deviation 1: the variance of 100 blocks is that of exact fractions."""
    values = np.random.default_rng(64).normal(1e9, 1, 20_000)
    total = merged(Moments.of(block) for block in np.split(values, 100))
    assert isinstance(total, Moments)
    exact = variance([Fraction(value) for value in values.tolist()])
    assert total.variance == pytest.approx(float(exact), rel=1e-13)
    plain = (np.square(values).sum() - values.sum() ** 2 / values.size) / (values.size - 1)
    assert abs(plain - float(exact)) > 0.01, "the textbook formula fails here: the case is one"


@given(st.integers(1, 600) | st.just(2**19), VALUES)
def test_equal_values_have_no_variance(count: int, value: float) -> None:
    """A block of equal values has exactly their mean, variance zero, and counts as scarce."""
    tally = Moments.of(np.full(count, value))
    assert tally.mean == value
    assert tally.samples * tally.squares == tally.total**2
    assert tally.scarce(plain=False) == (0 if count > 1 else None if tally.variance > 0 else 0)


@pytest.mark.parametrize("values", [[1e-320, 2e-320, 5e-324], [1e-170, -2e-170], [5e-324] * 3])
def test_values_whose_squares_underflow_are_counted(values: list[float]) -> None:
    """Values too small to square give a valid tally with their mean."""
    assert Moments.of(values).mean == pytest.approx(math.fsum(values) / len(values), abs=5e-324)


@pytest.mark.fault(58)
@pytest.mark.parametrize(
    "values",
    [
        [1e-320, 2e-320, 5e-324],
        [1e-170, -2e-170],
        [1e-155, 3e-155],
        [1e200, 0.0],
        [1.7e308, -1.7e308],
        [1e308, 1.1e308] * 350,
        [1e308, 1e-308],
    ],
)
def test_sums_are_those_of_fractions_where_squares_are_no_doubles(values: list[float]) -> None:
    """Below 1e-154 and above 1e154 the variance is exact, also after a round trip."""
    tally = Moments.of(values)
    exact = variance([Fraction(value) for value in values])
    spread = Fraction(tally.samples * tally.squares - tally.total**2, 1 << 2148)
    ratio = spread / (len(values) * (len(values) - 1)) / exact
    assert float(ratio) == pytest.approx(1, rel=1e-9)
    assert from_json(tally.to_json()) == tally


def test_an_array_gives_the_bits_of_its_contiguous_copy() -> None:
    """Strides, byte order and lists do not affect a tally of moments."""
    values = np.random.default_rng(1).normal(size=5001)
    expected = Moments.of(values)
    assert Moments.of(np.repeat(values, 2)[::2]) == expected
    assert Moments.of(values[::-1].copy()[::-1]) == expected
    assert Moments.of(values.astype(">f8")) == expected
    assert Moments.of(values.tolist()) == expected


@given(st.lists(st.floats(-10, 10) | st.sampled_from([-math.inf, math.inf, 0.0, 0.5, 1.0])))
def test_histogram_counts_as_its_definition_says(values: list[float]) -> None:
    """Bins are [low, high), the last one closed; values outside are counted separately."""
    tally = Histogram.of(np.array(values, float), [0, 0.5, 1])
    assert tally.counts[0] == sum(0 <= v < 0.5 for v in values)
    assert tally.counts[1] == sum(0.5 <= v <= 1 for v in values)
    assert tally.underflow == sum(v < 0 for v in values)
    assert tally.overflow == sum(v > 1 for v in values)
    assert tally.samples == len(values)


@pytest.mark.fault(62)
def test_counts_beyond_64_bits_stay_exact() -> None:
    """Counts are Python integers end to end: 10**19 and more neither wrap nor round."""
    total = merged([Hits(10**19, 3 * 10**19)] * 3)
    assert total == Hits(3 * 10**19, 9 * 10**19)
    assert from_json(total.to_json()) == total


def test_tallies_of_two_kinds_or_edges_do_not_add_up() -> None:
    """Merging incompatible tallies is refused."""
    with pytest.raises(ValueError, match="hits and moments do not add up"):
        Hits(1, 2).merge(Moments.of([1.0]))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="different edges"):
        Histogram.of([0.5], [0, 1]).merge(Histogram.of([0.5], [0, 2]))


def test_nothing_merges_to_nothing() -> None:
    """Merging no tallies gives None, since the kind is unknown."""
    assert merged([]) is None
