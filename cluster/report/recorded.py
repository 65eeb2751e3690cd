"""The result of a run or a sweep, read from its ledger."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.common.commands import command
from cluster.common.errors import StoreError
from cluster.common.states import State
from cluster.dispatch import added_up
from cluster.ledger import JobRow, Ledger, Run, SweepRow, sessions, sweeps
from cluster.report.advice import advice_of
from cluster.report.result import (
    About,
    Facts,
    PointResult,
    Result,
    node_results,
    result_of,
    state_of,
)
from cluster.sampling.tally import Tally

_ENDED = ("done", "running")


def job_result(ledger: Ledger, name: str, asked: frozenset[int] | None = None) -> Result:
    """The present result of a run or a sweep, also while another process computes it.

    Args:
        ledger: the store.
        name: id of a run, a sweep, or a point of one, or an unambiguous prefix.
        asked: indices of the points that determine the state of the sweep; None: all points that
            any start of it was asked to compute.

    Raises:
        UsageError: there is no such run or sweep.
        StoreError: its rows are damaged, or the sweep has no points.
    """
    return result_at(ledger, sweeps.job_named(ledger, name), asked)


def result_at(ledger: Ledger, job: JobRow, asked: frozenset[int] | None = None) -> Result:
    """The result of a run or a sweep, from its rows in the ledger.

    Args:
        ledger: the store's.
        job: the row of the run or sweep.
        asked: indices of the points that were requested, see :class:`Result`; None: those that the
            row of the sweep has.
    """
    if isinstance(job, SweepRow):
        return _of_members(ledger, job, job.asked if asked is None else asked)
    state = ledger.state(job)
    tally, ranges, counted = _counted(ledger, job, state)
    block, starts = job.definition["block"], sessions.sessions_of(ledger, job)
    # One cheap query; most runs have no failures, and need none of the queries for them.
    troubles = ledger.troubles(job)
    facts = Facts(
        # The row has the ending of an earlier start, if the run has been started again since.
        run=job if state == job.state else job._replace(stopped_by=None, drained=None),
        state=state,
        tally=tally,
        ranges=ranges,
        failures=ledger.failures(job) if troubles else [],
        events=[
            *(sessions.events_of(ledger, job) if troubles else []),
            *_damage(ledger, job),
        ],
        nodes=node_results(
            [(block, total) for total in ledger.node_totals(job, counted)],
            sessions.uncounted(ledger, job) if troubles else {},
            starts,
        ),
        backend=starts[-1]["backend"] if starts else job.backend,
        wall=sum(start["seconds"] for start in starts),
        resume=_onward(job.id, [job], ledger.store) if state not in _ENDED else None,
        advice=advice_of(ledger, job, state),
    )
    return result_of(facts, About.of(job))


def _damage(ledger: Ledger, run: Run) -> list[dict[str, Any]]:
    """Damaged rows that were ignored, as events of the present time."""
    texts = [f"row {run.key} of the table run is damaged and left out: {why}" for why in run.faults]
    if run.faults and run.ranges is None:
        texts.append("the result is summed from the counted rows; a resume records it again")
    return [
        {"at": time.time(), "node": None, "text": text} for text in (*texts, *ledger.left_out())
    ]


def _onward(name: str, unfinished: Sequence[Run], store: Path) -> str:
    """The command that continues a run or a sweep.

    Args:
        name: its id.
        unfinished: the rows of its unfinished runs.
        store: their folder.
    """
    if not (unfinished and all(map(_is_at_its_limit, unfinished))):
        return command("resume", name, store=store)
    # A resume would find nothing owed.
    most = max((run.goal["blocks"] or 0) * int(run.definition["block"]) for run in unfinished)
    return command("extend", name, "--set", f"until.max_samples={2 * most}", store=store)


def _is_at_its_limit(run: Run) -> bool:
    """Whether a run has drawn its max_samples without meeting its target."""
    return run.state == State.PARTIAL.value and run.stopped_by == "max_samples"


def _counted(
    ledger: Ledger, run: Run, state: str
) -> tuple[Tally | None, list[tuple[int, int]], int | None]:
    """Tally, block ranges and their end: as recorded when the run ended, or summed from rows."""
    if state == run.state and run.ranges is not None:
        return run.total, [(first, stop) for first, stop in run.ranges], run.counted
    count = added_up(ledger, run)
    return count.tally(), count.ranges, None if state == "running" else count.counted


def _of_members(ledger: Ledger, sweep: SweepRow, asked: frozenset[int] | None) -> Result:
    """The result of a sweep, put together from those of its points."""
    rows = sweeps.runs_of(ledger, sweep)
    if not rows:
        raise StoreError(
            f"the sweep {sweep.id} has no points: they were removed, or the store is damaged",
            where=str(ledger.path),
            fix="submit the spec again, which draws what is missing",
        )
    points = [PointResult(place, given, result_at(ledger, run)) for place, given, run in rows]
    results = [point.result for point in points]
    requested = [
        (point.result.state, run)
        for point, (_, _, run) in zip(points, rows, strict=True)
        if asked is None or point.point in asked
    ]
    own = [own_state for own_state, _ in requested]
    unfinished = [run for own_state, run in requested if own_state not in (*_ENDED, "failed")]
    state = state_of(own, sweep.stopped_by)
    ended = state in _ENDED
    first, starts = results[0], sessions.sessions_of(ledger, sweep)
    blocks = {run.key: run.definition["block"] for _, _, run in rows}
    return Result(
        run=sweep.id,
        name=sweep.name,
        state=state,
        stopped_by=None if ended else sweep.stopped_by,
        drained=None if state == "running" else all(result.drained for result in results),
        backend=starts[-1]["backend"] if starts else sweep.backend,
        kernel=sweep.spec["kernel"],
        params=dict(sweep.spec.get("params") or {}),
        seed=first.seed,
        block=first.block,
        samples=sum(result.samples for result in results),
        blocks=sum(result.blocks for result in results),
        ranges=[],
        estimate=None,
        std_error=None,
        interval=None,
        confidence=first.confidence,
        reference=None,
        tally=None,
        identity=sweep.request,
        digest=None,
        wall_s=sum(start["seconds"] for start in starts),
        nodes=node_results(
            [(blocks[run], total) for run, total in sessions.totals(ledger, sweep)],
            sessions.uncounted(ledger, sweep),
            starts,
        ),
        failures=[failure for result in results for failure in result.failures],
        events=sessions.events_of(ledger, sweep),
        advice=next((r.advice for r in results if r.advice), None),
        resume=None if ended else _onward(sweep.id, unfinished, ledger.store),
        members=points,
        asked=asked,
    )
