"""The Python interface: what the command line does, as functions."""

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

# Seconds to wait for a run's word.
_PATIENCE = 15.0


def load(path: Where, overrides: Sequence[str] = ()) -> Spec:
    """Read a spec; ``overrides`` are ``key=value`` texts, as after ``--set``.

    Raises:
        SpecError: everything that is wrong with it, at once.
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
    """Compute a spec: a new run, or with ``resume`` the newest of the same request, if any.

    A sweep is a run with points. Each goes on with the run that its request has in the store, if
    there is one: a sweep that is sent again computes what is missing, and what was asked to be
    tighter.

    Args:
        spec: from :func:`load`.
        resume: go on with the newest run of the same request instead, if there is one.
        store: the folder of the ledger, instead of the spec's.
        observe: called with each :mod:`cluster.dispatch.events` event.
        stop: set its ``reason`` from another thread or a signal handler to drain.
        pinned: blocks of every task, for measurements.
        points: of a sweep, only one part of its points: ``k/n`` is the k-th of n.
        keep_going: of a sweep, whether a failed point leaves the others alone, instead of the
            spec's word.
        yes: more than 100,000 points of a sweep are meant.

    Raises:
        SpecError: the kernel or its parameters do not fit.
        UsageError: the points are too many, or are asked for where there is no sweep.
        EngineError: no usable slot.
        Locked: the run to go on with is held by another process.
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
    return life.start(spec, Caller(observe, stop, clock or SystemClock()), store=store)


def resume(
    run: str,
    store: Where = "runs",
    *,
    overrides: Sequence[str] = (),
    observe: Observer | None = None,
    stop: Stop | None = None,
) -> Result:
    """Go on with a run or a sweep, from what its ledger holds; a finished one is returned as it is.

    Neither the spec's file nor the kernel's is read. ``overrides`` may change where it runs
    (backend, nodes, retry), never what it computes. A sweep goes on with the points that its
    starts were to compute.

    Raises what :func:`submit` raises, and UsageError where there is no such run.
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
    """Ask more of a run: more ``samples`` or a tighter ``until``, drawing only new blocks.

    Of a sweep more is asked of each point. The same wish again, as after a start of it that was
    killed, goes on to what it asked for.

    Raises what :func:`submit` raises, and UsageError where the new goal asks for less.
    """
    return life.extend(run, store, Caller(observe, stop), overrides=overrides)


def show(run: str, store: Where | Ledger = "runs") -> Result:
    """A run or a sweep as it stands, also while another process computes it.

    Raises:
        UsageError: there is none.
    """
    with opened(store) as ledger:
        return job_result(ledger, run)


def runs(store: Where = "runs") -> list[RunStatus]:
    """Where the runs and sweeps of a store stand, newest first; points are not told one by one."""
    return standings.standings(store)


def status(run: str, store: Where = "runs") -> RunStatus:
    """Where a run stands, or a sweep with each of its points.

    Raises:
        UsageError: there is none.
    """
    return standings.status(run, store)


def compare(a: str, b: str, store: Where = "runs") -> list[Comparison]:
    """Two runs, or the points of two sweeps that are given the same.

    Raises:
        UsageError: no such run or sweep; one of each; or two sweeps without a common point.
    """
    return pairs.compare(a, b, store)


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
        work = request_of(ledger, row).work(row.id)
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
) -> dict[str, Any]:
    """Have a run that is being computed work on further hosts, and on others no more.

    All points of a sweep that a process computes share its hosts: each stands for all of them.

    Args:
        run: its id, or how that begins; or a sweep's, or a point of one.
        store: the folder of the ledger.
        add: hosts as a spec has them, as texts or as the YAML of a mapping.
        drain: host lists; what they were given is finished and counted.

    Returns:
        ``run``, ``added`` and ``drained``: names.

    Raises:
        UsageError: it is not being computed, or does not do it, for a reason that it gives.
        NoAnswer: it has not answered in time.
    """
    added, drained = hosts_of(add, "--add"), [node.host for node in hosts_of(drain, "--drain")]
    with Ledger(Path(store), write=True) as ledger:
        name, rows = _meant(ledger, run)
        row = _computed_now(ledger, name, rows)
        wish = node_changes.request(ledger, row, added, drained)
        end = time.monotonic() + _PATIENCE
        while (answer := node_changes.answer_to(ledger, wish)) is None:
            if time.monotonic() > end or not any(map(ledger.holder, rows)):
                raise NoAnswer(f"{name} has not answered; it may have ended")
            time.sleep(0.1)
    if "error" in answer:
        raise UsageError(answer["error"], fix=answer["fix"])
    return {"run": name, **answer}


def _meant(ledger: Ledger, name: str) -> tuple[str, list[Run]]:
    """The id of a run, and its row; or that of a sweep, and its runs, those that end last first."""
    job = sweeps.job_named(ledger, name)
    return job.id, [run for _, _, run in sweeps.runs_of(ledger, job)][::-1]


def _computed_now(ledger: Ledger, name: str, rows: Sequence[Run]) -> Run:
    """One of the runs that is being computed, where one process does that.

    Raises:
        UsageError: none does, or several do.
    """
    found = {owner.process: row for row in rows if (owner := ledger.holder(row))}
    if not found:
        state = f" ({ledger.state(rows[0])})" if len(rows) == 1 else ""
        onward = command("resume", name, "--set", "nodes=...", store=ledger.store)
        raise UsageError(f"{name} is not being computed{state}", fix=onward)
    if len(found) > 1:
        raise UsageError(
            f"{len(found)} processes compute parts of {name}, each on hosts of its own",
            fix=f"name a point of the part that is meant, such as {name}/3",
        )
    return next(iter(found.values()))


def plan(spec: Spec, seconds: float = 2.0, *, yes: bool = False) -> Outlook:
    """What a spec would run.

    Args:
        spec: from :func:`load`.
        seconds: of trial on its backend, which say how long it will take; 0: none. Of a sweep the
            first point is tried, and every block is taken to cost what one of its does.
        yes: more than 100,000 points of a sweep are meant.

    Raises what :func:`submit` raises.
    """
    return look_ahead(spec, seconds, SystemClock(), yes=yes)
