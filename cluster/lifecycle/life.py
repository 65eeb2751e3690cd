"""The life of a run: entered, locked, reviewed, computed, recorded; a sweep is a run with points.

:func:`compute` is the core, and reads from top to bottom. The entry points, one for each command
that starts something, come first.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import date
from pathlib import Path

from cluster.backends.base import kernels_at_home
from cluster.backends.base import launched_world as launched
from cluster.common.commands import command
from cluster.common.errors import ClusterError, StoreError, UsageError
from cluster.common.states import State
from cluster.dispatch import Ending
from cluster.dispatch.events import Closed, Noted, Started
from cluster.ledger import (
    Ledger,
    Run,
    Where,
    node_changes,
    opened,
    request_of,
    sessions,
    spec_of,
    sweeps,
)
from cluster.ledger.holds import Holds
from cluster.lifecycle.entering import (
    enough,
    enter_sweep,
    has_all,
    has_ended,
    in_sweep,
    new_id,
    placed_as,
)
from cluster.lifecycle.job import Caller, Job, Member
from cluster.lifecycle.notify import Notification
from cluster.lifecycle.session import Session, StartContext, counted, record_end
from cluster.report.recorded import job_result, result_at
from cluster.report.result import Result
from cluster.sampling.progress import Count
from cluster.sampling.task import tally_text
from cluster.spec import Spec
from cluster.spec.points import Part, expand
from cluster.spec.request import Request, elsewhere, extended, outdated, placed, resolve
from cluster.spec.window import date_at, start_key

# -- entry points ---------------------------------------------------------------------------------


def submit(
    spec: Spec,
    caller: Caller,
    *,
    store: Where | None = None,
    resume: bool = False,
    pinned: int | None = None,
    part: Part | None = None,
    yes: bool = False,
) -> Result:
    """Compute a spec, as :func:`cluster.api.submit` does.

    Args:
        spec: of a run or a sweep.
        caller: who starts it.
        store: the folder of the ledger; None: the spec's.
        resume: continue the newest run of the same request, instead of entering a new one.
        pinned: blocks of every task; None: adapted.
        part: of the points of a sweep, those to compute.
        yes: a sweep may have more than 100,000 points.

    Raises:
        UsageError: it cannot be computed as given.
        Locked: another process computes it.
        StoreError: the ledger failed; the fix names the command that continues.
        EngineError: no engine could be started.
    """
    if spec.sweep is None and (part or yes or caller.keep_going is not None):
        raise UsageError("only a sweep has points, and the spec has no sweep")
    if spec.sweep is None:
        request = replace(resolved(spec), pinned=pinned)
        place = launched()  # before anything is entered: no run is recorded that cannot begin
        placed(place.nodes if place else spec.nodes.hosts)
        with Ledger(Path(store or spec.store), create=True) as ledger:
            return _submit_run(ledger, request, resume, caller)
    with kernels_at_home():
        points = expand(spec, yes=yes)
    if pinned:
        points = tuple(replace(p, request=replace(p.request, pinned=pinned)) for p in points)
    with Ledger(Path(store or spec.store), create=True) as ledger:
        asked = None if part is None else frozenset(at for at in range(len(points)) if at in part)
        return computed(ledger, enter_sweep(ledger, spec, points, asked), caller)


def start(spec: Spec, caller: Caller, *, store: Where | None = None) -> Result:
    """Carry out a scheduled start of a spec, as :func:`cluster.api.start` does.

    Args:
        spec: of a run or a sweep.
        caller: who starts it.
        store: the folder of the ledger; None: the spec's.

    Raises: as :func:`submit`.
    """
    return submit(
        spec, replace(caller, scheduled=True), store=store, resume=True, yes=spec.sweep is not None
    )


def resume(name: str, store: Where, caller: Caller, *, overrides: Sequence[str] = ()) -> Result:
    """Continue a run or a sweep from its ledger, as :func:`cluster.api.resume` does.

    Args:
        name: of a run, a sweep, or a point of one.
        store: the folder of the ledger.
        caller: who starts it.
        overrides: where to compute: backend, nodes, retry.

    Raises: as :func:`submit`.
    """
    with Ledger(Path(store), write=True) as ledger:
        job = recorded_job(ledger, name, lambda request: elsewhere(request, overrides))
        return computed(ledger, job, caller)


def extend(name: str, store: Where, caller: Caller, *, overrides: Sequence[str]) -> Result:
    """Raise the goal of a run, or of all points of a sweep, as :func:`cluster.api.extend` does.

    Args:
        name: of a run, a sweep, or a point of one.
        store: the folder of the ledger.
        caller: who starts it.
        overrides: the new goal.

    Raises: as :func:`submit`; UsageError also where nothing is to be extended.
    """
    with Ledger(Path(store), write=True) as ledger:
        job = recorded_job(ledger, name, lambda request: extended(request, overrides))
        if job.sweep:
            _check_own(job, sweeps.runs_of_others(ledger, job.sweep.name))
        return computed(ledger, replace(job, wish=tuple(overrides)), caller)


def settle(run: str, store: Where | Ledger, caller: Caller) -> Result:
    """Record the end of a run whose blocks reach its goal; computes nothing.

    Args:
        run: its id.
        store: the folder of the ledger, or the ledger.
        caller: gets alarms about damaged rows.

    Raises:
        Locked: another process computes it.
        StoreError: the ledger failed.
    """
    with opened(store) as ledger:
        row = ledger.run(run)
        with Holds(ledger, [row.id]):
            _reviewed(ledger, Job.of_one(row, request_of(ledger, row)), frozenset(), caller)
        return result_at(ledger, ledger.run(row.id))


def _submit_run(ledger: Ledger, request: Request, resume: bool, caller: Caller) -> Result:
    earlier = ledger.newest(request.key) if resume else None
    if earlier is None:
        name = new_id(request.spec.name)
        # Locked before it is entered: else readers could take it to be interrupted.
        with held(ledger, [name], request.spec, name, caller) as (holds, observed):
            earlier = ledger.create(
                name,
                request.spec.name,
                request.key,
                request.identity,
                request.to_json(),
                request.goal.to_json(),
                once=resume,
            )
            if earlier.id == name:
                compute(ledger, Job.of_one(earlier, request), holds, observed)
        if earlier.id == name:
            return result_at(ledger, ledger.run(name))
        # Another process entered one at the same moment.
    recorded = request_of(ledger, earlier)
    return computed(ledger, Job.of_one(earlier, request.with_recorded(recorded)), caller)


def _check_own(job: Job, others: Collection[int]) -> None:
    """Refuse to change the goal of a run that is also a point of a sweep of another name."""
    for member in job.members:
        if member.run.key in others:
            raise UsageError(
                f"{member.name} of {job.id} is a point of another sweep too, and keeps its goal",
                fix="submit the spec with the higher goal: it computes such points in new runs",
            )


def recorded_job(ledger: Ledger, name: str, change: Callable[[Request], Request]) -> Job:
    """The job of a recorded run or sweep; neither the spec's file nor kernels are read.

    Of a sweep that was computed in parts, the members are the points of the parts so far.

    Args:
        ledger: the store.
        name: of a run, a sweep, or a point of one.
        change: applied to the request of each run.

    Raises:
        UsageError: there is no such run or sweep.
    """
    sweep = sweeps.job_named(ledger, name)
    if isinstance(sweep, Run):
        return Job.of_one(sweep, change(request_of(ledger, sweep)))
    whole = spec_of(ledger, sweep)
    members = [
        Member(place, given, change(in_sweep(ledger, run, given, whole)), run)
        for place, given, run in sweeps.runs_of(ledger, sweep)
        if sweep.asked is None or place in sweep.asked
    ]
    spec = members[0].request.spec if members else whole
    return Job(spec.model_copy(update={"sweep": whole.sweep}), members, sweep, sweep.asked)


# -- locked, reviewed, computed -------------------------------------------------------------------


def computed(ledger: Ledger, job: Job, caller: Caller) -> Result:
    """Lock and compute a job whose runs are entered; returns its result.

    Args:
        ledger: the store.
        job: what to compute.
        caller: who starts it.

    Raises: as :func:`submit`.
    """
    runs = [member.run.id for member in job.members if job.sweep is None or not has_all(member)]
    with held(ledger, runs, job.spec, job.id, caller) as (holds, observed):
        compute(ledger, job, holds, observed)
    return job_result(ledger, job.id, job.asked)


@contextmanager
def held(
    ledger: Ledger, runs: Sequence[str], spec: Spec, job: str, caller: Caller
) -> Iterator[tuple[Holds, Caller]]:
    """Lock runs; when they are released, notify the recipients named in the spec.

    Args:
        ledger: the store.
        runs: their ids.
        spec: names the recipients.
        job: the id of the run or the sweep.
        caller: who starts it.

    Yields:
        The locks, and a caller whose observer also sends the notifications.

    Raises:
        Locked: another process holds one of the runs.
    """
    with _lasting():
        if spec.notify is None:
            with Holds(ledger, runs) as holds:
                yield holds, caller
            return

        def note(words: str) -> None:
            with suppress(ClusterError):  # a failed notification does the run no harm
                sessions.note(ledger, sweeps.job_named(ledger, job), words)

        notification = Notification(
            job, spec.name, spec.notify, note, caller.tell, lambda: job_result(ledger, job)
        )
        with notification, Holds(ledger, runs) as holds:
            yield holds, replace(caller, observe=notification)


@contextmanager
def _lasting() -> Iterator[None]:
    """Exempt existing objects from garbage collection: the points live until the end anyway.

    With 10,000 points the collector would traverse millions of objects again and again, which takes
    as long as everything that the dispatcher does.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def compute(ledger: Ledger, job: Job, holds: Holds, caller: Caller) -> None:
    """Compute what is missing of the runs of a job.

    Args:
        ledger: the store.
        job: what to compute.
        holds: the locks of its runs.
        caller: who started it.

    Raises:
        StoreError: with the command that continues; what was counted before is safe.
        EngineError: no engine could be started, and nothing was computed.
    """
    try:
        _compute(ledger, job, holds, caller)
    except StoreError as error:
        error.fix = f"{error.fix}: {command('resume', job.id, store=ledger.store)}"
        raise


