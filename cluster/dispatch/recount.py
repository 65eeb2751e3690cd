"""Counting a run's ledger rows, at each of its starts."""

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
    """Count the rows of a run, up to the end of its goal.

    Rows that are damaged, or that cross a checkpoint or the goal's end, are set aside, so that
    their blocks are computed again.

    Args:
        ledger: the store's.
        run: the run; its lock must be held.
        goal: may be another one than at the last start.
        work: of the run.
        scaling: ``(scale, offset)`` of the estimate.
        observe: gets an alarm for each damaged row.
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
    """The same for readers, without the run's lock: bad rows are skipped, nothing is written."""
    definition = run.definition
    count = Count(Goal.from_json(run.goal), definition["scale"], definition["offset"])
    for row in ledger.counted(run, count.goal.first, count.goal.blocks):
        tried(row, count, definition["block"])
    return count


def tried(row: Counted, count: Count, block: int) -> str | None:
    """Count a row if that is possible.

    Args:
        row: of the ledger.
        count: to add it to.
        block: samples per block.

    Returns:
        None, or why it was not counted: ``corrupt`` or ``beyond`` the goal.
    """
    tally = row.read(block)
    # A trigger of the database prevents overlapping rows, but a forged store may lack it.
    if tally is None or count.done.overlaps(row.first, row.stop):
        return "corrupt"
    if row.first < count.goal.first or count.checkpoints.crosses(row.first, row.stop):
        return "beyond"
    try:
        count.add(row.first, row.stop, tally)
    except TallyError:  # another kind than the rows before it
        return "corrupt"
    return None
