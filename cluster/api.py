"""The Python interface: what the command line does, as functions."""

from __future__ import annotations

import json
import math
import re
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

from cluster.backends.base import Backend, Options, create, kernels_at_home, seat
from cluster.count import Count
from cluster.dispatch import Clock, Core, Ending, Loop, Policy, Roster, Stop, SystemClock, recount
from cluster.errors import ClusterError, NoAnswer, StoreError, UsageError
from cluster.events import Closed, Event, Observer, Started
from cluster.ledger import Ledger, Run, Wish, Writer
from cluster.nodes import NodeList
from cluster.notify import Teller
from cluster.outlook import Outlook, look_ahead
from cluster.plan import Goal, Ranges
from cluster.report.result import About, Facts, Result, result_of
from cluster.report.standing import Standing, standing_of
from cluster.request import Request, elsewhere, extended, placed, resolve
from cluster.spec import Spec, hosts_of
from cluster.spec import load as load_spec
from cluster.state import State
from cluster.tally import Tally
from cluster.verbs import command
from cluster.window import start_key, zone_of
from cluster.work import Fault, Task, checked, perform, tally_text

_LONGEST_NAME = 40
_ENDED = ("done", "running")
Where = str | Path


def load(path: Where, overrides: Sequence[str] = ()) -> Spec:
    """Read a spec; ``overrides`` are ``key=value`` texts, as after ``--set``.

    Raises:
        SpecError: everything that is wrong with it, at once.
    """
    return load_spec(path, overrides)


def submit(
    spec: Spec,
    *,
    resume: bool = False,
    store: Where | None = None,
    observe: Observer | None = None,
    stop: Stop | None = None,
    pinned: int | None = None,
) -> Result:
    """Compute a spec: a new run, or with ``resume`` the newest of the same request, if any.

    Args:
        spec: from :func:`load`.
        resume: go on with the newest run of the same request instead, if there is one.
        store: the folder of the ledger, instead of the spec's.
        observe: called with each :mod:`cluster.events` event.
        stop: set its ``reason`` from another thread or a signal handler to drain.
        pinned: blocks of every task, for measurements.

    Raises:
        SpecError: the kernel or its parameters do not fit.
        EngineError: no usable slot.
        Locked: the run to go on with is held by another process.
        StoreError: the store could not be read or written.
    """
    request = replace(_resolved(spec), pinned=pinned)
    placed(_seated(request).spec.nodes.hosts)  # no run is recorded of what cannot begin
    with Ledger(Path(store or spec.store), create=True) as ledger:
        return _started(ledger, request, resume, Caller(observe, stop))


def start(
    spec: Spec,
    *,
    store: Where | None = None,
    observe: Observer | None = None,
    stop: Stop | None = None,
    clock: Clock | None = None,
) -> Result:
    """A scheduled start of a spec: goes on with the newest run of its request, or begins one.

    A second start of one date, by a doubled firing or a catch-up, does no more where the first
    one had its time; and a start in which nothing is left to do, or outside of the window, ends at
    once.

    Args:
        spec: from :func:`load`.
        store: as for :func:`submit`.
        observe: likewise.
        stop: likewise.
        clock: says which date it is, and when the window closes.

    Raises what :func:`submit` raises; Locked where the last start still runs.
    """
    clock = clock or SystemClock()
    request = _resolved(spec)
    key = start_key(request.key, _scheduled(spec, clock.now()))
    with Ledger(Path(store or spec.store), create=True) as ledger:
        return _started(ledger, request, True, Caller(observe, stop, clock, key))


def resume(
    run: str,
    store: Where = "runs",
    *,
    overrides: Sequence[str] = (),
    observe: Observer | None = None,
    stop: Stop | None = None,
) -> Result:
    """Go on with a run, from what its ledger holds; a finished one is returned as it is.

    ``overrides`` may change where it runs (backend, nodes, retry), never what it computes.
    Raises what :func:`submit` raises, and UsageError where there is no such run.
    """
    with Ledger(Path(store)) as ledger:
        row = ledger.run(run)
        request = elsewhere(Request.from_json(row.definition), overrides)
        with _held(ledger, row.id, request, Caller(observe, stop)) as caller:
            _compute(ledger, ledger.run(row.id), request, caller)
        return show(row.id, ledger)


def extend(
    run: str,
    store: Where = "runs",
    *,
    overrides: Sequence[str],
    observe: Observer | None = None,
    stop: Stop | None = None,
) -> Result:
    """Ask more of a run: more ``samples`` or a tighter ``until``, drawing only new blocks.

    Raises what :func:`submit` raises, and UsageError where the new goal asks for less.
    """
    with Ledger(Path(store)) as ledger:
        row = ledger.run(run)
        old = Request.from_json(row.definition)
        request = extended(old, overrides)
        with _held(ledger, row.id, request, Caller(observe, stop)) as caller:
            _check_more(ledger, row, request, old)
            ledger.set_goal(row, request.to_json(), request.goal.to_json())
            _compute(ledger, ledger.run(row.id), request, caller)
        return show(row.id, ledger)


