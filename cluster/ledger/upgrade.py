"""Adds marks to the rows of a store of a format that had none."""

from __future__ import annotations

import sqlite3

from cluster.ledger.judge import Wrong, identity_holds, parsed
from cluster.ledger.marks import UNENDED, End, What, point_mark, probe_mark, sweep_mark, taken_apart

_RUN = "id, name, created, request, identity, definition, goal"
_END = "state, stopped_by, drained, counted, tally, ranges"


def mark_rows(db: sqlite3.Connection) -> None:
    """Mark every row of a store that was written without marks. Call it in a transaction.

    A run is marked only if its definition gives the identity that is recorded with it: any other
    stays unmarked, and is refused when it is read. The probe moves out of the definition.
    """
    for (key,) in db.execute("SELECT key FROM run").fetchall():
        _mark_run(db, key)
    for row in db.execute(
        "SELECT key, id, name, created, request, spec, asked FROM sweep"
    ).fetchall():
        key, *columns = row
        db.execute("UPDATE sweep SET mark = ? WHERE key = ?", (sweep_mark(*columns), key))
    points = db.execute(
        "SELECT s.id, p.place, p.run, p.given, p.sweep FROM point AS p JOIN sweep AS s"
        " ON s.key = p.sweep"
    ).fetchall()
    db.executemany(
        "UPDATE point SET mark = ? WHERE sweep = ? AND place = ?",
        [(point_mark(*row), sweep, row[1]) for *row, sweep in points],
    )


def _mark_run(db: sqlite3.Connection, key: int) -> None:
    row = db.execute(f"SELECT {_RUN}, {_END} FROM run WHERE key = ?", (key,)).fetchone()
    what, end = What(*row[:7]), End(*row[7:])
    try:
        definition = parsed("definition", what.definition, dict)
        whole = identity_holds(definition, what.identity)
        text, probe = taken_apart(definition)
    except Wrong:
        return
    if not whole or not isinstance(probe, str | None):
        return
    what = what._replace(definition=text)
    db.execute(
        "UPDATE run SET definition = ?, own = ?, ended = ?, probe = ?, probed = ? WHERE key = ?",
        (
            text,
            what.mark,
            None if end == UNENDED else end.mark(what.id),
            probe,
            probe_mark(what.id, probe),
            key,
        ),
    )
