"""Every decision of a run: which blocks next, to whom, and what to make of an outcome."""

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
from cluster.dispatch.in_flight import Flight, NodeState, Pace, Suspect
from cluster.dispatch.nodes import NodeStates
from cluster.dispatch.outliers import NodeMeans
from cluster.hosts import prints
from cluster.hosts.fingerprint import IMPURE
from cluster.ledger import Counted, RunWriter
from cluster.sampling.plan import AIM, Ranges, task_blocks
from cluster.sampling.progress import Count
from cluster.sampling.tally import Tally, TallyError, merged
from cluster.sampling.task import Fault, Outcome, Task, Work, accept, verified

# A task is stalled when it has taken so many times what its node's speed promised.
_STALL_FACTOR = 4.0
_STALL_LEAST = 5.0
# A second copy is worth it when it would end in so much less than what the first still needs.
_COPY_GAIN = 1.25
# A lost task is halved so often that the block which kills its worker stands alone.
_SPLIT = 8
# What one node failed is kept for the others so many seconds.
_ELSEWHERE = 5.0
# Seconds of a run's first task on a node, where its speed is only that of runs like it.
_FIRST_AIM = AIM / 10


_UNSEEN = Pace()


@dataclass(frozen=True)
class Policy:
    """What the core decides by.

    Attributes:
        raised: attempts at a block whose kernel raises.
        lost: attempts at a block that loses its worker.
        timeout: seconds for one block, after which its worker is killed.
        pinned: blocks of every task, for measurements; None: adapted.
    """

    raised: int = 1
    lost: int = 3
    timeout: float = 3600.0
    pinned: int | None = None


