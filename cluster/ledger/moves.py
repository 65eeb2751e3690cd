"""Takes over the rows of a run from another store, and removes runs."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from typing import Any

from cluster.common.errors import StoreError
from cluster.ledger.faults import translated
from cluster.ledger.judge import OUTCOME, SESSION, SPAN, wrong_column
from cluster.ledger.locks import holder
from cluster.ledger.paths import log_of
from cluster.ledger.rows import Counted, Run
from cluster.ledger.store import Ledger
from cluster.ledger.tables import OUTCOME_COLUMNS, UNENDED
from cluster.sampling.tally import Tally, TallyError
from cluster.sampling.task import checked, checksum

# Tables with rows of a run, besides the table of runs.
_TABLES = ("outcome", "spare", "failure", "event", "turn", "wish", "point")
# Of a session of another store: the key of a schedule is not ours.
_STARTS = {**SPAN, **{name: SESSION[name] for name in ("host", "pid", "backend", "nodes")}}
# Rows that are read at a time.
_MANY = 1000
# A run's sessions; those of a sweep stay with the sweep.
_ALONE = (
    "SELECT s.key FROM session AS s JOIN turn AS t ON t.session = s.key"
    " WHERE t.run = ? AND s.sweep IS NULL"
)
_HAS_TURN = "EXISTS (SELECT 1 FROM turn WHERE turn.session = session.key)"
_EMPTY = "SELECT key FROM sweep WHERE key NOT IN (SELECT sweep FROM point)"


def judged(giver: Ledger, given: Run) -> Iterator[tuple[Counted, Tally, tuple[Any, ...]]]:
    """The counted rows of a run, each fully validated: its range, tally and all columns.

    Rows whose checksum does not match are left out; their blocks will be computed again.

    Args:
        giver: the store.
        given: the run.

    Returns:
        Of each row: its range, its tally, and the columns of ``OUTCOME``.

    Raises:
        StoreError: a row is impossible although its checksum matches.
    """
    block, like = given.definition["block"], None
    columns = ", ".join(OUTCOME)
    with translated(giver.path):
        rows = giver.db.execute(
            f"SELECT {columns} FROM outcome WHERE run = ? ORDER BY first", (given.key,)
        )
        ahead = rows.fetchmany(_MANY)
        while ahead:
            for counted, row in zip(giver.read(given, ahead), ahead, strict=True):
                if counted.intact:
                    tally = _whole(giver, given, counted, row, block)
                    like = like or tally
                    yield counted, _alike(giver, given, counted, tally, like), row
            ahead = rows.fetchmany(_MANY)


def take_over(ledger: Ledger, run: Run, giver: Ledger, given: Run, without: Collection[int]) -> int:
    """Count in a run what another store's run of the same identity has counted.

    All of it is done, or nothing. Damaged rows are left where they are. The sessions of the other
    run become sessions of this one, and this run is open again.

    Args:
        ledger: the store that takes the rows.
        run: its run, which this process has locked.
        giver: the store that has them.
        given: the run there.
        without: first blocks of rows to leave out.

    Returns:
        How many rows were taken over.

    Raises:
        StoreError: a row is impossible or overlaps counted blocks, or the disk failed.
    """
    places = ", ".join("?" * OUTCOME_COLUMNS)
    before = ledger.db.total_changes
    with ledger.transaction():
        ledger.db.executemany(
            f"INSERT INTO outcome (run, {', '.join(OUTCOME)}) VALUES ({places})",
            _rows(run, giver, given, without),
        )
        taken = ledger.db.total_changes - before
        if taken:
            ledger.db.execute(f"UPDATE run SET {UNENDED} WHERE key = ?", (run.key,))
            _take_sessions(ledger, run, giver, given)
    return taken


def _take_sessions(ledger: Ledger, run: Run, giver: Ledger, given: Run) -> None:
    """Make the turns of another store's run sessions of this one, which was computed alone."""
    rows = giver.all(
        "SELECT t.key, t.started, t.wall, s.host, s.pid, s.backend, s.nodes"
        " FROM turn AS t JOIN session AS s ON s.key = t.session WHERE t.run = ? ORDER BY t.key",
        (given.key,),
    )
    for row in giver.believed("session", _STARTS, rows):
        session = ledger.db.execute(
            f"INSERT INTO session ({', '.join(_STARTS)}) VALUES (?, ?, ?, ?, ?, ?)", row
        ).lastrowid
        ledger.db.execute(
            "INSERT INTO turn (session, run, started, wall) VALUES (?, ?, ?, ?)",
            (session, run.key, *row[:2]),
        )


