"""Which run of a store a spec or a point continues, and whether more is wanted of it."""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cluster.common.canonical import sha256
from cluster.common.states import State
from cluster.dispatch import recount
from cluster.dispatch.events import Event
from cluster.ledger import Ledger, Run, request_of, sweeps
from cluster.ledger.holds import check_room
from cluster.lifecycle.job import Job, Member
from cluster.sampling.plan import Goal
from cluster.spec import Spec
from cluster.spec.points import Point
from cluster.spec.request import Request

_LONGEST_NAME = 40


def enter_sweep(
    ledger: Ledger, spec: Spec, points: Sequence[Point], asked: frozenset[int] | None
) -> Job:
    """Find or enter the sweep of a spec, and a run for each of its points.

    In one transaction: of two processes that submit the same sweep at once, only one enters it; and
    nothing is entered of a sweep whose runs this process could not lock.

    Args:
        ledger: the store.
        spec: of the sweep.
        points: all of its points.
        asked: places of the points to compute; None: all.

    Raises:
        UsageError: it would take more open files than this process may have.
    """
    keys = [point.request.key for point in points]
    name = new_id(spec.name)
    with ledger.transaction():
        known = sweeps.known_runs(ledger, keys)
        varies = spec.sweep is not None and "backend" in spec.sweep.keys
        others = sweeps.runs_of_others(ledger, spec.name)
        runs = _matched(points, keys, known, others, varies=varies)
        requests = _with_recorded(points, runs)
        new = [at for at, run in enumerate(runs) if run is None]
        sweep = sweeps.enter(ledger, name, spec.name, sha256(sorted(keys)), spec.to_json(), asked)
        entered = sweeps.enter_runs(ledger, list(_fresh(name, new, requests, keys)))
        fresh = dict(zip(new, entered, strict=True))
        found = [fresh[at] if run is None else run.key for at, run in enumerate(runs)]
        given = (point.values for point in points)
        sweeps.set_points(ledger, sweep, zip(found, given, strict=True))
        rows = {place: run for place, _, run in sweeps.runs_of(ledger, sweep)}
        members = [
            Member(place, point.values, request, rows[place])
            for place, (point, request) in enumerate(zip(points, requests, strict=True))
            if asked is None or place in asked
        ]
        check_room(sum(not has_all(member) for member in members))
    return Job(spec, members, sweep, asked)


def has_all(member: Member) -> bool:
    """Whether a run has ended with the goal that it is to have now; without reading its blocks."""
    return has_ended(member.run) and member.run.goal == member.request.goal.to_json()


def has_ended(run: Run) -> bool:
    """Whether a run has reached its goal, or drawn all samples that it may."""
    return run.state == State.DONE.value or (
        run.state == State.PARTIAL.value and run.stopped_by == "max_samples"
    )


def _matched(
    points: Sequence[Point],
    keys: Sequence[str],
    known: Mapping[str, Sequence[Run]],
    others: Collection[int],
    *,
    varies: bool,
) -> list[Run | None]:
    """The earlier run of each point, or None; no two points share one.

    Points with the same request key differ only in goal or backend. Each first gets the run of
    exactly its goal and backend, if there is one; the remaining points then get the remaining runs,
    newest first.

    Args:
        points: of the sweep.
        keys: their request keys.
        known: the runs of each request key, newest first.
        others: keys of runs that sweeps of other names have as points: their goals must not change.
        varies: the sweep varies the backend, so a run of another backend is another point's.
    """
    runs: list[Run | None] = [None] * len(points)
    taken: set[int] = set()

    def take(exactly: bool) -> None:
        for at, point in enumerate(points):
            if runs[at] is None:
                free = (run for run in known.get(keys[at], ()) if run.key not in taken)
                fits = (run for run in free if _fits(run, point.request, exactly, varies))
                runs[at] = next((r for r in fits if exactly or r.key not in others), None)
                taken.update(run.key for run in [runs[at]] if run)

    take(exactly=True)
    take(exactly=False)
    return runs


