"""The runs of one engine: which of them gets the next slot. Pure, but for what the cores do.

Each run has a core of its own, which decides all that concerns it; here is decided whose turn it
is, be they the points of a sweep or one run alone. A core is opened when its turn first comes, and
closed when nothing of it is out any more, so that what waits or has ended takes no memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from itertools import islice
from math import inf
from typing import Protocol

from cluster.backends.base import NodeEvent, Pause
from cluster.dispatch.clock import Clock
from cluster.dispatch.ending import Ending, ending_of
from cluster.dispatch.events import (
    Alarm,
    Draining,
    HostsChanged,
    NodeChanged,
    Observer,
    PointProgress,
    Progress,
)
from cluster.dispatch.in_flight import NodeState
from cluster.dispatch.nodes import NodeStates
from cluster.dispatch.outliers import NodeMeans
from cluster.dispatch.scheduler import RunScheduler
from cluster.hosts.nodes import Node
from cluster.hosts.prints import PrintedLines
from cluster.sampling.task import Outcome, Task, Work

# Where more runs than this owe tasks, nobody asks how many seconds of work those are.
_FEW = 64
# So many runs are shown in the progress of all; and the standing of so many others is recorded at
# a time, so that it costs about a hundredth of the dispatcher's, however many there are.
_SHOWN, _RECORDED = 8, 200


class RunRegistry(Protocol):
    """Where the runs come from, and what becomes of them; they are known by their numbers."""

    @property
    def work(self) -> Work:
        """What the engine's workers load first."""

    def work_of(self, run: str) -> Work | None:
        """The work of a run, by the tag of its tasks."""

    def name_of(self, number: int) -> str:
        """A run's name, for people."""

    def open(self, number: int, nodes: NodeStates) -> RunScheduler:
        """The core of a run, with what is counted of it."""

    def began(self, number: int) -> None:
        """The first task of a run is given out."""

    def ended(self, number: int, core: RunScheduler, ending: Ending) -> None:
        """A run has ended; of what is still out of it nothing is needed."""

    def closed(self, number: int) -> None:
        """Nothing of an ended run is out."""

    def record(self, progress: Progress) -> None:
        """Keep where all of them stand, for readers."""

    def note(self, node: str | None, text: str) -> None:
        """Keep what happened to a node or to the engine."""

    def slots(self, node: str, slots: int) -> None:
        """Keep that a node has had so many slots."""


@dataclass(frozen=True)
class Manner:
    """How many runs are computed together.

    Attributes:
        alone: it is one run, not the points of a sweep: its estimate is that of all.
        breadth: always the run that has fewest blocks; else one after the other.
        keep_going: a run that failed does not stop the others.
        wait: seconds without any usable slot after which all drain.
        blocks: what all of them together are to have; None: not known.
    """

    alone: bool = False
    breadth: bool = True
    keep_going: bool = True
    wait: float = 60.0
    blocks: int | None = None


@dataclass
class Open:
    """A run that was begun or looked at.

    Attributes:
        core: its decisions.
        had: blocks that were counted when it was opened.
        begun: when its first task was given out, on the steady clock.
        ended: its ending is recorded.
    """

    core: RunScheduler
    had: int
    begun: float | None = None
    ended: bool = False

    def progress(self, now: float) -> Progress:
        """Where it stands; the nodes are not its own."""
        elapsed = 0.0 if self.begun is None else now - self.begun
        drawn = (self.core.count.blocks - self.had) * self.core.work.block
        return self.core.progress(elapsed, drawn / elapsed if elapsed > 0 else 0.0)


