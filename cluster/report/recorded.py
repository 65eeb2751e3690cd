"""The result of a run, from what its ledger holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from cluster.ledger import Ledger, Run
from cluster.plan import Ranges
from cluster.report.advice import advice_of
from cluster.report.result import About, Facts, Result, result_of
from cluster.state import State
from cluster.tally import Tally
from cluster.verbs import command
from cluster.work import checked

_ENDED = ("done", "running")


def result_at(ledger: Ledger, row: Run) -> Result:
    """The result of a run, as its ledger has it."""
    about, state = About.of(row), ledger.state(row)
    tally, ranges = _counted(ledger, row, about.block, state)
    sessions = ledger.sessions(row)
    slots = {node: count for session in sessions for node, count in session["nodes"].items()}
    capacity = Counter[str]()
    for session in sessions:
        capacity.update({n: s * session["seconds"] for n, s in session["nodes"].items()})
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
        capacity=capacity,
        backend=sessions[-1]["backend"] if sessions else row.definition["spec"]["backend"],
        wall=sum(session["seconds"] for session in sessions),
        resume=_onward(row, ledger.store) if state not in _ENDED else None,
        advice=advice_of(ledger, row, state),
    )
    return result_of(facts, about)


def _onward(run: Run, store: Path) -> str:
    """What goes on with a run that has ended early: where max_samples did it, twice as many."""
    if run.state != State.PARTIAL.value or run.stopped_by != "max_samples":
        return command("resume", run.id, store=store)
    twice = 2 * (run.goal["blocks"] or 0) * int(run.definition["block"])
    return command("extend", run.id, "--set", f"until.max_samples={twice}", store=store)


def _counted(
    ledger: Ledger, run: Run, block: int, state: str
) -> tuple[Tally | None, list[tuple[int, int]]]:
    """Tally and ranges: as recorded at the run's end, or added up from its rows."""
    if state == run.state and run.ranges is not None:
        ranges = [(first, stop) for first, stop in run.ranges]
        samples = sum(stop - first for first, stop in ranges) * block
        return (checked(run.tally, samples) if run.tally else None), ranges
    done, total = Ranges(), None
    end = run.goal["blocks"]
    for row in ledger.counted(run, 0, end):
        if row.intact and (end is None or row.stop <= end):
            tally = checked(row.tally, (row.stop - row.first) * block)
            total = tally if total is None else total.merge(tally)
            done.add(row.first, row.stop)
    return total, list(done)