def show(run: str, store: Where | Ledger = "runs") -> Result:
    """A run as it stands, also while another process computes it."""
    with opened(store) as ledger:
        return result_at(ledger, ledger.run(run))


def result_at(ledger: Ledger, row: Run) -> Result:
    """The result of a run, as its ledger has it."""
    about, state = About.of(row), ledger.state(row)
    tally, ranges = _counted(ledger, row, about.block, state)
    sessions = ledger.sessions(row)
    slots = {node: count for session in sessions for node, count in session["nodes"].items()}
    capacity = Counter[str]()
    for session in sessions:
        capacity.update({n: s * session["seconds"] for n, s in session["nodes"].items()})
    counted = row.counted if state != "running" else None
    facts = Facts(
        run=row if state == row.state else row._replace(stopped_by=None, drained=None),
        state=state,
        tally=tally,
        ranges=ranges,
        totals=ledger.node_totals(row, counted),
        uncounted=ledger.uncounted_blocks(row),
        failures=ledger.failures(row),
        failure_counts=ledger.failure_counts(row),
        events=ledger.events(row),
        slots=slots,
        capacity=capacity,
        backend=sessions[-1]["backend"] if sessions else row.definition["spec"]["backend"],
        wall=sum(session["seconds"] for session in sessions),
        resume=_onward(row, ledger.store) if state not in _ENDED else None,
    )
    return result_of(facts, about)


def runs(store: Where = "runs") -> list[Standing]:
    """Every run of a store, newest first."""
    with opened(store) as ledger:
        return [standing_of(run, ledger.state(run), ledger.holder(run)) for run in ledger.runs()]


def status(run: str, store: Where = "runs") -> Standing:
    """Where a run stands."""
    with opened(store) as ledger:
        row = ledger.run(run)
        return standing_of(row, ledger.state(row), ledger.holder(row))


@dataclass(frozen=True)
class Repro:
    """One block computed again, here.

    ``matches`` says whether it came out as it was counted; None where the ledger holds it only
    together with other blocks, or not at all.
    """

    run: str
    block: int
    tally: dict[str, Any] | None
    fault: Fault | None
    wall_s: float
    cpu_s: float
    matches: bool | None

    def to_json(self) -> dict[str, Any]:
        """The JSON object of ``repro``."""
        return {**vars(self), "fault": self.fault and self.fault._asdict()}


def repro(run: str, block: int, store: Where = "runs") -> Repro:
    """Compute one block of a run again, in this process, where a debugger can follow it.

    Raises:
        UsageError: no such run, or a negative block.
    """
    if block < 0:
        raise UsageError(f"a block's index is at least 0, got {block}")
    with opened(store) as ledger:
        row = ledger.run(run)
        work = Request.from_json(row.definition).work(row.id)
        with kernels_at_home():
            outcome = perform(work, Task(0, block, block + 1, 1, time.time()))
        counted = [r for r in ledger.counted(row, block, block + 1) if r.stop - r.first == 1]
        matches = counted[0].tally == outcome.tally if counted else None
        tally = json.loads(outcome.tally) if outcome.tally else None
        return Repro(row.id, block, tally, outcome.fault, outcome.wall, outcome.cpu, matches)


def hosts(spec: Spec) -> dict[str, Any]:
    """The hosts that a spec names, one by one; of their environment the names alone are told."""
    rows = [
        {"node": row.pop("host"), **row, "env": sorted(row["env"])}
        for row in (node.to_json() for node in placed(spec.nodes.hosts))
    ]
    required = spec.nodes.required or len(rows)
    return {"nodes": rows, "backend": spec.backend, "required": required}


def change_nodes(
    run: str,
    store: Where = "runs",
    *,
    add: Sequence[str] = (),
    drain: Sequence[str] = (),
    patience: float = 15.0,
) -> dict[str, Any]:
    """Have a run that is being computed work on further hosts, and on others no more.

    Args:
        run: its id, or how that begins.
        store: the folder of the ledger.
        add: hosts as a spec has them, as texts or as the YAML of a mapping.
        drain: host lists; what they were given is finished and counted.
        patience: seconds to wait for the run's word.

    Returns:
        ``run``, ``added`` and ``drained``: names.

    Raises:
        UsageError: it is not being computed, or does not do it, for a reason that it gives.
        NoAnswer: it has not answered in time.
    """
    added, drained = hosts_of(add, "--add"), [node.host for node in hosts_of(drain, "--drain")]
    with Ledger(Path(store)) as ledger:
        row = ledger.run(run)
        if ledger.holder(row) is None:
            onward = command("resume", row.id, "--set", "nodes=...", store=ledger.store)
            raise UsageError(
                f"the run {row.id} is not being computed ({ledger.state(row)})", fix=onward
            )
        wish = ledger.wish(row, added, drained)
        end = time.monotonic() + patience
        while (answer := ledger.answer(wish)) is None:
            if time.monotonic() > end or ledger.holder(row) is None:
                raise NoAnswer(f"the run {row.id} has not answered; it may have ended")
            time.sleep(0.1)
    if "error" in answer:
        raise UsageError(answer["error"], fix=answer["fix"])
    return {"run": row.id, **answer}


