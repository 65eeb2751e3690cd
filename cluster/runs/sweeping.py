"""Sweeps computed: many runs of one spec on one pool, each a run of its own in the ledger."""

from __future__ import annotations

import gc
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.backends.base import kernels_at_home, seat
from cluster.common.canonical import canonical, sha256
from cluster.common.commands import command
from cluster.common.errors import ClusterError, UsageError
from cluster.common.states import State
from cluster.dispatch import SystemClock
from cluster.dispatch.events import Noted, SweepStarted
from cluster.ledger import Ledger, Run, Where, opened, request_of, spec_of, sweeps
from cluster.ledger.holds import Holds, check_room
from cluster.report.comparison import Comparison, Side
from cluster.report.comparison import compare as compared
from cluster.report.recorded import result_at
from cluster.report.result import NodeResult
from cluster.report.standings import the_sweep
from cluster.report.swept import PointResult, SweepResult, state_of
from cluster.runs.forecast import look_ahead
from cluster.runs.notify import Teller
from cluster.runs.pool import Caller, Member, Night, Pool
from cluster.runs.running import enough, new_id, opening, placed_as, scheduled
from cluster.sampling.streams import point_of
from cluster.spec import Spec
from cluster.spec.points import Point, expand
from cluster.spec.request import Request, elsewhere, outdated, placed
from cluster.spec.window import start_key


@dataclass(frozen=True)
class Part:
    """The k-th of n parts of a sweep's points: those at the places k - 1, k - 1 + n, ..."""

    number: int
    of: int

    @classmethod
    def read(cls, text: str) -> Part:
        """From ``k/n``.

        Raises:
            UsageError: it is no such text.
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            fix = "write --points 1/4 to --points 4/4 for four parts"
            raise UsageError(f"--points takes k/n, 1 <= k <= n, got {text!r}", fix=fix)
        return cls(int(found[1]), int(found[2]))

    def __contains__(self, place: int) -> bool:
        return place % self.of == self.number - 1


def submit(
    spec: Spec,
    caller: Caller | None = None,
    *,
    part: Part | None = None,
    yes: bool = False,
    store: Where | None = None,
    pinned: int | None = None,
) -> SweepResult:
    """Compute the points of a spec's sweep, or what is missing of them.

    A point goes on with the run that its request has in the store, if there is one: so a sweep
    that is sent again computes what is missing, and what was asked to be tighter.

    Args:
        spec: one with a sweep.
        caller: who is told, and who may stop it.
        part: compute only these of its points.
        yes: more than 100,000 points are meant.
        store: the folder of the ledger, instead of the spec's.
        pinned: blocks of every task, for measurements.

    Raises what :func:`cluster.api.submit` raises; UsageError where the points are too many.
    """
    with kernels_at_home():
        points = expand(spec, yes=yes)
    if pinned:
        points = tuple(replace(p, request=replace(p.request, pinned=pinned)) for p in points)
    with Ledger(Path(store or spec.store), create=True) as ledger:
        asked = None if part is None else frozenset(at for at in range(len(points)) if at in part)
        sweep, members = _entered(ledger, spec, points, asked)
        mine = [member for member in members if asked is None or member.place in asked]
        return _computed(ledger, sweep, spec, mine, caller or Caller(), asked)


def start(spec: Spec, caller: Caller | None = None, *, store: Where | None = None) -> SweepResult:
    """A scheduled start of a sweep; a second one of one date gives nothing that had its time more.

    See :func:`cluster.api.start` and :func:`submit`.
    """
    return submit(spec, replace(caller or Caller(), scheduled=True), yes=True, store=store)


def resume(
    name: str,
    store: Where = "runs",
    caller: Caller | None = None,
    *,
    overrides: Sequence[str] = (),
) -> SweepResult:
    """Go on with a sweep, from what its ledger holds; neither its spec's file nor kernels are read.

    That is with the points that its starts were to compute: with a part, where it was in parts.

    Raises what :func:`cluster.api.resume` raises.
    """
    with Ledger(Path(store), write=True) as ledger:
        sweep = the_sweep(ledger, name)
        whole = spec_of(ledger, sweep)
        members = [
            Member(place, given, elsewhere(_in_sweep(ledger, run, given, whole), overrides), run)
            for place, given, run in sweeps.runs_of(ledger, sweep)
            if sweep.asked is None or place in sweep.asked
        ]
        caller = caller or Caller()
        owed = (each for each in members if each.run.state != State.DONE.value)
        for request in {each.request.source.sha: each.request for each in owed}.values():
            if words := outdated(request):
                caller.tell(Noted(words))
        spec = members[0].request.spec if members else whole
        spec = spec.model_copy(update={"sweep": whole.sweep})
        return _computed(ledger, sweep, spec, members, caller)


def _in_sweep(ledger: Ledger, run: Run, given: Mapping[str, Any], whole: Spec) -> Request:
    """A point's request, to be run where the sweep says: its run may be older than the sweep."""
    request = request_of(ledger, run)
    spec = placed_as(request.spec, whole)
    if "backend" in given:
        spec = spec.model_copy(update={"backend": given["backend"]})
    return replace(request, spec=spec)


