"""Count: tallies added in any order, and a goal judged at complete prefixes only."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.sampling.plan import Goal, Target
from cluster.sampling.progress import Count
from cluster.sampling.tally import Hits, Moments, Tally, TallyError, merged

BLOCK = 100


def hits(block: int) -> int:
    """Made-up hits of a block: about a quarter, differing from block to block."""
    return 15 + block * 7919 % 21


def tally(first: int, stop: int) -> Hits:
    """The tally of blocks [first, stop)."""
    return Hits(sum(map(hits, range(first, stop))), (stop - first) * BLOCK)


def pieces(goal: Goal, blocks: int, seed: int) -> list[tuple[int, int]]:
    """[0, blocks) cut into random ranges that cross no checkpoint, in random order."""
    rng, rule, cut, at = random.Random(seed), Count(goal, 1, 0).checkpoints, [], 0
    while at < blocks:
        stop = min(blocks, rule.segment(at).stop, at + rng.randint(1, 9))
        cut.append((at, stop))
        at = stop
    rng.shuffle(cut)
    return cut


def counted(goal: Goal, ranges: list[tuple[int, int]]) -> Count:
    """All ranges added."""
    count = Count(goal, 1, 0)
    for first, stop in ranges:
        count.add(first, stop, tally(first, stop))
    return count


@given(st.integers(1, 200), st.integers(0, 2**32))
def test_any_cut_in_any_order_counts_the_same(blocks: int, seed: int) -> None:
    """The whole is complete, and its tally is that of one long range."""
    count = counted(Goal(blocks), pieces(Goal(blocks), blocks, seed))
    assert count.tally() == tally(0, blocks)
    assert (count.blocks, list(count.done)) == (blocks, [(0, blocks)])
    assert count.complete
    assert count.finished
    assert count.counted == blocks


@given(st.integers(0, 2**32))
def test_a_target_stops_at_the_same_checkpoint_in_any_order(seed: int) -> None:
    """The first checkpoint whose prefix is precise enough, although more blocks are counted."""
    target = Target(half_width=0.0115)
    goal = Goal(None, target)
    count = counted(goal, pieces(goal, 150, seed))
    assert count.met_at == count.counted == 55
    assert count.tally() == tally(0, 55)
    assert target.met_by(tally(0, 55), 1, 0)
    assert not target.met_by(tally(0, 50), 1, 0)


def test_a_target_is_not_judged_while_a_block_of_the_prefix_is_missing() -> None:
    """With block 7 missing nothing is met; with it, the first checkpoint is."""
    goal = Goal(None, Target(half_width=0.5))
    rest = [piece for piece in pieces(goal, 120, 1) if not piece[0] <= 7 < piece[1]]
    (gap,) = [piece for piece in pieces(goal, 120, 1) if piece[0] <= 7 < piece[1]]
    count = counted(goal, rest)
    assert count.met_at is None
    assert not count.finished
    assert count.counted is None
    assert count.tally() == merged(tally(*piece) for piece in rest)
    count.add(*gap, tally(*gap))
    assert count.met_at == 30
    assert count.tally() == tally(0, 30)


def test_a_target_that_is_never_met_ends_with_the_goal() -> None:
    """max_samples: complete, and not met."""
    count = counted(Goal(50, Target(half_width=1e-9)), pieces(Goal(50), 50, 3))
    assert count.complete
    assert count.met_at is None
    assert count.counted == 50


def test_an_empty_count_has_no_tally_and_no_estimate() -> None:
    """Nothing is counted, so there is no estimate."""
    count = Count(Goal(5), 1, 0)
    assert (count.tally(), count.estimate(), count.finished) == (None, None, False)


def test_an_estimate_is_scaled_and_offset() -> None:
    """Offset + scale * the fraction of hits."""
    count = Count(Goal(5), 4, 1)
    count.add(0, 1, Hits(25, 100))
    estimate = count.estimate()
    assert estimate is not None
    assert estimate.value == 2.0


@pytest.mark.parametrize("stranger", [Moments.of([1.0] * BLOCK)])
def test_a_tally_of_another_kind_is_refused_and_changes_nothing(stranger: Tally) -> None:
    """Hits and Moments cannot be added, wherever they lie."""
    count = counted(Goal(100), [(0, 3)])
    for place in ((3, 4), (60, 61)):
        with pytest.raises(TallyError, match="do not add up"):
            count.add(*place, stranger)
    assert (count.blocks, count.tally()) == (3, tally(0, 3))
