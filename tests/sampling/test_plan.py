"""Checkpoints, goals and task lengths: formulas over block counts, and nothing else."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.sampling.plan import (
    AIM,
    FIRST_CHECKPOINT,
    SHORTEST,
    TRUST,
    Checkpoints,
    Goal,
    Target,
    blocks_for,
    task_blocks,
)
from cluster.sampling.tally import Hits, Moments

PACES = st.floats(1e-7, 1e3)


def checkpoints(goal: Goal, count: int) -> list[int]:
    """The first checkpoints of a goal."""
    rule, found = Checkpoints(goal), [0]
    while len(found) <= count:
        found.append(rule.segment(found[-1]).stop)
    return found[1:]


def test_checkpoints_are_the_published_sequence() -> None:
    """The rule is part of every run's meaning: it may never change by accident."""
    expected = [30, 33, 36, 39, 42, 46, 50, 55, 60, 66, 72, 79, 86, 94, 103, 113, 124, 136, 149]
    assert checkpoints(Goal(None), len(expected)) == expected


def test_checkpoints_start_at_30_and_grow_by_a_tenth_at_most() -> None:
    """First at no fewer than 30 blocks, each at most 1.1 times the one before."""
    found = checkpoints(Goal(None), 200)
    assert found[0] == FIRST_CHECKPOINT == 30
    assert all(low < high <= low * 1.1 for low, high in pairwise(found))


@given(st.integers(0, 10**7), st.integers(1, 10**7))
def test_a_segment_holds_its_block_and_ends_with_the_goal(block: int, blocks: int) -> None:
    """For any order of queries; and the goal's end cuts the last segment short."""
    segment = Checkpoints(Goal(None)).segment(block)
    assert segment.first <= block < segment.stop
    if block < blocks:
        cut = Checkpoints(Goal(blocks)).segment(block)
        assert (cut.first, cut.stop) == (segment.first, min(segment.stop, blocks))


@given(st.integers(0, 5000), st.integers(1, 500))
def test_a_range_crosses_where_a_checkpoint_lies_inside(first: int, length: int) -> None:
    """``crosses`` is true exactly for ranges with a checkpoint strictly inside them."""
    inside = [at for at in checkpoints(Goal(None), 80) if first < at < first + length]
    assert Checkpoints(Goal(None)).crosses(first, first + length) == bool(inside)


@pytest.mark.fault(78)
@given(st.integers(1, 10**15), st.integers(1, 10**9))
def test_samples_are_rounded_up_to_whole_blocks(samples: int, block: int) -> None:
    """The smallest number of blocks with at least so many samples."""
    blocks = blocks_for(samples, block)
    assert (blocks - 1) * block < samples <= blocks * block


@pytest.mark.parametrize(
    "goal",
    [
        Goal(12),
        Goal(None, max_time=3.5),
        Goal(99, Target(half_width=0.1, confidence=0.99, min_samples=7), confidence=0.99),
    ],
)
def test_a_goal_survives_json(goal: Goal) -> None:
    """What ``to_json`` writes, ``from_json`` reads as an equal goal."""
    assert Goal.from_json(json.loads(json.dumps(goal.to_json()))) == goal


@given(PACES, st.integers(1, 10**6), st.floats(0, 1e6))
def test_a_task_is_neither_longer_than_the_aim_nor_than_its_trust(
    pace: float, seen: int, owed: float
) -> None:
    """At least one block; at most ``aim`` seconds, and TRUST times the longest task so far."""
    blocks = task_blocks(pace, seen, owed)
    assert 1 <= blocks <= max(1, min(AIM / pace, seen * TRUST))


@given(PACES, st.lists(st.floats(0, 1e4), min_size=2, max_size=9).map(sorted))
def test_tasks_taper_as_less_is_owed(pace: float, owed: list[float]) -> None:
    """The less there is to do, the shorter a task, down to the shortest worth sending."""
    lengths = [task_blocks(pace, 10**9, seconds) for seconds in owed]
    assert lengths == sorted(lengths)
    least = task_blocks(pace, 10**9, 0.0)
    assert least == max(1, int(SHORTEST / pace))


def test_a_target_waits_for_its_least_samples_and_hits() -> None:
    """Precise enough, but on too few samples or too few hits: not met."""
    half = Hits(5000, 10_000)
    assert Target(half_width=0.02).met_by(half, 1, 0)
    assert not Target(half_width=0.02, min_samples=10_001).met_by(half, 1, 0)
    rare = Hits(9, 10**9)
    assert not Target(half_width=0.5).met_by(rare, 1, 0)
    assert Target(half_width=0.5, min_hits=9).met_by(rare, 1, 0)
    assert not Target(half_width=0.5).met_by(Hits(0, 10**9), 1, 0)


def test_a_plain_standard_error_needs_hits_and_misses() -> None:
    """All hits have a standard error of 0, which proves nothing; the interval still may."""
    every = Hits(10**6, 10**6)
    assert not Target(std_error=0.1).met_by(every, 1, 0)
    assert not Target(rel_error=0.1).met_by(every, 1, 0)
    assert Target(half_width=0.1).met_by(every, 1, 0)


def test_every_measure_of_a_target_must_hold_in_the_scaled_unit() -> None:
    """Of two limits the tighter one decides; a scale of 100 makes both 100 times harder."""
    tally = Moments.of([float(n % 2) for n in range(1000)])
    assert Target(std_error=0.02, half_width=0.04).met_by(tally, 1, 0)
    assert not Target(std_error=0.02, half_width=0.01).met_by(tally, 1, 0)
    assert not Target(std_error=0.02).met_by(tally, 100, 0)
    assert Target(rel_error=0.04).met_by(tally, 100, 0)
