"""A 95 % interval holds the true value in 95 % of runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest

from cluster.sampling.kernels import Kernel, load
from cluster.sampling.tally import Hits, Tally
from tests.sampling.coverage import RARE, RUNS, Interval, coverage, runs, shipped, shown

PAYOFF = {"strike": 100.0}
# Eight hits to be expected: few, as at the start of every run for a rare event.
FEW = {"p": 1e-3}


def plain(tally: Tally) -> Interval:
    """The textbook's p +- 1.96 sqrt(p (1 - p) / n), which the project does not use."""
    assert isinstance(tally, Hits)
    p = tally.hits / tally.samples
    half = 1.959964 * math.sqrt(p * (1 - p) / tally.samples)
    return p - half, p + half


def check(
    kernel: Kernel, size: int, params: Mapping[str, object], interval: Callable[[Tally], Interval]
) -> None:
    """The test itself: over RUNS runs of four blocks, 0.94 to 0.96 of the intervals cover."""
    truth = kernel.reference(kernel.resolve(params))
    assert isinstance(truth, float)
    share = coverage(map(interval, runs(kernel, 4, size, params)), truth)
    assert 0.94 <= share <= 0.96, f"{share:.4f} of {RUNS} intervals cover"


def test_intervals_of_pi_cover() -> None:
    """Wilson's interval for the share of 16,384 points that lie in the quarter circle."""
    kernel = shipped("pi.py:pi")
    check(kernel, 4096, {}, shown(kernel, {}))


def test_intervals_of_a_mean_cover() -> None:
    """Student's interval for the mean payoff of 4,096 options, half of which pay nothing."""
    kernel = shipped("option.py:call")
    check(kernel, 1024, PAYOFF, shown(kernel, PAYOFF))


@pytest.mark.fault(63)
def test_intervals_of_a_rare_event_cover() -> None:
    """Wilson's interval where eight hits are to be expected in 8,000 samples."""
    kernel = load(RARE)
    check(kernel, 2000, FEW, shown(kernel, FEW))


@pytest.mark.fault(63)
def test_the_plain_interval_fails_the_same_test() -> None:
    """With p +- 1.96 sqrt(p (1 - p) / n), only 0.89 of the same intervals cover."""
    with pytest.raises(AssertionError, match=r"^0\.8\d+ of 4000 intervals cover"):
        check(load(RARE), 2000, FEW, plain)
