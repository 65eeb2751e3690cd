"""The points of a sweep that one engine computes, all on one pool of slots."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any, NamedTuple

from cluster.backends.base import Backend, Options, create, seat
from cluster.common.commands import command
from cluster.common.errors import StoreError
from cluster.common.states import State
from cluster.dispatch import (
    Clock,
    Core,
    Ending,
    Roster,
    Stop,
    SystemClock,
    Turns,
    Unstepped,
    recount,
)
from cluster.dispatch.events import (
    Alarm,
    AttemptFailed,
    Event,
    Observer,
    Printed,
    Progress,
    SweepStarted,
)
from cluster.dispatch.in_flight import Pace
from cluster.dispatch.many import Manner, Many
from cluster.dispatch.nodes import Nodes
from cluster.hosts.nodes import NodeList
from cluster.ledger import Ledger, Run, Scribe, Wish, Writer, log_of, sweeps
from cluster.ledger.holds import Holds
from cluster.runs.print_log import PrintLog
from cluster.runs.running import policy_of, roster_of
from cluster.sampling.progress import Count
from cluster.sampling.task import Work, tally_text
from cluster.spec import Spec
from cluster.spec.request import Request, placed


@dataclass(frozen=True)
class Member:
    """A point whose run is entered.

    Attributes:
        place: in the list of points, from 0.
        given: what the sweep gives it.
        request: what it computes, and until when, now.
        run: its row.
    """

    place: int
    given: Mapping[str, Any]
    request: Request
    run: Run

    @property
    def name(self) -> str:
        """What the point is called: its place, and what the sweep gives it."""
        given = ", ".join(f"{key} {value}" for key, value in self.given.items())
        return f"point {self.place} ({given})"


@dataclass(frozen=True)
class Caller:
    """Whoever starts a sweep.

    Attributes:
        observe: called with each :mod:`cluster.dispatch.events` event.
        stop: its ``reason``, set from another thread or a signal handler, drains all points.
        keep_going: whether the others go on where a point has failed, instead of the spec's word.
        clock: says when the window closes, and which date it is.
        scheduled: it is a scheduled start.
    """

    observe: Observer | None = None
    stop: Stop | None = None
    keep_going: bool | None = None
    clock: Clock = field(default_factory=SystemClock)
    scheduled: bool = False

    def tell(self, event: Event) -> None:
        """Tell the observer, if there is one."""
        if self.observe is not None:
            self.observe(event)


class Night(NamedTuple):
    """What is one for a start of a sweep, whatever pools it has: its ends, key and wishes.

    Attributes:
        closes: when its window closes, in seconds since the epoch; None: there is none.
        start: the key of a scheduled start; None: it is a person's.
        over: when its max_time is over, on the steady clock; None: it has none.
        wished: the key of the last wish when it took hold of the points.
    """

    closes: float | None
    start: str | None
    over: float | None
    wished: int


def _kernels(owed: Sequence[Member], points: Sequence[Member]) -> list[Member]:
    """A point of each kernel of the owed ones: where there is one, one whose probe is recorded."""
    wanted = dict.fromkeys(member.request.source.sha for member in owed)
    found: dict[str, Member] = {}
    for member in (*points, *owed):
        best = found.setdefault(member.request.source.sha, member)
        if best.request.probe is None and member.request.probe is not None:
            found[member.request.source.sha] = member
    return [found[sha] for sha in wanted]


class Pool:
    """The points of a sweep that one engine computes; the book of :class:`Many`."""

    def __init__(
        self, ledger: Ledger, sweep: sweeps.Sweep, spec: Spec, members: Sequence[Member],
        holds: Holds, caller: Caller, night: Night,
    ) -> None:  # fmt: skip
        self._ledger, self._sweep, self._spec = ledger, sweep, spec
        self._tell = PrintLog(log_of(sweep.id, ledger.store), caller.tell)
        self._members, self._holds, self._caller = members, holds, caller
        self._night = night
        self._by_tag = {member.run.id: member for member in members}
        self._clock, self._stamps = caller.clock, Unstepped(caller.clock)
        self._kin: dict[tuple[str, int], dict[str, Pace]] = defaultdict(dict)
        self._begun: dict[int, float] = {}
        self._released: list[tuple[int, str]] = []
        self._scribe: Scribe
        self._diary: sweeps.Diary
        self._roster: Roster
        self._kernels: Sequence[Member] = ()
        self._with_rows = sweeps.with_rows(ledger, sweep)

    def compute(self, backend: str, points: Sequence[Member]) -> str | None:
        """Compute them on an engine, until the window closes; what ended that early, or None.

        ``points`` are all of the sweep: of one that is done, too, a host's kernel can be probed.
        """
        self._kernels = _kernels(self._members, points)
        place = seat()
        if place:
            nodes = NodeList(place.nodes, wait=self._spec.nodes.wait)
            self._spec = self._spec.model_copy(update={"nodes": nodes})
        slots = {node.host: node.slots or 0 for node in placed(self._spec.nodes.hosts)}
        self._caller.tell(SweepStarted(self._sweep.id, len(points), len(self._members), backend))
        begun = self._clock.steady()
        pool = sweeps.begin_pool(self._ledger, self._sweep, backend, slots)
        try:
            with self._ledger.scribe() as self._scribe:
                self._diary = sweeps.Diary(self._scribe, pool, backend, slots, self._night.start)
                writer = Writer(self._scribe, self._members[0].run)
                self._roster = roster_of(self._spec, self._wishes, self._night.wished, writer)
                reason = self._turned(backend)
                self._scribe.flush()
        except StoreError as error:
            onward = command("resume", self._sweep.id, store=self._ledger.store)
            error.fix = f"{error.fix}: {onward}"
            raise
        # From its own beginning on: what was received in that time was received by this pool.
        sweeps.end_pool(self._ledger, pool, self._clock.steady() - begun)
        if reason is not None:  # before the last run is let go of: who waits for it looks then
            sweeps.stopped(self._ledger, self._sweep, reason)
        for member in self._members:
            self._holds.release(member.run.id)
        return reason

    def _turned(self, backend: str) -> str | None:
        sweep, caller = self._spec.sweep, self._caller
        assert sweep is not None
        keep_going = sweep.keep_going if caller.keep_going is None else caller.keep_going
        manner = Manner(
            breadth=sweep.order == "breadth", keep_going=keep_going, wait=self._spec.nodes.wait,
            blocks=self._all_blocks(),
        )  # fmt: skip
        total, kernels = len(self._members), self._kernels
        many = Many(self, total, range(total), manner, self._clock, caller.tell)
        left = None if self._night.over is None else self._night.over - self._clock.steady()
        turns = Turns(many, caller.stop or Stop(), left, self._night.closes, self._roster)

        begun = [member.request.probe for member in kernels]

        def probed(number: int, tally: str) -> None:
            begun[number] = tally
            Writer(self._scribe, kernels[number].run).probe(tally)

        def engine() -> Backend:
            # All that are required came up once; after that, one is enough.
            options = replace(
                Options.of(self._spec),
                required=1 if many.outcomes else self._spec.nodes.required,
                kernels=[member.request.work(member.run.id) for member in kernels[1:]],
                probes=tuple(begun), probed=probed,
            )  # fmt: skip
            return create(backend, self._roster.nodes, options)

        turns.turn(engine)
        last = many.progress(turns.wall)
        caller.tell(last)
        self.record(last)
        unbegun = many.finish()
        if many.draining is not None:
            timed = many.draining in ("max_time", "window", "nodes")
            state = State.PARTIAL if timed else State.INTERRUPTED
            runs = [self._members[number].run for number in unbegun]
            sweeps.leave(self._ledger, runs, state.value, many.draining)
        return many.draining

    def _wishes(self, after: int) -> Iterator[Wish]:
        """Those for a point that this process computes, now or later; other parts have others."""
        for run, wish in sweeps.wishes(self._ledger, self._sweep, after):
            if run in self._holds.all:
                yield wish

    def _all_blocks(self) -> int | None:
        goals = [member.request.goal for member in self._members]
        if any(goal.blocks is None or goal.target is not None for goal in goals):
            return None
        return sum(goal.blocks or 0 for goal in goals)

    # -- the book ---------------------------------------------------------------------------------

    @property
    def work(self) -> Work:
        """See :class:`cluster.dispatch.many.Book`."""
        first = self._kernels[0]
        return first.request.work(first.run.id)

    def work_of(self, run: str) -> Work:
        """See :class:`cluster.dispatch.many.Book`."""
        return self._by_tag[run].request.work(run)

    def name_of(self, number: int) -> str:
        """See :class:`cluster.dispatch.many.Book`."""
        return self._members[number].name

    def open(self, number: int, nodes: Nodes) -> Core:
        """See :class:`cluster.dispatch.many.Book`."""
        member = self._members[number]
        run, request, ledger = member.run, member.request, self._ledger
        goal, work = request.goal, request.work(run.id)
        scaling = (request.scale, request.offset)
        if run.key in self._with_rows or number in self._begun:
            count = recount(ledger, run, goal, work, scaling, self._told)
        else:
            count = Count(goal, *scaling)
        return Core(
            work, count, policy_of(request), Writer(self._scribe, run), self._clock, self._told,
            lambda first, stop: list(ledger.counted(run, first, stop)),
            weights={node.host: node.weight for node in self._roster.nodes}, shared=nodes,
            kin=self._kin[request.source.sha, request.block], tag=run.id,
            first=number + len(self._members), step=len(self._members), stamps=self._stamps,
        )  # fmt: skip

    def began(self, number: int) -> None:
        """See :class:`cluster.dispatch.many.Book`."""
        self._begun[number] = self._stamps.now()
        self._diary.begin(self._members[number].run, self._begun[number])

    def ended(self, number: int, core: Core, ending: Ending) -> None:
        """See :class:`cluster.dispatch.many.Book`."""
        member, count = self._members[number], core.count
        tally = count.tally()
        self._diary.finish(
            member.run, ending.state.value, ending.stopped_by, ending.drained, count.counted,
            tally_text(tally) if tally else None, [list(pair) for pair in count.ranges],
        )  # fmt: skip
        if number in self._begun:
            self._diary.end(member.run, self._begun[number], ending.wall)
        if ending.state is State.FAILED:
            self._caller.tell(Alarm(f"{member.name} failed"))

    def closed(self, number: int) -> None:
        """See :class:`cluster.dispatch.many.Book`."""
        self._released.append((self._scribe.asked, self._members[number].run.id))
        self._release()

    def record(self, progress: Progress) -> None:
        """See :class:`cluster.dispatch.many.Book`."""
        self._release()
        self._diary.progress(
            self._sweep,
            {
                "elapsed_s": progress.elapsed_s,
                "points_done": progress.points_done,
                "points": progress.points,
                "blocks": progress.blocks_done,
                "goal_blocks": progress.blocks,
                "nodes": [astuple(node) for node in progress.nodes],
                "samples": progress.samples,
                "samples_per_s": progress.samples_per_s,
                "running": progress.running,
            },
        )

    def note(self, node: str | None, text: str) -> None:
        """See :class:`cluster.dispatch.many.Book`."""
        self._diary.note(node, text, self._clock.now())

    def slots(self, node: str, slots: int) -> None:
        """See :class:`cluster.dispatch.many.Book`."""
        self._diary.slots(node, slots)

    def _release(self) -> None:
        """Let go of the runs whose ending is durable, so that nobody sees one without an end."""
        written = self._scribe.written
        while self._released and self._released[0][0] <= written:
            self._holds.release(self._released.pop(0)[1])

    def _told(self, event: Event) -> None:
        """Of what a single run's core tells, what is not told for the whole sweep."""
        if isinstance(event, Alarm | AttemptFailed | Printed):
            self._tell(event)
