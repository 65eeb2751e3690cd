"""Runs that move: their rows taken over by another store's run, and runs that are removed."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import suppress

from cluster.ledger.locks import holder
from cluster.ledger.rows import Run
from cluster.ledger.store import Ledger, log_of
from cluster.ledger.tables import OUTCOME_COLUMNS
from cluster.work import checksum

# All that hangs on a run, the run itself last.
_TABLES = ("outcome", "spare", "failure", "event", "session", "wish", "point")
_EMPTY = "SELECT key FROM sweep WHERE key NOT IN (SELECT sweep FROM point)"


def take_over(ledger: Ledger, run: Run, giver: Ledger, given: Run, without: set[int]) -> int:
    """Count in ``run`` what another store's run of the same identity has counted.

    Damaged rows, and those whose first block is in ``without``, stay where they are; the starts
    of that run become starts of this one. All of it is done, or nothing.

    Returns:
        How many rows were taken over.

    Raises:
        StoreError: one of them overlaps what is counted, or the disk failed.
    """
    places = ", ".join("?" * OUTCOME_COLUMNS)
    before = ledger.db.total_changes
    with ledger.transaction():
        ledger.db.executemany(
            f"INSERT INTO outcome VALUES ({places})", _rows(run, giver, given, without)
        )
        taken = ledger.db.total_changes - before
        if taken:
            ledger.db.executemany(
                "INSERT INTO session (run, started, wall, host, pid, backend, nodes)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(run.key, *row) for row in giver.all(
                    "SELECT started, wall, host, pid, backend, nodes FROM session WHERE run = ?"
                    " ORDER BY key", (given.key,))],
            )  # fmt: skip
    return taken


def remove(ledger: Ledger, run: Run) -> None:
    """Take a run out of its store, for good; nobody may be computing it.

    Raises:
        Locked: somebody is.
        StoreError: the disk failed.
    """
    with ledger.lock(run.id):
        with ledger.transaction():
            for table in _TABLES:
                ledger.db.execute(f"DELETE FROM {table} WHERE run = ?", (run.key,))
            ledger.db.execute("DELETE FROM run WHERE key = ?", (run.key,))
            _remove_empty_sweeps(ledger)
        for path in (log_of(run.id, ledger.store), ledger.store / "locks" / run.id):
            with suppress(OSError):
                path.unlink()


def _remove_empty_sweeps(ledger: Ledger) -> None:
    pools = f"SELECT key FROM pool WHERE sweep IN ({_EMPTY})"
    ledger.db.execute(f"DELETE FROM pool_event WHERE pool IN ({pools})")
    ledger.db.execute(f"DELETE FROM pool WHERE sweep IN ({_EMPTY})")
    ledger.db.execute(f"DELETE FROM sweep WHERE key IN ({_EMPTY})")


def compact(ledger: Ledger) -> None:
    """Give the space of what was removed back to the disk, unless a run of the store is held now.

    SQLite keeps every writer out until it is done, which of a large store takes long.
    """
    if any(holder(path) for path in (ledger.store / "locks").iterdir()):
        return
    with suppress(sqlite3.OperationalError):
        ledger.db.execute("VACUUM")


def _rows(run: Run, giver: Ledger, given: Run, without: set[int]) -> Iterator[tuple[object, ...]]:
    rows = giver.db.execute("SELECT * FROM outcome WHERE run = ? ORDER BY first", (given.key,))
    for row in rows:
        _, first, stop, tally, *others, mark = row
        if first not in without and checksum(given.id, first, stop, tally) == mark:
            yield run.key, first, stop, tally, *others, checksum(run.id, first, stop, tally)
