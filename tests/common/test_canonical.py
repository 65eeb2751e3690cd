"""Equal values have one spelling, and different ones different spellings."""

from __future__ import annotations

import hashlib
import math

import pytest

from cluster.common.canonical import canonical, sha256


@pytest.mark.pythons
def test_the_spelling_is_fixed() -> None:
    """Sorted keys, no blanks, UTF-8, floats in hexadecimal: the bytes that digests are made of."""
    value = {"b": [1, 2.5, None, True], "a": {"y": "ü", "x": (-0.0, 10**19)}}
    expected = (
        '{"a":{"x":["-0x0.0p+0",10000000000000000000],"y":"ü"},"b":[1,"0x1.4000000000000p+1",null,'
        "true]}"
    )
    assert canonical(value) == expected.encode()
    assert sha256(value) == hashlib.sha256(expected.encode()).hexdigest()


def test_numbers_of_different_kinds_stay_apart() -> None:
    """1, 1.0, True and "1" are four values; -0.0 is not 0.0."""
    spellings = {canonical(value) for value in (1, 1.0, True, "1", 0, 0.0, -0.0, False)}
    assert len(spellings) == 8


def test_lists_and_tuples_are_one() -> None:
    """A tuple comes back from JSON as a list, and is the same value."""
    assert canonical((1, (2,))) == canonical([1, [2]])


def test_what_json_lacks_in_floats_has_a_spelling() -> None:
    """NaN and the infinities do not break a digest."""
    assert canonical([math.nan, math.inf, -math.inf]) == b'["nan","inf","-inf"]'


@pytest.mark.parametrize("value", [b"x", {1: 2}, {1, 2}, object(), [1j], {"a": {None: 1}}])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    """Bytes, sets, objects, and keys that are not text have no canonical form."""
    with pytest.raises(TypeError, match=r"has no canonical form|a key must be text"):
        canonical(value)
