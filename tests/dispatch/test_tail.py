"""The duration of a run on unequal hosts: close to what their total speed allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from cluster.backends.base import NodeEvent, Source
from cluster.hosts.nodes import Node
from cluster.sampling.plan import Goal
from cluster.sampling.task import Task, Work
from cluster.testing import FakeClock, Simulated, Weather, drive, work_of

Pace = Callable[[float], Mapping[str, float]]
BLOCKS = 6000
CALM = Weather(dies=0.0, vanishes=0.0, late=0.0, twice=0.0, forged=0.0)
# The most beyond the ideal time, which no schedule of whole tasks can reach.
MOST = 1.15


class Paced(Simulated):
    """Hosts with given seconds per block, some of which change at a given time."""

    def __init__(
        self,
        nodes: tuple[Node, ...],
        clock: FakeClock,
        seed: int,
        pace: Pace,
    ) -> None:
        super().__init__(nodes, clock, seed, CALM)
        self._paces = pace

    def _fly(self, work: Work, task: Task, host: str) -> None:
        self._pace = dict(self._paces(self._clock.steady()))
        super()._fly(work, task, host)


def wall(seed: int, slots: Mapping[str, int], pace: Pace, kind: type[Paced] | None = None) -> float:
    """The duration of a run in seconds."""
    clock = FakeClock()
    hosts = tuple(Node(host, slots=n) for host, n in slots.items())
    made = drive(
        lambda: (kind or Paced)(hosts, clock, seed, pace),
        work_of(block=2),
        Goal(BLOCKS),
        clock=clock,
    )
    assert made.ending.state.value == "done"
    return made.ending.wall


@pytest.mark.fault(9)
@pytest.mark.parametrize("seed", range(6))
def test_unequal_hosts_end_together(seed: int) -> None:
    """One host is five times slower, and each has another number of slots."""
    slots = {"a": 4, "b": 2, "c": 3, "slow": 2}
    pace = {"a": 0.05, "b": 0.07, "c": 0.1, "slow": 0.25}
    ideal = BLOCKS / sum(slots[host] / pace[host] for host in slots)
    took = wall(seed, slots, lambda _: pace)
    assert took <= MOST * ideal, f"{took / ideal:.3f} times the ideal"


@pytest.mark.fault(9)
@pytest.mark.parametrize("seed", range(6))
def test_a_host_that_turns_slow_half_way_does_not_hold_up_the_end(seed: int) -> None:
    """It then gets short tasks, and others take over what it is late with."""
    slots = {"a": 2, "b": 2, "c": 2}
    fast, slowed = 6 / 0.05, 4.4 / 0.05
    half = BLOCKS / 2 / fast
    ideal = half + BLOCKS / 2 / slowed
    took = wall(seed, slots, lambda now: {"a": 0.05, "b": 0.05, "c": 0.05 if now < half else 0.25})
    assert took <= MOST * ideal, f"{took / ideal:.3f} times the ideal"


class Losing(Paced):
    """One host is lost near the end, with all of its tasks, and does not return."""

    gone_at = 0.0

    def _feed(self, work: Work, source: Source) -> bool:
        if "c" in self._up and self._clock.steady() >= self.gone_at:
            self._up.discard("c")
            self._pending = [e for e in self._pending if getattr(e[2], "node", "") != "c"]
            self._post(0.0, NodeEvent("c", 0, "gone"))
            for task, at in self._owed.values():
                if at == "c":
                    self._answer(task, at, "stranded")
        return super()._feed(work, source)


@pytest.mark.fault(9)
@pytest.mark.parametrize("seed", range(6))
def test_a_host_that_is_lost_near_the_end_does_not_hold_it_up(seed: int) -> None:
    """The others share its tasks in short ones."""
    slots, pace = {"a": 2, "b": 2, "c": 2}, 0.05
    whole = BLOCKS * pace / 6
    left = BLOCKS - 0.9 * BLOCKS
    ideal = 0.9 * whole + left * pace / 4
    Losing.gone_at = 0.9 * whole
    took = wall(seed, slots, lambda _: dict.fromkeys(slots, pace), Losing)
    assert took <= MOST * ideal, f"{took / ideal:.3f} times the ideal"
