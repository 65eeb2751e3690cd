"""The result of a run or a sweep, read from its ledger."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.common.commands import command
from cluster.common.errors import StoreError
from cluster.common.states import State
from cluster.dispatch import added_up
from cluster.ledger import Ledger, Run, sweeps
from cluster.report.advice import advice_of
from cluster.report.result import (
    About,
    Facts,
    NodeResult,
    PointResult,
    Result,
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
    sweep = sweeps.named(ledger, name)
    if sweep is None:
        return result_at(ledger, ledger.run(name))
    return _sweep_result(ledger, sweep, sweep.asked if asked is None else asked)


def result_at(ledger: Ledger, row: Run) -> Result:
    """The result of a run, from its rows in the ledger."""
    about, state = About.of(row), ledger.state(row)
    tally, ranges, counted = _counted(ledger, row, state)
    sessions = ledger.sessions(row)
    slots = {node: count for session in sessions for node, count in session["nodes"].items()}
    capacity = Counter[str]()
    for session in sessions:
        capacity.update({n: s * session["seconds"] for n, s in session["nodes"].items()})
    # One cheap query; most runs have no failures, and need none of the queries for them.
    troubled = ledger.troubles(row)
    failures = ledger.failures(row) if troubled else []
    facts = Facts(
        # The row has the ending of an earlier start, if the run has been started again since.
        run=row if state == row.state else row._replace(stopped_by=None, drained=None),
        state=state,
        tally=tally,
        ranges=ranges,
        totals=ledger.node_totals(row, counted),
        uncounted=ledger.uncounted_blocks(row) if troubled else {},
        failures=failures,
        failure_counts=ledger.failure_counts(row) if failures else {},
        events=[*(ledger.events(row) if troubled else []), *_damage(ledger, row)],
        slots=slots,
        capacity=capacity,
        backend=sessions[-1]["backend"] if sessions else row.definition["spec"]["backend"],
        wall=sum(session["seconds"] for session in sessions),
        resume=_onward(row, ledger.store) if state not in _ENDED else None,
        advice=advice_of(ledger, row, state),
    )
    return result_of(facts, about)


def _damage(ledger: Ledger, run: Run) -> list[dict[str, Any]]:
    """Damaged rows that were ignored, as events of the present time."""
    texts = [f"row {run.key} of the table run is damaged and left out: {why}" for why in run.faults]
    if run.faults and run.ranges is None:
        texts.append("the result is summed from the counted rows; a resume records it again")
    return [
        {"at": time.time(), "node": None, "text": text} for text in (*texts, *ledger.left_out())
    ]


def _onward(run: Run, store: Path) -> str:
    """The command that continues an unfinished run; after max_samples, one that doubles it."""
    if run.state != State.PARTIAL.value or run.stopped_by != "max_samples":
        return command("resume", run.id, store=store)
    twice = 2 * (run.goal["blocks"] or 0) * int(run.definition["block"])
    return command("extend", run.id, "--set", f"until.max_samples={twice}", store=store)


def _counted(
    ledger: Ledger, run: Run, state: str
) -> tuple[Tally | None, list[tuple[int, int]], int | None]:
    """Tally, block ranges and their end: as recorded when the run ended, or summed from rows."""
    if state == run.state and run.ranges is not None:
        return run.total, [(first, stop) for first, stop in run.ranges], run.counted
    count = added_up(ledger, run)
    return count.tally(), count.ranges, None if state == "running" else count.counted


def _sweep_result(ledger: Ledger, sweep: sweeps.SweepRow, asked: frozenset[int] | None) -> Result:
    rows = sweeps.runs_of(ledger, sweep)
    if not rows:
        raise StoreError(
            f"the sweep {sweep.id} has no points: they were removed, or the store is damaged",
            where=str(ledger.path),
            fix="submit the spec again, which draws what is missing",
        )
    points = [PointResult(place, given, result_at(ledger, run)) for place, given, run in rows]
    results = [point.result for point in points]
    own = [point.result.state for point in points if asked is None or point.point in asked]
    state = state_of(own, sweep.stopped_by)
    ended = state in _ENDED
    first = results[0]
    return Result(
        run=sweep.id,
        name=sweep.name,
        state=state,
        stopped_by=None if ended else sweep.stopped_by,
        drained=None if state == "running" else all(result.drained for result in results),
        backend=sweep.spec["backend"],
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
        wall_s=sum(pool["wall"] for pool in sweeps.pools(ledger, sweep)),
        nodes=_nodes(ledger, sweep, {run.key: run.definition["block"] for _, _, run in rows}),
        failures=[failure for result in results for failure in result.failures],
        events=sweeps.pool_events(ledger, sweep),
        advice=next((r.advice for r in results if r.advice), None),
        resume=None if ended else command("resume", sweep.id, store=ledger.store),
        members=points,
        asked=asked,
    )


def _nodes(ledger: Ledger, sweep: sweeps.SweepRow, blocks: Mapping[int, int]) -> list[NodeResult]:
    """What each node did for all points of a sweep, over all its starts."""
    room: dict[str, float] = defaultdict(float)
    slots: dict[str, int] = {}
    for pool in sweeps.pools(ledger, sweep):
        for node, count in pool["nodes"].items():
            slots[node] = count
            room[node] += count * pool["wall"]
    faults = sweeps.pool_faults(ledger, sweep)
    sums: dict[str, list[float]] = {node: [0.0] * 6 for node in (*slots, *faults)}
    for each in sweeps.pool_totals(ledger, sweep):
        own = sums.setdefault(each.node, [0.0] * 6)
        samples = each.blocks * blocks[each.run]
        parts = (each.tasks, samples, each.wall, each.cpu, each.lost, each.blocks)
        sums[each.node] = [so_far + part for so_far, part in zip(own, parts, strict=True)]
    drawn = sum(own[1] for own in sums.values())
    return [
        NodeResult(
            node=node,
            slots=slots.get(node, 0),
            tasks=int(tasks),
            samples=int(samples),
            share=samples / drawn if drawn else None,
            busy_s=busy,
            cpu_s=cpu,
            samples_per_s=samples / busy if busy else None,
            utilisation=busy / room[node] if room.get(node) else None,
            goodput=counted / (counted + faults.get(node, (0, 0))[1]) if counted else None,
            failures=faults.get(node, (0, 0))[0],
            lost_s=lost,
        )
        for node, (tasks, samples, busy, cpu, lost, counted) in sums.items()
    ]
