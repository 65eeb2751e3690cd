"""A seeded, simulated cluster with faults, and the simulated clock that it runs on."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from cluster.backends.base import Backend, Items, NodeEvent, Options, Pause, Source
from cluster.hosts.nodes import Node
from cluster.sampling.task import Fault, Outcome, Task, Work, perform


class FakeClock:
    """A clock that only moves when told to, and whose wall time can be stepped separately."""

    def __init__(self, now: float = 1_000_000_000.0) -> None:
        self._now, self._steady = now, 0.0

    def now(self) -> float:
        """Simulated seconds since the epoch."""
        return self._now

    def steady(self) -> float:
        """Simulated monotonic seconds."""
        return self._steady

    def advance(self, seconds: float) -> None:
        """Advance both clocks."""
        self._now += seconds
        self._steady += seconds

    def step_wall(self, seconds: float) -> None:
        """Step the wall clock alone, as NTP or a user does; ``steady`` is unaffected."""
        self._now += seconds


@dataclass(frozen=True)
class Weather:
    """Fault rates of a simulated cluster: probabilities per task, from 0 to 1.

    Attributes:
        dies: the worker dies during the task.
        trips: the kernel raises at a random block, but not if that is drawn again.
        vanishes: the node disappears with all its tasks, and returns later.
        hangs: the task is never answered until the source revokes it.
        late: the outcome of a lost task arrives all the same, later.
        twice: the outcome is delivered twice.
        forged: the tally is changed in transit.
        slow: largest ratio of two nodes' seconds per block, at least 1; not a probability.
    """

    dies: float = 0.05
    trips: float = 0.0
    vanishes: float = 0.02
    hangs: float = 0.0
    late: float = 0.5
    twice: float = 0.1
    forged: float = 0.02
    slow: float = 5.0


class Simulated(Backend):
    """An engine on simulated time: it computes outcomes at once, and delivers them at random times.

    It keeps the contract of :class:`Backend`, and does everything that the contract permits.

    Args:
        nodes: hosts, with their slots (1 by default).
        clock: advanced by the engine as time passes.
        seed: of all faults and delays.
        weather: the fault rates.
    """

    def __init__(
        self, nodes: Sequence[Node], clock: FakeClock, seed: int, weather: Weather | None = None
    ) -> None:
        super().__init__(nodes, Options())
        self._clock, self._fate = clock, random.Random(seed)
        self._weather = weather or Weather()
        self._slots = {node.host: node.slots or 1 for node in self.nodes}
        slow = self._weather.slow
        # Seconds per block.
        self._pace = {host: 0.01 * self._fate.uniform(1, slow) for host in self._slots}
        self._up = set(self._slots)
        self._owed: dict[int, tuple[Task, str]] = {}
        # Items to deliver: when (steady time), a number that breaks ties, and what.
        self._pending: list[tuple[float, int, Outcome | NodeEvent]] = []
        self._order = 0

    def run(self, work: Work, source: Source) -> Items:
        """Simulate until the source ends; the clock advances with each item."""
        for host, slots in self._slots.items():
            yield NodeEvent(host, slots, "ready")
        while True:
            ended = self._feed(work, source)
            if ended and not self._owed:
                return
            for number in self._owed.keys() & set(source.revoked()):
                self._answer(*self._owed[number], "timeout")
            item = self._deliver()
            if isinstance(item, Outcome):
                self._owed.pop(item.task, None)
            yield item

    def _feed(self, work: Work, source: Source) -> bool:
        for host in self._fate.sample(sorted(self._up), len(self._up)):
            for _ in range(self._slots[host] - sum(at == host for _, at in self._owed.values())):
                task = source.take(host)
                if task is Pause.END:
                    return True
                if isinstance(task, Task):
                    self._owed[task.id] = task, host
                    self._fly(source.work_of(task.run) or work, task, host)
        return False

    def _fly(self, work: Work, task: Task, host: str) -> None:
        weather, chance = self._weather, self._fate.random
        takes = self._pace[host] * (task.stop - task.first) * self._fate.uniform(0.8, 1.2)
        true = self._drawn(work, task, host, takes)
        if chance() < weather.vanishes:
            self._post(takes * chance(), NodeEvent(host, 0, "simulated loss"))
        if chance() < weather.hangs:
            return
        if chance() < weather.dies:
            self._answer(task, host, "lost", takes * chance())
            if chance() < weather.late:
                self._post(takes + chance(), true)
            return
        self._post(takes, self._forged(true) if chance() < weather.forged else true)
        if chance() < weather.twice:
            self._post(takes + chance(), true)

    def _drawn(self, work: Work, task: Task, host: str, takes: float) -> Outcome:
        if self._fate.random() >= self._weather.trips:
            return perform(work, task)._replace(node=host, wall=takes)
        block = self._fate.randrange(task.first, task.stop)
        fault = Fault("raised", block, "Tripped", "simulated")
        before = perform(work, task._replace(stop=block)) if block > task.first else None
        none = Outcome.without_answer(task, "lost", "", None)
        return (before or none)._replace(fault=fault, node=host, wall=takes)

    def _forged(self, outcome: Outcome) -> Outcome:
        text = outcome.tally or ""
        return outcome._replace(tally=text.replace('"hits":', '"hits":1', 1))

    def _answer(self, task: Task, host: str, kind: str, delay: float = 0.0) -> None:
        lost = Outcome.without_answer(task, kind, "simulated loss", None)
        self._post(delay, lost._replace(node=host))

    def _post(self, delay: float, item: Outcome | NodeEvent) -> None:
        self._order += 1
        self._pending.append((self._clock.steady() + delay, self._order, item))

    def _deliver(self) -> Outcome | NodeEvent | None:
        now = self._clock.steady()
        due = min(self._pending, key=lambda entry: entry[:2], default=(math.inf, 0, None))
        if due[0] > now + self.options.tick:
            self._clock.advance(self.options.tick)
            return None
        self._pending.remove(due)  # type: ignore[arg-type]
        self._clock.advance(max(0.0, due[0] - now))
        if isinstance(due[2], NodeEvent):
            self._vanish_or_return(due[2])
        return due[2]

    def _vanish_or_return(self, event: NodeEvent) -> None:
        """A lost node loses its tasks, but outcomes already in transit may still arrive."""
        host = event.node
        if event.slots:
            self._up.add(host)
        elif host in self._up:
            self._up.discard(host)
            self._post(10 * self._fate.random(), NodeEvent(host, self._slots[host], "back"))
        for number, (task, at) in self._owed.items():
            if at == host and not event.slots:
                kept = self._fate.random() < self._weather.late
                self._pending = [e for e in self._pending if kept or not _answers(e[2], number)]
                self._answer(task, host, "stranded")


def _answers(item: Outcome | NodeEvent, task: int) -> bool:
    return isinstance(item, Outcome) and item.task == task
