"""Estimates and intervals agree with scipy and with published values."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from cluster.sampling.tally import Estimate, Histogram, Hits, Moments, TallyError, from_json

CONFIDENCES = (0.5, 0.9, 0.95, 0.99, 0.999999)


def has_width(made: Estimate) -> bool:
    """Whether the interval has an end on either side of each value."""
    low, value, high = (np.atleast_1d(part) for part in (made.low, made.value, made.high))
    return bool((low < value).all() and (value < high).all())


@pytest.mark.fault(63)
@pytest.mark.parametrize("confidence", CONFIDENCES)
@pytest.mark.parametrize(
    ("hits", "samples"), [(0, 1), (0, 50), (1, 1), (50, 50), (7, 50), (1, 10**9)]
)
def test_hits_have_wilson_s_interval(hits: int, samples: int, confidence: float) -> None:
    """Interval ends are scipy's Wilson interval, at zero hits and at all hits too."""
    got = Hits(hits, samples).estimate(confidence)
    expected = stats.binomtest(hits, samples).proportion_ci(confidence, method="wilson")
    assert (got.low, got.high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-15)
    assert got.value == hits / samples
    assert got.std_error == pytest.approx(math.sqrt(hits * (samples - hits) / samples**3))


@pytest.mark.fault(63)
def test_zero_hits_and_all_hits_have_a_width() -> None:
    """No hits in 100: [0, z**2 / (n + z**2)], and its mirror image where all hit."""
    none, all_ = Hits(0, 100).estimate(0.95), Hits(100, 100).estimate(0.95)
    z2 = 1.959963984540054**2
    assert none.low == 0
    assert none.high == pytest.approx(z2 / (100 + z2))
    assert all_.low == pytest.approx(100 / (100 + z2))
    assert all_.high == 1


def test_no_samples_say_nothing() -> None:
    """Zero samples: no value, and the largest possible interval."""
    mean = Moments(0, 0, 0).estimate(0.95)
    assert np.isnan([mean.value, mean.std_error]).all()
    assert mean.rel_error == math.inf
    got = Hits(0, 0).estimate(0.95)
    assert np.isnan([got.value, got.std_error]).all()
    assert (got.low, got.high) == (0.0, 1.0)


@pytest.mark.parametrize("confidence", CONFIDENCES)
@pytest.mark.parametrize("count", [2, 3, 5, 31, 1000, 99_999, 200_003])
def test_moments_have_student_s_interval(count: int, confidence: float) -> None:
    """Half widths agree with scipy's t quantile, on both sides of the switch to the expansion."""
    values = np.random.default_rng(count).exponential(size=count)
    got = Moments.of(values).estimate(confidence)
    error = values.std(ddof=1) / math.sqrt(count)
    assert got.std_error == pytest.approx(error, rel=1e-12)
    # 1 - confidence has lost digits before either of the two sees it.
    quantile = stats.t.ppf((1 + confidence) / 2, count - 1)
    assert got.half_width == pytest.approx(quantile * error, rel=1e-15 / (1 - confidence) + 1e-11)
    assert (got.low, got.high) == pytest.approx(
        (values.mean() - got.half_width, values.mean() + got.half_width)
    )


def test_one_value_has_no_error() -> None:
    """A single value has a mean, and an interval without ends."""
    got = Moments.of([2.5]).estimate(0.95)
    assert got.value == 2.5
    assert (got.low, got.high) == (-math.inf, math.inf)
    assert got.rel_error == math.inf


@pytest.mark.fault(58)
@pytest.mark.parametrize(
    "size", [1e-320, 1e-300, 1e-200, 1e-170, 1e-160, 1e-154, 1e-100, 1e100, 1e154, 1e200, 1e300]
)
def test_an_error_is_right_over_the_whole_range_of_doubles(size: float) -> None:
    """Squares or the variance overflow: standard error and interval are still right."""
    values = np.random.default_rng(3).normal(1.0, 0.5, 2000)
    blocks = [Moments.of(block * size) for block in np.split(values, 4)]
    got = blocks[0].merge(blocks[1]).merge(blocks[2].merge(blocks[3])).estimate(0.95)
    error = values.std(ddof=1) / math.sqrt(values.size)
    few = 1e-3 if size == 1e-320 else 1e-12  # subnormal numbers have fewer digits
    assert got.value == pytest.approx(values.mean() * size, rel=few)
    assert got.std_error == pytest.approx(error * size, rel=few, abs=5e-324)
    assert got.half_width == pytest.approx(1.9612 * error * size, rel=1e-3, abs=1e-323)
    assert has_width(got)
    assert blocks[0].scarce(plain=True) is None


def test_blocks_far_apart_have_the_error_of_their_values() -> None:
    """Each block has equal values; together their variance overflows."""
    got = Moments.of([1e200] * 3).merge(Moments.of([-1e200] * 3)).estimate(0.95)
    assert got.value == 0
    assert got.std_error == pytest.approx(1e200 / math.sqrt(5))
    assert got.half_width == pytest.approx(2.5706 * 1e200 / math.sqrt(5), rel=1e-4)


def test_an_interval_beyond_the_doubles_has_no_end() -> None:
    """The largest doubles of both signs: the error is finite, the ends are not."""
    got = Moments.of([1.7e308, -1.7e308]).estimate(0.95)
    assert got.std_error == pytest.approx(1.7e308)
    assert (got.value, got.low, got.high) == (0, -math.inf, math.inf)


