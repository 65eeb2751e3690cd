"""The Python interface: the verbs of the command line as functions."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.backends.base import kernels_at_home
from cluster.common.commands import command
from cluster.common.errors import NoAnswer, UsageError
from cluster.dispatch import Clock, Stop, SystemClock
from cluster.dispatch.events import Observer
from cluster.ledger import Ledger, Run, Where, node_changes, opened, request_of, sweeps
from cluster.lifecycle import life
from cluster.lifecycle.forecast import Outlook, look_ahead
from cluster.lifecycle.job import Caller
from cluster.report import pairs, standings
from cluster.report.comparison import Comparison
from cluster.report.recorded import job_result
from cluster.report.result import Result
from cluster.report.standing import RunStatus
from cluster.sampling.task import Fault, Task, perform
from cluster.spec import Spec, hosts_of
from cluster.spec import load as load_spec
from cluster.spec.points import Part
from cluster.spec.request import placed

# Seconds to wait for a running run to acknowledge a request.
_ANSWER_TIMEOUT = 15.0


def load(path: Where, overrides: Sequence[str] = ()) -> Spec:
    """Read a spec.

    Args:
        path: its YAML file.
        overrides: ``key=value`` texts, as after ``--set``.

    Raises:
        SpecError: the spec is invalid; it lists every problem at once.
    """
    return load_spec(path, overrides)


def submit(  # noqa: PLR0913  # each is an option of the command
    spec: Spec,
    *,
    resume: bool = False,
    store: Where | None = None,
    observe: Observer | None = None,
    stop: Stop | None = None,
    pinned: int | None = None,
    points: str | None = None,
    keep_going: bool | None = None,
    yes: bool = False,
) -> Result:
    """Compute a spec as a new run or sweep, and return its result when it ends.

    Each point of a sweep continues the run that its request already has in the store, if any.
    Submitting a sweep again therefore computes only what is missing or has a tighter target.

    Args:
        spec: from :func:`load`.
        resume: continue the newest run of the same request instead, if there is one.
        store: the folder of the ledger; None: that of the spec.
        observe: called with each event of :mod:`cluster.dispatch.events`.
        stop: to drain the run, set its ``reason`` from another thread or a signal handler.
        pinned: fixed length of every task, in blocks, for measurements.
        points: of a sweep, compute only one part of its points: ``k/n`` is the k-th of n parts.
        keep_going: of a sweep, whether the other points continue when one fails; None: as the
            spec says.
        yes: allow a sweep of more than 100,000 points.

    Raises:
        SpecError: the kernel or its parameters are invalid.
        UsageError: the sweep has too many points; or ``points`` is given without a sweep.
        EngineError: there is no usable slot.
        Locked: another process is computing the run.
        StoreError: the store could not be read or written.
    """
    part = None if points is None else Part.read(points)
    caller = Caller(observe, stop, keep_going=keep_going)
    return life.submit(spec, caller, store=store, resume=resume, pinned=pinned, part=part, yes=yes)


def start(
    spec: Spec,
    *,
    store: Where | None = None,
    observe: Observer | None = None,
    stop: Stop | None = None,
    clock: Clock | None = None,
) -> Result:
    """Make one scheduled start of a spec: continue the newest run of its request, or create one.

    A start returns at once if nothing is left to do, outside of the schedule's window, and if an
    earlier start of the same date already used up its ``max_time``: schedulers sometimes fire
    twice, or make up for a missed start.

    Args:
        spec: from :func:`load`.
        store: as for :func:`submit`.
        observe: as for :func:`submit`.
        stop: as for :func:`submit`.
        clock: determines the date and when the window closes; None: the system clock.

    Raises:
        Locked: the previous start is still running.
        SpecError, EngineError, StoreError: as for :func:`submit`.
    """
    return life.start(spec, Caller(observe, stop, clock or SystemClock()), store=store)


def resume(
    run: str,
    store: Where = "runs",
    *,
    overrides: Sequence[str] = (),
    observe: Observer | None = None,
    stop: Stop | None = None,
) -> Result:
    """Continue a run or a sweep from the ledger; a finished one is returned unchanged.

    The spec and the kernel are those recorded with the run; their files are not read. A sweep
    continues with the points that its earlier starts were asked to compute.

    Args:
        run: id of a run or a sweep, or an unambiguous prefix.
        store: the folder of the ledger.
        overrides: ``key=value`` texts; they may change where it runs (backend, nodes, retry), but
            not what it computes.
        observe: as for :func:`submit`.
        stop: as for :func:`submit`.

    Raises:
        UsageError: there is no such run, or an override would change the result.
        EngineError, Locked, StoreError: as for :func:`submit`.
    """
    return life.resume(run, store, Caller(observe, stop), overrides=overrides)


def extend(
    run: str,
    store: Where = "runs",
    *,
    overrides: Sequence[str],
    observe: Observer | None = None,
    stop: Stop | None = None,
) -> Result:
    """Give a run a larger goal and compute it, drawing only the missing blocks.

    Of a sweep every point gets the new goal. Repeating a call that was killed continues it.

    Args:
        run: id of a run or a sweep, or an unambiguous prefix.
        store: the folder of the ledger.
        overrides: the goal as ``key=value`` texts: more ``samples`` or a tighter ``until``; and
            where to run, as for :func:`resume`.
        observe: as for :func:`submit`.
        stop: as for :func:`submit`.

    Raises:
        UsageError: there is no such run, or the new goal is smaller than the present one.
        EngineError, Locked, StoreError: as for :func:`submit`.
    """
    return life.extend(run, store, Caller(observe, stop), overrides=overrides)


def show(run: str, store: Where | Ledger = "runs") -> Result:
    """The present result of a run or a sweep, also while another process computes it.

    Raises:
        UsageError: there is no such run.
        StoreError: the store could not be read, or the run is damaged.
    """
    with opened(store) as ledger:
        return job_result(ledger, run)


def runs(store: Where = "runs") -> list[RunStatus]:
    """The status of every run and sweep of a store, newest first, without that of single points."""
    return standings.standings(store)


def status(run: str, store: Where = "runs") -> RunStatus:
    """The status of a run, or of a sweep and each of its points.

    Raises:
        UsageError: there is no such run.
    """
    return standings.status(run, store)


def compare(a: str, b: str, store: Where = "runs") -> list[Comparison]:
    """Compare two runs, or two sweeps point by point; points match by what the sweep varies.

    Args:
        a: id of a run or a sweep, or an unambiguous prefix.
        b: id of the other one, of the same kind.
        store: the folder of the ledger.

    Returns:
        One comparison of two runs; for sweeps, one for each common point.

    Raises:
        UsageError: there is no such run; only one is a sweep; or they have no common point.
    """
    return pairs.compare(a, b, store)


@dataclass(frozen=True)
class Repro:
    """One block, recomputed in this process.

    Attributes:
        run, block: id of the run, and index of the block.
        tally: the block's tally; None if the kernel failed.
        fault: how the kernel failed, or None.
        wall_s, cpu_s: wall and CPU seconds inside the kernel.
        matches: whether the tally equals the counted one; None if the block is not counted, or
            only as part of a task of several blocks.
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
    """Recompute one block of a run in this process, where a debugger can follow it.

    Args:
        run: id of the run, or an unambiguous prefix.
        block: index of the block, from 0.
        store: the folder of the ledger.

    Raises:
        UsageError: there is no such run, or the block is negative.
    """
    if block < 0:
        raise UsageError(f"a block's index is at least 0, got {block}")
    with opened(store) as ledger:
        row = ledger.run(run)
        work = request_of(ledger, row).work(row.id)
        with kernels_at_home():
            outcome = perform(work, Task(0, block, block + 1, 1, time.time()))
        # A row of several blocks has only their sum, which a single block cannot be compared with.
        counted = [r for r in ledger.counted(row, block, block + 1) if r.stop - r.first == 1]
        matches = counted[0].tally == outcome.tally if counted else None
        tally = json.loads(outcome.tally) if outcome.tally else None
        return Repro(row.id, block, tally, outcome.fault, outcome.wall, outcome.cpu, matches)


