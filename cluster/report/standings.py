"""The status of all runs and sweeps of a store, read from its ledger alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cluster.common.errors import StoreError
from cluster.common.states import State
from cluster.ledger import Damaged, Ledger, Run, SweepRow, Where, opened, sessions, sweeps
from cluster.report.result import state_of
from cluster.report.standing import (
    PointStatus,
    RunStatus,
    nodes_of,
    owed_samples,
    seconds_left,
    stamp,
    standing_of,
    standing_of_damaged,
)


def standings(store: Where = "runs") -> list[RunStatus]:
    """The status of every sweep, and of every run that is not a point of one; newest first."""
    with opened(store) as ledger:
        together = [_whole_or_damaged(ledger, sweep) for sweep in sweeps.listed(ledger)]
        alone = sweeps.runs_beside(ledger, [standing.run for standing in together])
        others = [
            standing_of(ledger, row) if isinstance(row, Run) else standing_of_damaged(row)
            for row in (*alone, *sweeps.damaged(ledger))
        ]
        # A list of runs would be flooded by the tables of each one's nodes and points.
        rows = [replace(row, nodes=None, by_point=None) for row in (*together, *others)]
        return sorted(rows, key=lambda row: row.created, reverse=True)


def status(name: str, store: Where = "runs") -> RunStatus:
    """The status of a run, or of a sweep with each of its points.

    Raises:
        UsageError: there is no such run or sweep.
    """
    with opened(store) as ledger:
        row = sweeps.job_named(ledger, name)
        if isinstance(row, SweepRow):
            return _whole(ledger, row)
        return replace(standing_of(ledger, row), nodes=nodes_of(row.progress))


def _point(
    ledger: Ledger, place: int, given: Mapping[str, Any], run: Run, begun: tuple[str, int] | None
) -> PointStatus:
    """The status of a point; it is waiting while it is locked but none of its tasks was issued.

    Args:
        ledger: the store.
        place: index of the point in its sweep.
        given: the keys that the sweep varies, with this point's values.
        run: row of the point's run.
        begun: host and pid of the process that started its latest session, if any.
    """
    standing = standing_of(ledger, run)
    holder = standing.holder
    # A sweep locks all its points at once, but a session begins with a point's first task.
    waiting = holder is not None and begun != (holder.host, holder.pid)
    return PointStatus(place, given, waiting, standing)


def _whole_or_damaged(ledger: Ledger, sweep: SweepRow) -> RunStatus:
    """The status of a sweep, which is damaged if one of its points is."""
    try:
        return _whole(ledger, sweep)
    except StoreError as error:
        named = sweep.key, sweep.id, sweep.name, sweep.created
        return standing_of_damaged(Damaged(*named, error))


def _whole(ledger: Ledger, sweep: SweepRow) -> RunStatus:
    begun = sessions.computing(ledger, sweep)
    rows = sweeps.runs_of(ledger, sweep)
    points = tuple(
        _point(ledger, place, given, run, begun.get(run.key)) for place, given, run in rows
    )
    states = [point.standing.state for point in points]
    own = [p.standing.state for p in points if sweep.asked is None or p.point in sweep.asked]
    progress, each = sweep.progress or {}, [point.standing for point in points]
    waiting = sum(point.waiting for point in points)
    goals = [standing.goal_blocks for standing in each]
    whole = RunStatus(
        run=sweep.id,
        name=sweep.name,
        state=state_of(own, sweep.stopped_by),
        created=stamp(sweep.created),
        holder=next((standing.holder for standing in each if standing.holder), None),
        kernel=sweep.spec["kernel"],
        backend=sweep.spec["backend"],
        samples=sum(standing.samples or 0 for standing in each),
        blocks=sum(standing.blocks or 0 for standing in each),
        goal_blocks=None if None in goals else sum(goal or 0 for goal in goals),
        estimate=None,
        std_error=None,
        samples_per_s=progress.get("samples_per_s"),
        elapsed_s=progress.get("elapsed_s"),
        points=len(points),
        points_done=states.count(State.DONE.value),
        points_running=states.count(State.RUNNING.value) - waiting,
        points_waiting=waiting,
        points_failed=states.count(State.FAILED.value),
        damaged="; ".join(sweep.faults) or None,
        nodes=nodes_of(progress),
        by_point=points,
        advice=next((one.advice for one in each if one.advice), None),
    )
    blocks = (run.definition["block"] for _, _, run in rows)
    owed = sum(map(owed_samples, each, blocks))
    return replace(whole, left_s=seconds_left(whole, owed))
