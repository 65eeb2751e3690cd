"""One run computed: who holds it, what it goes on from, and how it ended."""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import date

from cluster.backends.base import Backend, Options, create, kernels_at_home, seat
from cluster.common.commands import command
from cluster.common.errors import ClusterError, StoreError
from cluster.common.states import State
from cluster.dispatch import Clock, Core, Ending, Loop, Policy, Roster, Stop, SystemClock, recount
from cluster.dispatch.events import Closed, Event, Noted, Observer, Started
from cluster.hosts.nodes import NodeList
from cluster.ledger import Ledger, Run, Where, Wish, Writer, log_of, opened, request_of
from cluster.report.recorded import result_at
from cluster.report.result import Result
from cluster.runs.notify import Teller
from cluster.runs.print_log import PrintLog
from cluster.sampling.plan import Goal
from cluster.sampling.progress import Count
from cluster.sampling.task import tally_text
from cluster.spec import Spec
from cluster.spec.request import Request, outdated, placed, resolve
from cluster.spec.window import date_at

_LONGEST_NAME = 40


@dataclass(frozen=True)
class Caller:
    """Whoever starts a run: who is told, who may stop it, on which clock, by which schedule."""

    observe: Observer | None = None
    stop: Stop | None = None
    clock: Clock = field(default_factory=SystemClock)
    start: str | None = None

    def tell(self, event: Event) -> None:
        """Tell the observer, if there is one."""
        if self.observe is not None:
            self.observe(event)


def started(ledger: Ledger, request: Request, resume: bool, caller: Caller) -> Result:
    """Compute a request: a new run, or with ``resume`` the newest that it has."""
    earlier = ledger.newest(request.key) if resume else None
    if earlier is not None:
        return _go_on(ledger, earlier, request, caller)
    name = new_id(request.spec.name)
    with hold(ledger, name, request, caller) as held:
        run = ledger.create(
            name, request.spec.name, request.key, request.identity, request.to_json(),
            request.goal.to_json(), once=resume,
        )  # fmt: skip
        if run.id == name:
            compute(ledger, run, request, held)
    if run.id != name:  # another start of the same moment was first
        return _go_on(ledger, run, request, caller)
    return result_at(ledger, ledger.run(name))


def _go_on(ledger: Ledger, row: Run, request: Request, caller: Caller) -> Result:
    """Go on with an earlier run of the same request, to the goal asked for now if it is more."""
    recorded = request_of(ledger, row)
    request = request.with_recorded(recorded)
    with hold(ledger, row.id, request, caller) as held:
        row = ledger.run(row.id)
        if enough(ledger, row, request, recorded) is None:
            ledger.set_goal(row, request.to_json(), request.goal.to_json())
        else:
            request = replace(recorded, spec=placed_as(recorded.spec, request.spec))
        if not _had_its_time(ledger, row, caller.start):
            compute(ledger, ledger.run(row.id), request, held)
    return result_at(ledger, ledger.run(row.id))


def _had_its_time(ledger: Ledger, row: Run, start: str | None) -> bool:
    """Whether the same scheduled start was here before, and ended by its own time limit."""
    if start is None or row.stopped_by != "max_time":
        return False
    sessions = ledger.sessions(row)
    return bool(sessions) and sessions[-1]["start"] == start


@contextmanager
def hold(ledger: Ledger, run: str, request: Request, caller: Caller) -> Iterator[Caller]:
    """Hold a run; whom its spec names is told how that went, when it is free again."""
    spec = request.spec
    if spec.notify is None:
        with ledger.lock(run):
            yield caller
        return

    def note(words: str) -> None:
        with suppress(ClusterError):  # who cannot be told of does the run no harm either
            ledger.note(ledger.run(run), words)

    def stands() -> Result:
        return result_at(ledger, ledger.run(run))

    told = Teller(run, spec.name, spec.notify, note, caller.tell, stands)
    with told, ledger.lock(run):
        yield replace(caller, observe=told)


def compute(ledger: Ledger, run: Run, request: Request, caller: Caller) -> None:
    """Compute what is missing of a run whose lock is held, and record how that ended.

    Raises:
        StoreError: with the command that goes on.
    """
    try:
        _compute(ledger, run, request, caller)
    except StoreError as error:
        error.fix = f"{error.fix}: {command('resume', run.id, store=ledger.store)}"
        raise


def _compute(ledger: Ledger, run: Run, request: Request, caller: Caller) -> None:
    tell, clock = PrintLog(log_of(run.id, ledger.store), caller.tell), caller.clock
    request, wished = seated(request), ledger.last_wish()
    goal, work = request.goal, request.work(run.id)
    count = recount(ledger, run, goal, work, (request.scale, request.offset), tell)
    tell(Started(run.id, count.blocks, goal.size, request.block, request.spec.backend))
    if count.finished:
        if run.state != "done":
            _finish(ledger, run, count, Ending.of_finished(count))
        return
    shut, closes = opening(request.spec, clock.now())
    if shut:
        tell(shut)
        if run.state != State.FAILED.value:
            _finish(ledger, run, count, Ending.of_closed())
        return
    if words := outdated(request):
        tell(Noted(words))
        ledger.note(run, words)
    nodes = placed(request.spec.nodes.hosts)
    slots = {node.host: node.slots or 0 for node in nodes}
    session = ledger.begin(run, request.spec.backend, slots, caller.start)
    with ledger.writer(run) as writer:
        core = Core(
            work, count, policy_of(request), writer, clock, tell,
            lambda first, stop: list(ledger.counted(run, first, stop)),
            weights={node.host: node.weight for node in nodes},
        )  # fmt: skip
        roster = roster_of(request.spec, lambda after: ledger.wishes(run, after), wished, writer)

        begun = [request.probe]

        def probed(number: int, tally: str) -> None:
            begun[number] = tally
            writer.probe(tally)

        def engine() -> Backend:
            # All that are required came up once; after that, one is enough.
            required = 1 if core.outcomes else request.spec.nodes.required
            options = replace(
                Options.of(request.spec), required=required, probes=tuple(begun), probed=probed
            )
            return create(request.spec.backend, roster.nodes, options)

        ending = Loop(core, caller.stop or Stop(), goal.max_time, closes, roster).run(engine)
        writer.flush()
    _finish(ledger, run, count, ending)
    ledger.end(session, ending.wall)


