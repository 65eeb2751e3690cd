"""The stream of a block is a function of (seed, point, block), and these are its numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.sampling.streams import FORMAT, Stream, point_of

SEEDS = st.integers(0, 2**128 - 1)
WORDS = st.integers(0, 2**64 - 1)


class Golden(NamedTuple):
    words: list[int]
    uniform: float
    key: tuple[int, int]


# A change of any number below changes every run: it must come with a new FORMAT.
GOLDEN = {
    (1, 2, 3): Golden(
        [0xCCEE13FAC24C8C29, 0x34AB186D1CFFE190], 0.6348390362742915, (0xA3E3A13B, 0x11B52CFE)
    ),
    (31415, 0xFEDCBA9876543210, 2**32 + 5): Golden(
        [0x0534941BF32D672F, 0x55F70B2FF1362739], 0.25609920752482784, (0x0F64014A, 0xB39EF2EF)
    ),
    (2**128 - 1, 2**64 - 1, 2**64 - 1): Golden(
        [0x0984ED06A6D3B2DC, 0x1DD978DAB3CDBCF2], 0.12904734049440936, (0x4D3C05C6, 0x6B1BCE6E)
    ),
}


def test_the_format_of_the_golden_values_is_one() -> None:
    """The numbers below are those of stream format 1."""
    assert FORMAT == 1


@pytest.mark.pythons
@pytest.mark.parametrize(("place", "expected"), GOLDEN.items())
def test_first_draws_of_the_generator(place: tuple[int, int, int], expected: Golden) -> None:
    """The first words, and the first float, of PCG64DXSM at fixed (seed, point, block)."""
    generator = Stream(*place).generator()
    assert isinstance(generator.bit_generator, np.random.PCG64DXSM)
    assert generator.bit_generator.random_raw(2).tolist() == expected.words
    assert generator.random() == expected.uniform


@pytest.mark.pythons
@pytest.mark.parametrize(("place", "expected"), GOLDEN.items())
def test_key_and_counter_of_the_compiled_kernels(
    place: tuple[int, int, int], expected: Golden
) -> None:
    """The key depends on (seed, point); the block is in the counter's two high words."""
    stream = Stream(*place)
    assert stream.key == expected.key
    assert stream.counter == (0, 0, place[2] % 2**32, place[2] // 2**32)


@given(SEEDS, WORDS, WORDS)
def test_key_and_counter_are_words_of_32_bits(seed: int, point: int, block: int) -> None:
    """Two words of key, four of counter, Python integers below 2**32 for any seed and block."""
    stream = Stream(seed, point, block)
    words = (*stream.key, *stream.counter)
    assert len(words) == 6
    assert all(type(word) is int and 0 <= word < 2**32 for word in words)
    assert stream.counter[2] + (stream.counter[3] << 32) == block


@given(SEEDS, WORDS, st.integers(0, 2**32))
def test_the_generator_is_numpy_s_own_construction(seed: int, point: int, block: int) -> None:
    """Anyone with numpy can rebuild a block's generator from the recorded numbers."""
    sequence = np.random.SeedSequence(seed, spawn_key=(point, block))
    expected = np.random.Generator(np.random.PCG64DXSM(sequence)).random(3)
    assert Stream(seed, point, block).generator().random(3).tolist() == expected.tolist()


def test_order_of_use_does_not_enter() -> None:
    """Blocks drawn backwards, twice or between others have the same numbers."""
    forward = [Stream(1, 2, block).generator().random() for block in range(20)]
    backward = [Stream(1, 2, block).generator().random() for block in reversed(range(20))]
    assert backward[::-1] == forward
    assert len(set(forward)) == 20


def test_neighbours_in_seed_point_and_block_differ() -> None:
    """One step in any of the three gives other numbers; one in seed or point another key."""
    places = [(1, 2, 3), (2, 2, 3), (1, 3, 3), (1, 2, 4)]
    assert len({Stream(*place).generator().random() for place in places}) == 4
    assert len({Stream(*place).key for place in places}) == 3


def test_a_point_is_the_head_of_the_hash_of_its_params() -> None:
    """The point of no params is fixed, order of keys does not enter, types of numbers do."""
    # The first 64 bits of sha256 over b"{}".
    assert point_of({}) == 0x44136FA355B3678A
    assert point_of({"a": 1, "b": 2.0}) == point_of({"b": 2.0, "a": 1})
    assert point_of({"a": 1}) != point_of({"a": 1.0})
