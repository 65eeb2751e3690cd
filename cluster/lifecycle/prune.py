"""Old runs: which may be removed, and their removal."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.common.errors import Locked, UsageError
from cluster.common.states import State
from cluster.ledger import Damaged, Ledger, Run, compact, remove


@dataclass(frozen=True)
class Old:
    """A run that may be removed: its id, name and age in seconds."""

    run: str
    name: str
    age_s: float

    def to_json(self) -> dict[str, Any]:
        """The JSON object of a row of ``gc``."""
        return vars(self).copy()


def prunable(
    store: Path = Path("runs"), *, older: float | None = None, keep: int | None = None
) -> list[Old]:
    """The runs that are done and match all the given rules, oldest first.

    Runs that are not done are never among them, since they can be resumed. The points of a sweep
    are removed together, once all are done.

    Args:
        store: the folder.
        older: the least age, in seconds since the run was entered.
        keep: how many of each name stay, the newest ones.

    Raises:
        UsageError: no rule, or no such store.
    """
    if older is None and keep is None:
        raise UsageError("which runs?", fix="--older-than 30d, or --keep 10")
    now, seen = time.time(), dict[str, int]()
    found = []
    with Ledger(store, write=True) as ledger:
        for together in _together(ledger):
            if any(ledger.state(run) != State.DONE.value for run in together):
                continue
            newest = together[0]
            seen[newest.name] = seen.get(newest.name, 0) + 1
            young = older is not None and now - newest.created < older
            if not young and (keep is None or seen[newest.name] > keep):
                found += [Old(run.id, run.name, now - run.created) for run in together]
    return found[::-1]


def _together(ledger: Ledger) -> list[list[Run]]:
    """The runs of a store, newest first; those of a sweep (the newest that has them) as one group.

    Damaged runs are left out, and so is every run of a sweep that has one.
    """
    sweep_of: dict[int, int] = dict(
        ledger.all("SELECT run, max(sweep) FROM point GROUP BY run", ())
    )
    groups: dict[tuple[str, int], list[Run | Damaged]] = {}
    for run in ledger.everything():
        sweep = sweep_of.get(run.key)
        key = ("run", run.key) if sweep is None else ("sweep", sweep)
        groups.setdefault(key, []).append(run)
    whole = ([run for run in group if isinstance(run, Run)] for group in groups.values())
    pairs = zip(whole, groups.values(), strict=True)
    return [runs for runs, group in pairs if len(runs) == len(group)]


def prune(runs: list[Old], store: Path = Path("runs")) -> list[str]:
    """Remove runs for good; returns the ids of the removed ones.

    Runs that are in use, or no longer done, are kept.
    """
    removed = []
    with Ledger(store, write=True) as ledger:
        for old in runs:
            run = ledger.run(old.run)
            if ledger.state(run) != State.DONE.value:
                continue
            try:
                remove(ledger, run)
            except Locked:
                continue
            removed.append(run.id)
        if removed:
            compact(ledger)
    return removed
