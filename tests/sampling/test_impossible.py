"""Impossible tallies are rejected where they are made, and again where they are received."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.sampling.tally import Histogram, Hits, Moments, TallyError, from_json

GOOD: dict[str, dict[str, Any]] = {
    "hits": Hits(3, 10).to_json(),
    "moments": Moments.of([1.0, 2.0, 4.0]).to_json(),
    "histogram": Histogram.of([0.1, 0.7, 5.0], [0, 0.5, 1]).to_json(),
}
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.text("xyz", max_size=5),
    st.integers(max_value=-1),
    st.lists(st.integers(), max_size=1),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
)
FIELDS = [(kind, key) for kind, data in GOOD.items() for key in data]


@pytest.mark.fault(56, 57)
@pytest.mark.parametrize(("kind", "key"), FIELDS)
@given(junk=JUNK)
def test_junk_in_a_field_is_refused(kind: str, key: str, junk: object) -> None:
    """None, text, floats, bools, negatives and containers are not valid fields of any tally."""
    with pytest.raises(TallyError):
        from_json({**GOOD[kind], key: junk})


@pytest.mark.fault(56)
@pytest.mark.parametrize(("kind", "key"), FIELDS)
def test_a_missing_key_is_refused(kind: str, key: str) -> None:
    """A tally with a missing key is rejected."""
    with pytest.raises(TallyError):
        from_json({name: value for name, value in GOOD[kind].items() if name != key})


@pytest.mark.fault(56)
@pytest.mark.parametrize("kind", GOOD)
@pytest.mark.parametrize("extra", ["weight", 7, None])
def test_an_extra_key_is_refused(kind: str, extra: object) -> None:
    """An unknown key is not ignored."""
    with pytest.raises(TallyError):
        from_json(dict([*GOOD[kind].items(), (extra, 1)]))


@pytest.mark.fault(56)
@given(st.recursive(JUNK, lambda x: st.lists(x) | st.dictionaries(st.text(), x), max_leaves=5))
def test_what_is_no_tally_is_refused(junk: object) -> None:
    """No other JSON value is accepted as a tally, and none raises another error."""
    with pytest.raises(TallyError):
        from_json(junk)


@pytest.mark.fault(57, 62)
@pytest.mark.parametrize(
    ("hits", "samples"),
    [
        (-1, 5),
        (6, 5),
        (1, -1),
        (1.0, 5),
        (True, 5),
        (1, 5.0),
        ("1", 5),
        (None, 5),
        (0, 2**127),
        (np.float64(1), 5),
        (np.bool_(True), 5),
    ],
)
def test_impossible_hits_are_refused(hits: Any, samples: Any) -> None:
    """Negative, too many, not integers, or beyond any count of samples."""
    with pytest.raises(TallyError):
        Hits(hits, samples)


def test_numpy_integers_are_counts() -> None:
    """A kernel may count with numpy; the tally has Python's integers."""
    tally = Hits(np.int64(3), np.uint32(5))  # type: ignore[arg-type]
    assert tally == Hits(3, 5)
    assert type(tally.hits) is int


@pytest.mark.fault(58)
@pytest.mark.parametrize(
    ("total", "squares", "samples"),
    [(1, 0, 3), (3, 2, 3), (0, -1, 3), (0, 5, 0), (1, 0, 0), (1, 2, 1), (1.0, 1, 1)],
)
def test_sums_of_no_set_of_values_are_refused(total: Any, squares: Any, samples: Any) -> None:
    """Every set of numbers has n * squares >= total**2, and equality for a single one."""
    with pytest.raises(TallyError):
        Moments(total, squares, samples)


@pytest.mark.fault(58)
def test_a_variance_that_is_negative_by_one_unit_is_refused() -> None:
    """The check is exact: a sum of squares too small by 2**-2148 is detected."""
    least = Moments.of([3.0] * 4)
    with pytest.raises(TallyError, match="negative variance"):
        Moments(least.total, least.squares - 1, least.samples)


@pytest.mark.fault(56, 58)
@pytest.mark.parametrize(
    "text", ["0x1p1e9", "0x1p999999999999", "1p", "nan", "0x1p-2000", "0x" + "f" * 9000 + "p+0"]
)
def test_a_sum_beyond_any_double_is_refused_at_once(text: str) -> None:
    """An impossible exponent or length never becomes a huge integer."""
    with pytest.raises(TallyError, match="not an exact sum"):
        from_json({**GOOD["moments"], "sum": text})


@pytest.mark.fault(56, 58, 59)
@pytest.mark.parametrize(
    "values",
    [
        [1.0, np.nan],
        [np.inf, 1.0],
        [-np.inf],
        [],
        3.0,
        [[1.0]],
        ["1"],
        [1j],
        [None],
        [object()],
        np.array(["2020-01-01"], "M8[D]"),
    ],
)
def test_values_without_moments_are_refused(values: Any) -> None:
    """NaN, infinities, other shapes and dtypes are errors, not warnings."""
    with pytest.raises(TallyError):
        Moments.of(values)


@pytest.mark.fault(56)
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([1.0, np.nan, np.inf], "a NaN, first at sample 1"),
        ([1.0, 2.0, -np.inf], "an infinity, first at sample 2"),
    ],
)
def test_what_is_wrong_with_a_value_is_told_with_its_place(values: Any, words: str) -> None:
    """A NaN and an infinity have different causes."""
    with pytest.raises(TallyError, match=words):
        Moments.of(values)


@pytest.mark.fault(56, 59)
@pytest.mark.parametrize(
    ("values", "edges"),
    [
        ([np.nan], [0, 1]),
        ([[0.5]], [0, 1]),
        (["x"], [0, 1]),
        ([0.5], [1, 0]),
        ([0.5], [0, 0]),
        ([0.5], [0]),
        ([0.5], []),
        ([0.5], [0, np.nan]),
        ([0.5], [0, np.inf, np.inf]),
        ([0.5], ["0", "1"]),
        ([0.5], 1.0),
        ([0.5], None),
        ([0.5], [False, True]),
        ([0.5], [0, 10**400]),
        ([0.5], "01"),
    ],
)
def test_values_or_edges_without_bins_are_refused(values: Any, edges: Any) -> None:
    """NaN values, and edges that are not two or more increasing numbers."""
    with pytest.raises(TallyError):
        Histogram.of(values, edges)


@pytest.mark.parametrize(
    "counts",
    [np.array([0.25, 0.75]), np.array([[1], [2]]), np.array([1, -2]), np.array(3), {1, 2}, "12"],
)
def test_an_array_that_holds_no_counts_is_refused(counts: Any) -> None:
    """Densities, weights and other shapes that np.histogram may return are not counts."""
    with pytest.raises(TallyError, match="count"):
        Histogram((0, 1, 2), counts, 0, 0, 3)


@pytest.mark.fault(57, 59)
@pytest.mark.parametrize(
    "change",
    [
        {"counts": [1, 2]},
        {"counts": [1]},
        {"counts": [1, 1, 0]},
        {"counts": [3, -1]},
        {"counts": 2},
        {"counts": "11"},
        {"counts": {"0": 1, "1": 1}},
        {"samples": 4},
        {"underflow": -1, "overflow": 2},
        {"overflow": 0},
        {"edges": [0, 1]},
    ],
)
def test_impossible_histograms_are_refused(change: dict[str, Any]) -> None:
    """The counts are whole, fit the edges, and add up to the samples."""
    with pytest.raises(TallyError):
        from_json({**GOOD["histogram"], **change})
