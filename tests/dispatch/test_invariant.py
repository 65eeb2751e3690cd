"""No block is ever lost: each one is counted, in flight, owed, suspect or failed at any time."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cluster.backends.base import NodeEvent
from cluster.dispatch import Policy
from cluster.sampling.plan import Goal, Ranges
from cluster.sampling.task import Fault, Outcome, Task
from tests.dispatch.bench import NEVER, Bench, bench, tiles

BLOCKS = 20
STEPS = 120
NODES = ("a", "b", "c")


class Fate:
    """Does to a scheduler, in random order, whatever an engine may do."""

    def __init__(self, b: Bench, seed: int) -> None:
        self.b, self.rng = b, random.Random(seed)
        self.out: list[tuple[Task, str]] = []
        self.given_up: list[tuple[Task, str]] = []
        b.join(*NODES, slots=2)

    def step(self) -> None:
        """One random step."""
        acts = (self.take, self.answer, self.trip, self.lose, self.late, self.wait, self.node)
        weights = (60, 30, 8, 4, 3, 8, 1)
        act = self.forget if self.rng.random() < 0.01 else self.rng.choices(acts, weights)[0]
        act()

    def take(self) -> None:
        """A slot takes a task."""
        node = self.rng.choice(NODES)
        task = self.b.many.take(node)
        if isinstance(task, Task):
            self.out.append((task, node))

    def answer(self) -> None:
        """A task is done, fast or slow."""
        if found := self._pick():
            self.b.answer(*found, wall=self.rng.choice((0.01, 0.1, 1.0)))

    def trip(self) -> None:
        """A block of a task raises; those before it are done."""
        if found := self._pick():
            task, node = found
            block = self.rng.randrange(task.first, task.stop)
            done = self.b.true(task._replace(stop=block), node) if block > task.first else None
            none = Outcome.without_answer(task, "lost", "", None)._replace(node=node)
            fault = Fault(self.rng.choice(("raised", "refused")), block, "E", "tripped")
            self.b.many.on_outcome((done or none)._replace(fault=fault))

    def lose(self) -> None:
        """A task's worker is lost, was killed or had not started; its outcome may come late."""
        if found := self._pick():
            self.given_up.append(found)
            kinds = ("lost", "timeout", "returned", "stranded")
            self.b.lose(found[0], self.rng.choice(kinds), found[1])

    def late(self) -> None:
        """A late outcome arrives."""
        if self.given_up:
            self.b.answer(*self.rng.choice(self.given_up))

    def node(self) -> None:
        """A node has another number of slots."""
        self.b.many.on_node(NodeEvent(self.rng.choice(NODES), self.rng.randrange(4), "fate"))

    def wait(self) -> None:
        """Time passes."""
        self.b.wait(self.rng.choice((1, 6, 6, 20)))

    def forget(self) -> None:
        """The engine is gone and a new one starts; outcomes of the old one may still arrive."""
        self.b.many.forget_flights()
        self.given_up += self.out
        self.out.clear()
        self.b.join(*NODES, slots=2)

    def _pick(self) -> tuple[Task, str] | None:
        if not self.out:
            return None
        return self.out.pop(self.rng.randrange(len(self.out)))


def forgotten(b: Bench) -> list[tuple[int, int]]:
    """Blocks below the frontier that are neither counted nor will ever be."""
    core, known = b.core, Ranges()
    spans = [(flight.task.first, flight.task.stop) for flight in core.flights.values()]
    spans += [(suspect.first, suspect.stop) for suspect in core._suspects]
    for first, stop in (*core.count.done, *core._returned, *spans):
        known.add(first, stop)
    for block in core.failed:
        known.add(block, block + 1)
    return known.missing(0, core._frontier)


@pytest.mark.parametrize("goal", [Goal(BLOCKS), Goal(BLOCKS, NEVER)], ids=["plain", "target"])
@pytest.mark.parametrize("chunk", range(4))
def test_no_block_is_ever_forgotten_whatever_an_engine_does(
    tmp_path: Path, goal: Goal, chunk: int
) -> None:
    """After random steps and a correct end everything is counted once, and nothing is lost."""
    for seed in range(40 * chunk, 40 * chunk + 40):
        with bench(tmp_path / str(seed), goal, Policy(raised=99, lost=99), wait=9999) as b:
            fate = Fate(b, seed)
            for step in range(STEPS):
                fate.step()
                assert not forgotten(b), f"seed {seed}, step {step}"
                flying = [flight.task.id for flight in b.core.flights.values()]
                assert sorted(flying) == sorted(task.id for task, _ in fate.out)
            fate.forget()
            for other in NODES[1:]:
                b.many.on_node(NodeEvent(other, 0, "gone"))
            b.finish()
            assert tiles(b.rows(), BLOCKS), f"seed {seed}"
            assert not b.core.undone


@pytest.mark.parametrize("seed", range(40))
def test_what_a_drain_leaves_undone_is_named_exactly(tmp_path: Path, seed: int) -> None:
    """After random steps and a drain, ``undone`` is what was started and not counted or failed."""
    with bench(tmp_path, Goal(BLOCKS), Policy(raised=2, lost=2), wait=9999) as b:
        fate = Fate(b, seed)
        begun: set[int] = set()
        for _ in range(STEPS):
            fate.step()
            begun |= {n for task, _ in fate.out for n in range(task.first, task.stop)}
        b.many.drain("max_time")
        while fate.out:
            fate.answer()
        assert b.many.over
        counted = {n for row in b.rows() for n in range(row.first, row.stop)}
        undone = {n for first, stop in b.core.undone for n in range(first, stop)}
        assert not undone & (counted | b.core.failed)
        assert undone <= begun
        assert b.core.failed <= begun - counted
