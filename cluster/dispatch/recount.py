"""What a run's ledger holds, counted again at each of its starts."""

from __future__ import annotations

from cluster.count import Count
from cluster.events import (
    Alarm,
    Observer,
)
from cluster.ledger import Counted, Ledger, Run
from cluster.plan import Goal
from cluster.work import Work, checked


def recount(ledger: Ledger, run: Run, goal: Goal, work: Work, scaling: tuple[float, float],
            observe: Observer) -> Count:  # fmt: skip
    """Count what the ledger holds of a run, as far as its goal reaches.

    A row that is damaged, or that reaches over the goal's end, is set aside: its blocks are owed.
    """
    count = Count(goal, *scaling)
    aside: list[tuple[Counted, str]] = []
    for row in ledger.counted(run, goal.first, goal.blocks):
        verdict = _verdict(row, count)
        if verdict is None:
            count.add(row.first, row.stop, checked(row.tally, (row.stop - row.first) * work.block))
        else:
            aside.append((row, verdict))
    for row, verdict in aside:
        ledger.set_aside(run, row, verdict)
        if verdict == "corrupt":
            text = f"the ledger's row of blocks {row.first} to {row.stop - 1} is damaged"
            observe(Alarm(f"{text}; they are computed again", row.node))
    return count


def _verdict(row: Counted, count: Count) -> str | None:
    if not row.intact:
        return "corrupt"
    if count.checkpoints.crosses(row.first, row.stop):
        return "beyond"
    return None
