"""Pi as four times the share of random points of a square that lie in the quarter circle.

Three kernels for one number: ``pi`` is compiled and decides in integers, ``pi_numpy`` is what one
writes with numpy, ``pi_python`` is the loop of a plain Python article, kept as the honest baseline.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster import Hits, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cluster import Stream

try:
    import numba

    njit: Any = numba.njit
except ImportError:  # the numpy twin below gives the very same hits
    njit = None

# Philox4x32-10: J. Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11,
# doi 10.1145/2063384.2063405. A word has 32 bits and travels in 64: that is how a product of two
# is formed, and how compilers fill vector lanes with it.
_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_WORD, _BITS, _ONE = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint64(1)
# Points until the lowest word of the counter is at its end and the next one goes up.
_TURN = 2 * 2**32

# Philox calls at a time in the numpy twin, points at a time in pi_numpy: what stays in the cache.
_CHUNK = 2**14


def round_keys(key: tuple[int, int]) -> NDArray[np.uint32]:
    """The keys of the ten rounds, shape (10, 2)."""
    rounds = [[(key[0] + r * _W0) % 2**32, (key[1] + r * _W1) % 2**32] for r in range(10)]
    return np.array(rounds, np.uint32)


def philox4x32(c0: Any, c1: Any, c2: Any, c3: Any, keys: Any) -> tuple[Any, Any, Any, Any]:
    """Four random words for the four words of a counter: uint64 arrays, or scalars if compiled."""
    for r in range(10):
        p0, p1 = _M0 * c0, _M1 * c2
        c0 = (p1 >> _BITS) ^ c1 ^ np.uint64(keys[r, 0])
        c2 = (p0 >> _BITS) ^ c3 ^ np.uint64(keys[r, 1])
        c1, c3 = p1 & _WORD, p0 & _WORD
    return c0, c1, c2, c3


def inside(x: Any, y: Any) -> Any:
    """Whether the midpoint of cell (x, y) of a 2**32 x 2**32 lattice is in the quarter circle.

    ``(x + 1/2)**2 + (y + 1/2)**2 < 2**64`` means ``x (x + 1) + y (y + 1) < 2**64`` for integers:
    the sum of the two does not wrap around.
    """
    square = x * (x + _ONE)
    return square + y * (y + _ONE) >= square


def _hits_numpy(keys: NDArray[np.uint32], c1: int, c2: int, c3: int, samples: int) -> int:
    hits, w1, w2, w3 = 0, np.uint64(c1), np.uint64(c2), np.uint64(c3)
    for first in range(0, samples, 2 * _CHUNK):
        points = min(2 * _CHUNK, samples - first)
        c0 = np.arange(first // 2, (first + points + 1) // 2, dtype=np.uint64)
        x, y, u, v = philox4x32(c0, w1, w2, w3, keys)
        hits += int(np.count_nonzero(inside(x, y)))
        hits += int(np.count_nonzero(inside(u, v)[: points // 2]))
    return hits


def _hits_loop(keys: NDArray[np.uint32], c1: int, c2: int, c3: int, samples: int) -> int:
    hits = 0
    # The casts tell the compiler that these words have 32 bits, which halves the cost of products.
    w1, w2, w3 = np.uint64(np.uint32(c1)), np.uint64(np.uint32(c2)), np.uint64(np.uint32(c3))
    for i in range(samples // 2):
        x, y, u, v = _philox_numba(np.uint64(np.uint32(i)), w1, w2, w3, keys)
        hits += _inside_numba(x, y)
        hits += _inside_numba(u, v)
    if samples % 2:
        x, y, u, v = _philox_numba(np.uint64(np.uint32(samples // 2)), w1, w2, w3, keys)
        hits += _inside_numba(x, y)
    return hits


if njit:
    # Inlined by numba, before LLVM sees a tuple: ten times the speed, the loop becomes vectors.
    _philox_numba, _inside_numba = njit(philox4x32, inline="always"), njit(inside)
    _hits_numba = njit(_hits_loop, cache=True, nogil=True)
    _hits: Any = _hits_numba
else:
    _hits = _hits_numpy


@kernel(scale=4, reference=math.pi, block=2**24, variant="numba" if njit else "numpy")
def pi(stream: Stream, samples: int) -> Hits:
    """Two points a Philox call; the calls of a block are counted in the counter's low words."""
    keys, (_, _, low, high) = round_keys(stream.key), stream.counter
    hits = 0
    for carry, first in enumerate(range(0, samples, _TURN)):
        hits += int(_hits(keys, carry, low, high, min(_TURN, samples - first)))
    return Hits(hits, samples)


@kernel(scale=4, reference=math.pi, block=2**21)
def pi_numpy(rng: np.random.Generator, samples: int) -> Hits:
    """Points from numpy's generator, as many at a time as stay in the cache."""
    hits = 0
    for first in range(0, samples, _CHUNK):
        x, y = rng.random((2, min(_CHUNK, samples - first)))
        hits += int(np.count_nonzero(x * x + y * y < 1))
    return Hits(hits, samples)


@kernel(scale=4, reference=math.pi, block=4000)
def pi_python(rng: np.random.Generator, samples: int) -> Hits:
    """One point after another, from Python's own generator, seeded by the block's."""
    draw = random.Random(int.from_bytes(rng.bytes(32), "little")).random
    return Hits(sum(math.hypot(draw(), draw()) < 1 for _ in range(samples)), samples)
