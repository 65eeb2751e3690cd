"""How often an interval holds the true value, over many runs at fixed seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path

from cluster.sampling.kernels import Kernel, KernelSource, freeze, load
from cluster.sampling.streams import Stream, point_of
from cluster.sampling.tally import Tally, merged

# So many that a share of 0.95 has a standard error of 0.0034.
RUNS = 4000
CONFIDENCE = 0.95

Interval = tuple[float, float]

RARE = KernelSource(
    "rare.py",
    "rare",
    {
        "rare.py": """
from cluster import Hits, kernel

@kernel(reference=lambda p: p)
def rare(rng, samples, p=1e-4):
    return Hits(int(rng.binomial(samples, p)), samples)
"""
    },
)


@cache
def shipped(reference: str) -> Kernel:
    """A kernel of jobs/, as ``file.py:function``."""
    return load(freeze(reference, Path(__file__).parents[2] / "jobs"))


def run(
    kernel: Kernel, seed: int, blocks: range, samples: int, params: Mapping[str, object]
) -> Tally:
    """The merged tally of some blocks of the run with this seed."""
    full = kernel.resolve(params)
    point = point_of(full)
    drawn = (kernel.draw(Stream(seed, point, block), samples, full) for block in blocks)
    total = merged(drawn)
    assert total is not None
    return total


def runs(
    kernel: Kernel, blocks: int, samples: int, params: Mapping[str, object]
) -> Iterable[Tally]:
    """The tallies of RUNS runs, with seeds 0, 1, 2, ...; ``samples`` in each of the blocks."""
    return (run(kernel, seed, range(blocks), samples, params) for seed in range(RUNS))


def shown(kernel: Kernel, params: Mapping[str, object]) -> Callable[[Tally], Interval]:
    """The interval that the project reports for a tally of this kernel."""
    scale, offset = kernel.scale(kernel.resolve(params))

    def interval(tally: Tally) -> Interval:
        estimate = tally.estimate(CONFIDENCE, scale, offset)
        assert isinstance(estimate.low, float)
        assert isinstance(estimate.high, float)
        return estimate.low, estimate.high

    return interval


def coverage(intervals: Iterable[Interval], truth: float) -> float:
    """The share of intervals that hold ``truth``, 0 to 1."""
    held = [low <= truth <= high for low, high in intervals]
    return sum(held) / len(held)
