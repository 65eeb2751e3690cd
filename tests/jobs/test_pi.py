"""The kernels of jobs/pi.py: the published Philox, and a twin that gives the very same hits."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import Hits, Stream
from cluster.sampling.kernels import freeze, load
from jobs import pi as jobs
from tests.conftest import need

# The philox4x32 lines of ten rounds in tests/kat_vectors of Random123 1.14
# (github.com/DEShawResearch/random123): counter, key, output.
KNOWN_ANSWERS = [
    "00000000 00000000 00000000 00000000 00000000 00000000 6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    "ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 408f276d 41c83b0e a20bc7c6 6d5451fd",
    "243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 d16cfe09 94fdcceb 5001e420 24126ea1",
]
WORDS = st.integers(0, 2**32 - 1)
ROOT = Path(__file__).parents[2]


def numba_needed() -> None:
    """Skip at home, fail in CI, where numba is missing."""
    need(jobs.njit, "numba: pip install 'cluster-montecarlo[fast]'")


def plain_philox(counter: list[int], key: tuple[int, int]) -> list[int]:
    """Philox4x32-10 in Python's integers, word by word as the paper has it."""
    c, (k0, k1) = list(counter), key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high1 ^ c[1] ^ k0, low1, high0 ^ c[3] ^ k1, low0]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c


def plain_hits(key: tuple[int, int], words: tuple[int, int, int], samples: int) -> int:
    """The hits of a block, point by point in exact integers."""
    points = []
    for call in range((samples + 1) // 2):
        x, y, u, v = plain_philox([call, *words], key)
        points += [(x, y), (u, v)]
    return sum((2 * x + 1) ** 2 + (2 * y + 1) ** 2 < 2**66 for x, y in points[:samples])


def compiled(*counter: int, keys: Any) -> Any:
    """One Philox call as the compiled kernel makes it."""

    @jobs.njit  # type: ignore[untyped-decorator]
    def call(counter: Any, keys: Any) -> Any:
        return jobs._philox_numba(counter[0], counter[1], counter[2], counter[3], keys)

    return call(np.array(counter, np.uint64), keys)


@pytest.mark.parametrize("line", KNOWN_ANSWERS)
def test_numpy_philox_gives_the_published_answers(line: str) -> None:
    """The array form gives Random123's known answers, alone and among others."""
    words = [int(word, 16) for word in line.split()]
    keys = jobs.round_keys((words[4], words[5]))
    c0, c1, c2, c3 = (np.array([7, word], np.uint64) for word in words[:4])
    assert [int(word[1]) for word in jobs.philox4x32(c0, c1, c2, c3, keys)] == words[6:]


@pytest.mark.parametrize("line", KNOWN_ANSWERS)
def test_compiled_philox_gives_the_published_answers(line: str) -> None:
    """The form that numba compiles gives Random123's known answers."""
    numba_needed()
    words = [int(word, 16) for word in line.split()]
    assert list(compiled(*words[:4], keys=jobs.round_keys((words[4], words[5])))) == words[6:]


@pytest.mark.parametrize("line", KNOWN_ANSWERS)
def test_the_tests_own_philox_gives_the_published_answers(line: str) -> None:
    """The plain form that the hits below are checked against is right itself."""
    words = [int(word, 16) for word in line.split()]
    assert plain_philox(words[:4], (words[4], words[5])) == words[6:]


@given(WORDS, WORDS)
def test_a_cell_is_inside_by_its_midpoint(x: int, y: int) -> None:
    """The wrap of a 64-bit sum decides as exact integers do."""
    got = jobs.inside(np.array([x], np.uint64), np.array([y], np.uint64))[0]
    assert got == ((2 * x + 1) ** 2 + (2 * y + 1) ** 2 < 2**66)


def test_cells_beside_the_circle_are_told_apart() -> None:
    """On the lattice's edge and beside the arc, one cell in and the next one out."""
    for x in (0, 1, 12345, 2**31, 3 * 2**30, 2**32 - 1):
        # The largest y with x (x + 1) + y (y + 1) < 2**64, below 2**32.
        y = (math.isqrt(4 * (2**64 - 1 - x * (x + 1)) + 1) - 1) // 2
        near = np.array([max(0, y - 1), y, min(y + 1, 2**32 - 1)], np.uint64)
        exact = [x * (x + 1) + int(n) * (int(n) + 1) < 2**64 for n in near]
        assert jobs.inside(np.full(3, x, np.uint64), near).tolist() == exact


@pytest.mark.parametrize("samples", [0, 1, 2, 3, 10, 501])
@pytest.mark.parametrize("words", [(0, 0, 0), (0, 3, 0), (0, 2**32 - 1, 7), (5, 1, 2**32 - 1)])
def test_hits_are_those_of_plain_integers(words: tuple[int, int, int], samples: int) -> None:
    """Both twins count as the definition says, odd numbers of points included."""
    key = Stream(1, 2, 3).key
    expected = plain_hits(key, words, samples)
    assert jobs._hits_numpy(jobs.round_keys(key), *words, samples) == expected
    numba_needed()
    assert jobs._hits_numba(jobs.round_keys(key), *words, samples) == expected


@pytest.mark.parametrize("block", [0, 1, 2**32 + 7, 2**64 - 1])
@pytest.mark.parametrize("samples", [1, 2**15, 2**15 + 1, 2**17 - 3])
def test_compiled_kernel_and_numpy_twin_agree(block: int, samples: int) -> None:
    """Equal hits in several blocks, across the twin's chunks, at even and odd counts."""
    numba_needed()
    stream = Stream(31415, 9, block)
    keys, words = jobs.round_keys(stream.key), (0, *stream.counter[2:])
    hits = jobs._hits_numba(keys, *words, samples)
    assert hits == jobs._hits_numpy(keys, *words, samples)
    assert jobs.pi(stream, samples) == Hits(hits, samples)


def test_without_numba_the_kernel_gives_the_same_hits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where numba is missing the twin takes its place, and the tally is equal."""
    expected = jobs.pi(Stream(1, 2, 3), 100_001)
    monkeypatch.setattr(jobs, "_hits", jobs._hits_numpy)
    assert jobs.pi(Stream(1, 2, 3), 100_001) == expected


def test_the_file_loads_where_numba_is_missing() -> None:
    """An import that fails leaves the numpy variant, which says so and counts the same."""
    code = """
import sys
sys.modules["numba"] = None
from cluster import Stream
from jobs.pi import pi
print(pi.__cluster__.variant, pi(Stream(1, 2, 3), 100_001).hits)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == f"numpy {jobs.pi(Stream(1, 2, 3), 100_001).hits}\n"


def test_the_variant_is_the_one_that_runs() -> None:
    """What an outcome row records as the variant is what counted."""
    numba_needed()
    assert load(freeze("pi.py:pi", ROOT / "jobs")).traits.variant == "numba"
    assert jobs._hits is jobs._hits_numba


def test_the_second_word_counts_when_the_first_is_at_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every turn of the lowest word goes on with the next one, down to the last odd point."""
    calls: list[tuple[int, ...]] = []

    def hits(keys: object, c1: int, c2: int, c3: int, samples: int) -> int:
        calls.append((c1, c2, c3, samples))
        return 1

    monkeypatch.setattr(jobs, "_hits", hits)
    assert jobs.pi(Stream(1, 2, 2**32 + 3), 2**34 + 5) == Hits(3, 2**34 + 5)
    assert calls == [(0, 3, 1, 2**33), (1, 3, 1, 2**33), (2, 3, 1, 5)]