def _fits(run: Run, request: Request, exactly: bool, varies: bool) -> bool:
    same_backend = run.definition["spec"]["backend"] == request.spec.backend
    if exactly:
        return same_backend and run.goal == request.goal.to_json()
    return same_backend or not varies


def _with_recorded(points: Sequence[Point], runs: Sequence[Run | None]) -> list[Request]:
    """The requests, with seed and block of earlier runs; all share a seed that was drawn."""
    drawn = next(
        (
            run.definition["seed"]
            for point, run in zip(points, runs, strict=True)
            if run and point.request.spec.seed is None
        ),
        None,
    )
    requests = []
    for point, run in zip(points, runs, strict=True):
        request = point.request
        if run is not None:
            own = run.definition
            probe = own.get("probe")
            request = replace(request, seed=own["seed"], block=own["block"], probe=probe)
        elif drawn is not None and request.spec.seed is None:
            request = replace(request, seed=drawn)
        requests.append(request)
    return requests


def _fresh(
    sweep: str, new: Sequence[int], requests: Sequence[Request], keys: Sequence[str]
) -> Iterator[sweeps.Fresh]:
    width = len(str(len(requests) - 1))
    for at in new:
        request = requests[at]
        yield sweeps.Fresh(
            f"{sweep}.{at:0{width}}",
            request.spec.name,
            keys[at],
            request.identity,
            request.to_json(),
            request.goal.to_json(),
        )


def placed_as(recorded: Spec, now: Spec) -> Spec:
    """A recorded spec, with the place to run (backend, nodes, retry) of another one."""
    return recorded.placed_as(now)


def in_sweep(ledger: Ledger, run: Run, given: Mapping[str, Any], whole: Spec) -> Request:
    """A point's request, to be run where its sweep says; its run may be older than the sweep.

    Args:
        ledger: the store.
        run: the point's run.
        given: what the sweep gives the point.
        whole: the spec of the sweep.

    Raises:
        StoreError: the run's definition is not a request.
    """
    request = request_of(ledger, run)
    spec = placed_as(request.spec, whole)
    if "backend" in given:
        spec = spec.model_copy(update={"backend": given["backend"]})
    return replace(request, spec=spec)


def enough(ledger: Ledger, run: Run, request: Request, old: Request) -> str | None:
    """Why a request wants no more of a run than an older one did; None if it does.

    Counted blocks are never taken away: neither by fewer samples, nor from a run that is done by a
    target that fewer of its blocks meet.

    Args:
        ledger: the store.
        run: the run, which this process has locked.
        request: what is wanted now.
        old: what was wanted before.

    Returns:
        What to say of the run, such as "already has this goal".
    """
    new, before = request.goal, old.goal
    if new.target == before.target and _most(new) <= _most(before):
        longer = new.blocks == before.blocks and new.max_time != before.max_time
        return None if longer else "already has this goal"
    has = sum(stop - first for first, stop in _result_ranges(ledger, run))
    if _most(new) <= has:
        return f"already has {has} blocks"
    if new.target is None or run.state != State.DONE.value:
        return None
    scaling = (request.scale, request.offset)
    met = recount(ledger, run, new, request.work(run.id), scaling, _say_nothing).met_at
    return None if met is None or met > has else f"meets that target with {met} of its {has} blocks"


def _most(goal: Goal) -> float:
    return math.inf if goal.blocks is None else goal.blocks


def _result_ranges(ledger: Ledger, run: Run) -> Iterable[Sequence[int]]:
    """The ranges of blocks of a run's result, or all counted ones if it has no result yet."""
    if run.ranges is not None:
        return run.ranges
    return ((row.first, row.stop) for row in ledger.counted(run))


def new_id(name: str) -> str:
    """A new, unique id of a run or sweep: its name, the time, and random digits."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return f"{re.sub('[^A-Za-z0-9]+$', '', name[:_LONGEST_NAME])}-{stamp}-{secrets.token_hex(2)}"


def _say_nothing(_event: Event) -> None:
    return None
