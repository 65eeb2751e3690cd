"""Where balls end on a Galton board: at each row of pins a ball goes right, or stays."""

from __future__ import annotations

from math import comb

import numpy as np

from cluster import Histogram, kernel


def binomial(rows: int, right: float) -> list[float]:
    """The closed form: the probability of each slot, 0 to ``rows``."""
    if rows < 1 or not 0 <= right <= 1:
        raise ValueError(f"needs rows >= 1 and 0 <= right <= 1, got {rows} and {right}")
    return [comb(rows, k) * right**k * (1 - right) ** (rows - k) for k in range(rows + 1)]


@kernel(reference=binomial, block=2**18)
def board(rng: np.random.Generator, samples: int, rows: int = 10, right: float = 0.5) -> Histogram:
    """One ball a sample; ``right`` is the probability to go right at a pin."""
    slots = np.zeros(samples)
    for _ in range(rows):
        slots += rng.random(samples) < right
    return Histogram.of(slots, np.arange(rows + 2) - 0.5)