def plan(spec: Spec, seconds: float = 2.0) -> Outlook:
    """What a spec would run; ``seconds`` of trial on its backend (0: none) say how long.

    Raises what :func:`submit` raises.
    """
    request = _resolved(spec)
    # Without a trial nothing is run, and the hosts of a job need not be there yet.
    nodes = placed(spec.nodes.hosts) if seconds or spec.nodes.hosts else ()
    return look_ahead(request, nodes, seconds, SystemClock())


def _onward(run: Run, store: Path) -> str:
    """What goes on with a run that has ended early: where max_samples did it, twice as many."""
    if run.state != State.PARTIAL.value or run.stopped_by != "max_samples":
        return command("resume", run.id, store=store)
    twice = 2 * (run.goal["blocks"] or 0) * int(run.definition["block"])
    return command("extend", run.id, "--set", f"until.max_samples={twice}", store=store)


def _resolved(spec: Spec) -> Request:
    """The request of a spec; its kernel is imported here, and may print."""
    with kernels_at_home():
        return resolve(spec)


def _started(ledger: Ledger, request: Request, resume: bool, caller: Caller) -> Result:
    """Compute a request: a new run, or with ``resume`` the newest that it has."""
    earlier = ledger.newest(request.key) if resume else None
    if earlier is not None:
        return _go_on(ledger, earlier, request, caller)
    name = new_id(request.spec.name)
    with _held(ledger, name, request, caller) as held:
        run = ledger.create(
            name, request.spec.name, request.key, request.identity, request.to_json(),
            request.goal.to_json(), once=resume,
        )  # fmt: skip
        if run.id == name:
            _compute(ledger, run, request, held)
    if run.id != name:  # another start of the same moment was first
        return _go_on(ledger, run, request, caller)
    return show(name, ledger)


def _go_on(ledger: Ledger, row: Run, request: Request, caller: Caller) -> Result:
    """Go on with an earlier run of the same request, to the goal asked for now if it is more."""
    recorded = Request.from_json(row.definition)
    request = request.with_recorded(recorded)
    with _held(ledger, row.id, request, caller) as held:
        row = ledger.run(row.id)
        if enough(ledger, row, request, recorded) is None:
            ledger.set_goal(row, request.to_json(), request.goal.to_json())
        else:
            request = replace(recorded, spec=placed_as(recorded.spec, request.spec))
        if not _had_its_time(ledger, row, caller.start):
            _compute(ledger, ledger.run(row.id), request, held)
    return show(row.id, ledger)


def _had_its_time(ledger: Ledger, row: Run, start: str | None) -> bool:
    """Whether the same scheduled start was here before, and ended by its own time limit."""
    if start is None or row.stopped_by != "max_time":
        return False
    sessions = ledger.sessions(row)
    return bool(sessions) and sessions[-1]["start"] == start


def _scheduled(spec: Spec, now: float) -> date:
    """The date that a scheduled start of now belongs to."""
    window = spec.schedule and spec.schedule.hours()
    if window:
        return window.date_of(now)
    return datetime.fromtimestamp(now, zone_of(None)).date()


def placed_as(recorded: Spec, now: Spec) -> Spec:
    """A recorded spec, to be run where another one says."""
    names = ("backend", "nodes", "dispy", "retry", "schedule", "notify")
    return recorded.model_copy(update={name: getattr(now, name) for name in names})


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


@contextmanager
def _held(ledger: Ledger, run: str, request: Request, caller: Caller) -> Iterator[Caller]:
    """Hold a run; whom its spec names is told how that went, when it is free again."""
    spec = request.spec
    if spec.notify is None:
        with ledger.lock(run):
            yield caller
        return

    def note(words: str) -> None:
        with suppress(ClusterError):  # who cannot be told of does the run no harm either
            ledger.note(ledger.run(run), words)

    told = Teller(run, spec.name, spec.notify, note, caller.tell, lambda: show(run, ledger))
    with told, ledger.lock(run):
        yield replace(caller, observe=told)