def find(name: str, store: Where | Ledger = "runs") -> str | None:
    """The id of the sweep that a word names, where it names one rather than a run."""
    with opened(store) as ledger:
        found = sweeps.named(ledger, name)
        return found.id if found else None


def show(name: str, store: Where | Ledger = "runs") -> SweepResult:
    """A sweep as it stands, also while another process computes it.

    Raises:
        UsageError: there is no such sweep.
    """
    with opened(store) as ledger:
        sweep = the_sweep(ledger, name)
        return _shown(ledger, sweep, sweep.asked)


def _shown(ledger: Ledger, sweep: sweeps.Sweep, asked: frozenset[int] | None) -> SweepResult:
    """A sweep as it stands with the points at these places, where not all are asked for."""
    rows = sweeps.runs_of(ledger, sweep)
    points = [PointResult(place, given, result_at(ledger, run)) for place, given, run in rows]
    own = [point.result.state for point in points if asked is None or point.point in asked]
    state = state_of(own, sweep.stopped_by)
    pools = sweeps.pools(ledger, sweep)
    onward = command("resume", sweep.id, store=ledger.store)
    return SweepResult(
        sweep=sweep.id,
        name=sweep.name,
        state=state,
        stopped_by=sweep.stopped_by if state not in ("done", "running") else None,
        points=points,
        wall_s=sum(pool["wall"] for pool in pools),
        nodes=_nodes(ledger, sweep, {run.key: run.definition["block"] for _, _, run in rows}),
        events=sweeps.pool_events(ledger, sweep),
        resume=onward if state not in ("done", "running") else None,
        asked=asked,
        advice=next((p.result.advice for p in points if p.result.advice), None),
    )


def plan(spec: Spec, seconds: float = 2.0, *, yes: bool = False) -> dict[str, Any]:
    """What a sweep would run; ``seconds`` of trial of its first point (0: none) say how long.

    That is right where a block of every point costs what one of the first does.

    Raises what :func:`submit` raises.
    """
    with kernels_at_home():
        points = expand(spec, yes=yes)
    first, goals = points[0].request, [point.request.goal for point in points]
    outlook = look_ahead(first, placed(spec.nodes.hosts), seconds, SystemClock())
    known = all(goal.blocks is not None and goal.target is None for goal in goals)
    blocks = sum(goal.blocks or 0 for goal in goals) if known else None
    trial = outlook.trial
    return {
        "name": spec.name,
        "points": len(points),
        "keys": sorted(spec.sweep.keys) if spec.sweep else [],
        "backends": sorted({point.request.spec.backend for point in points}),
        "blocks": blocks,
        "samples": sum((p.request.goal.blocks or 0) * p.request.block for p in points)
        if known
        else None,
        "slots": sum(node.slots or 0 for node in outlook.nodes),
        "expected_s": blocks * trial.seconds / trial.blocks if trial and blocks else None,
        "first": outlook.to_json(),
    }


# -- which run each point has ---------------------------------------------------------------------


