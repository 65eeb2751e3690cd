"""Ranges: a set of blocks, against Python's own set."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from cluster.sampling.plan import Ranges

LIMIT = 40
SPANS = st.tuples(st.integers(0, LIMIT), st.integers(0, LIMIT))
STEPS = st.lists(st.tuples(st.sampled_from(("add", "remove")), SPANS), max_size=40)


def applied(steps: list[tuple[str, tuple[int, int]]]) -> tuple[Ranges, set[int]]:
    """The same steps on Ranges and on a plain set."""
    ranges, plain = Ranges(), set[int]()
    for act, (first, stop) in steps:
        if act == "add":
            ranges.add(first, stop)
            plain |= set(range(first, stop))
        else:
            ranges.remove(first, stop)
            plain -= set(range(first, stop))
    return ranges, plain


@given(STEPS)
def test_ranges_hold_what_a_set_holds(steps: list[tuple[str, tuple[int, int]]]) -> None:
    """After any adds and removals: the same blocks, sorted, disjoint, adjacent ranges joined."""
    ranges, plain = applied(steps)
    pairs = list(ranges)
    assert {block for first, stop in pairs for block in range(first, stop)} == plain
    assert all(first < stop for first, stop in pairs)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(pairs))
    assert (ranges.count, bool(ranges)) == (len(plain), bool(plain))


@given(STEPS, SPANS)
def test_questions_about_a_span_are_answered_as_by_a_set(
    steps: list[tuple[str, tuple[int, int]]], span: tuple[int, int]
) -> None:
    """What is missing of a span, whether it overlaps, and the lowest range."""
    ranges, plain = applied(steps)
    asked = set(range(*span))
    gaps = ranges.missing(*span)
    assert {block for first, stop in gaps for block in range(first, stop)} == asked - plain
    assert gaps == sorted(gaps)
    assert ranges.overlaps(*span) == bool(asked & plain)
    if plain:
        assert ranges.lowest()[0] == min(plain)
