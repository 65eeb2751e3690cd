"""Every kernel in jobs/: agrees with its closed form, is pure, and imports only what it may."""

from __future__ import annotations

import ast
import math
import sys
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from scipy import integrate, stats

import cluster
from cluster.sampling.kernels import Kernel, form_of, freeze, functions, load
from cluster.sampling.streams import Stream, point_of
from cluster.sampling.tally import Tally, from_json, merged

JOBS = Path(__file__).parents[2] / "jobs"
SEED = 20260

# Parameters beside the defaults, and samples a block, 8 blocks each: a second or less together.
CASES: dict[str, tuple[list[dict[str, object]], int]] = {
    "pi.py:pi": ([{}], 2**20 + 1),
    "pi.py:pi_numpy": ([{}], 2**18 + 1),
    "pi.py:pi_python": ([{}], 4000),
    "ball.py:ball": ([{}, {"dimension": 1}, {"dimension": 2}, {"dimension": 7}], 2**15 + 1),
    "option.py:call": (
        [{}, {"strike": 80.0}, {"rate": 0.0, "maturity": 0.25}, {"volatility": 0.6, "spot": 90.0}],
        2**15 + 1,
    ),
    "galton.py:board": ([{}, {"rows": 3, "right": 0.2}, {"rows": 1}], 2**15 + 1),
}
PARAMS = [(name, params) for name, (choices, _) in CASES.items() for params in choices]


@cache
def shipped(name: str) -> Kernel:
    """The kernel as a worker has it: frozen, unpacked, imported."""
    return load(freeze(name, JOBS))


def draw(name: str, params: dict[str, object], blocks: range = range(8)) -> Tally:
    """The merged tally of some blocks at the fixed seed."""
    kernel = shipped(name)
    full = kernel.resolve(params)
    point, samples = point_of(full), CASES[name][1]
    total = merged(kernel.draw(Stream(SEED, point, block), samples, full) for block in blocks)
    assert total is not None
    return total


def test_every_shipped_kernel_is_tested_here() -> None:
    """A kernel that is added to jobs/ must be added to the cases above."""
    found = {
        f"{path.name}:{name}"
        for path in JOBS.glob("*.py")
        for name, node in functions(path.read_text(), path.name).items()
        if form_of(node)
    }
    assert found == CASES.keys()


@pytest.mark.parametrize(("name", "params"), PARAMS)
def test_the_estimate_agrees_with_the_closed_form(name: str, params: dict[str, object]) -> None:
    """Within four standard errors of the reference at a fixed seed, bin by bin."""
    kernel = shipped(name)
    full = kernel.resolve(params)
    estimate = draw(name, params).estimate(0.95, *kernel.scale(full))
    value, error = np.atleast_1d(estimate.value), np.atleast_1d(estimate.std_error)
    reference = np.atleast_1d(np.array(kernel.reference(full)))
    assert value.shape == reference.shape
    # In one dimension every point is inside, and only the reference is rounded.
    assert (np.abs(value - reference) <= 4 * error + 1e-15 * reference).all()
    # An error that is not small beside the value would let anything pass.
    assert (error <= 0.1 * np.abs(reference)).all()


@pytest.mark.parametrize("name", CASES)
def test_a_block_is_a_pure_function_of_its_stream(name: str) -> None:
    """The same block twice, with another drawn between, gives equal tallies; another does not."""
    first, other, again = (draw(name, {}, range(n, n + 1)) for n in (2, 3, 2))
    assert again == first
    assert other != first
    assert from_json(first.to_json()) == first


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("samples", [1, 2, 7])
def test_a_tally_counts_the_samples_it_was_asked_for(name: str, samples: int) -> None:
    """Blocks of any size, odd ones included, hold exactly so many samples."""
    kernel = shipped(name)
    assert kernel.draw(Stream(1, 2, 3), samples, kernel.resolve({})).samples == samples


