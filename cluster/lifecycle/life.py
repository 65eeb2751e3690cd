"""The life of a run: entered, locked, judged, computed, recorded; a sweep is a run with points.

:func:`compute` is the middle of it and reads from top to bottom. Before it stand the ways in: the
commands that start something.
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

# -- the ways in ----------------------------------------------------------------------------------


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
    """Compute a spec: see :func:`cluster.api.submit`."""
    if spec.sweep is None and (part or yes or caller.keep_going is not None):
        raise UsageError("points are of a sweep, and the spec has none")
    if spec.sweep is None:
        request = replace(resolved(spec), pinned=pinned)
        place = launched()  # no run is recorded of what cannot begin
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
    """A scheduled start of a spec: see :func:`cluster.api.start`."""
    return submit(
        spec, replace(caller, scheduled=True), store=store, resume=True, yes=spec.sweep is not None
    )


def resume(name: str, store: Where, caller: Caller, *, overrides: Sequence[str] = ()) -> Result:
    """Go on with a run or a sweep, from what its ledger holds: see :func:`cluster.api.resume`."""
    with Ledger(Path(store), write=True) as ledger:
        job = recorded_job(ledger, name, lambda request: elsewhere(request, overrides))
        return computed(ledger, job, caller)


def extend(name: str, store: Where, caller: Caller, *, overrides: Sequence[str]) -> Result:
    """Ask more of a run, or of all points of a sweep: see :func:`cluster.api.extend`."""
    with Ledger(Path(store), write=True) as ledger:
        job = recorded_job(ledger, name, lambda request: extended(request, overrides))
        if job.sweep:
            _check_own(job, sweeps.runs_of_others(ledger, job.sweep.name))
        return computed(ledger, replace(job, wish=tuple(overrides)), caller)


def settle(run: str, store: Where | Ledger, caller: Caller) -> Result:
    """Record the end of a run that has all it was asked for, and start nothing."""
    with opened(store) as ledger:
        row = ledger.run(run)
        with Holds(ledger, [row.id]):
            _judged(ledger, Job.of_one(row, request_of(ledger, row)), frozenset(), caller)
        return result_at(ledger, ledger.run(row.id))


def _submit_run(ledger: Ledger, request: Request, resume: bool, caller: Caller) -> Result:
    earlier = ledger.newest(request.key) if resume else None
    if earlier is None:
        name = new_id(request.spec.name)
        # Locked before it is entered: nobody sees a run that is held by nobody and has no end.
        with held(ledger, [name], request.spec, name, caller) as (holds, told):
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
                compute(ledger, Job.of_one(earlier, request), holds, told)
        if earlier.id == name:
            return result_at(ledger, ledger.run(name))
        # Another start of the same moment was first.
    recorded = request_of(ledger, earlier)
    return computed(ledger, Job.of_one(earlier, request.with_recorded(recorded)), caller)


def _check_own(job: Job, others: Collection[int]) -> None:
    """Refuse to change the goal of a run that a sweep of another name has as a point, too."""
    for member in job.members:
        if member.run.key in others:
            raise UsageError(
                f"{member.name} of {job.id} is a point of another sweep too, whose goal stays",
                fix="submit the spec with more asked for: it draws such points afresh",
            )


def recorded_job(ledger: Ledger, name: str, change: Callable[[Request], Request]) -> Job:
    """A run or a sweep as its ledger has it; neither the spec's file nor kernels are read.

    A sweep is computed with the points that its starts were to compute: with a part, where it was
    in parts.

    Args:
        ledger: the store.
        name: of a run, a sweep, or a point of one.
        change: what is different now; given the request of each run.

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


# -- held, judged, computed -----------------------------------------------------------------------


def computed(ledger: Ledger, job: Job, caller: Caller) -> Result:
    """Compute a job whose runs are entered, and return how it stands then."""
    runs = [member.run.id for member in job.members if job.sweep is None or not has_all(member)]
    with held(ledger, runs, job.spec, job.id, caller) as (holds, told):
        compute(ledger, job, holds, told)
    return job_result(ledger, job.id, job.asked)


@contextmanager
def held(
    ledger: Ledger, runs: Sequence[str], spec: Spec, job: str, caller: Caller
) -> Iterator[tuple[Holds, Caller]]:
    """Lock runs; when they are released, notify the recipients named in the spec.

    Yields:
        The locks, and the caller with the notifications between it and what happens.
    """
    with _lasting():
        if spec.notify is None:
            with Holds(ledger, runs) as holds:
                yield holds, caller
            return

        def note(words: str) -> None:
            with suppress(ClusterError):  # a failed notification does the run no harm
                sessions.note(ledger, sweeps.job_named(ledger, job), words)

        told = Notification(
            job, spec.name, spec.notify, note, caller.tell, lambda: job_result(ledger, job)
        )
        with told, Holds(ledger, runs) as holds:
            yield holds, replace(caller, observe=told)


