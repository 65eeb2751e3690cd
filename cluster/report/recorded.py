"""The result of a run, from what its ledger holds."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from cluster.common.commands import command
from cluster.common.states import State
from cluster.dispatch import added_up
from cluster.ledger import Ledger, Run
from cluster.report.advice import advice_of
from cluster.report.result import About, Facts, Result, result_of
from cluster.sampling.tally import Tally

_ENDED = ("done", "running")


def result_at(ledger: Ledger, row: Run) -> Result:
    """The result of a run, as its ledger has it."""
    about, state = About.of(row), ledger.state(row)
    tally, ranges, counted = _counted(ledger, row, state)
    sessions = ledger.sessions(row)
    slots = {node: count for session in sessions for node, count in session["nodes"].items()}
    capacity = Counter[str]()
    for session in sessions:
        capacity.update({n: s * session["seconds"] for n, s in session["nodes"].items()})
    told = ledger.troubles(row)
    failures = ledger.failures(row) if told else []
    facts = Facts(
        run=row if state == row.state else row._replace(stopped_by=None, drained=None),
        state=state,
        tally=tally,
        ranges=ranges,
        totals=ledger.node_totals(row, counted),
        uncounted=ledger.uncounted_blocks(row) if told else {},
        failures=failures,
        failure_counts=ledger.failure_counts(row) if failures else {},
        events=[*(ledger.events(row) if told else []), *_left_out(ledger, row)],
        slots=slots,
        capacity=capacity,
        backend=sessions[-1]["backend"] if sessions else row.definition["spec"]["backend"],
        wall=sum(session["seconds"] for session in sessions),
        resume=_onward(row, ledger.store) if state not in _ENDED else None,
        advice=advice_of(ledger, row, state),
    )
    return result_of(facts, about)


def _left_out(ledger: Ledger, run: Run) -> list[dict[str, Any]]:
    """What of the ledger could not be believed, as events of now."""
    words = [f"row {run.key} of the table run is damaged and left out: {why}" for why in run.faults]
    if run.faults and run.ranges is None:
        words.append("the result is added up from what is counted; a resume records it anew")
    return [
        {"at": time.time(), "node": None, "text": word} for word in (*words, *ledger.left_out())
    ]


def _onward(run: Run, store: Path) -> str:
    """What goes on with a run that has ended early: where max_samples did it, twice as many."""
    if run.state != State.PARTIAL.value or run.stopped_by != "max_samples":
        return command("resume", run.id, store=store)
    twice = 2 * (run.goal["blocks"] or 0) * int(run.definition["block"])
    return command("extend", run.id, "--set", f"until.max_samples={twice}", store=store)


def _counted(
    ledger: Ledger, run: Run, state: str
) -> tuple[Tally | None, list[tuple[int, int]], int | None]:
    """Tally and ranges, as recorded at the run's end or added up from its rows; and their end."""
    if state == run.state and run.ranges is not None:
        return run.total, [(first, stop) for first, stop in run.ranges], run.counted
    count = added_up(ledger, run)
    return count.tally(), count.ranges, None if state == "running" else count.counted
