"""Nodes with wrong results are found, and correct ones are not accused."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest

from cluster.dispatch import Policy
from cluster.dispatch.events import Alarm
from cluster.dispatch.outliers import SIGMAS, NodeMeans
from cluster.ledger.sessions import events_of
from cluster.sampling.plan import Goal
from cluster.sampling.tally import Histogram, Hits, Moments, Tally
from tests.dispatch.bench import bench, tampered

BLOCK = 200


def drawn(rng: np.random.Generator, kind: str, bias: float = 0.0) -> Tally:
    """One block of a kernel; ``bias`` is what a broken node adds."""
    match kind:
        case "hits":
            return Hits(int((rng.random(BLOCK) < 0.25 + bias).sum()), BLOCK)
        case "rare":
            return Hits(int((rng.random(BLOCK) < 2e-5 + bias).sum()), BLOCK)
        case "correlated":  # the samples of a block hit together, or not at all
            return Hits(BLOCK if rng.random() < 0.25 + bias else 0, BLOCK)
        case "far":  # a mean far from zero against its spread
            return Moments.of(1e9 + bias + rng.standard_normal(BLOCK))
        case "heavy":  # no variance at all
            return Moments.of(rng.pareto(1.5, BLOCK) + bias)
        case _:
            return Histogram.of(rng.random(BLOCK) ** (1 + bias), np.linspace(0, 1, 5))


def parts(seed: int, kind: str, bias: float = 0.0, tasks: int = 600) -> NodeMeans:
    """Nodes a, b and c of different speeds; ``bias`` is that of a."""
    rng, made = np.random.default_rng(seed), NodeMeans()
    for number in range(tasks):
        node = "abbccc"[number % 6]
        blocks = int(rng.integers(1, 4))
        tally = drawn(rng, kind, bias if node == "a" else 0.0)
        for _ in range(blocks - 1):
            tally = tally.merge(drawn(rng, kind, bias if node == "a" else 0.0))
        made.add(node, blocks, tally)
    return made


@pytest.mark.fault(61)
@pytest.mark.parametrize("size", [1e-300, 1e-170, 1e170, 1e300])
def test_an_odd_node_is_found_over_the_whole_range_of_doubles(size: float) -> None:
    """Means whose squares overflow or underflow are handled like any others."""
    rng = np.random.default_rng(5)
    for bias in (0.0, 1.0):
        made = NodeMeans()
        for number in range(300):
            node = "abbccc"[number % 6]
            values = rng.normal(1.0 + (bias if node == "a" else 0.0), 0.5, BLOCK)
            made.add(node, 1, Moments.of(values * size))
        assert (made.outlier() or [None])[0] == ("a" if bias else None)


@pytest.mark.fault(61)
@pytest.mark.parametrize("kind", ["hits", "rare", "correlated", "far", "heavy", "bins"])
def test_honest_nodes_are_never_called_odd(kind: str) -> None:
    """For any kernel: rare events, correlated samples, no variance."""
    for seed in range(20):
        made = parts(seed, kind, tasks=300)
        assert max(made.distances().values()) < SIGMAS - 2.5
        assert made.outlier() is None


@pytest.mark.fault(61)
def test_the_distance_is_in_standard_errors() -> None:
    """Over many correct runs it is distributed like the absolute value of a standard normal."""
    off = [parts(seed, "hits", tasks=300).distances()["a"] for seed in range(200)]
    assert 0.6 < statistics.fmean(off) < 1.0  # sqrt(2 / pi) = 0.80
    assert 0.02 < sum(each > 2 for each in off) / 200 < 0.11


@pytest.mark.fault(61)
@pytest.mark.parametrize(("kind", "bias"), [("hits", 0.05), ("far", 0.2), ("bins", 0.2)])
def test_a_biased_node_is_named(kind: str, bias: float) -> None:
    """Only it, and not the others, although its results shift the mean."""
    found = parts(1, kind, bias).outlier()
    assert found is not None
    assert found[0] == "a"
    assert found[1] > SIGMAS


def test_few_tasks_prove_nothing() -> None:
    """Nine tasks of a node, all of them wrong."""
    made = NodeMeans()
    for number in range(60):
        made.add("b", 1, Hits(50 + number % 3, BLOCK))
    for number in range(9):
        made.add("a", 1, Hits(150 + number % 3, BLOCK))
    assert made.outlier() is None
    made.add("a", 1, Hits(150, BLOCK))
    assert made.outlier() is not None


def swept(seed: int, bias: float = 0.0, points: int = 200, tasks: int = 4) -> NodeMeans:
    """Short points of very different shares, by nodes a and b; ``bias`` is that of a, in shares."""
    rng, together = np.random.default_rng(seed), NodeMeans()
    for point in range(points):
        share, own = (0.0005, 0.01, 0.25, 0.7)[point % 4], NodeMeans()
        for number in range(tasks):
            node = "b" if rng.random() < 0.6 or number == 0 else "a"
            hit = share * (1 + bias * (node == "a"))
            own.add(node, 1, Hits(int((rng.random(BLOCK) < hit).sum()), BLOCK))
        together.add_run(own)
    return together


@pytest.mark.fault(61)
def test_the_points_of_a_sweep_are_judged_together() -> None:
    """The points are too short to be tested singly; correct nodes are never outliers."""
    assert max(max(swept(seed).distances().values()) for seed in range(20)) < SIGMAS - 3
    assert swept(1).outlier() is None
    found = swept(1, bias=0.2, points=600).verdict()
    assert found is not None
    assert found[0] in "ab"  # of two, either one may be wrong
    assert "standard errors away from that of the others" in found[1]


@pytest.mark.fault(61)
def test_the_distance_in_a_sweep_is_in_standard_errors() -> None:
    """Or slightly less, since a point's mean and scatter are estimated from its own tasks."""
    off = [swept(seed, points=60, tasks=8).distances()["a"] for seed in range(100)]
    assert 0.6 < statistics.fmean(off) < 1.0
    assert sum(each > 2 for each in off) < 11


def test_a_point_without_scatter_says_nothing_of_nodes() -> None:
    """One task, or tasks with equal results."""
    together = NodeMeans()
    for _ in range(100):
        one, same = NodeMeans(), NodeMeans()
        one.add("a", 1, Hits(3, BLOCK))
        same.add("a", 1, Hits(7, BLOCK))
        same.add("b", 2, Hits(14, 2 * BLOCK))
        together.add_run(one)
        together.add_run(same)
    assert set(together.distances().values()) <= {0.0}


@pytest.mark.fault(61)
def test_a_run_names_its_odd_node_at_its_end(tmp_path: Path) -> None:
    """As an alarm, and in the ledger; what it counted stays counted."""
    with bench(tmp_path, Goal(160), Policy(pinned=1)) as b:
        b.join("a", "b", "c")
        for number in range(160):
            node = "abcc"[number % 4]
            task = b.take(node)
            outcome = b.true(task, node)
            for _ in range(30 if node == "a" else 0):
                outcome = tampered(outcome)
            b.many.on_outcome(outcome)
        b.many.finish()
        (alarm,) = b.told(Alarm)
        assert alarm.node == "a"
        assert "standard errors away from that of the others" in alarm.message
        assert b.core.count.blocks == 160
        b.core.writer.flush()
        assert [e["node"] for e in events_of(b.ledger, b.run) if "errors away" in e["text"]] == [
            "a"
        ]