def _compute(ledger: Ledger, job: Job, holds: Holds, caller: Caller) -> None:
    wished, start = node_changes.newest(ledger), _start_key(job, caller)
    spent = _spent(ledger, job, start)
    members = _reviewed(ledger, job, spent, caller)
    owed = _by_backend([member for member in members if not member.finished])
    if job.sweep and (owed or not spent):
        sweeps.stopped(ledger, job.sweep, None)
    if not owed:
        if job.sweep or members:
            caller.tell(_started(job, members, job.spec.backend, owed=0))
        return
    shut, closes = _opening(job.spec, caller.clock.now())
    if shut:
        caller.tell(_started(job, members, next(iter(owed)), owed=len(members)))
        caller.tell(shut)
        _leave_for_window(ledger, job, members)
        return
    _note_outdated(ledger, job, members, caller)
    ledger.own()  # adding up a long run may have taken longer than ownership lasts
    over = None if job.max_time is None else caller.clock.steady() + job.max_time
    context = StartContext(closes, start, over, wished)
    for backend, some in owed.items():
        caller.tell(_started(job, some, backend, owed=len(some)))
        if Session(ledger, job, some, holds, caller, context).compute(backend) is not None:
            break


def _start_key(job: Job, caller: Caller) -> str | None:
    """The key of a scheduled start, which a second one of the same date shares."""
    if not caller.scheduled:
        return None
    return start_key(job.request, _date(job.spec, caller.clock.now()))