@pytest.mark.pythons
@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("pi.py:pi", 6587747),
        ("pi.py:pi_numpy", 1647327),
        ("pi.py:pi_python", 25150),
        ("ball.py:ball", 137787),
        (
            "galton.py:board",
            [273, 2521, 11493, 30821, 53843, 64329, 53692, 30634, 11715, 2571, 260],
        ),
    ],
)
def test_counts_are_the_same_everywhere(name: str, counts: object) -> None:
    """Golden counts of eight blocks: the same on every Python, numpy and machine."""
    data = draw(name, {}).to_json()
    assert data.get("hits", data.get("counts")) == counts


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.py")), ids=lambda path: path.name)
def test_a_kernel_s_file_imports_only_what_it_may(path: Path) -> None:
    """numpy, numba, the standard library, and public names of cluster."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "cluster":
            assert {alias.name for alias in node.names} <= set(cluster.__all__)
            continue
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or "."] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            top = name.partition(".")[0]
            assert top in {"numpy", "numba"} | sys.stdlib_module_names, name


def test_the_references_are_known_values() -> None:
    """Closed forms against values from elsewhere: pi, 8 pi**2 / 15, Hull's option, the binomial."""
    ball, call, board = (shipped(n) for n in ("ball.py:ball", "option.py:call", "galton.py:board"))
    assert shipped("pi.py:pi").reference({}) == math.pi
    assert ball.reference({"dimension": 5}) == pytest.approx(8 * math.pi**2 / 15)
    assert ball.scale({"dimension": 5}) == (32.0, 0.0)
    # J. Hull, Options, Futures, and Other Derivatives, the example of the Black-Scholes chapter.
    hull = {"spot": 42.0, "strike": 40.0, "rate": 0.1, "volatility": 0.2, "maturity": 0.5}
    assert call.reference(call.resolve(hull)) == pytest.approx(4.76, abs=0.005)
    expected = stats.binom.pmf(range(13), 12, 0.3)
    assert board.reference({"rows": 12, "right": 0.3}) == pytest.approx(tuple(expected))


@pytest.mark.parametrize("params", CASES["option.py:call"][0])
def test_the_option_s_reference_is_the_integral_of_its_payoff(params: dict[str, float]) -> None:
    """Black and Scholes' formula against quadrature over the normal density."""
    call = shipped("option.py:call")
    full = call.resolve(params)
    spot, strike, rate, volatility, years = (
        cast("float", full[name]) for name in ("spot", "strike", "rate", "volatility", "maturity")
    )
    drift, spread = (rate - volatility**2 / 2) * years, volatility * math.sqrt(years)

    def payoff(z: float) -> float:
        end = spot * math.exp(drift + spread * z)
        return (end - strike) * math.exp(-z * z / 2 - rate * years) / math.sqrt(2 * math.pi)

    least = (math.log(strike / spot) - drift) / spread
    value, _ = integrate.quad(payoff, least, 30, epsabs=1e-12, limit=200)
    assert call.reference(full) == pytest.approx(value, rel=1e-10)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("ball.py:ball", {"dimension": 0}),
        ("ball.py:ball", {"dimension": 2.5}),
        ("option.py:call", {"strike": 0.0}),
        ("galton.py:board", {"rows": 0}),
        ("galton.py:board", {"right": 1.5}),
    ],
)
def test_params_without_a_meaning_are_refused(name: str, params: dict[str, object]) -> None:
    """Scale or reference, which are taken when a spec is read, refuse them before any draw."""
    kernel = shipped(name)
    full = kernel.resolve(params)
    with pytest.raises(ValueError, match=r"must be|needs"):
        kernel.scale(full), kernel.reference(full)


def test_the_declared_blocks_are_these() -> None:
    """Blocks are part of a run's identity: a change of one changes every run without `block`."""
    blocks = {name: shipped(name).traits.block for name in CASES}
    assert blocks == {
        "pi.py:pi": 2**24,
        "pi.py:pi_numpy": 2**21,
        "pi.py:pi_python": 4000,
        "ball.py:ball": 2**20,
        "option.py:call": 2**19,
        "galton.py:board": 2**18,
    }
