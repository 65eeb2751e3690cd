"""The random stream of a block: a function of (seed, point, block) and of nothing else.

There are two, for the two forms of kernel. An ``rng`` kernel gets a numpy ``Generator`` over
PCG64DXSM, seeded through ``SeedSequence``, which hashes its keys, so keys that differ in one bit
give unrelated streams. A ``stream`` kernel, usually compiled, gets the key and counter of a
counter-based generator such as Philox4x32-10 (Salmon et al., SC'11, doi
10.1145/2063384.2063405). Its blocks are disjoint by construction: the index of the block fills
the two high words of the counter, and the block may use all 2**64 values of the two low words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from cluster.common.canonical import sha256

if TYPE_CHECKING:
    import numpy as np

# Part of every run's identity; to be raised by any change here that changes the numbers drawn.
FORMAT = 1

_WORD = 0xFFFFFFFF


def point_of(params: Mapping[str, object]) -> int:
    """The 64-bit stream point of a parameter set: the first 64 bits of its sha256."""
    return int(sha256(params)[:16], 16)


@dataclass(frozen=True, slots=True)
class Stream:
    """The stream of one block, for a kernel whose first parameter is named ``stream``.

    Attributes:
        seed: the run's seed, a non-negative integer.
        point: 64 bits from the parameters, see :func:`point_of`.
        block: index of the block, from 0.
    """

    seed: int
    point: int
    block: int

    @property
    def key(self) -> tuple[int, int]:
        """Two 32-bit words from (seed, point), the same for all blocks of a run."""
        return _key(self.seed, self.point)

    @property
    def counter(self) -> tuple[int, int, int, int]:
        """Four 32-bit words, lowest first: two zeros for the kernel to count up, then the block."""
        return (0, 0, self.block & _WORD, self.block >> 32)

    def generator(self) -> np.random.Generator:
        """A new numpy Generator of the block, as an ``rng`` kernel gets it."""
        import numpy as np

        sequence = np.random.SeedSequence(self.seed, spawn_key=(self.point, self.block))
        return np.random.Generator(np.random.PCG64DXSM(sequence))


@lru_cache(maxsize=1024)
def _key(seed: int, point: int) -> tuple[int, int]:
    import numpy as np

    low, high = np.random.SeedSequence(seed, spawn_key=(point,)).generate_state(2).tolist()
    return (low, high)