@dataclass
class RunScheduler:
    """All decisions that concern one run; whose turn it is, the multi-scheduler decides.

    Attributes:
        nodes: of the engine; all runs that it computes share them.
        kin: the speed of each node in runs like this one, learned by all of them.
        tag: the name that its tasks carry, where an engine has those of several runs.
        first, step: its tasks are numbered first, first + step, ...
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
    #: The expected speed of a slot of each node beside others, until it was measured.
    weights: Mapping[str, float] = field(default_factory=dict)
    kin: dict[str, Pace] = field(default_factory=dict)
    tag: str = ""
    first: int = 1
    step: int = 1
    #: Tells when a task was given and came back; one for all cores that are computed together.
    stamps: Unstepped | None = None

    def __post_init__(self) -> None:
        self._stamps = self.stamps or Unstepped(self.clock)
        self.paces: dict[str, Pace] = {}
        self._next = self.first
        self._flying_blocks = 0
        self._frontier = 0
        self._returned = Ranges()
        self._given_up = Ranges()
        self._suspects: deque[Suspect] = deque()
        self._failures, self._stranded = Failures(), Stranded()
        self.parts = NodeMeans()
        self._tried: dict[int, int] = {}
        self._expired: set[int] = set()
        self._useless: set[int] = set()
        self._copies: dict[tuple[int, int], set[int]] = {}
        self._tried_anew: dict[int, str] = {}
        self.owe_what_is_missing()

    def owe_what_is_missing(self) -> None:
        """Owe every block below the highest counted one that is not counted."""
        ranges, begin = list(self.count.done), self.count.goal.first
        self._frontier = ranges[-1][1] if ranges else begin
        for first, stop in self.count.done.missing(begin, self._frontier):
            self._returned.add(first, stop)

    # -- the engine's side --------------------------------------------------------------------

    @property
    def active(self) -> bool:
        """Whether it gives out tasks at all."""
        return self.draining is None and not self.count.finished

    @property
    def owes(self) -> bool:
        """Whether there are blocks that nobody has."""
        first, stop = self._owed_range()
        return self.active and (first < stop or bool(self._suspects))

    @property
    def given(self) -> int:
        """Blocks that are counted or out."""
        return self.count.blocks + self._flying_blocks

    def first_hand(self, node: str | None, state: NodeState) -> Task | None:
        """A task of blocks that nobody has."""
        found = self._suspect(node, state) or self._owed(node)
        return self._send(found, node, state) if found else None

    def second_hand(self, node: str | None, state: NodeState) -> Task | None:
        """A copy of a task that somebody has, where that is worth it."""
        found = self._copy(node, state) if self.active else None
        return self._send(found, node, state) if found else None

    def revoked(self) -> Collection[int]:
        """Ids of its tasks that are to be ended by force."""
        return self._expired | self._useless if self._expired or self._useless else ()

    def suspected(self) -> Collection[str]:
        """The nodes that have failed what waits to be tried anew, or is being tried now."""
        if not self._suspects and not self._tried_anew:
            return ()
        now = self.clock.steady()
        waiting = {suspect.failed_on for suspect in self._suspects if now < suspect.until}
        return waiting.union(self._tried_anew.values()) - {""}

    # -- the loop's side ----------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Nothing is left to wait for."""
        return self.count.finished or (self.draining is not None and not self.flights)

    def drain(self, reason: str) -> None:
        """Give out no more tasks; the first reason stays."""
        self.draining = self.draining or reason

    def on_printed(self, printed: prints.PrintedLines) -> None:
        """A kernel printed something."""
        # A probe is of no block.
        block = printed.block if printed.task in self.flights else None
        _, _, lines, dropped, node, slot = printed
        self.observe(Printed(self.work.run, node, slot, block, lines, dropped))

    def alarm(self, text: str) -> None:
        """Tell, and record, what is wrong with no node in particular."""
        self.writer.event(None, text, self.clock.now())
        self.observe(Alarm(text))

    def _tell(self, node: str, text: str) -> None:
        self.writer.event(node, text, self.clock.now())
        self.observe(Alarm(text, node))

    @property
    def undone(self) -> list[tuple[int, int]]:
        """The blocks that were started, and neither counted nor failed for good."""
        begun = Ranges()
        out = ((flight.task.first, flight.task.stop) for flight in self.flights.values())
        for first, stop in (*self._given_up, *out):
            begun.add(first, stop)
        for block in self.failed:
            begun.remove(block, block + 1)
        return [gap for span in begun for gap in self.count.done.missing(*span)]

    def expire(self, now: float, slept: float) -> None:
        """Revoke the tasks whose time is over; that in which the machine slept does not count."""
        for number, flight in self.flights.items():
            flight.sent += slept
            flight.deadline += slept
            if now > flight.deadline:
                self._expired.add(number)

    def on_outcome(self, outcome: Outcome) -> None:
        """Count what an outcome brings, and decide on what it leaves."""
        flight = self._land(outcome.task)
        if flight is None:
            self._late(outcome)
            return
        self._settle(flight.task, self._timed(outcome))
        self._expired.discard(outcome.task)
        self._useless.discard(outcome.task)

    def _settle(self, task: Task, outcome: Outcome) -> None:
        try:
            tally = accept(self.work, task, outcome)
            if tally is not None:
                self._on_tally(task, outcome, tally)
        except TallyError as error:
            # The worker has checked what its kernel returned: this came about on the way.
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
        """How fast its node is, from an outcome that counts."""
        state, blocks = self.nodes.named(outcome.node), outcome.stop - outcome.first
        for paces in (self.paces, self.kin):
            paces.setdefault(outcome.node, Pace()).learn(blocks, outcome.wall)
        state.tasks += 1
        state.samples += blocks * self.work.block
        state.busy += outcome.wall

    def forget_flights(self) -> None:
        """The engine is gone: what was out is owed again, and nobody is blamed."""
        for number in tuple(self.flights):
            flight = self._land(number)
            if flight is not None:
                self._owe(flight.task.first, flight.task.stop)
                self._given_up.add(flight.task.first, flight.task.stop)
        self._expired.clear()
        self._useless.clear()

    def progress(
        self, elapsed: float, speed: float, nodes: tuple[NodeProgress, ...] = ()
    ) -> Progress:
        """Where the run stands, after so many seconds, at so many samples a second."""
        count, samples = self.count, self.count.blocks * self.work.block
        return Progress(
            elapsed, count.blocks, count.goal.size, samples, speed, count.estimate(), nodes
        )

    def record(self, progress: Progress) -> None:
        """Keep where the run stands, for readers."""
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
        """The outcome, without times that cannot be: a tally does not depend on a clock."""
        possible = outcome.with_possible_times()
        if possible is not outcome:
            self.observe(Alarm("an outcome came with impossible times", outcome.node))
        return possible

    # -- which blocks next --------------------------------------------------------------------

    def _others(self, node: str | None) -> bool:
        """Whether a node other than this one could work now."""
        return self.nodes.others(node, self.clock.steady())

    def _suspect(self, node: str | None, state: NodeState) -> Suspect | None:
        # Alone in a slot that is free: then its loss can have no other cause.
        if not self._suspects or state.flying >= state.slots:
            return None
        now = self.clock.steady()
        for at, suspect in enumerate(self._suspects):
            if suspect.failed_on != node or now >= suspect.until or not self._others(node):
                del self._suspects[at]
                return suspect
        return None

    def _owed(self, node: str | None) -> Suspect | None:
        first, stop = self._owed_range()
        if first >= stop:
            return None
        stop = min(stop, first + self._length(node, first))
        if self._returned:
            self._returned.remove(first, stop)
        else:
            self._frontier = stop
        return Suspect(first, stop, 1)

    def _owed_range(self) -> tuple[int, int]:
        end = self.count.goal.blocks
        if self._returned:
            first, stop = self._returned.lowest()
        else:
            first, stop = self._frontier, end if end is not None else self._frontier + (1 << 40)
        if end is not None and first >= end:
            return first, first
        return first, min(stop, self.count.checkpoints.segment(first).stop)

    def _length(self, node: str | None, first: int) -> int:
        if self.policy.pinned:
            return self.policy.pinned
        own, kin = self._pace(node), self._pace(node, self.kin)
        owed = max(self.owed_seconds(first), self.nodes.rest)
        if own.seconds is None and kin.seconds:
            return task_blocks(kin.seconds, kin.seen, owed, _FIRST_AIM)
        pace = own.seconds or self._promised_pace(node)
        return task_blocks(pace, own.seen, owed) if pace else 1

    def _pace(self, node: str | None, paces: Mapping[str, Pace] | None = None) -> Pace:
        """The speed of a node; where the engine chooses, that of the slowest."""
        known = self.paces if paces is None else paces
        if node is not None:
            return known.get(node) or _UNSEEN
        slowest = max((pace.seconds for pace in known.values() if pace.seconds), default=None)
        return Pace(slowest, max((pace.seen for pace in known.values()), default=1))

    def _promised_pace(self, node: str | None) -> float | None:
        """A slot's seconds for a block, from the node's weight and the speed of the others."""
        weight = self.weights.get(node or "")
        known = [
            pace.seconds * self.weights[name]
            for name, pace in self.paces.items()
            if pace.seconds and name in self.weights
        ]
        return sum(known) / len(known) / weight if weight and known else None

    def owed_seconds(self, first: int | None = None) -> float:
        """Seconds that all slots together need for what is owed.

        Under a precision target nobody knows how much that is: the segment stands for it.
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

    def _copy(self, node: str | None, state: NodeState) -> Suspect | None:
        """A second copy of a task that stalls, or that this node would end well before it."""
        if state.flying >= state.slots:
            return None
        now = self.clock.steady()
        for flight in self.flights.values():
            task = flight.task
            alone = len(self._copies[task.first, task.stop]) == 1
            if alone and self._is_elsewhere(flight, node) and self._worth(flight, node, now):
                return Suspect(task.first, task.stop, task.attempt)
        return None

    def _is_elsewhere(self, flight: Flight, node: str | None) -> bool:
        """Whether a copy may go to this node: not to the one that has the task, if others can."""
        return not flight.node or flight.node != node or not self._others(flight.node)

    def _worth(self, flight: Flight, node: str | None, now: float) -> bool:
        elapsed, blocks = now - flight.sent, flight.task.stop - flight.task.first
        # The first tasks of a node are sent before its speed is known.
        expected = flight.expected or blocks * (self._pace(flight.node or None).seconds or 0.0)
        if expected and elapsed > max(_STALL_LEAST, _STALL_FACTOR * expected):
            return True
        pace = self._pace(node).seconds
        if pace is None or not expected:
            return False
        return blocks * pace * _COPY_GAIN < expected - elapsed

    def _send(self, found: Suspect, node: str | None, state: NodeState) -> Task:
        now = self.clock.steady()
        created = self._stamps.at(now)
        task = Task(self._next, found.first, found.stop, found.attempt, created, self.tag)
        self._next += self.step
        blocks = task.stop - task.first
        own = self._pace(node).seconds
        expected = blocks * (own or self._pace(node, self.kin).seconds or 0.0)
        # Where the speed is known, only one block may have the time of a hang.
        promised = _STALL_FACTOR * (state.load + expected)
        patience = (1 if own else blocks) * self.policy.timeout
        deadline = now + promised + patience
        self.flights[task.id] = Flight(task, node or "", state, now, expected, deadline)
        self._copies.setdefault((task.first, task.stop), set()).add(task.id)
        if found.failed_on:
            self._tried_anew[task.id] = found.failed_on
        state.send(expected)
        self._flying_blocks += blocks
        return task

    # -- what came of it ----------------------------------------------------------------------

    def _land(self, number: int) -> Flight | None:
        flight = self.flights.pop(number, None)
        if flight is None:
            return None
        task = flight.task
        self._tried_anew.pop(number, None)
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
        self._blame(outcome)
        # The first whole answer counts; a copy that is still out computes what nobody needs.
        if outcome.stop == task.stop:
            self._useless |= self._copies.get((task.first, task.stop), set())

    def _blame(self, outcome: Outcome) -> None:
        """A host whose failed tasks are done by others is what is wrong with them."""
        span = outcome.first, outcome.stop
        for node in self._failures.done_by(outcome.node, *span, self.count):
            state = self.nodes.named(node)
            state.strikes += 1
            if state.strikes >= STRIKES and not state.aside and self._others(node):
                state.aside = True
                words = f"set aside: others did {state.strikes} tasks that it had failed"
                self._tell(node, words)

    def _on_fault(self, task: Task, fault: Fault, node: str, first: int, most: int) -> None:
        """Decide on the blocks [first, task.stop), of which one had its attempt, of ``most``."""
        if task.id in self._useless or (task.first, task.stop) in self._copies:
            return
        if fault.kind == "timeout" and task.id not in self._expired:
            fault = fault._replace(kind="returned")
        elif fault.kind == "timeout":
            limit = f"not done after {self.policy.timeout:g} s (retry.timeout)"
            fault = fault._replace(message=f"{limit}; {fault.message}")
        if fault.kind == "stranded":
            # Its node is gone. That is not the block's fault, but not without end.
            often = self._stranded.add(first, task.stop)
            fault = fault._replace(kind="lost" if often else "returned")
        # A block that its copy has counted meanwhile is in order, whatever became of it here.
        if fault.kind == "returned" or self.count.done.overlaps(first, first + 1):
            self._owe(first, task.stop)
            return
        self.nodes.named(node).failures += 1
        self._failures.add(node, first, first + 1 if fault.block == first else task.stop)
        # What was begun and not counted: up to the block that did it, where that is known.
        last = task.stop - 1 if fault.block is None else fault.block
        begun = min(max(last, first), task.stop - 1) + 1 - first
        self.writer.fail(task, fault, node, begun, self.clock.now())
        final = self._try_again(task, fault, node, first, most)
        self.observe(AttemptFailed(node, task.attempt, fault, final))
        if final:
            self.drain("failure")

    def _try_again(self, task: Task, fault: Fault, node: str, first: int, most: int) -> bool:
        """Owe what is in order, and try the bad block again; True if it has no attempts left."""
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
        self._suspects.append(Suspect(bad, bad + 1, tried + 1, node, self._patience()))
        return False

    def _patience(self) -> float:
        return self.clock.steady() + _ELSEWHERE

    def _split(self, task: Task, node: str, first: int) -> None:
        """Nobody knows which block did it: smaller tasks will tell, and cost no attempt yet."""
        step = -(-(task.stop - first) // _SPLIT)
        for low in range(first, task.stop, step):
            high, until = min(low + step, task.stop), self._patience()
            self._suspects.append(Suspect(low, high, task.attempt, node, until))

    def _owe(self, first: int, stop: int) -> None:
        for low, high in self.count.done.missing(first, stop):
            self._returned.add(low, high)

    # -- late twins ---------------------------------------------------------------------------

    def _late(self, outcome: Outcome) -> None:
        """An outcome of a task that was given up: compared with what was counted, never added."""
        try:
            tally = verified(self.work, outcome)
            if tally is not None:
                self._compare(outcome, tally)
        except TallyError as error:
            self.observe(Alarm(f"a late outcome was refused: {error}", outcome.node))

    def _compare(self, outcome: Outcome, tally: Tally) -> None:
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
            meant = f"than on {', '.join(nodes)}: one of them computes wrongly"
            if nodes == [node]:
                meant = f"when they were drawn there again: {IMPURE}, or {node} computes wrongly"
            blocks = f"blocks {outcome.first} to {outcome.stop - 1}"
            text = f"{blocks} came out differently on {node} {meant}"
            self.writer.event(outcome.node, text, self.clock.now())
            self.observe(Alarm(text, outcome.node))


def _tile(rows: list[Counted], first: int, stop: int) -> bool:
    """Whether rows cover [first, stop) exactly, without a gap or an overhang."""
    at = first
    for row in rows:
        if row.first != at:
            return False
        at = row.stop
    return at == stop
