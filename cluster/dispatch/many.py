"""Scheduling several runs on one engine: which of them gets the next free slot.

Each run (the points of a sweep, or a single one) has its own :class:`RunScheduler`, called its
core, which decides everything about it. A core is opened when its turn first comes and closed when
none of its tasks is in flight any more, so that waiting and ended runs take no memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush, heapreplace
from itertools import islice
from math import inf
from typing import Protocol

from cluster.backends.base import NodeEvent, Pause
from cluster.common.states import State
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

# With more waiting runs than this the remaining work is not added up; it is taken as unlimited.
_FEW = 64
# How many running points the progress shows, and how many have their progress recorded at a time,
# which costs about one percent of the dispatcher's time whatever the size of the sweep.
_SHOWN, _RECORDED = 8, 200


class RunRegistry(Protocol):
    """Where the scheduler gets its runs from and reports to. A run is identified by its number."""

    @property
    def work(self) -> Work:
        """The work that the engine's workers load first."""

    def work_of(self, run: str) -> Work | None:
        """The work of a run, by the ``run`` of its tasks; None if unknown."""

    def name_of(self, number: int) -> str:
        """A run's name, for display."""

    def open(self, number: int, nodes: NodeStates) -> RunScheduler:
        """A new core of a run, with the blocks counted so far."""

    def began(self, number: int) -> None:
        """The first task of a run is about to be sent."""

    def ended(self, number: int, core: RunScheduler, ending: Ending) -> None:
        """A run has ended.

        Args:
            number: of the run.
            core: its core; results of tasks still in flight are not needed.
            ending: how it ended.
        """

    def closed(self, number: int) -> None:
        """No task of an ended run is in flight any more."""

    def record(self, progress: Progress) -> None:
        """Record the progress of all runs together, for readers."""

    def note(self, node: str | None, text: str) -> None:
        """Record an event of a node, or of the engine (None)."""

    def slots(self, node: str, slots: int) -> None:
        """Record the number of slots of a node."""


@dataclass(frozen=True)
class Manner:
    """How several runs share an engine.

    Attributes:
        alone: whether it is a single run and not a sweep, so that there is one estimate.
        breadth: the run with the fewest blocks is next; otherwise one run after the other.
        keep_going: whether the other runs continue when one fails.
        wait: seconds without any usable slot after which all drain.
        blocks: the total of all runs; None: unknown.
    """

    alone: bool = False
    breadth: bool = True
    keep_going: bool = True
    wait: float = 60.0
    blocks: int | None = None


@dataclass
class OpenRun:
    """An open run.

    Attributes:
        core: its scheduler.
        had: number of blocks that were counted when it was opened.
        started: when its first task was sent, on the steady clock; None: not yet.
        ended: whether its ending has been recorded.
    """

    core: RunScheduler
    had: int
    started: float | None = None
    ended: bool = False

    def progress(self, now: float) -> Progress:
        """Its progress, without nodes, since it shares them with the other runs."""
        elapsed = 0.0 if self.started is None else now - self.started
        drawn = (self.core.count.blocks - self.had) * self.core.work.block
        return self.core.progress(elapsed, drawn / elapsed if elapsed > 0 else 0.0)