def _spent(ledger: Ledger, job: Job, start: str | None) -> frozenset[int]:
    """The runs (keys) that this scheduled start has computed already, until a time limit."""
    if start is None:
        return frozenset()
    if job.sweep is not None:
        return sessions.had_their_time(ledger, job.sweep, start)
    run = ledger.run(job.id)
    starts = sessions.sessions_of(ledger, run)
    over = run.stopped_by == "max_time" and starts and starts[-1]["start"] == start
    return frozenset([run.key]) if over else frozenset()


def _reviewed(ledger: Ledger, job: Job, spent: frozenset[int], caller: Caller) -> list[Member]:
    """The members as they are now that they are locked, with their goals from now on.

    Members of a sweep that have ended are left out. The blocks of a run alone are added up again,
    so that a damaged row is found.
    """
    waiting = [member for member in job.members if member.run.key not in spent]
    if job.sweep is None:
        fresh = [replace(member, run=ledger.run(member.run.id)) for member in waiting]
        members = _with_goals(ledger, job, fresh)
        members = [replace(m, count=counted(ledger, m, caller)) for m in members]
        for member in members:
            if member.count and member.count.finished and not _is_recorded(member, member.count):
                record_end(ledger, member, member.count, Ending.of_finished(member.count))
        return members
    open_ones = [member for member in waiting if not has_all(member)]
    rows = sweeps.as_they_are(ledger, job.sweep, {m.run.key: m.run for m in open_ones})
    if gone := [member for member in open_ones if member.run.key not in rows]:
        text = f"{gone[0].name} of {job.id} was removed before it was locked"
        raise UsageError(text, fix="submit the sweep again")
    members = _with_goals(ledger, job, [replace(m, run=rows[m.run.key]) for m in open_ones])
    return [member for member in members if not has_ended(member.run)]


