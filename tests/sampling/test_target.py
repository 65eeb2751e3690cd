"""A run that stops at a precision target still covers, also for a rare event."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest

from cluster.sampling.kernels import load
from cluster.sampling.plan import MIN_HITS, Checkpoints, Goal, Target
from cluster.sampling.tally import Hits, Tally, merged
from tests.sampling.coverage import RARE, coverage, run, shown
from tests.sampling.test_coverage import plain

P = 1e-4
HALF_WIDTH = 5e-5
# About 90 blocks to the target, 17 hits: as few as a person would stop at.
BLOCK = 2000
RUNS = 2000
MOST_BLOCKS = 3000

Rule = Callable[[Tally], bool]


def stopped(rule: Rule) -> Iterator[Tally]:
    """The tallies at which RUNS runs stop, with seeds 0, 1, 2, ..., judged at each checkpoint."""
    kernel, checkpoints = load(RARE), Checkpoints(Goal(MOST_BLOCKS))
    for seed in range(RUNS):
        total: Tally | None = None
        done = 0
        while total is None or (not rule(total) and done < MOST_BLOCKS):
            segment = checkpoints.segment(done)
            drawn = run(kernel, seed, range(segment.first, segment.stop), BLOCK, {"p": P})
            total, done = merged(filter(None, (total, drawn))), segment.stop
        yield total


def met(tally: Tally) -> bool:
    """The project's own rule."""
    return Target(half_width=HALF_WIDTH).met_by(tally, 1, 0)


def plainly_met(tally: Tally) -> bool:
    """The textbook's rule: half of the plain interval, and no minimum of hits."""
    low, high = plain(tally)
    return (high - low) / 2 <= HALF_WIDTH


@pytest.mark.slow
@pytest.mark.fault(63)
def test_intervals_cover_where_the_target_stopped_the_run() -> None:
    """At p = 1e-4 at least 0.93 of the 95 % intervals cover, and no run stops on too few hits."""
    tallies = list(stopped(met))
    share = coverage(map(shown(load(RARE), {"p": P}), tallies), P)
    assert share >= 0.93, f"{share:.4f} of {RUNS} intervals cover"
    assert min(tally.hits for tally in tallies if isinstance(tally, Hits)) >= MIN_HITS


@pytest.mark.slow
@pytest.mark.fault(63)
def test_the_plain_interval_fails_the_same_test_under_a_target() -> None:
    """Stopped by p +- 1.96 sqrt(p (1 - p) / n), runs stop too soon, and their intervals miss."""
    tallies = list(stopped(plainly_met))
    assert coverage(map(plain, tallies), P) < 0.93
    assert any(tally.hits == 0 for tally in tallies if isinstance(tally, Hits))


def test_the_rule_is_not_met_by_what_was_never_seen() -> None:
    """No hits, however many samples: Wilson's interval may be narrow, the target is not met."""
    assert Hits(0, 10**9).estimate(0.95).half_width < HALF_WIDTH
    assert not met(Hits(0, 10**9))
    assert math.isinf(Hits(0, 10**9).estimate(0.95).rel_error)