def scheduled(spec: Spec, now: float) -> date:
    """The date that a scheduled start of now belongs to."""
    window = spec.schedule and spec.schedule.hours()
    if window:
        return window.date_of(now)
    return date_at(now)


def opening(spec: Spec, now: float) -> tuple[Closed | None, float | None]:
    """Whether a spec's window is closed now, to be told of; else when it closes, if it does."""
    window = spec.schedule and spec.schedule.hours()
    if not window:
        return None, None
    closes = window.closes_at(now)
    if closes is None:
        return Closed(str(window), window.local(window.next_opening(now))), None
    return None, closes


def roster_of(
    spec: Spec, newer: Callable[[int], Iterable[Wish]], last: int, writer: Writer
) -> Roster:
    """The hosts of a spec while it is computed.

    Args:
        spec: names the hosts.
        newer: the wishes after the one of a key.
        last: the key of the last wish when this start took hold of the run; it and those before
            it are over.
        writer: answers them.
    """

    def wishes() -> Iterator[Wish]:
        nonlocal last
        for wish in newer(last):
            last = wish.key
            yield wish

    def answer(wish: Wish, words: Mapping[str, object]) -> None:
        writer.answer(wish.key, words)

    return Roster(spec.nodes, spec.base, wishes, answer)


def settle(run: str, store: Where | Ledger = "runs", observe: Observer | None = None) -> Result:
    """Record the end of a run that has all it was asked for, and start nothing.

    Raises what :func:`resume` raises.
    """
    with opened(store) as ledger:
        row = ledger.run(run)
        request = request_of(ledger, row)
        with ledger.lock(row.id):
            scaling = (request.scale, request.offset)
            tell = observe or _say_nothing
            count = recount(ledger, row, request.goal, request.work(row.id), scaling, tell)
            if count.finished and row.state != State.DONE.value:
                _finish(ledger, row, count, Ending.of_finished(count))
        return result_at(ledger, ledger.run(row.id))


def _finish(ledger: Ledger, run: Run, count: Count, ending: Ending) -> None:
    tally = count.tally()
    ranges = [list(pair) for pair in count.ranges]
    ledger.finish(
        run, ending.state.value, ending.stopped_by, ending.drained, count.counted,
        tally_text(tally) if tally else None, ranges,
    )  # fmt: skip


def resolved(spec: Spec) -> Request:
    """The request of a spec; its kernel is imported here, and may print."""
    with kernels_at_home():
        return resolve(spec)


def seated(request: Request) -> Request:
    """The same request, computed where this process is seated, if it is anywhere."""
    place = seat()
    if place is None:
        return request
    nodes = NodeList(place.nodes, wait=request.spec.nodes.wait)
    spec = request.spec.model_copy(update={"backend": place.backend, "nodes": nodes})
    return replace(request, spec=spec)


def placed_as(recorded: Spec, now: Spec) -> Spec:
    """A recorded spec, to be run where another one says."""
    names = ("backend", "nodes", "dispy", "retry", "schedule", "notify")
    return recorded.model_copy(update={name: getattr(now, name) for name in names})


def policy_of(request: Request) -> Policy:
    """What a run's dispatcher decides by."""
    retry = request.spec.retry
    return Policy(
        raised=retry.attempts or Policy.raised,
        lost=retry.attempts or Policy.lost,
        timeout=retry.timeout,
        wait=request.spec.nodes.wait,
        pinned=request.pinned,
    )


def enough(ledger: Ledger, run: Run, request: Request, old: Request) -> str | None:
    """Why a request asks for no more of a run than an older one did; None where it does.

    What is counted is never taken away: not by fewer samples, nor, of a run that is done, by a
    target that fewer of its blocks meet.
    """
    new, before = request.goal, old.goal
    if new.target == before.target and _most(new) <= _most(before):
        longer = new.blocks == before.blocks and new.max_time != before.max_time
        return None if longer else "as much was asked for before"
    has = sum(stop - first for first, stop in _result_ranges(ledger, run))
    if _most(new) <= has:
        return f"it has {has} blocks"
    if new.target is None or run.state != State.DONE.value:
        return None
    scaling = (request.scale, request.offset)
    met = recount(ledger, run, new, request.work(run.id), scaling, _say_nothing).met_at
    return None if met is None or met > has else f"{met} of its {has} blocks meet that target"


def _most(goal: Goal) -> float:
    return math.inf if goal.blocks is None else goal.blocks


def _result_ranges(ledger: Ledger, run: Run) -> Iterable[Sequence[int]]:
    """The blocks of a run's result, or, where it has none yet, all that are counted."""
    if run.ranges is not None:
        return run.ranges
    return ((row.first, row.stop) for row in ledger.counted(run))


def new_id(name: str) -> str:
    """An id that no other run or sweep has."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return f"{re.sub('[^A-Za-z0-9]+$', '', name[:_LONGEST_NAME])}-{stamp}-{secrets.token_hex(2)}"


def _say_nothing(_event: Event) -> None:
    return None
