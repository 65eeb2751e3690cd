"""The volume of the unit ball in any dimension, from points of the cube around it."""

from __future__ import annotations

import math

import numpy as np

from cluster import Hits, kernel

# Points at a time: what stays in the cache.
_CHUNK = 2**14


def cube(dimension: float) -> float:
    """The volume of the cube around the ball; refuses, when a spec is read, what has none."""
    if dimension < 1 or dimension % 1:
        raise ValueError(f"dimension must be a whole number from 1 on, got {dimension}")
    return math.pow(2, dimension)


def volume(dimension: int) -> float:
    """The closed form: pi**(d / 2) / gamma(d / 2 + 1)."""
    return math.pow(math.pi, dimension / 2) / math.gamma(dimension / 2 + 1)


@kernel(scale=cube, reference=volume, block=2**20)
def ball(rng: np.random.Generator, samples: int, dimension: int = 3) -> Hits:
    """Points of the cube's positive corner, [0, 1)**d: all 2**d corners are alike."""
    hits = 0
    for first in range(0, samples, _CHUNK):
        squares = np.zeros(min(_CHUNK, samples - first))
        for _ in range(dimension):
            x = rng.random(squares.size)
            squares += x * x
        hits += int(np.count_nonzero(squares < 1))
    return Hits(hits, samples)