def hosts(spec: Spec) -> dict[str, Any]:
    """The hosts of a spec, one by one. Environment values may be secret: only names are listed."""
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
) -> dict[str, Any]:
    """Add hosts to a running run, or drain some of its hosts.

    All points of a sweep that one process computes share its hosts, so a point stands for them all.

    Args:
        run: id of a run, a sweep or a point, or an unambiguous prefix.
        store: the folder of the ledger.
        add: hosts as in a spec, as host lists or as YAML mappings.
        drain: host lists; tasks in progress there are finished and counted first.

    Returns:
        The id as ``run``, and the host names as ``added`` and ``drained``.

    Raises:
        UsageError: the run is not running, or it refused the request; the message says why.
        NoAnswer: it did not answer in time.
    """
    added, drained = hosts_of(add, "--add"), [node.host for node in hosts_of(drain, "--drain")]
    # The loop that computes the run polls the ledger about once a second, and answers in it.
    with Ledger(Path(store), write=True) as ledger:
        name, rows = _find(ledger, run)
        row = _computed_now(ledger, name, rows)
        wish = node_changes.request(ledger, row, added, drained)
        end = time.monotonic() + _ANSWER_TIMEOUT
        while (answer := node_changes.answer_to(ledger, wish)) is None:
            if time.monotonic() > end or not any(map(ledger.holder, rows)):
                raise NoAnswer(f"{name} has not answered; it may have ended")
            time.sleep(0.1)
    if "error" in answer:
        raise UsageError(answer["error"], fix=answer["fix"])
    return {"run": name, **answer}


def _find(ledger: Ledger, name: str) -> tuple[str, list[Run]]:
    """The id of a run and its row; or the id of a sweep and its rows, the last to end first."""
    job = sweeps.job_named(ledger, name)
    return job.id, [run for _, _, run in sweeps.runs_of(ledger, job)][::-1]


def _computed_now(ledger: Ledger, name: str, rows: Sequence[Run]) -> Run:
    """One of the running runs; its process computes them all.

    Raises:
        UsageError: no process computes them, or several do.
    """
    found = {owner.process: row for row in rows if (owner := ledger.holder(row))}
    if not found:
        state = f" ({ledger.state(rows[0])})" if len(rows) == 1 else ""
        onward = command("resume", name, "--set", "nodes=...", store=ledger.store)
        raise UsageError(f"{name} is not being computed{state}", fix=onward)
    if len(found) > 1:
        raise UsageError(
            f"{len(found)} processes compute parts of {name}, each on hosts of its own",
            fix=f"name a point of the part you mean, such as {name}/3",
        )
    return next(iter(found.values()))


def plan(spec: Spec, seconds: float = 2.0, *, yes: bool = False) -> Outlook:
    """What a spec would run, and an estimate of how long it would take.

    Args:
        spec: from :func:`load`.
        seconds: length of a trial run on its backend; 0 skips it, and gives no estimate. For a
            sweep the first point is tried, and the blocks of all points are assumed to cost the
            same.
        yes: allow a sweep of more than 100,000 points.

    Raises:
        SpecError: the kernel or its parameters are invalid.
        UsageError: the sweep has too many points.
        EngineError: the trial found no usable slot.
    """
    return look_ahead(spec, seconds, SystemClock(), yes=yes)