class MultiScheduler:
    """The scheduler of several runs, and the engine's source of tasks.

    Run ``number`` gives its tasks the ids number + total, number + 2 * total and so on (the
    registry sets this up), so a task's id modulo ``total`` is the number of its run.

    Args:
        registry: where the runs come from.
        total: how many there are; their numbers are below it.
        owed: the numbers of the runs to compute, in order.
        manner: how they share the engine.
        clock: the time.
        observe: gets the events.

    Attributes:
        draining: why no more tasks are given out, or None.
        outcomes: number of outcomes that a worker worked on.
        blocks, samples: counted so far, over all runs that were opened.
        nodes: the state of the engine's nodes.
    """

    def __init__(
        self,
        registry: RunRegistry,
        total: int,
        owed: Sequence[int],
        manner: Manner,
        clock: Clock,
        observe: Observer,
    ) -> None:
        self.clock, self.observe = clock, observe
        self.draining: str | None = None
        self.outcomes = self.blocks = self.samples = 0
        self._registry, self._manner = registry, manner
        self._total, self._order = total, {number: at for at, number in enumerate(owed)}
        self._left = set(owed)
        # Runs that ended, drained, before they had what they were asked for.
        self._cut_short = 0
        # A heap: (blocks given out, place in the order, number). The first entry may be outdated,
        # see _fresh_task.
        self._queue = [(0, at, number) for at, number in enumerate(owed)]
        self._queued = set(owed)
        self._open: dict[int, OpenRun] = {}
        # Runs with tasks in flight.
        self._in_flight: dict[int, RunScheduler] = {}
        # An ordered set: runs with blocks counted since their progress was last recorded.
        self._unrecorded: dict[int, None] = {}
        # Ended runs by kernel and number of means, to compare nodes over all of them.
        self._parts: dict[tuple[str, int], NodeMeans] = {}
        # Runs with blocks that a node failed and another one is to try.
        self._suspecting: dict[int, RunScheduler] = {}
        # Runs with a max_time of their own that have started.
        self._timed: set[int] = set()
        self.nodes = NodeStates(clock.steady())
        # A single run is opened at once, so that blocks of earlier starts are shown immediately.
        self._alone = self._opened(owed[0]).core if manner.alone else None
        self._weigh_rest()

    # -- the engine's side --------------------------------------------------------------------

    @property
    def work(self) -> Work:
        """The work that the engine's workers load first."""
        return self._registry.work

    def take(self, node: str | None = None) -> Task | Pause:
        """The next task for a slot of a node (None: of any), or why there is none now."""
        if self.draining is not None or not self._left:
            return Pause.END
        now = self.clock.steady()
        state = self.nodes.place(node, now)
        if not self.nodes.accepts(state, now):
            return Pause.NOW
        task = self._fresh_task(node, state) or self._speculative_task(node, state)
        if task is not None:
            return task
        return Pause.NOW if self._left else Pause.END

    def work_of(self, run: str) -> Work | None:
        """The work of a run, by the ``run`` of its tasks; None if unknown."""
        return self._registry.work_of(run)

    def revoked(self) -> Collection[int]:
        """The ids of tasks in flight that the engine should kill."""
        return {number for core in self._in_flight.values() for number in core.revoked()}

    def avoided(self) -> Collection[str]:
        """The nodes that should get no task, for engines that choose the node themselves."""
        suspected: set[str] = set()
        for number, core in tuple(self._suspecting.items()):
            if names := core.suspected():
                suspected.update(names)
            else:
                del self._suspecting[number]
        return self.nodes.avoided(self.clock.steady(), suspected)

    # -- whose turn it is ---------------------------------------------------------------------

    def _fresh_task(self, node: str | None, state: NodeState) -> Task | None:
        """A task with new blocks, of the first run in turn that has some for this node.

        An entry of the heap is corrected when it comes to the front: removed if its run owes
        nothing, moved back if the run has got more blocks since.
        """
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
            elif (task := found.core.fresh_task(node, state)) is not None:
                heapreplace(self._queue, (self._turn(found.core), at, number))
                self._in_flight[number] = found.core
                if found.started is None:
                    self._begin(number, found)
            elif found.core.owes:  # its blocks are reserved for other nodes
                passed.append(heappop(self._queue))
            else:
                heappop(self._queue)
                self._queued.discard(number)
        for entry in passed:
            heappush(self._queue, entry)
        return task

    def _speculative_task(self, node: str | None, state: NodeState) -> Task | None:
        """A speculative copy of a task in flight, when no run has new blocks."""
        for number, core in self._in_flight.items():
            if not self._open[number].ended and (task := core.speculative_task(node, state)):
                return task
        return None

    def _turn(self, core: RunScheduler) -> int:
        return core.given if self._manner.breadth else 0

    def _opened(self, number: int) -> OpenRun:
        core = self._registry.open(number, self.nodes)
        found = self._open[number] = OpenRun(core, core.count.blocks)
        self._counted(core, 0)
        if core.count.finished:
            self._end(number, found)
        return found

    def _begin(self, number: int, found: OpenRun) -> None:
        """Note that the first task of a run is sent."""
        found.started = self.clock.steady()
        self._registry.began(number)
        if found.core.count.goal.max_time is not None:
            self._timed.add(number)

    def _owing(self, number: int, core: RunScheduler) -> None:
        """Put a run that owes blocks again, as after a lost worker, back into the queue."""
        if number not in self._queued and core.owes:
            heappush(self._queue, (self._turn(core), self._order[number], number))
            self._queued.add(number)

    # -- the loop's side ----------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether nothing is left to wait for."""
        return not self._left or (self.draining is not None and not self._in_flight)

    def drain(self, reason: str) -> None:
        """Give out no more tasks of any run; the first reason given is kept."""
        if self.draining is None:
            self.draining = reason
            for found in self._open.values():
                found.core.draining = found.core.draining or reason
            self.observe(Draining(reason))

    def on_node(self, event: NodeEvent) -> None:
        """Take in an event of a node: its number of usable slots."""
        more = self.nodes.change(event, self.clock.steady())
        self._registry.note(event.node, str(event))
        self._registry.slots(event.node, event.slots)
        self.observe(NodeChanged(event.node, event.slots, event.reason))
        if more:
            self._report(event.node, more)

    def on_hosts(self, added: Sequence[Node], drained: Sequence[str], why: str) -> None:
        """Take in a change of hosts; the engine reports their slots later.

        Args:
            added: the new hosts.
            drained: the names of those to be drained.
            why: the cause, for messages.
        """
        weights = {node.host: node.weight for node in added}
        for found in self._open.values():
            found.core.weights = {**found.core.weights, **weights}
        for name in weights:
            self._registry.note(name, f"added: {why}")
        for name in drained:
            self._registry.note(name, f"to be drained: {why}")
        self.observe(HostsChanged(tuple(weights), tuple(drained), why))

    def on_outcome(self, outcome: Outcome) -> None:
        """Pass an outcome to its run; its task's id modulo the number of runs tells which."""
        self.outcomes += outcome.is_work
        number = outcome.task % self._total
        if number not in self._order:
            return  # an id that was never given out
        found = self._open.get(number)
        if found is None:
            # A late copy, of a run that is closed: reopen it to compare with what was counted.
            self._registry.open(number, self.nodes).on_outcome(outcome)
            return
        before = found.core.count.blocks
        found.core.on_outcome(outcome)
        self._counted(found.core, before)
        if found.core.suspected():
            self._suspecting[number] = found.core
        if found.core.failed and not self._manner.keep_going:
            self.drain("failure")
        if not found.ended:
            self._unrecorded[number] = None
        self._settle(number, found)

    def _counted(self, core: RunScheduler, before: int) -> None:
        self.blocks += core.count.blocks - before
        self.samples += (core.count.blocks - before) * core.work.block

    def on_printed(self, printed: PrintedLines) -> None:
        """Report what a kernel printed, through its run; through any run if that is unknown."""
        of = None if printed.task is None else self._open.get(printed.task % self._total)
        found = of or next(iter(self._open.values()), None)
        if found is not None:
            found.core.on_printed(printed)

    def on_tick(self) -> None:
        """Check the clocks: expired tasks, runs out of time, and an engine without nodes."""
        now = self.clock.steady()
        slept = self.nodes.look(now)
        for core in self._in_flight.values():
            core.expire(now, slept)
        for number in tuple(self._timed):
            self._look_at_time(number, now)
        if self.nodes.starved(now, self._manner.wait):
            self.drain("nodes")
        self._weigh_rest()

    def forget_flights(self) -> None:
        """The engine is gone: tasks in flight are owed again, and count as nobody's failure."""
        self.nodes.lose_all()
        for number, core in tuple(self._in_flight.items()):
            core.forget_flights()
            self._settle(number, self._open[number])

    def progress(self, elapsed: float) -> Progress:
        """The progress of all runs together, ``elapsed`` seconds after the start."""
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
            points_done=self._total - len(self._left) - self._cut_short,
            points=self._total,
            running=tuple(self._running()),
        )

    def _running(self) -> Iterator[PointProgress]:
        """The first few of the runs that are being computed."""
        for number in islice(self._in_flight, _SHOWN):
            count = self._in_flight[number].count
            estimate = count.estimate()
            yield PointProgress(
                self._registry.name_of(number),
                count.blocks,
                count.goal.size,
                estimate and estimate.value,
                estimate and estimate.std_error,
            )

    def record(self, progress: Progress) -> None:
        """Record the progress for readers: of all together, and of runs with new blocks."""
        if self._alone is not None:
            self._alone.record(progress)
            return
        self._registry.record(progress)
        now = self.clock.steady()
        for number in tuple(islice(self._unrecorded, _RECORDED)):
            del self._unrecorded[number]
            found = self._open[number]
            found.core.record(found.progress(now))

    def alarm(self, text: str) -> None:
        """Report and record a problem of no particular node."""
        self._registry.note(None, text)
        self.observe(Alarm(text))

    def finish(self) -> list[int]:
        """End all open runs, and report nodes whose results cannot differ by chance.

        Returns:
            The numbers of the runs that were never opened, in order.
        """
        for number, found in tuple(self._open.items()):
            if not found.ended:
                self._end(number, found)
        for parts in self._parts.values():
            if (verdict := parts.verdict()) is not None:
                self._report(*verdict)
        return sorted(self._left, key=self._order.__getitem__)

    def _report(self, node: str, text: str) -> None:
        self._registry.note(node, text)
        self.observe(Alarm(text, node))

    # -- the end of a run ---------------------------------------------------------------------

    def _settle(self, number: int, found: OpenRun) -> None:
        """End or close a run if it is time to, or queue it again if it owes blocks."""
        core = found.core
        if not core.flights:
            self._in_flight.pop(number, None)
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
        if limit is not None and found.started is not None and now - found.started >= limit:
            self._timed.discard(number)
            found.core.draining = found.core.draining or "max_time"
            self._settle(number, found)

    def _end(self, number: int, found: OpenRun) -> None:
        started = self.clock.steady() if found.started is None else found.started
        ending = ending_of(found.core, self.clock.steady() - started)
        found.ended = True
        self._unrecorded.pop(number, None)
        self._left.discard(number)
        self._cut_short += ending.state in (State.PARTIAL, State.INTERRUPTED)
        self._timed.discard(number)
        self._add_means(found.core)
        self._registry.ended(number, found.core, ending)
        if not found.core.flights:
            self._close(number)

    def _add_means(self, core: RunScheduler) -> None:
        """Add the means of a run's nodes to those of the other runs of its kernel."""
        kind = core.work.source.sha, core.parts.means
        self._parts.setdefault(kind, NodeMeans()).add_run(core.parts)

    def _close(self, number: int) -> None:
        del self._open[number]
        self._registry.closed(number)

    def _weigh_rest(self) -> None:
        """Update the seconds of remaining work: near the end, tasks get shorter."""
        self.nodes.rest = inf if len(self._queue) > _FEW else sum(map(self._seconds, self._queued))

    def _seconds(self, number: int) -> float:
        found = self._open.get(number)
        if found is not None:
            return found.core.owed_seconds() if found.core.owes else 0.0
        return inf if number in self._left else 0.0
