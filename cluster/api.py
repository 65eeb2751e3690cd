"""The Python interface: what the command line does, as functions."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cluster.backends.base import create
from cluster.calibrate import Trial, blocks_needed, calibrate
from cluster.count import Count
from cluster.dispatch import Core, Ending, Loop, Policy, Stop, SystemClock, recount
from cluster.errors import StoreError, UsageError
from cluster.events import Event, Observer, Started
from cluster.ledger import Ledger, Owner, Run
from cluster.nodes import Node
from cluster.plan import Checkpoints, Goal, Ranges
from cluster.report.result import Facts, Result, finite, result_of
from cluster.request import Request, elsewhere, extended, placed, resolve
from cluster.spec import Spec
from cluster.spec import load as load_spec
from cluster.tally import Tally, from_json
from cluster.work import Fault, Task, checked, perform, tally_text

_LONGEST_NAME = 40
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
    request = replace(resolve(spec), pinned=pinned)
    with Ledger(Path(store or spec.store), create=True) as ledger:
        earlier = ledger.newest(request.key) if resume else None
        if earlier is not None:
            return _go_on(ledger, earlier, request, observe, stop)
        name = _new_id(spec.name)
        with ledger.lock(name):
            run = ledger.create(
                name, spec.name, request.key, request.identity, request.to_json(),
                request.goal.to_json(),
            )  # fmt: skip
            _compute(ledger, run, request, observe, stop)
        return show(name, ledger)


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
        with ledger.lock(row.id):
            _compute(ledger, ledger.run(row.id), request, observe, stop)
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
        _check_more(request.goal, old.goal, row)
        with ledger.lock(row.id):
            ledger.set_goal(row, request.to_json(), request.goal.to_json())
            _compute(ledger, ledger.run(row.id), request, observe, stop)
        return show(row.id, ledger)


def show(run: str, store: Where | Ledger = "runs") -> Result:
    """A run as it stands, also while another process computes it."""
    with _opened(store) as ledger:
        row = ledger.run(run)
        request = Request.from_json(row.definition)
        state = ledger.state(row)
        tally, ranges = _counted(ledger, row, request, state)
        sessions = ledger.sessions(row)
        slots = {node: count for session in sessions for node, count in session["nodes"].items()}
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
            backend=sessions[-1]["backend"] if sessions else request.spec.backend,
            wall=ledger.wall(row),
            resume=resume_command(row.id, ledger.store) if state not in _ENDED else None,
        )
        return result_of(facts, request)


@dataclass(frozen=True)
class Standing:
    """Where a run stands, cheaply: from its newest record, without adding up its rows.

    ``holder`` is the process that computes it now, or None; the numbers are None before the first.
    """

    run: str
    name: str
    state: str
    created: str
    holder: Owner | None
    kernel: str
    backend: str
    samples: int | None
    blocks: int | None
    goal_blocks: int | None
    estimate: Any
    std_error: Any
    samples_per_s: float | None
    elapsed_s: float | None

    def to_json(self) -> dict[str, Any]:
        """The JSON object of ``ls`` and ``status``."""
        document: dict[str, Any] = finite(
            {**vars(self), "holder": self.holder and vars(self.holder)}
        )
        return document


def runs(store: Where = "runs") -> list[Standing]:
    """Every run of a store, newest first."""
    with _opened(store) as ledger:
        return [_standing(ledger, run) for run in ledger.runs()]


def status(run: str, store: Where = "runs") -> Standing:
    """Where a run stands."""
    with _opened(store) as ledger:
        return _standing(ledger, ledger.run(run))


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
    with _opened(store) as ledger:
        row = ledger.run(run)
        work = Request.from_json(row.definition).work(row.id)
        outcome = perform(work, Task(0, block, block + 1, 1, time.time()))
        counted = [r for r in ledger.counted(row, block, block + 1) if r.stop - r.first == 1]
        matches = counted[0].tally == outcome.tally if counted else None
        tally = json.loads(outcome.tally) if outcome.tally else None
        return Repro(row.id, block, tally, outcome.fault, outcome.wall, outcome.cpu, matches)


@dataclass(frozen=True)
class Outlook:
    """What a spec would run, and what a short trial of it promises; None where unknown."""

    request: Request
    nodes: tuple[Node, ...]
    checkpoints: list[int]
    trial: Trial | None
    blocks: int | None
    expected_s: float | None

    def to_json(self) -> dict[str, Any]:
        """The JSON object of ``plan``."""
        request, block = self.request, self.request.block
        document: dict[str, Any] = finite(
            {
                "name": request.spec.name,
                "kernel": request.source.name,
                "identity": request.identity,
                "block": block,
                "blocks": self.blocks,
                "samples": self.blocks and self.blocks * block,
                "slots": sum(node.slots or 0 for node in self.nodes),
                "backend": request.spec.backend,
                "nodes": [{"node": node.host, "slots": node.slots} for node in self.nodes],
                "checkpoints": self.checkpoints,
                "target": request.goal.target and asdict(request.goal.target),
                "calibration": self.trial and self._calibration(self.trial),
                "expected_s": self.expected_s,
                "expected_samples": self.blocks and self.blocks * block,
            }
        )
        return document

    def _calibration(self, trial: Trial) -> dict[str, Any]:
        request = self.request
        estimate = trial.tally.estimate(request.goal.confidence, request.scale, request.offset)
        return {
            "seconds": trial.seconds,
            "blocks": trial.blocks,
            "samples": trial.tally.samples,
            "samples_per_s": trial.tally.samples / trial.seconds,
            "estimate": estimate.value,
            "std_error": estimate.std_error,
        }


def plan(spec: Spec, seconds: float = 2.0) -> Outlook:
    """What a spec would run; ``seconds`` of trial on its backend (0: none) say how long.

    Raises what :func:`submit` raises.
    """
    request = resolve(spec)
    nodes = placed(spec.nodes.hosts)
    trial = None
    if seconds:
        trial = calibrate(create(spec.backend, nodes), request.work("plan"), SystemClock(), seconds)
    blocks = blocks_needed(trial, request) if trial else request.goal.blocks
    expected = blocks * trial.seconds / trial.blocks if trial and blocks else None
    rule = Checkpoints(request.goal)
    first: list[int] = []
    while request.goal.target and len(first) < _SHOWN and (not blocks or _last(first) < blocks):
        first.append(rule.segment(_last(first)).stop)
    return Outlook(request, nodes, first, trial, blocks, expected)


def _last(numbers: list[int]) -> int:
    return numbers[-1] if numbers else 0


_SHOWN = 10
_ENDED = ("done", "running")


def _standing(ledger: Ledger, run: Run) -> Standing:
    spec, source = run.definition["spec"], run.definition["source"]
    progress = run.progress or {}
    block = run.definition["block"]
    if run.ranges is not None:
        blocks = sum(stop - first for first, stop in run.ranges)
        progress = {**progress, **_final(run), "blocks": blocks, "samples": blocks * block}
    return Standing(
        run=run.id,
        name=run.name,
        state=ledger.state(run),
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(run.created)),
        holder=ledger.holder(run),
        kernel=f"{source['entry']}:{source['function']}",
        backend=spec["backend"],
        goal_blocks=run.goal["blocks"],
        **{name: progress.get(name) for name in _NUMBERS},
    )


_NUMBERS = ("samples", "blocks", "estimate", "std_error", "samples_per_s", "elapsed_s")


def _final(run: Run) -> dict[str, Any]:
    """Estimate and standard error of a run that has ended."""
    if run.tally is None:
        return {"estimate": None, "std_error": None}
    request = Request.from_json(run.definition)
    tally = from_json(json.loads(run.tally))
    estimate = tally.estimate(request.goal.confidence, request.scale, request.offset)
    return {"estimate": estimate.value, "std_error": estimate.std_error}


def resume_command(run: str, store: Path) -> str:
    """The exact command that goes on with a run."""
    place = [] if store == Path("runs") else ["--store", str(store)]
    return shlex.join(["cluster", "resume", run, *place])


def _go_on(
    ledger: Ledger, row: Run, request: Request, observe: Observer | None, stop: Stop | None
) -> Result:
    """Go on with an earlier run of the same request, to the goal asked for now if it is more."""
    recorded = Request.from_json(row.definition)
    request = request.with_recorded(recorded)
    with ledger.lock(row.id):
        if _asks_more(request.goal, recorded.goal):
            ledger.set_goal(row, request.to_json(), request.goal.to_json())
        else:
            request = replace(recorded, spec=_placed_as(recorded.spec, request.spec))
        _compute(ledger, ledger.run(row.id), request, observe, stop)
    return show(row.id, ledger)


def _placed_as(recorded: Spec, now: Spec) -> Spec:
    return recorded.model_copy(
        update={name: getattr(now, name) for name in ("backend", "nodes", "retry")}
    )


def _compute(
    ledger: Ledger, run: Run, request: Request, observe: Observer | None, stop: Stop | None
) -> None:
    """Compute what is missing of a run whose lock is held, and record how that ended."""
    tell: Observer = observe or _say_nothing
    goal, work = request.goal, request.work(run.id)
    count = recount(ledger, run, goal, work, (request.scale, request.offset), tell)
    tell(Started(run.id, count.blocks, goal.blocks, request.block, request.spec.backend))
    if count.finished:
        if run.state != "done":
            _finish(ledger, run, count, Ending.of_finished(count))
        return
    nodes = placed(request.spec.nodes.hosts)
    session = ledger.begin(run, request.spec.backend, {n.host: n.slots or 0 for n in nodes})
    try:
        with ledger.writer(run) as writer:
            core = Core(
                work, count, _policy(request), writer, SystemClock(), tell,
                lambda first, stop: list(ledger.counted(run, first, stop)),
            )  # fmt: skip
            loop = Loop(core, stop or Stop(), goal.max_time)
            ending = loop.run(lambda: create(request.spec.backend, nodes))
            writer.flush()
    except StoreError as error:
        error.fix = f"{error.fix}: {resume_command(run.id, ledger.store)}"
        raise
    _finish(ledger, run, count, ending)
    ledger.end(session, ending.wall)


def _finish(ledger: Ledger, run: Run, count: Count, ending: Ending) -> None:
    tally = count.tally()
    ranges = [list(pair) for pair in _clipped(count)]
    ledger.finish(
        run, ending.state.value, ending.stopped_by, ending.drained, count.counted,
        tally_text(tally) if tally else None, ranges,
    )  # fmt: skip


def _clipped(count: Count) -> list[tuple[int, int]]:
    end = count.counted
    if end is None:
        return list(count.done)
    return [(first, min(stop, end)) for first, stop in count.done if first < end]


def _counted(
    ledger: Ledger, run: Run, request: Request, state: str
) -> tuple[Tally | None, list[tuple[int, int]]]:
    """Tally and ranges: as recorded at the run's end, or added up from its rows."""
    if state == run.state and run.ranges is not None:
        ranges = [(first, stop) for first, stop in run.ranges]
        samples = sum(stop - first for first, stop in ranges) * request.block
        return (checked(run.tally, samples) if run.tally else None), ranges
    done, total = Ranges(), None
    for row in ledger.counted(run, 0, request.goal.blocks):
        if row.intact and (request.goal.blocks is None or row.stop <= request.goal.blocks):
            tally = checked(row.tally, (row.stop - row.first) * request.block)
            total = tally if total is None else total.merge(tally)
            done.add(row.first, row.stop)
    return total, list(done)