def _is_recorded(member: Member, count: Count) -> bool:
    """Whether a run's row is recorded as done, with the sum of its blocks."""
    run, tally = member.run, count.tally()
    recorded = (run.state, run.tally, run.ranges)
    text = tally_text(tally) if tally else None
    return recorded == (State.DONE.value, text, [list(pair) for pair in count.ranges])


def _with_goals(ledger: Ledger, job: Job, members: Sequence[Member]) -> list[Member]:
    """Record the goals that are higher than before; all other members keep the recorded goal.

    Raises:
        UsageError: it is an ``extend``, and nothing is extended.
    """
    current, changes = [], []
    refused: list[str] = []
    for member in members:
        run, request = member.run, member.request
        same = run.goal == request.goal.to_json()
        if same and job.sweep:  # true of most points, whose definitions take long to parse
            current.append(member)
            continue
        old = request_of(ledger, run)
        reason = enough(ledger, run, request, old)
        if reason is None:
            goal = request.goal.to_json()
            changes.append((run, request.to_json(), goal))
            run = run._replace(goal=goal, state=State.RUNNING.value)
            current.append(replace(member, run=run))
            continue
        if not (same and _is_repeated(run, old, job.wish or ())):
            refused.append(reason)
        recorded = replace(old, spec=placed_as(old.spec, request.spec))
        current.append(replace(member, request=recorded))
    if job.wish is not None and not changes:
        first = job.members[0].run
        if current or not _is_repeated(first, request_of(ledger, first), job.wish):
            _refuse(job, refused, current)
    ledger.set_goals(changes)
    return current


def _is_repeated(run: Run, old: Request, wish: Sequence[str]) -> bool:
    """Whether an ``extend`` repeats the last one, or the run has not ended since that one."""
    return old.spec.overrides[-len(wish) :] == tuple(wish) or not has_ended(run)


def _refuse(job: Job, refused: Sequence[str], members: Sequence[Member]) -> None:
    """Raise the error of an ``extend`` that extends nothing."""
    if not refused and (job.sweep is None or members):
        return
    kind = "sweep" if job.sweep else "run"
    reason = refused[0] if refused else "already has this goal"
    raise UsageError(
        f"nothing to extend: the {kind} {job.id} {reason}",
        fix="give more samples, or a tighter target",
    )


def _note_outdated(ledger: Ledger, job: Job, members: Sequence[Member], caller: Caller) -> None:
    """Report kernels whose file has changed: what is computed is the text frozen in the run."""
    for request in {member.request.source.sha: member.request for member in members}.values():
        if words := outdated(request):
            caller.tell(Noted(words))
            sessions.note(ledger, job.row, words)


def _leave_for_window(ledger: Ledger, job: Job, members: Sequence[Member]) -> None:
    """Record that a start outside the window computed nothing."""
    sweeps.leave(ledger, [member.run for member in members], State.PARTIAL.value, "window")
    if job.sweep:
        sweeps.stopped(ledger, job.sweep, "window")


def _by_backend(members: Sequence[Member]) -> dict[str, list[Member]]:
    """The members by engine; engines run one after the other."""
    place = launched()
    found: dict[str, list[Member]] = defaultdict(list)
    for member in members:
        found[place.backend if place else member.request.spec.backend].append(member)
    return found


def _started(job: Job, members: Sequence[Member], backend: str, *, owed: int) -> Started:
    """The event that a session begins."""
    if job.sweep:
        return Started(job.id, 0, None, 0, backend, points=len(job.members), owed=owed)
    count, request = members[0].count, members[0].request
    assert count is not None
    place = launched()
    backend = place.backend if place else request.spec.backend
    return Started(job.id, count.blocks, count.goal.size, request.block, backend)


def _date(spec: Spec, now: float) -> date:
    """The date of a scheduled start at this time; a window may reach past midnight."""
    window = spec.schedule and spec.schedule.hours()
    if window:
        return window.date_of(now)
    return date_at(now)


def _opening(spec: Spec, now: float) -> tuple[Closed | None, float | None]:
    """The event that a spec's window is closed now, or None; and when an open one closes."""
    window = spec.schedule and spec.schedule.hours()
    if not window:
        return None, None
    closes = window.closes_at(now)
    if closes is None:
        return Closed(str(window), window.local(window.next_opening(now))), None
    return None, closes


def resolved(spec: Spec) -> Request:
    """The request of a spec. Imports its kernel, which may print."""
    with kernels_at_home():
        return resolve(spec)
