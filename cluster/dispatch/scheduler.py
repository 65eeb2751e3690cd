"""The scheduler of one run: which blocks to draw next, on which node, and what outcomes mean."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import astuple, dataclass, field

from cluster.dispatch.clock import Clock, Unstepped
from cluster.dispatch.events import (
    Alarm,
    AttemptFailed,
    NodeProgress,
    Observer,
    Printed,
    Progress,
)
from cluster.dispatch.failures import STRIKES, Failures, Stranded
from cluster.dispatch.in_flight import Attempt, Flight, NodeState, Pace
from cluster.dispatch.nodes import NodeStates
from cluster.dispatch.outliers import NodeMeans
from cluster.hosts import prints
from cluster.hosts.fingerprint import IMPURE
from cluster.ledger import Counted, RunWriter
from cluster.sampling.plan import AIM, Ranges, task_blocks
from cluster.sampling.progress import Count
from cluster.sampling.tally import Tally, TallyError, merged
from cluster.sampling.task import Fault, Outcome, Task, Work, accept, verified

# A task is stalled after this many times its expected duration, and at least this many seconds.
_STALL_FACTOR = 4.0
_STALL_MIN = 5.0
# A speculative copy is worth it if the original would still need this many times the copy's time.
_COPY_GAIN = 1.25
# The task of a lost worker is retried in this many parts, until the block that kills it is alone.
_SPLIT = 8
# For this many seconds, blocks that a node failed are kept for other nodes.
_ELSEWHERE = 5.0
# Seconds of a run's first task on a node, if only the node's pace in similar runs is known.
_FIRST_AIM = AIM / 10


_UNSEEN = Pace()


@dataclass(frozen=True)
class Policy:
    """The parameters of a scheduler's decisions.

    Attributes:
        raised: attempts at a block whose kernel raises.
        lost: attempts at a block whose worker is lost.
        timeout: seconds for one block, after which its worker is killed.
        pinned: a fixed number of blocks per task, for benchmarks; None: adapted to the nodes.
    """

    raised: int = 1
    lost: int = 3
    timeout: float = 3600.0
    pinned: int | None = None


@dataclass
class RunScheduler:
    """All decisions about one run. :class:`MultiScheduler` decides which run is next.

    Attributes:
        work: what the run's workers draw.
        count: the blocks counted so far, and the goal.
        policy: how often to retry, and when to give up waiting.
        writer: records outcomes, failures and events in the ledger.
        clock: the time.
        observe: gets the events.
        rows: the ledger's rows of the blocks [first, stop), to compare a late copy with.
        nodes: the state of the engine's nodes, shared by all of its runs.
        flights: the tasks in flight, by id.
        draining: why no more tasks are given out, or None.
        failed: blocks that used up their attempts.
        weights: the expected speed of a slot of each node relative to others, until measured.
        kin: the pace of each node in runs of the same kind, shared by these runs.
        tag: the ``run`` of its tasks, for engines that have the tasks of several runs.
        first, step: its tasks have the ids first, first + step, first + 2 * step, ...
        stamps: the clock for the times of tasks, shared by runs that are computed together.
        paces: the pace of each node in this run.
        parts: the means of each node in this run, to find outliers.
    """

    work: Work
    count: Count
    policy: Policy
    writer: RunWriter
    clock: Clock
    observe: Observer
    rows: Callable[[int, int], list[Counted]]
    nodes: NodeStates
    flights: dict[int, Flight] = field(default_factory=dict)
    draining: str | None = None
    failed: set[int] = field(default_factory=set)
    weights: Mapping[str, float] = field(default_factory=dict)
    kin: dict[str, Pace] = field(default_factory=dict)
    tag: str = ""
    first: int = 1
    step: int = 1
    stamps: Unstepped | None = None

    def __post_init__(self) -> None:
        self._stamps = self.stamps or Unstepped(self.clock)
        self.paces: dict[str, Pace] = {}
        self._next = self.first
        self._flying_blocks = 0
        # Blocks not given out: those of _returned, and all from _frontier on.
        self._frontier = 0
        self._returned = Ranges()
        # Blocks that were started and given back at least once.
        self._given_up = Ranges()
        # Blocks to be retried alone.
        self._suspects: deque[Attempt] = deque()
        self._failures, self._stranded = Failures(), Stranded()
        self.parts = NodeMeans()
        # Failed attempts by block.
        self._tried: dict[int, int] = {}
        # Ids of tasks to kill: over their deadline, and copies of what is counted already.
        self._expired: set[int] = set()
        self._superseded: set[int] = set()
        # Ids of the tasks in flight that have the same range of blocks.
        self._copies: dict[tuple[int, int], set[int]] = {}
        # For retries in flight: the node that failed before, by id.
        self._retried: dict[int, str] = {}
        self._owe_gaps()

    def _owe_gaps(self) -> None:
        """Owe every block below the highest counted one that is not counted."""
        ranges, begin = list(self.count.done), self.count.goal.first
        self._frontier = ranges[-1][1] if ranges else begin
        for first, stop in self.count.done.missing(begin, self._frontier):
            self._returned.add(first, stop)

    # -- the engine's side --------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether it still gives out tasks."""
        return self.draining is None and not self.count.finished

    @property
    def owes(self) -> bool:
        """Whether there are blocks to give out, without copies."""
        first, stop = self._owed_range()
        return self.active and (first < stop or bool(self._suspects))

    @property
    def given(self) -> int:
        """Number of blocks that are counted or in flight."""
        return self.count.blocks + self._flying_blocks

    def fresh_task(self, node: str | None, state: NodeState) -> Task | None:
        """A task with blocks that are not in flight, or None.

        Args:
            node: that it is for, or None if the engine chooses.
            state: of that node.
        """
        found = self._suspect(node, state) or self._owed(node)
        return self._send(found, node, state) if found else None

    def speculative_task(self, node: str | None, state: NodeState) -> Task | None:
        """A speculative copy of a task in flight, if that is worth it, or None.

        Args:
            node: that it is for, or None if the engine chooses.
            state: of that node.
        """
        found = self._copy(node, state) if self.active else None
        return self._send(found, node, state) if found else None

    def revoked(self) -> Collection[int]:
        """Ids of tasks in flight that the engine should kill."""
        return self._expired | self._superseded if self._expired or self._superseded else ()

    def suspected(self) -> Collection[str]:
        """The nodes that failed blocks which wait to be retried, or are being retried."""
        if not self._suspects and not self._retried:
            return ()
        now = self.clock.steady()
        waiting = {suspect.failed_on for suspect in self._suspects if now < suspect.until}
        return waiting.union(self._retried.values()) - {""}

    # -- the loop's side ----------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether nothing is left to wait for."""
        return self.count.finished or (self.draining is not None and not self.flights)

    def drain(self, reason: str) -> None:
        """Give out no more tasks; the first reason given is kept."""
        self.draining = self.draining or reason

    def on_printed(self, printed: prints.PrintedLines) -> None:
        """Report what a kernel printed."""
        # The block of a probe is not one of the run.
        block = printed.block if printed.task in self.flights else None
        _, _, lines, dropped, node, slot = printed
        self.observe(Printed(self.work.run, node, slot, block, lines, dropped))

    def alarm(self, text: str) -> None:
        """Report and record a problem of no particular node."""
        self.writer.event(None, text, self.clock.now())
        self.observe(Alarm(text))

    def _report(self, node: str, text: str) -> None:
        self.writer.event(node, text, self.clock.now())
        self.observe(Alarm(text, node))

    @property
    def undone(self) -> list[tuple[int, int]]:
        """The ranges of blocks that were started, and neither counted nor finally failed."""
        started = Ranges()
        in_flight = ((flight.task.first, flight.task.stop) for flight in self.flights.values())
        for first, stop in (*self._given_up, *in_flight):
            started.add(first, stop)
        for block in self.failed:
            started.remove(block, block + 1)
        return [gap for span in started for gap in self.count.done.missing(*span)]

    def expire(self, now: float, slept: float) -> None:
        """Mark tasks over their deadline to be killed.

        Args:
            now: on the steady clock.
            slept: seconds for which the machine was suspended since the last call; they do not
                count.
        """
        for number, flight in self.flights.items():
            flight.sent += slept
            flight.deadline += slept
            if now > flight.deadline:
                self._expired.add(number)

    def on_outcome(self, outcome: Outcome) -> None:
        """Count the blocks of an outcome, and decide what to do about the rest of its task."""
        flight = self._land(outcome.task)
        if flight is None:
            self._late(outcome)
            return
        self._settle(flight.task, self._timed(outcome))
        self._expired.discard(outcome.task)
        self._superseded.discard(outcome.task)

    def _settle(self, task: Task, outcome: Outcome) -> None:
        try:
            tally = accept(self.work, task, outcome)
            if tally is not None:
                self._on_tally(task, outcome, tally)
        except TallyError as error:
            # The worker validated the kernel's tally, so it was damaged in transit: that is no
            # fault of the kernel, and counts like a lost worker.
            fault = Fault("refused", task.first, "TallyError", str(error))
            self._on_fault(task, fault, outcome.node, task.first, self.policy.lost)
            return
        if tally is not None:
            self._learn(outcome)
        if outcome.fault is not None:
            of_kernel = outcome.fault.kind in ("raised", "refused")
            most = self.policy.raised if of_kernel else self.policy.lost
            self._on_fault(task, outcome.fault, outcome.node, outcome.stop, most)

    def _learn(self, outcome: Outcome) -> None:
        """Update the pace and the totals of a node from a counted outcome."""
        state, blocks = self.nodes.named(outcome.node), outcome.stop - outcome.first
        for paces in (self.paces, self.kin):
            paces.setdefault(outcome.node, Pace()).learn(blocks, outcome.wall)
        state.tasks += 1
        state.samples += blocks * self.work.block
        state.busy += outcome.wall

    def forget_flights(self) -> None:
        """The engine is gone: tasks in flight are owed again, and count as nobody's failure."""
        for number in tuple(self.flights):
            flight = self._land(number)
            if flight is not None:
                self._owe(flight.task.first, flight.task.stop)
                self._given_up.add(flight.task.first, flight.task.stop)
        self._expired.clear()
        self._superseded.clear()

    def progress(
        self, elapsed: float, speed: float, nodes: tuple[NodeProgress, ...] = ()
    ) -> Progress:
        """The progress of the run.

        Args:
            elapsed: seconds since this start.
            speed: samples per second.
            nodes: the work of each node.
        """
        count, samples = self.count, self.count.blocks * self.work.block
        return Progress(
            elapsed, count.blocks, count.goal.size, samples, speed, count.estimate(), nodes
        )

    def record(self, progress: Progress) -> None:
        """Record the progress, for readers of the ledger."""
        estimate = progress.estimate
        self.writer.progress(
            {
                "elapsed_s": progress.elapsed_s,
                "blocks": progress.blocks_done,
                "samples": progress.samples,
                "samples_per_s": progress.samples_per_s,
                "estimate": estimate.value if estimate else None,
                "std_error": estimate.std_error if estimate else None,
                "nodes": [astuple(node) for node in progress.nodes],
            }
        )

    def _timed(self, outcome: Outcome) -> Outcome:
        """The outcome without impossible times: a broken clock does not invalidate a tally."""
        possible = outcome.with_possible_times()
        if possible is not outcome:
            self.observe(Alarm("an outcome came with impossible times", outcome.node))
        return possible

    # -- which blocks next --------------------------------------------------------------------

    def _others(self, node: str | None) -> bool:
        """Whether a node other than this one could work now."""
        return self.nodes.others(node, self.clock.steady())

    def _suspect(self, node: str | None, state: NodeState) -> Attempt | None:
        """Blocks to retry on this node, or None."""
        # Only in a free slot: behind another task in a queue, its loss might have that cause.
        if not self._suspects or state.flying >= state.slots:
            return None
        now = self.clock.steady()
        for at, suspect in enumerate(self._suspects):
            if suspect.failed_on != node or now >= suspect.until or not self._others(node):
                del self._suspects[at]
                return suspect
        return None

    def _owed(self, node: str | None) -> Attempt | None:
        """New blocks for a node, as many as suit it, or None."""
        first, stop = self._owed_range()
        if first >= stop:
            return None
        stop = min(stop, first + self._length(node, first))
        if self._returned:
            self._returned.remove(first, stop)
        else:
            self._frontier = stop
        return Attempt(first, stop, 1)

    def _owed_range(self) -> tuple[int, int]:
        """The first range of blocks to give out, within one segment; may be empty."""
        end = self.count.goal.blocks
        if self._returned:
            first, stop = self._returned.lowest()
        else:
            first, stop = self._frontier, end if end is not None else self._frontier + (1 << 40)
        if end is not None and first >= end:
            return first, first
        return first, min(stop, self.count.checkpoints.segment(first).stop)

    def _length(self, node: str | None, first: int) -> int:
        """How many blocks the next task of a node should have."""
        if self.policy.pinned:
            return self.policy.pinned
        own, kin = self._pace(node), self._pace(node, self.kin)
        owed = max(self.owed_seconds(first), self.nodes.rest)
        if own.seconds is None and kin.seconds:
            return task_blocks(kin.seconds, kin.seen, owed, _FIRST_AIM)
        pace = own.seconds or self._promised_pace(node)
        return task_blocks(pace, own.seen, owed) if pace else 1

    def _pace(self, node: str | None, paces: Mapping[str, Pace] | None = None) -> Pace:
        """The pace of a node; None: that of the slowest, since the engine chooses the node."""
        known = self.paces if paces is None else paces
        if node is not None:
            return known.get(node) or _UNSEEN
        slowest = max((pace.seconds for pace in known.values() if pace.seconds), default=None)
        return Pace(slowest, max((pace.seen for pace in known.values()), default=1))

    def _promised_pace(self, node: str | None) -> float | None:
        """Expected seconds per block on a slot, from the node's weight and the others' paces."""
        weight = self.weights.get(node or "")
        known = [
            pace.seconds * self.weights[name]
            for name, pace in self.paces.items()
            if pace.seconds and name in self.weights
        ]
        return sum(known) / len(known) / weight if weight and known else None

    def owed_seconds(self, first: int | None = None) -> float:
        """Seconds that all slots together need for the blocks that are not given out.

        With a precision target their number is unknown; that of the current segment is used.

        Args:
            first: the next block to give out; None: it is looked up.
        """
        goal = self.count.goal
        if goal.size is None or goal.target is not None:
            at = self._owed_range()[0] if first is None else first
            segment = self.count.checkpoints.segment(at)
            owed = segment.stop - segment.first
        else:
            owed = goal.size - self.count.blocks - self._flying_blocks
        paces = self.paces or self.kin
        rate = sum(self.nodes[n].slots / pace.seconds for n, pace in paces.items() if pace.seconds)
        return owed / rate if rate else 0.0

    def _copy(self, node: str | None, state: NodeState) -> Attempt | None:
        """The blocks of a task that stalls, or that this node would finish much earlier."""
        if state.flying >= state.slots:
            return None
        now = self.clock.steady()
        for flight in self.flights.values():
            task = flight.task
            alone = len(self._copies[task.first, task.stop]) == 1
            if alone and self._is_elsewhere(flight, node) and self._worth(flight, node, now):
                return Attempt(task.first, task.stop, task.attempt)
        return None

    def _is_elsewhere(self, flight: Flight, node: str | None) -> bool:
        """Whether a copy may go to this node: another one than has the task, if possible."""
        return not flight.node or flight.node != node or not self._others(flight.node)

    def _worth(self, flight: Flight, node: str | None, now: float) -> bool:
        """Whether a copy of a task is worth it on this node."""
        elapsed, blocks = now - flight.sent, flight.task.stop - flight.task.first
        # The first tasks of a node are sent before its pace is known; it may be known by now.
        expected = flight.expected or blocks * (self._pace(flight.node or None).seconds or 0.0)
        if expected and elapsed > max(_STALL_MIN, _STALL_FACTOR * expected):
            return True
        pace = self._pace(node).seconds
        if pace is None or not expected:
            return False
        return blocks * pace * _COPY_GAIN < expected - elapsed

    def _send(self, found: Attempt, node: str | None, state: NodeState) -> Task:
        now = self.clock.steady()
        created = self._stamps.at(now)
        task = Task(self._next, found.first, found.stop, found.attempt, created, self.tag)
        self._next += self.step
        blocks = task.stop - task.first
        own = self._pace(node).seconds
        expected = blocks * (own or self._pace(node, self.kin).seconds or 0.0)
        # The timeout is that of one block. With a known pace it is enough to allow for a single
        # hanging block; otherwise each block may take that long.
        promised = _STALL_FACTOR * (state.load + expected)
        allowance = (1 if own else blocks) * self.policy.timeout
        deadline = now + promised + allowance
        self.flights[task.id] = Flight(task, node or "", state, now, expected, deadline)
        self._copies.setdefault((task.first, task.stop), set()).add(task.id)
        if found.failed_on:
            self._retried[task.id] = found.failed_on
        state.send(expected)
        self._flying_blocks += blocks
        return task

    # -- outcomes -----------------------------------------------------------------------------

    def _land(self, number: int) -> Flight | None:
        """Remove a task from those in flight; None if it is not, as a late copy."""
        flight = self.flights.pop(number, None)
        if flight is None:
            return None
        task = flight.task
        self._retried.pop(number, None)
        flight.state.land(flight.expected)
        self._flying_blocks -= task.stop - task.first
        copies = self._copies[task.first, task.stop]
        copies.discard(number)
        if not copies:
            del self._copies[task.first, task.stop]
        return flight

    def _on_tally(self, task: Task, outcome: Outcome, tally: Tally) -> None:
        if self.count.done.overlaps(outcome.first, outcome.stop):
            self._compare(outcome, tally)
            self._owe(outcome.first, outcome.stop)
            return
        self.count.add(outcome.first, outcome.stop, tally)
        self.parts.add(outcome.node, outcome.stop - outcome.first, tally)
        self.writer.count(task, outcome, self._stamps.now())
        self._count_strikes(outcome)
        # The first complete outcome counts; copies still in flight are of no use.
        if outcome.stop == task.stop:
            self._superseded |= self._copies.get((task.first, task.stop), set())

    def _count_strikes(self, outcome: Outcome) -> None:
        """Count strikes of hosts whose failed tasks this outcome shows to be fine."""
        span = outcome.first, outcome.stop
        for node in self._failures.done_by(outcome.node, *span, self.count):
            state = self.nodes.named(node)
            state.strikes += 1
            if state.strikes >= STRIKES and not state.aside and self._others(node):
                state.aside = True
                text = f"set aside: others did {state.strikes} tasks that it had failed"
                self._report(node, text)

    def _on_fault(self, task: Task, fault: Fault, node: str, first: int, most: int) -> None:
        """Decide what to do about blocks that were not done.

        Args:
            task: of the blocks [first, task.stop).
            fault: why.
            node: where.
            first: index of the first of the blocks.
            most: attempts that a block has for this kind of fault.
        """
        # Another copy has done the task already, or is still in flight.
        if task.id in self._superseded or (task.first, task.stop) in self._copies:
            return
        # Killed as a useless copy, or by an engine of its own accord: not the block's fault.
        if fault.kind == "timeout" and task.id not in self._expired:
            fault = fault._replace(kind="returned")
        elif fault.kind == "timeout":
            limit = f"not done after {self.policy.timeout:g} s (retry.timeout)"
            fault = fault._replace(message=f"{limit}; {fault.message}")
        if fault.kind == "stranded":
            # The node is gone, probably not because of the block; unless that happens again and
            # again with the same block.
            often = self._stranded.add(first, task.stop)
            fault = fault._replace(kind="lost" if often else "returned")
        # If a copy has counted the block meanwhile, the block is fine.
        if fault.kind == "returned" or self.count.done.overlaps(first, first + 1):
            self._owe(first, task.stop)
            return
        self.nodes.named(node).failures += 1
        self._failures.add(node, first, first + 1 if fault.block == first else task.stop)
        # Blocks started and not counted: up to the one that caused it, if that is known.
        last = task.stop - 1 if fault.block is None else fault.block
        started = min(max(last, first), task.stop - 1) + 1 - first
        self.writer.fail(task, fault, node, started, self.clock.now())
        final = self._try_again(task, fault, node, first, most)
        self.observe(AttemptFailed(node, task.attempt, fault, final))
        if final:
            self.drain("failure")

    def _try_again(self, task: Task, fault: Fault, node: str, first: int, most: int) -> bool:
        """Retry the bad block and owe the others; True if the bad one has no attempts left."""
        self._given_up.add(first, task.stop)
        bad = first if task.stop - first == 1 else fault.block
        if bad is None:
            self._split(task, node, first)
            return False
        self._owe(first, bad)
        self._owe(bad + 1, task.stop)
        tried = self._tried[bad] = self._tried.get(bad, 0) + 1
        if tried >= most:
            self.failed.add(bad)
            return True
        self._suspects.append(Attempt(bad, bad + 1, tried + 1, node, self._reserved_until()))
        return False

    def _reserved_until(self) -> float:
        """Until when blocks that a node just failed are kept for other nodes."""
        return self.clock.steady() + _ELSEWHERE

    def _split(self, task: Task, node: str, first: int) -> None:
        """Retry in smaller tasks, to find the block that caused it; this costs no attempt."""
        step = -(-(task.stop - first) // _SPLIT)
        for low in range(first, task.stop, step):
            high, until = min(low + step, task.stop), self._reserved_until()
            self._suspects.append(Attempt(low, high, task.attempt, node, until))

    def _owe(self, first: int, stop: int) -> None:
        """Give the blocks [first, stop) out again, unless they are counted."""
        for low, high in self.count.done.missing(first, stop):
            self._returned.add(low, high)

    # -- late copies --------------------------------------------------------------------------

    def _late(self, outcome: Outcome) -> None:
        """Take an outcome of a task that was given up: it is compared, never counted."""
        try:
            tally = verified(self.work, outcome)
            if tally is not None:
                self._compare(outcome, tally)
        except TallyError as error:
            self.observe(Alarm(f"a late outcome was refused: {error}", outcome.node))

    def _compare(self, outcome: Outcome, tally: Tally) -> None:
        """Compare a copy with the rows counted for its blocks; a difference is an alarm."""
        self.writer.flush()
        rows = self.rows(outcome.first, outcome.stop)
        verdict = "unchecked"
        if _tile(rows, outcome.first, outcome.stop):
            parts = [row.read(self.work.block) for row in rows]
            if None not in parts:
                verdict = "equal" if merged(filter(None, parts)) == tally else "differs"
        self.writer.spare(outcome, verdict, self.clock.now())
        if verdict == "differs":
            nodes, node = sorted({row.node for row in rows}), outcome.node
            cause = f"than on {', '.join(nodes)}: one of them computes wrongly"
            if nodes == [node]:
                cause = f"when they were drawn there again: {IMPURE}, or {node} computes wrongly"
            blocks = f"blocks {outcome.first} to {outcome.stop - 1}"
            text = f"{blocks} came out differently on {node} {cause}"
            self.writer.event(outcome.node, text, self.clock.now())
            self.observe(Alarm(text, outcome.node))


def _tile(rows: list[Counted], first: int, stop: int) -> bool:
    """Whether rows cover [first, stop) exactly, without a gap or an excess."""
    at = first
    for row in rows:
        if row.first != at:
            return False
        at = row.stop
    return at == stop