class MultiScheduler:
    """The decider over many runs; the engine's source of tasks.

    Args:
        book: the runs.
        total: how many there are: their numbers are below it.
        owed: the numbers of those that are to be computed, in their order.
        manner: how.
        clock: time.
        observe: who is told.
    """

    def __init__(
        self,
        book: RunRegistry,
        total: int,
        owed: Sequence[int],
        manner: Manner,
        clock: Clock,
        observe: Observer,
    ) -> None:
        self.clock, self.observe = clock, observe
        self.draining: str | None = None
        self.outcomes = self.blocks = self.samples = 0
        self._book, self._manner = book, manner
        self._total, self._order = total, {number: at for at, number in enumerate(owed)}
        self._left = set(owed)
        # Whose turn it is: (blocks that are given, place in the order, number).
        self._queue = [(0, at, number) for at, number in enumerate(owed)]
        self._queued = set(owed)
        self._open: dict[int, Open] = {}
        self._out: dict[int, RunScheduler] = {}
        # Of which something was counted since their standing was recorded, the longest ago first.
        self._news: dict[int, None] = {}
        self._parts: dict[tuple[str, int], NodeMeans] = {}
        # Of which a node has failed what another one is to try.
        self._suspecting: dict[int, RunScheduler] = {}
        self._timed: set[int] = set()
        self.nodes = NodeStates(clock.steady())
        # A run alone is opened at once: what it has from earlier starts is shown from the first.
        self._alone = self._opened(owed[0]).core if manner.alone else None
        self._weigh_rest()

    # -- the engine's side --------------------------------------------------------------------

    @property
    def work(self) -> Work:
        """What the engine's workers load first."""
        return self._book.work

    def take(self, node: str | None = None) -> Task | Pause:
        """See :class:`cluster.backends.base.Source`."""
        if self.draining is not None or not self._left:
            return Pause.END
        now = self.clock.steady()
        state = self.nodes.place(node, now)
        if not self.nodes.takes(state, now):
            return Pause.NOW
        task = self._first_hand(node, state) or self._second_hand(node, state)
        if task is not None:
            return task
        return Pause.NOW if self._left else Pause.END

    def work_of(self, run: str) -> Work | None:
        """See :class:`cluster.backends.base.Source`."""
        return self._book.work_of(run)

    def revoked(self) -> Collection[int]:
        """See :class:`cluster.backends.base.Source`."""
        return {number for core in self._out.values() for number in core.revoked()}

    def avoided(self) -> Collection[str]:
        """See :class:`cluster.backends.base.Source`."""
        suspected: set[str] = set()
        for number, core in tuple(self._suspecting.items()):
            if names := core.suspected():
                suspected.update(names)
            else:
                del self._suspecting[number]
        return self.nodes.avoided(self.clock.steady(), suspected)

    # -- whose turn it is ---------------------------------------------------------------------

    def _first_hand(self, node: str | None, state: NodeState) -> Task | None:
        """A task of the first run in turn that has one for this node."""
        passed, task = [], None
        while self._queue and task is None:
            given, at, number = self._queue[0]
            found = self._open.get(number) or self._opened(number) if number in self._left else None
            if found is None or found.ended or not found.core.active:
                heappop(self._queue)
                self._queued.discard(number)
            elif given < (turn := self._turn(found.core)):
                heapreplace(self._queue, (turn, at, number))
            # Tried before it is asked whether it owes anything: most of the time it does.
            elif (task := found.core.first_hand(node, state)) is not None:
                heapreplace(self._queue, (self._turn(found.core), at, number))
                self._out[number] = found.core
                if found.begun is None:
                    self._begin(number, found)
            elif found.core.owes:  # blocks that are for another node
                passed.append(heappop(self._queue))
            else:
                heappop(self._queue)
                self._queued.discard(number)
        for entry in passed:
            heappush(self._queue, entry)
        return task

    def _second_hand(self, node: str | None, state: NodeState) -> Task | None:
        """A copy of what another slot has, where no run owes anything."""
        for number, core in self._out.items():
            if not self._open[number].ended and (task := core.second_hand(node, state)):
                return task
        return None

    def _turn(self, core: RunScheduler) -> int:
        return core.given if self._manner.breadth else 0

    def _opened(self, number: int) -> Open:
        core = self._book.open(number, self.nodes)
        found = self._open[number] = Open(core, core.count.blocks)
        self._counted(core, 0)
        if core.count.finished:
            self._end(number, found)
        return found

    def _begin(self, number: int, found: Open) -> None:
        """The first task of a run is given out."""
        found.begun = self.clock.steady()
        self._book.began(number)
        if found.core.count.goal.max_time is not None:
            self._timed.add(number)

    def _owing(self, number: int, core: RunScheduler) -> None:
        """Put a run that owes again, as after a lost worker, back into the queue."""
        if number not in self._queued and core.owes:
            heappush(self._queue, (self._turn(core), self._order[number], number))
            self._queued.add(number)

    # -- the loop's side ----------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Nothing is left to wait for."""
        return not self._left or (self.draining is not None and not self._out)

    def drain(self, reason: str) -> None:
        """Give out no more tasks of any run; the first reason stays."""
        if self.draining is None:
            self.draining = reason
            for found in self._open.values():
                found.core.draining = found.core.draining or reason
            self.observe(Draining(reason))

    def on_node(self, event: NodeEvent) -> None:
        """A node has another number of usable slots."""
        more = self.nodes.change(event, self.clock.steady())
        self._book.note(event.node, str(event))
        self._book.slots(event.node, event.slots)
        self.observe(NodeChanged(event.node, event.slots, event.reason))
        if more:
            self._tell(event.node, more)

    def on_hosts(self, added: Sequence[Node], drained: Sequence[str], why: str) -> None:
        """Hosts are to come and to go, before they do."""
        weights = {node.host: node.weight for node in added}
        for found in self._open.values():
            found.core.weights = {**found.core.weights, **weights}
        for name in weights:
            self._book.note(name, f"added: {why}")
        for name in drained:
            self._book.note(name, f"to be drained: {why}")
        self.observe(HostsChanged(tuple(weights), tuple(drained), why))

    def on_outcome(self, outcome: Outcome) -> None:
        """Hand an outcome to its run, which its task's number tells."""
        self.outcomes += outcome.is_work
        number = outcome.task % self._total
        if number not in self._order:
            return  # of a task that nobody gave out
        found = self._open.get(number)
        if found is None:
            # The late twin of a run that is closed: it is compared with what was counted.
            self._book.open(number, self.nodes).on_outcome(outcome)
            return
        before = found.core.count.blocks
        found.core.on_outcome(outcome)
        self._counted(found.core, before)
        if found.core.suspected():
            self._suspecting[number] = found.core
        if found.core.failed and not self._manner.keep_going:
            self.drain("failure")
        if not found.ended:
            self._news[number] = None
        self._settle(number, found)

    def _counted(self, core: RunScheduler, before: int) -> None:
        self.blocks += core.count.blocks - before
        self.samples += (core.count.blocks - before) * core.work.block

    def on_printed(self, printed: PrintedLines) -> None:
        """Have a run tell what its kernel printed; where nobody knows whose it is, any."""
        of = None if printed.task is None else self._open.get(printed.task % self._total)
        found = of or next(iter(self._open.values()), None)
        if found is not None:
            found.core.on_printed(printed)

    def on_tick(self) -> None:
        """Look at the clocks: expired tasks, runs out of time, and a cluster without nodes."""
        now = self.clock.steady()
        slept = self.nodes.look(now)
        for core in self._out.values():
            core.expire(now, slept)
        for number in tuple(self._timed):
            self._look_at_time(number, now)
        if self.nodes.starved(now, self._manner.wait):
            self.drain("nodes")
        self._weigh_rest()

    def forget_flights(self) -> None:
        """The engine is gone: what was out is owed again, and nobody is blamed."""
        self.nodes.lose_all()
        for number, core in tuple(self._out.items()):
            core.forget_flights()
            self._settle(number, self._open[number])

    def progress(self, elapsed: float) -> Progress:
        """Where all of them stand."""
        nodes = self.nodes.progress()
        drawn = sum(node.samples for node in nodes)
        speed = drawn / elapsed if elapsed > 0 else 0.0
        if self._alone is not None:
            return self._alone.progress(elapsed, speed, nodes)
        return Progress(
            elapsed,
            self.blocks,
            self._manner.blocks,
            self.samples,
            speed,
            None,
            nodes,
            points_done=self._total - len(self._left),
            points=self._total,
            running=tuple(self._running()),
        )

    def _running(self) -> Iterator[PointProgress]:
        """The first few of the runs that are computed now."""
        for number in islice(self._out, _SHOWN):
            count, estimate = self._out[number].count, self._out[number].count.estimate()
            yield PointProgress(
                self._book.name_of(number),
                count.blocks,
                count.goal.size,
                estimate and estimate.value,
                estimate and estimate.std_error,
            )

    def record(self, progress: Progress) -> None:
        """Keep where all of them stand, for readers; and each of those that have news."""
        if self._alone is not None:
            self._alone.record(progress)
            return
        self._book.record(progress)
        now = self.clock.steady()
        for number in tuple(islice(self._news, _RECORDED)):
            del self._news[number]
            found = self._open[number]
            found.core.record(found.progress(now))

    def alarm(self, text: str) -> None:
        """Tell, and record, what is wrong with no node in particular."""
        self._book.note(None, text)
        self.observe(Alarm(text))

    def finish(self) -> list[int]:
        """End what was opened and has not ended, and name nodes whose numbers cannot be by chance.

        Returns:
            The numbers of the runs that never were opened.
        """
        for number, found in tuple(self._open.items()):
            if not found.ended:
                self._end(number, found)
        for parts in self._parts.values():
            if (verdict := parts.verdict()) is not None:
                self._tell(*verdict)
        return sorted(self._left, key=self._order.__getitem__)

    def _tell(self, node: str, text: str) -> None:
        self._book.note(node, text)
        self.observe(Alarm(text, node))

    # -- the end of a run ---------------------------------------------------------------------

    def _settle(self, number: int, found: Open) -> None:
        core = found.core
        if not core.flights:
            self._out.pop(number, None)
        if not found.ended and core.over:
            self._end(number, found)
        elif found.ended and not core.flights:
            self._close(number)
        elif not found.ended:
            self._owing(number, core)

    def _look_at_time(self, number: int, now: float) -> None:
        """A run's own max_time counts from its first task."""
        found = self._open[number]
        limit = found.core.count.goal.max_time
        if limit is not None and found.begun is not None and now - found.begun >= limit:
            self._timed.discard(number)
            found.core.draining = found.core.draining or "max_time"
            self._settle(number, found)

    def _end(self, number: int, found: Open) -> None:
        begun = self.clock.steady() if found.begun is None else found.begun
        ending = ending_of(found.core, self.clock.steady() - begun)
        found.ended = True
        self._news.pop(number, None)
        self._left.discard(number)
        self._timed.discard(number)
        self._take_in(found.core)
        self._book.ended(number, found.core, ending)
        if not found.core.flights:
            self._close(number)

    def _take_in(self, core: RunScheduler) -> None:
        """What nodes have drawn for a run, beside what they have for others of its kernel."""
        kind = core.work.source.sha, core.parts.means
        self._parts.setdefault(kind, NodeMeans()).take_in(core.parts)

    def _close(self, number: int) -> None:
        del self._open[number]
        self._book.closed(number)

    def _weigh_rest(self) -> None:
        """How long all slots have work for: near the end, tasks get shorter."""
        self.nodes.rest = inf if len(self._queue) > _FEW else sum(map(self._seconds, self._queued))

    def _seconds(self, number: int) -> float:
        found = self._open.get(number)
        if found is not None:
            return found.core.owed_seconds() if found.core.owes else 0.0
        return inf if number in self._left else 0.0
