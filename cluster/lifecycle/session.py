"""One start of a job on one engine: a run alone, or the points of a sweep that share its slots."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, replace
from typing import NamedTuple

from cluster.backends.base import Backend, Options, create, launched_world
from cluster.common.states import State
from cluster.dispatch import (
    Ending,
    Loop,
    Membership,
    Policy,
    RunScheduler,
    Stop,
    Unstepped,
    recount,
)
from cluster.dispatch.events import Alarm, Progress
from cluster.dispatch.in_flight import Pace
from cluster.dispatch.many import Manner, MultiScheduler
from cluster.dispatch.nodes import NodeStates
from cluster.hosts.nodes import NodeList
from cluster.ledger import (
    GroupCommitter,
    Ledger,
    NodeChangeRequest,
    RunWriter,
    log_of,
    node_changes,
    sweeps,
)
from cluster.ledger.holds import Holds
from cluster.ledger.marks import End
from cluster.ledger.sessions import SessionWriter, begin
from cluster.lifecycle.job import Caller, Job, Member
from cluster.lifecycle.print_log import PrintLog
from cluster.sampling.progress import Count
from cluster.sampling.task import Work, tally_text
from cluster.spec.request import Request, placed


class StartContext(NamedTuple):
    """What all sessions of one start of a job share.

    Attributes:
        closes: when its window closes, in seconds since the epoch; None: it has no window.
        start: the key of a scheduled start; None: a person started it.
        over: when its max_time is over, on the steady clock; None: it has no max_time.
        wished: the key of the newest request for other hosts when the runs were locked.
    """

    closes: float | None
    start: str | None
    over: float | None
    wished: int


class Session:
    """The runs of a job that one engine computes: the :class:`RunRegistry` of a MultiScheduler.

    Args:
        ledger: the store.
        job: all runs of the start.
        members: those that this engine computes.
        holds: the locks of all.
        caller: who observes it, and may stop it.
        context: what all sessions of the start share.
    """

    def __init__(
        self,
        ledger: Ledger,
        job: Job,
        members: Sequence[Member],
        holds: Holds,
        caller: Caller,
        context: StartContext,
    ) -> None:
        self._ledger, self._job, self._members = ledger, job, members
        self._holds, self._caller, self._context = holds, caller, context
        self._tell = PrintLog(log_of(job.id, ledger.store), caller.tell)
        self._clock, self._stamps = caller.clock, Unstepped(caller.clock)
        self._spec = job.spec
        self._by_tag = {member.run.id: member for member in members}
        self._kin: dict[tuple[str, int], dict[str, Pace]] = defaultdict(dict)
        # When each run was begun, on the steady clock.
        self._begun: dict[int, float] = {}
        self._released: list[tuple[int, str]] = []
        self._committer: GroupCommitter
        self._writer: SessionWriter
        self._membership: Membership
        self._kernels = _kernels(members, job.members)
        self._probes = [member.request.probe for member in self._kernels]
        self._with_rows = sweeps.with_rows(ledger, job.sweep) if job.sweep else set()

    def compute(self, backend: str) -> str | None:
        """Compute the runs on an engine; what ended that early, or None.

        Raises:
            EngineError: no engine could be started, and nothing was computed.
            StoreError: the ledger could not be written; what was counted before is safe.
        """
        sweep, ledger = self._job.sweep, self._ledger
        place = launched_world()
        if place:
            nodes = NodeList(place.nodes, wait=self._spec.nodes.wait)
            self._spec = self._spec.model_copy(update={"nodes": nodes})
        slots = {node.host: node.slots or 0 for node in placed(self._spec.nodes.hosts)}
        begun = self._clock.steady()
        session = self._entered(backend, slots)
        with ledger.committer() as self._committer:
            self._writer = SessionWriter(self._committer, self._job.row, session)
            writer = RunWriter(self._committer, self._members[0].run)
            self._membership = _membership_of(self._job, self._wishes, self._spec.nodes, writer)
            reason = self._dispatched(backend)
            # Measured from its recorded beginning, so that it covers everything received meanwhile.
            self._writer.close(self._clock.steady() - begun)
            self._committer.flush()
        if sweep and reason is not None:  # before the locks are released, for which others wait
            sweeps.stopped(ledger, sweep, reason)
        for member in self._members:
            self._holds.release(member.run.id)
        return reason

    def _entered(self, backend: str, slots: Mapping[str, int]) -> int:
        """Enter the session; a run alone begins with it, before its engine is up."""
        if self._job.sweep is None:
            self._begun[0] = self._clock.steady()
        now = self._stamps.now()
        return begin(self._ledger, self._job.row, backend, slots, self._context.start, now)

    def _dispatched(self, backend: str) -> str | None:
        """Run the dispatcher until nothing is left to wait for; what ended it early, or None."""
        caller, context = self._caller, self._context
        many = MultiScheduler(
            self,
            len(self._members),
            range(len(self._members)),
            self._manner(),
            self._clock,
            self._tell,
        )
        left = None if context.over is None else context.over - self._clock.steady()
        loop = Loop(many, caller.stop or Stop(), left, context.closes, self._membership)
        loop.run(lambda: self._engine(backend, many))
        last = many.progress(loop.wall)
        caller.tell(last)
        many.record(last)
        unbegun = many.finish()
        if many.draining is not None:
            timed = many.draining in ("max_time", "window", "nodes")
            state = State.PARTIAL if timed else State.INTERRUPTED
            runs = [self._members[number].run for number in unbegun]
            sweeps.leave(self._ledger, runs, state.value, many.draining)
        return many.draining

    def _manner(self) -> Manner:
        """The order in which the runs are computed, and what a failure means for the others."""
        sweep = self._spec.sweep
        wait = self._spec.nodes.wait
        if sweep is None or self._job.sweep is None:
            return Manner(alone=True, keep_going=False, wait=wait)
        given = self._caller.keep_going
        return Manner(
            breadth=sweep.order == "breadth",
            wait=wait,
            blocks=self._all_blocks(),
            keep_going=sweep.keep_going if given is None else given,
        )

    def _engine(self, backend: str, many: MultiScheduler) -> Backend:
        """A new engine on the current hosts."""
        kernels = self._kernels

        def probed(number: int, tally: str) -> None:
            # A restarted engine is compared with it, too.
            self._probes[number] = tally
            RunWriter(self._committer, kernels[number].run).probe(tally)

        options = replace(
            Options.of(self._spec, backend),
            # After the required nodes have come up once, one is enough.
            required=1 if many.outcomes else self._spec.nodes.required,
            kernels=[member.request.work(member.run.id) for member in kernels[1:]],
            probes=tuple(self._probes),
            probed=probed,
        )
        return create(backend, self._membership.nodes, options)

    def _wishes(self) -> Iterator[NodeChangeRequest]:
        """New requests for other hosts, for runs that this process computes."""
        last = self._context.wished
        for run, wish in node_changes.unanswered(self._ledger, last):
            if run in self._holds.all:
                self._context = self._context._replace(wished=wish.key)
                yield wish

    def _all_blocks(self) -> int | None:
        goals = [member.request.goal for member in self._members]
        if any(goal.blocks is None or goal.target is not None for goal in goals):
            return None
        return sum(goal.blocks or 0 for goal in goals)

    # -- the registry of runs ---------------------------------------------------------------------

    @property
    def work(self) -> Work:
        """What workers load first: the first kernel."""
        first = self._kernels[0]
        return first.request.work(first.run.id)

    def work_of(self, run: str) -> Work | None:
        """The work of the run with that id."""
        member = self._by_tag.get(run)
        return member.request.work(run) if member else None

    def name_of(self, number: int) -> str:
        """The name of a member for people."""
        return self._members[number].name

    def open(self, number: int, nodes: NodeStates) -> RunScheduler:
        """The scheduler of a member, with what is counted of it."""
        member, ledger = self._members[number], self._ledger
        run, request = member.run, member.request
        return RunScheduler(
            request.work(run.id),
            self._count(number),
            policy_of(request),
            RunWriter(self._committer, run),
            self._clock,
            self._tell,
            lambda first, stop: list(ledger.counted(run, first, stop)),
            nodes,
            weights={node.host: node.weight for node in self._membership.nodes},
            kin=self._kin[request.source.sha, request.block],
            # Tasks of a run alone need not name it.
            tag=run.id if self._job.sweep else "",
            first=number + len(self._members),
            step=len(self._members),
            stamps=self._stamps,
        )

    def _count(self, number: int) -> Count:
        """What is counted of a run; of a point that has no rows, nothing is read."""
        member = self._members[number]
        run, request = member.run, member.request
        if member.count is not None:
            return member.count
        if run.key in self._with_rows or number in self._begun:
            return counted(self._ledger, member, self._caller)
        return Count(request.goal, request.scale, request.offset)

    def began(self, number: int) -> None:
        """Begin the turn of a point: its first task is given out. A run alone has begun already."""
        if number not in self._begun:
            self._begun[number] = self._clock.steady()
            self._writer.begin(self._members[number].run, self._stamps.now())

    def ended(self, number: int, core: RunScheduler, ending: Ending) -> None:
        """Record how a member ended; late copies of its tasks may still be out.

        Args:
            number: of the member.
            core: its scheduler.
            ending: how it ended.
        """
        member = self._members[number]
        record_end(self._writer, member, core.count, ending)
        if number in self._begun:
            self._writer.end(member.run, self._clock.steady() - self._begun[number])
        if ending.state is State.FAILED and self._job.sweep:
            self._caller.tell(Alarm(f"{member.name} failed"))

    def closed(self, number: int) -> None:
        """Release the lock of a point of which no task is out, once its end is durable."""
        if self._job.sweep:
            self._released.append((self._committer.asked, self._members[number].run.id))
            self._release()

    def record(self, progress: Progress) -> None:
        """Record the progress of a sweep; that of a run alone is recorded by its scheduler."""
        self._release()
        assert self._job.sweep is not None
        self._writer.progress(
            self._job.sweep,
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
        """Record what happened to a node, or to the engine."""
        self._writer.event(node, text, self._clock.now())

    def slots(self, node: str, slots: int) -> None:
        """Record how many slots a node has."""
        self._writer.slots(node, slots)

    def _release(self) -> None:
        """Release runs whose end is durable: readers would take others to be interrupted."""
        written = self._committer.written
        while self._released and self._released[0][0] <= written:
            self._holds.release(self._released.pop(0)[1])


def counted(ledger: Ledger, member: Member, caller: Caller) -> Count:
    """What the ledger has counted of a run, added up again.

    Args:
        ledger: the store.
        member: the run.
        caller: gets alarms about damaged rows, which are set aside.
    """
    request = member.request
    scaling = (request.scale, request.offset)
    work = request.work(member.run.id)
    return recount(ledger, member.run, request.goal, work, scaling, caller.tell)


def record_end(
    recorder: Ledger | SessionWriter, member: Member, count: Count, ending: Ending
) -> None:
    """Record how a run ended: the end of every run is written here.

    Args:
        recorder: writes at once, or in a group.
        member: the run.
        count: what is counted of it.
        ending: how it ended.
    """
    tally = count.tally()
    end = End.of(
        ending.state.value,
        ending.stopped_by,
        ending.drained,
        count.counted,
        tally_text(tally) if tally else None,
        [list(pair) for pair in count.ranges],
    )
    recorder.finish(member.run, end)


def policy_of(request: Request) -> Policy:
    """The policy of a run's dispatcher, from its spec."""
    retry = request.spec.retry
    return Policy(
        raised=retry.attempts or Policy.raised,
        lost=retry.attempts or Policy.lost,
        timeout=retry.timeout,
        pinned=request.pinned,
    )


def _membership_of(
    job: Job, wishes: Callable[[], Iterable[NodeChangeRequest]], nodes: NodeList, writer: RunWriter
) -> Membership:
    """The hosts of a job while it is computed."""

    def answer(wish: NodeChangeRequest, words: Mapping[str, object]) -> None:
        writer.answer(wish.key, words)

    return Membership(nodes, job.spec.base, wishes, answer)


def _kernels(owed: Sequence[Member], points: Sequence[Member]) -> list[Member]:
    """One of the unfinished members for each kernel, if possible one with a recorded probe."""
    wanted = dict.fromkeys(member.request.source.sha for member in owed)
    found: dict[str, Member] = {}
    for member in (*points, *owed):
        best = found.setdefault(member.request.source.sha, member)
        if best.request.probe is None and member.request.probe is not None:
            found[member.request.source.sha] = member
    return [found[sha] for sha in wanted]