def _policy(request: Request) -> Policy:
    retry = request.spec.retry
    return Policy(
        raised=retry.attempts or Policy.raised,
        lost=retry.attempts or Policy.lost,
        timeout=retry.timeout,
        wait=request.spec.nodes.wait,
        pinned=request.pinned,
    )


def _asks_more(new: Goal, old: Goal) -> bool:
    """Whether a goal goes beyond another one: more blocks, or another target."""
    if new.target != old.target:
        return True
    if new.blocks is None or old.blocks is None:
        return new.blocks is None and old.blocks is not None
    return new.blocks > old.blocks


def _check_more(new: Goal, old: Goal, run: Run) -> None:
    if not _asks_more(new, old):
        raise UsageError(
            f"run {run.id} is asked for no more than it has: {old.blocks} blocks",
            fix="give more samples, or a tighter target",
        )


def _new_id(name: str) -> str:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return f"{re.sub('[^A-Za-z0-9]+$', '', name[:_LONGEST_NAME])}-{stamp}-{secrets.token_hex(2)}"


def _say_nothing(_event: Event) -> None:
    return None


@contextmanager
def _opened(store: Where | Ledger) -> Iterator[Ledger]:
    if isinstance(store, Ledger):
        yield store
    else:
        with Ledger(Path(store)) as ledger:
            yield ledger