@contextmanager
def _lasting() -> Iterator[None]:
    """Let the collector of garbage pass over what is there already: the points stay to the end.

    Of 10,000 points it would look at millions of objects again and again, which takes as long as
    all that the dispatcher does.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def compute(ledger: Ledger, job: Job, holds: Holds, caller: Caller) -> None:
    """Compute what is missing of the runs of a job, whose locks are held.

    Raises:
        StoreError: with the command that goes on; what was counted before is safe.
        EngineError: no engine could be started, and nothing came of it.
    """
    try:
        _compute(ledger, job, holds, caller)
    except StoreError as error:
        error.fix = f"{error.fix}: {command('resume', job.id, store=ledger.store)}"
        raise


def _compute(ledger: Ledger, job: Job, holds: Holds, caller: Caller) -> None:
    wished, start = node_changes.newest(ledger), _start_key(job, caller)
    spent = _spent(ledger, job, start)
    members = _judged(ledger, job, spent, caller)
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
    ledger.own()  # adding up a long run may have taken longer than an owner is believed in
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
    """The runs (keys) that the same scheduled start computed before, and left by a time limit."""
    if start is None:
        return frozenset()
    if job.sweep is not None:
        return sessions.had_their_time(ledger, job.sweep, start)
    run = ledger.run(job.id)
    starts = sessions.sessions_of(ledger, run)
    over = run.stopped_by == "max_time" and starts and starts[-1]["start"] == start
    return frozenset([run.key]) if over else frozenset()


def _judged(ledger: Ledger, job: Job, spent: frozenset[int], caller: Caller) -> list[Member]:
    """The members as they are now that they are held, with the goal that they have from now on.

    Of a sweep, those that have not ended; of a run alone, what is counted is added up again, so
    that a damaged row is found.
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
        text = f"{gone[0].name} of {job.id} was removed before it was held"
        raise UsageError(text, fix="submit the sweep again")
    members = _with_goals(ledger, job, [replace(m, run=rows[m.run.key]) for m in open_ones])
    return [member for member in members if not has_ended(member.run)]


def _is_recorded(member: Member, count: Count) -> bool:
    """Whether a run's row says that it is done, with the sum of its blocks."""
    run, tally = member.run, count.tally()
    recorded = (run.state, run.tally, run.ranges)
    text = tally_text(tally) if tally else None
    return recorded == (State.DONE.value, text, [list(pair) for pair in count.ranges])


def _with_goals(ledger: Ledger, job: Job, members: Sequence[Member]) -> list[Member]:
    """Record what is asked for now where it is more than before; else the recorded goal stays.

    Raises:
        UsageError: more was to be asked for, and nothing is.
    """
    judged, asked = [], []
    refused: list[str] = []
    for member in members:
        run, request = member.run, member.request
        same = run.goal == request.goal.to_json()
        if same and job.sweep:  # of many points most; their definitions are long
            judged.append(member)
            continue
        old = request_of(ledger, run)
        reason = enough(ledger, run, request, old)
        if reason is None:
            goal = request.goal.to_json()
            asked.append((run, request.to_json(), goal))
            run = run._replace(goal=goal, state=State.RUNNING.value)
            judged.append(replace(member, run=run))
            continue
        if not (same and _is_repeated(run, old, job.wish or ())):
            refused.append(reason)
        recorded = replace(old, spec=placed_as(old.spec, request.spec))
        judged.append(replace(member, request=recorded))
    if job.wish is not None and not asked:
        first = job.members[0].run
        if judged or not _is_repeated(first, request_of(ledger, first), job.wish):
            _refuse(job, refused, judged)
    ledger.set_goals(asked)
    return judged


def _is_repeated(run: Run, old: Request, wish: Sequence[str]) -> bool:
    """Whether what is asked for was recorded before, and has no end or is the same wish again."""
    return old.spec.overrides[-len(wish) :] == tuple(wish) or not has_ended(run)


def _refuse(job: Job, refused: Sequence[str], members: Sequence[Member]) -> None:
    """Say that an ``extend`` extends nothing."""
    if not refused and (job.sweep is None or members):
        return
    kind = "sweep" if job.sweep else "run"
    reason = refused[0] if refused else "as much was asked for before"
    raise UsageError(
        f"that asks for no more of the {kind} {job.id}: {reason}",
        fix="give more samples, or a tighter target",
    )


def _note_outdated(ledger: Ledger, job: Job, members: Sequence[Member], caller: Caller) -> None:
    """Say where a kernel's file is not what the run has frozen, which is what is computed."""
    for request in {member.request.source.sha: member.request for member in members}.values():
        if words := outdated(request):
            caller.tell(Noted(words))
            sessions.note(ledger, job.row, words)


def _leave_for_window(ledger: Ledger, job: Job, members: Sequence[Member]) -> None:
    """Record that a start outside of the window computed nothing."""
    sweeps.leave(ledger, [member.run for member in members], State.PARTIAL.value, "window")
    if job.sweep:
        sweeps.stopped(ledger, job.sweep, "window")


def _by_backend(members: Sequence[Member]) -> dict[str, list[Member]]:
    """The members by their engine, of which there is one after the other."""
    place = launched()
    found: dict[str, list[Member]] = defaultdict(list)
    for member in members:
        found[place.backend if place else member.request.spec.backend].append(member)
    return found


def _started(job: Job, members: Sequence[Member], backend: str, *, owed: int) -> Started:
    """The event of a start on an engine."""
    if job.sweep:
        return Started(job.id, 0, None, 0, backend, points=len(job.members), owed=owed)
    count, request = members[0].count, members[0].request
    assert count is not None
    place = launched()
    backend = place.backend if place else request.spec.backend
    return Started(job.id, count.blocks, count.goal.size, request.block, backend)


def _date(spec: Spec, now: float) -> date:
    """The date that a scheduled start of now belongs to."""
    window = spec.schedule and spec.schedule.hours()
    if window:
        return window.date_of(now)
    return date_at(now)


def _opening(spec: Spec, now: float) -> tuple[Closed | None, float | None]:
    """Whether a spec's window is closed now, to be told of; else when it closes, if it does."""
    window = spec.schedule and spec.schedule.hours()
    if not window:
        return None, None
    closes = window.closes_at(now)
    if closes is None:
        return Closed(str(window), window.local(window.next_opening(now))), None
    return None, closes


def resolved(spec: Spec) -> Request:
    """The request of a spec; its kernel is imported here, and may print."""
    with kernels_at_home():
        return resolve(spec)