def _compute(ledger: Ledger, run: Run, request: Request, caller: Caller) -> None:
    """Compute what is missing of a run whose lock is held, and record how that ended."""
    tell, clock = caller.tell, caller.clock
    request = _seated(request)
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
    nodes = placed(request.spec.nodes.hosts)
    slots = {node.host: node.slots or 0 for node in nodes}
    session = ledger.begin(run, request.spec.backend, slots, caller.start)
    try:
        with ledger.writer(run) as writer:
            core = Core(
                work, count, policy_of(request), writer, clock, tell,
                lambda first, stop: list(ledger.counted(run, first, stop)),
                weights={node.host: node.weight for node in nodes},
            )  # fmt: skip
            roster = _roster(ledger, run, request, writer)

            def engine() -> Backend:
                # All that are required came up once; after that, one is enough.
                required = 1 if core.outcomes else request.spec.nodes.required
                options = replace(
                    Options.of(request.spec), required=required, probe=request.probe,
                    probed=writer.probe,
                )  # fmt: skip
                return create(request.spec.backend, roster.nodes, options)

            ending = Loop(core, caller.stop or Stop(), goal.max_time, closes, roster).run(engine)
            writer.flush()
    except StoreError as error:
        error.fix = f"{error.fix}: {command('resume', run.id, store=ledger.store)}"
        raise
    _finish(ledger, run, count, ending)
    ledger.end(session, ending.wall)


def opening(spec: Spec, now: float) -> tuple[Closed | None, float | None]:
    """Whether a spec's window is closed now, to be told of; else when it closes, if it does."""
    window = spec.schedule and spec.schedule.hours()
    if not window:
        return None, None
    closes = window.closes_at(now)
    if closes is None:
        return Closed(str(window), window.local(window.next_opening(now))), None
    return None, closes


def _roster(ledger: Ledger, run: Run, request: Request, writer: Writer) -> Roster:
    """The run's hosts; what was wished for before this start of it is over."""
    last = ledger.last_wish()

    def wishes() -> Iterator[Wish]:
        nonlocal last
        for wish in ledger.wishes(run, last):
            last = wish.key
            yield wish

    def answer(wish: Wish, words: Mapping[str, object]) -> None:
        writer.answer(wish.key, words)

    return Roster(request.spec.nodes, request.spec.base, wishes, answer)


def _seated(request: Request) -> Request:
    """The same request, computed where this process is seated, if it is anywhere."""
    place = seat()
    if place is None:
        return request
    nodes = NodeList(place.nodes, wait=request.spec.nodes.wait)
    spec = request.spec.model_copy(update={"backend": place.backend, "nodes": nodes})
    return replace(request, spec=spec)


def settle(run: str, store: Where | Ledger = "runs", observe: Observer | None = None) -> Result:
    """Record the end of a run that has all it was asked for, and start nothing.

    Raises what :func:`resume` raises.
    """
    with opened(store) as ledger:
        row = ledger.run(run)
        request = Request.from_json(row.definition)
        with ledger.lock(row.id):
            scaling = (request.scale, request.offset)
            tell = observe or _say_nothing
            count = recount(ledger, row, request.goal, request.work(row.id), scaling, tell)
            if count.finished and row.state != State.DONE.value:
                _finish(ledger, row, count, Ending.of_finished(count))
        return show(row.id, ledger)


def _finish(ledger: Ledger, run: Run, count: Count, ending: Ending) -> None:
    tally = count.tally()
    ranges = [list(pair) for pair in count.ranges]
    ledger.finish(
        run, ending.state.value, ending.stopped_by, ending.drained, count.counted,
        tally_text(tally) if tally else None, ranges,
    )  # fmt: skip


def _counted(
    ledger: Ledger, run: Run, block: int, state: str
) -> tuple[Tally | None, list[tuple[int, int]]]:
    """Tally and ranges: as recorded at the run's end, or added up from its rows."""
    if state == run.state and run.ranges is not None:
        ranges = [(first, stop) for first, stop in run.ranges]
        samples = sum(stop - first for first, stop in ranges) * block
        return (checked(run.tally, samples) if run.tally else None), ranges
    done, total = Ranges(), None
    end = run.goal["blocks"]
    for row in ledger.counted(run, 0, end):
        if row.intact and (end is None or row.stop <= end):
            tally = checked(row.tally, (row.stop - row.first) * block)
            total = tally if total is None else total.merge(tally)
            done.add(row.first, row.stop)
    return total, list(done)


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


def _check_more(ledger: Ledger, run: Run, request: Request, old: Request) -> None:
    reason = enough(ledger, run, request, old)
    if reason is not None:
        raise UsageError(
            f"that asks for no more of the run {run.id}: {reason}",
            fix="give more samples, or a tighter target",
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


@contextmanager
def opened(store: Where | Ledger) -> Iterator[Ledger]:
    """The ledger of a store, or the one that is open already."""
    if isinstance(store, Ledger):
        yield store
    else:
        with Ledger(Path(store)) as ledger:
            yield ledger