def _entered(
    ledger: Ledger, spec: Spec, points: Sequence[Point], asked: frozenset[int] | None
) -> tuple[sweeps.Sweep, list[Member]]:
    """Find or enter the sweep, and a run for each of its points.

    In one transaction: of two that send the same sweep at once, one enters it, and nothing is
    entered of one that this process could not hold.
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
        ]
        check_room(len([m for m in _open(members) if asked is None or m.place in asked]))
    return sweep, members


def _open(members: Sequence[Member]) -> list[Member]:
    """The members that may owe blocks."""
    return [member for member in members if not _has_all(member.run, member.request)]


def _matched(
    points: Sequence[Point],
    keys: Sequence[str],
    known: Mapping[str, Sequence[Run]],
    others: Collection[int],
    *,
    varies: bool,
) -> list[Run | None]:
    """The earlier run of each point, or None; no two points have one.

    Points of one request key differ in their goal or backend only. First each has the run of its
    own goal and backend, if there is one; the others then have what is left, newest first, but
    none that is (by its key) a point of ``others``, sweeps of other names: their goal stays.
    Whether the backend ``varies`` in the sweep decides if a run of another one can be meant.
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
    """The requests, with seed and block of earlier runs; a seed that was drawn is drawn once."""
    drawn = next(
        (run.definition["seed"] for point, run in zip(points, runs, strict=True)
         if run and point.request.spec.seed is None), None,
    )  # fmt: skip
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
            f"{sweep}.{at:0{width}}", request.spec.name, keys[at], request.identity,
            request.to_json(), request.goal.to_json(),
        )  # fmt: skip


# -- what is to be computed -----------------------------------------------------------------------


def _computed(
    ledger: Ledger, sweep: sweeps.Sweep, spec: Spec, members: Sequence[Member], caller: Caller,
    asked: frozenset[int] | None = None,
) -> SweepResult:  # fmt: skip
    """Compute the members, and tell whom the spec names how all of them went, when all are free."""

    def result() -> SweepResult:
        now = the_sweep(ledger, sweep.id)
        return _shown(ledger, now, now.asked if asked is None else asked)

    def note(words: str) -> None:
        with suppress(ClusterError):  # who cannot be told of does the sweep no harm either
            sweeps.note(ledger, sweep, words)

    with _lasting():
        if spec.notify is None:
            _compute(ledger, sweep, spec, members, caller)
        else:
            with Teller(sweep.id, sweep.name, spec.notify, note, caller.tell, result) as told:
                _compute(ledger, sweep, spec, members, replace(caller, observe=told))
        return result()


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


def _compute(
    ledger: Ledger, sweep: sweeps.Sweep, spec: Spec, members: Sequence[Member], caller: Caller
) -> None:
    """Compute what the members owe, a pool for each backend, one after the other."""
    open_ones = _open(members)
    start = _key(sweep, spec, caller)
    with Holds(ledger, [member.run.id for member in open_ones]) as holds:
        wished = ledger.last_wish()
        spent = sweeps.had_their_time(ledger, sweep, start) if start else frozenset()
        owed = _judged(ledger, sweep, [m for m in open_ones if m.run.key not in spent])
        if owed or not spent:
            sweeps.stopped(ledger, sweep, None)
        if not owed:
            caller.tell(SweepStarted(sweep.id, len(members), 0, spec.backend))
            return
        shut, closes = opening(spec, caller.clock.now())
        if shut:
            caller.tell(SweepStarted(sweep.id, len(members), len(owed), spec.backend))
            caller.tell(shut)
            sweeps.leave(ledger, [member.run for member in owed], State.PARTIAL.value, "window")
            sweeps.stopped(ledger, sweep, "window")
            return
        pools: dict[str, list[Member]] = defaultdict(list)
        for member in owed:
            pools[_backend(member.request)].append(member)
        limit = spec.sweep.max_time if spec.sweep else None
        over = None if limit is None else caller.clock.steady() + limit
        night = Night(closes, start, over, wished)
        for backend, some in pools.items():
            pool = Pool(ledger, sweep, spec, some, holds, caller, night)
            if pool.compute(backend, members) is not None:
                break


def _key(sweep: sweeps.Sweep, spec: Spec, caller: Caller) -> str | None:
    """The key of a scheduled start, which a second one of the same date shares."""
    if not caller.scheduled:
        return None
    return start_key(sweep.request, scheduled(spec, caller.clock.now()))


def _backend(request: Request) -> str:
    place = seat()
    return place.backend if place else request.spec.backend


def _has_all(run: Run, request: Request) -> bool:
    """Whether a run has ended with what is asked for now: cheap, and for most enough."""
    return _has_ended(run) and run.goal == request.goal.to_json()


def _has_ended(run: Run) -> bool:
    """Whether a run has all that it was asked for, or all that it may draw."""
    return run.state == State.DONE.value or (
        run.state == State.PARTIAL.value and run.stopped_by == "max_samples"
    )