def remove(ledger: Ledger, run: Run) -> None:
    """Remove a run from its store for good, and any sweep whose last point it was.

    Raises:
        Locked: the run is being computed.
        StoreError: the disk failed.
    """
    with ledger.lock(run.id):
        with ledger.transaction():
            alone = ledger.all(_ALONE, (run.key,))
            for table in _TABLES:
                ledger.db.execute(f"DELETE FROM {table} WHERE run = ?", (run.key,))
            ledger.db.executemany(f"DELETE FROM session WHERE key = ? AND NOT {_HAS_TURN}", alone)
            ledger.db.execute("DELETE FROM run WHERE key = ?", (run.key,))
            _remove_empty_sweeps(ledger)
        for path in (log_of(run.id, ledger.store), ledger.lock_path(run.id)):
            with suppress(OSError):
                path.unlink()


def _remove_empty_sweeps(ledger: Ledger) -> None:
    ledger.db.execute(f"DELETE FROM event WHERE sweep IN ({_EMPTY})")
    ledger.db.execute(f"DELETE FROM session WHERE sweep IN ({_EMPTY}) AND NOT {_HAS_TURN}")
    # A run that was a point once, and was replaced, keeps the times at which it was computed.
    ledger.db.execute(f"UPDATE session SET sweep = NULL WHERE sweep IN ({_EMPTY})")
    ledger.db.execute(f"DELETE FROM sweep WHERE key IN ({_EMPTY})")


def compact(ledger: Ledger) -> None:
    """Return the space of removed runs to the disk, unless a run of the store is locked now.

    SQLite keeps all writers out while it does so, which takes long for a large store.
    """
    if any(holder(path) for path in ledger.locks.iterdir()):
        return
    with suppress(sqlite3.OperationalError):
        ledger.db.execute("VACUUM")


def _rows(
    run: Run, giver: Ledger, given: Run, without: Collection[int]
) -> Iterator[tuple[object, ...]]:
    for counted, _, row in judged(giver, given):
        if counted.first not in without:
            mark = checksum(run.id, counted.first, counted.stop, counted.tally)
            yield run.key, *row[:-1], mark


def _whole(giver: Ledger, given: Run, counted: Counted, row: Sequence[Any], block: int) -> Tally:
    """The tally of a row whose checksum matches, if all of its columns are valid."""
    column = wrong_column(OUTCOME, row)
    if column is not None:
        raise _refused(giver, given, counted, f"column {column}: {ascii(row)[:80]}")
    try:
        return checked(counted.tally, (counted.stop - counted.first) * block)
    except TallyError as error:
        raise _refused(giver, given, counted, f"column tally: {error}"[:300]) from None


def _alike(giver: Ledger, given: Run, counted: Counted, tally: Tally, like: Tally) -> Tally:
    try:
        like.check_like(tally)
    except TallyError as error:
        raise _refused(giver, given, counted, f"column tally: {error}"[:300]) from None
    return tally


def _refused(giver: Ledger, given: Run, counted: Counted, why: str) -> StoreError:
    return StoreError(
        f"the row of blocks {counted.first} to {counted.stop - 1} of {given.id} is impossible,"
        f" though its checksum matches: table outcome, {why}; nothing was merged",
        where=str(giver.path),
        fix="have that part computed again where it comes from, or leave this store out",
    )
