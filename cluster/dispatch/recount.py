"""What a run's ledger holds, counted again at each of its starts."""

from __future__ import annotations

from cluster.dispatch.events import (
    Alarm,
    Observer,
)
from cluster.ledger import Counted, Ledger, Run
from cluster.sampling.plan import Goal
from cluster.sampling.progress import Count
from cluster.sampling.tally import TallyError
from cluster.sampling.task import Work


def recount(
    ledger: Ledger,
    run: Run,
    goal: Goal,
    work: Work,
    scaling: tuple[float, float],
    observe: Observer,
) -> Count:
    """Count what the ledger holds of a run, as far as its goal reaches.

    A row that is damaged, or that reaches over the goal's end, is set aside: its blocks are owed.
    """
    count = Count(goal, *scaling)
    aside: list[tuple[Counted, str]] = []
    for row in ledger.counted(run, goal.first, goal.blocks):
        verdict = tried(row, count, work.block)
        if verdict is not None:
            aside.append((row, verdict))
    for row, verdict in aside:
        ledger.set_aside(run, row, verdict)
        if verdict == "corrupt":
            text = f"the ledger's row of blocks {row.first} to {row.stop - 1} is damaged"
            observe(Alarm(f"{text}; they are computed again", row.node))
    return count


def added_up(ledger: Ledger, run: Run) -> Count:
    """The same of a run whose lock others may hold: nothing is set aside, and nothing written."""
    definition = run.definition
    count = Count(Goal.from_json(run.goal), definition["scale"], definition["offset"])
    for row in ledger.counted(run, count.goal.first, count.goal.blocks):
        tried(row, count, definition["block"])
    return count


def tried(row: Counted, count: Count, block: int) -> str | None:
    """Count a row of blocks of so many samples; why it cannot be counted, or None."""
    tally = row.read(block)
    # Rows come in order; the database refuses two that overlap, unless its triggers were dropped.
    if tally is None or count.done.overlaps(row.first, row.stop):
        return "corrupt"
    if row.first < count.goal.first or count.checkpoints.crosses(row.first, row.stop):
        return "beyond"
    try:
        count.add(row.first, row.stop, tally)
    except TallyError:  # of another kind than the rows before it
        return "corrupt"
    return None