def _judged(ledger: Ledger, sweep: sweeps.Sweep, members: Sequence[Member]) -> list[Member]:
    """The members that owe blocks, as their rows are now that they are held."""
    known = {member.run.key: member.run for member in members}
    rows = sweeps.as_they_are(ledger, sweep, known)
    if gone := [member for member in members if member.run.key not in rows]:
        text = f"{gone[0].name} of {sweep.id} was removed before it was held"
        raise UsageError(text, fix="submit the sweep again")
    owed, asked = [], []
    for member in members:
        now = replace(member, run=rows[member.run.key])
        if now.run.goal != now.request.goal.to_json():
            recorded = request_of(ledger, now.run)
            if enough(ledger, now.run, now.request, recorded) is None:
                goal = now.request.goal.to_json()
                asked.append((now.run, now.request.to_json(), goal))
                run = now.run._replace(goal=goal, state=State.RUNNING.value)
                owed.append(replace(now, run=run))
                continue
            spec = placed_as(recorded.spec, now.request.spec)
            now = replace(now, request=replace(recorded, spec=spec))
        if not _has_ended(now.run):
            owed.append(now)
    ledger.set_goals(asked)
    return owed


def _nodes(ledger: Ledger, sweep: sweeps.Sweep, blocks: Mapping[int, int]) -> list[NodeResult]:
    """What each node did for all points, while pools of the sweep were up."""
    room: dict[str, float] = defaultdict(float)
    slots: dict[str, int] = {}
    for pool in sweeps.pools(ledger, sweep):
        for node, count in pool["nodes"].items():
            slots[node] = count
            room[node] += count * pool["wall"]
    sums: dict[str, list[float]] = {node: [0.0] * 5 for node in slots}
    for each in sweeps.pool_totals(ledger, sweep):
        own = sums.setdefault(each.node, [0.0] * 5)
        parts = (each.tasks, each.blocks * blocks[each.run], each.wall, each.cpu, each.lost)
        sums[each.node] = [so_far + part for so_far, part in zip(own, parts, strict=True)]
    drawn = sum(own[1] for own in sums.values())
    return [
        NodeResult(
            node=node, slots=slots.get(node, 0), tasks=int(tasks), samples=int(samples),
            share=samples / drawn if drawn else None, busy_s=busy, cpu_s=cpu,
            samples_per_s=samples / busy if busy else None,
            utilisation=busy / room[node] if room.get(node) else None, goodput=None, failures=0,
            lost_s=lost,
        )
        for node, (tasks, samples, busy, cpu, lost) in sums.items()
    ]  # fmt: skip


# -- compared -------------------------------------------------------------------------------------


def compare(a: str, b: str, store: Where = "runs") -> list[Comparison]:
    """Two runs, or the points of two sweeps that are given the same.

    Raises:
        UsageError: no such run or sweep; one of each; or two sweeps without a common point.
    """
    with opened(store) as ledger:
        one, other = sweeps.named(ledger, a), sweeps.named(ledger, b)
        if one is None and other is None:
            return [compared(_side(ledger, ledger.run(a)), _side(ledger, ledger.run(b)))]
        if one is None or other is None:
            raise UsageError(f"of {a} and {b}, one is a sweep and one is a run")
        pairs = _pairs(ledger, one, other)
        if not pairs:
            fix = "points are matched by what their sweeps give them"
            raise UsageError(f"no point of {one.id} is given what one of {other.id} is", fix=fix)
        return [
            compared(_side(ledger, x), _side(ledger, y), among=len(pairs), given=given)
            for given, x, y in pairs
        ]


def _pairs(
    ledger: Ledger, one: sweeps.Sweep, other: sweeps.Sweep
) -> list[tuple[Mapping[str, Any], Run, Run]]:
    theirs = {canonical(dict(given)): run for _, given, run in sweeps.runs_of(ledger, other)}
    ours = [(canonical(dict(given)), given, run) for _, given, run in sweeps.runs_of(ledger, one)]
    return [(given, run, theirs[key]) for key, given, run in ours if key in theirs]


def _side(ledger: Ledger, run: Run) -> Side:
    own = run.definition
    point = point_of({} if own.get("common") else own["params"])
    return Side(
        result_at(ledger, run), (own["scale"], own["offset"]), (own["seed"], point),
        ledger.speeds(run),
    )  # fmt: skip