@pytest.mark.parametrize("mean", [1e9, -1e9, 1e16, 1e300])
def test_a_small_spread_about_a_large_mean_is_not_rounded_away(mean: float) -> None:
    """The half width keeps all its digits; the ends keep fewer, and lie on both sides."""
    step = math.ulp(mean)
    values = np.full(10_000, mean)
    values[::2] += step
    got = Moments.of(values).estimate(0.95)
    error = step / 2 / 100
    assert got.std_error == pytest.approx(error, rel=1e-3)
    assert got.half_width == pytest.approx(1.96 * error, rel=1e-3)
    assert has_width(got)


@pytest.mark.parametrize("scale", [1e-320, 1e-200, -1e-200, 1e200])
@pytest.mark.parametrize("offset", [0.0, 1e9])
@pytest.mark.parametrize(
    "tally",
    [Hits(20, 100), Histogram((0, 1, 2), (10, 30), 40, 20, 100), Moments.of([1.0, 2.0, 4.0])],
    ids=["hits", "histogram", "moments"],
)
def test_no_scale_makes_an_error_nought(
    tally: Hits | Histogram | Moments, offset: float, scale: float
) -> None:
    """An interval of width zero would claim certainty."""
    raw, got = tally.estimate(0.95), tally.estimate(0.95, scale, offset)
    assert got.half_width == pytest.approx(abs(scale) * raw.half_width, rel=1e-9, abs=1e-323)
    assert has_width(got)
    assert (np.atleast_1d(got.std_error) > 0).all()


def test_an_offset_that_cancels_the_mean_leaves_its_digits() -> None:
    """Rounding the mean alone would be off by more than the error."""
    values = np.full(10_000, 1e9)
    values[::2] += math.ulp(1e9)
    got = Moments.of(values).estimate(0.95, 1.0, -1e9)
    assert got.value == math.ulp(1e9) / 2


def test_scale_and_offset_move_all_of_an_estimate() -> None:
    """The estimate is offset + scale * x; a negative scale swaps the ends."""
    raw = Hits(20, 100).estimate(0.95)
    got = Hits(20, 100).estimate(0.95, scale=-4, offset=1)
    assert isinstance(raw.low, float)
    assert isinstance(raw.high, float)
    assert got.value == 1 - 4 * 0.2
    assert (got.low, got.high) == (1 - 4 * raw.high, 1 - 4 * raw.low)
    assert got.std_error == pytest.approx(4 * 0.04)
    assert got.half_width == pytest.approx(4 * raw.half_width)


def test_a_histogram_estimates_bin_by_bin() -> None:
    """Each bin is a proportion of all samples, those outside the edges included."""
    got = Histogram((0, 1, 2), (10, 30), 40, 20, 100).estimate(0.9)
    bins = [Hits(count, 100).estimate(0.9) for count in (10, 30)]
    assert got.value == (0.1, 0.3)
    assert got.low == tuple(part.low for part in bins)
    assert got.high == tuple(part.high for part in bins)
    assert got.half_width == max(part.half_width for part in bins)


def test_a_histogram_takes_what_numpy_s_returns() -> None:
    """The array of counts that np.histogram returns is accepted."""
    binned: tuple[Any, Any] = np.histogram([0.1, 0.2, 1.5], bins=[0, 1, 2])
    counts, edges = binned
    made = Histogram(edges, counts, 0, 0, 3)
    assert made == Histogram.of([0.1, 0.2, 1.5], [0, 1, 2])
    assert [type(count) for count in made.counts] == [int, int]


def test_an_open_bin_is_a_bin_with_its_own_interval() -> None:
    """Edges of -inf and inf: nothing is outside, and the tails have Wilson's interval too."""
    values = [-9.0, -math.inf, 0.5, 7.0, math.inf, 8.0]
    made = Histogram.of(values, [-math.inf, 0, 1, math.inf])
    assert (made.counts, made.underflow, made.overflow) == ((2, 1, 3), 0, 0)
    got = made.estimate(0.95)
    parts = [Hits(count, 6).estimate(0.95) for count in (2, 1, 3)]
    assert got.value == tuple(part.value for part in parts)
    assert got.low == tuple(part.low for part in parts)
    assert got.high == tuple(part.high for part in parts)


def test_open_edges_are_json_that_any_reader_takes() -> None:
    """An infinity is text in JSON, equal tallies have equal texts, and it is restored."""
    made = Histogram.of([0.5, 3.0], [-math.inf, 1, math.inf])
    text = json.dumps(made.to_json(), allow_nan=False)
    assert json.loads(text)["edges"] == ["-inf", 1.0, "inf"]
    assert from_json(json.loads(text)) == made
    assert from_json(made.merge(made).to_json()) == made.merge(made)
    with pytest.raises(TallyError):
        from_json({**made.to_json(), "edges": ["inf", 1.0, "-inf"]})


def test_the_worst_bin_decides() -> None:
    """Relative error and standard error are those of the worst bin; an empty one is infinite."""
    got = Estimate((1.0, 2.0), (0.1, 0.4), (0.8, 1.2), (1.2, 2.8), 0.95)
    assert (got.rel_error, got.worst_std_error) == (0.2, 0.4)
    assert got.half_width == pytest.approx(0.8)
    assert Histogram((0, 1, 2), (0, 3), 0, 0, 3).estimate(0.95).rel_error == math.inf


def test_scarce_counts_the_rarest_event() -> None:
    """A plain standard error is zero without misses as it is without hits."""
    assert Hits(98, 100).scarce(plain=True) == 2
    assert Hits(98, 100).scarce(plain=False) == 98
    assert Moments.of([1.0, 2.0]).scarce(plain=True) is None
    assert Moments.of([2.0, 2.0]).scarce(plain=True) == 0
    assert Histogram((0, 1, 2), (5, 3), 0, 0, 8).scarce(plain=True) == 3
