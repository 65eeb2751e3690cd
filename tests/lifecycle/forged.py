"""Stores as somebody might send them: any value in any column, and every mark made to hold."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from cluster.cli import run
from cluster.ledger import FILE
from cluster.ledger.marks import UNENDED, End, What, point_mark, probe_mark, sweep_mark
from cluster.sampling.task import checksum
from tests.cli.shell import spec

DEEP = "[" * 5000 + "]" * 5000
VALUES: tuple[Any, ...] = (
    "",
    "x",
    "nan",
    "null",
    "[]",
    "{}",
    "[[1, 0]]",
    '{"add": 1, "drain": [2]}',
    '{"blocks": NaN}',
    DEEP,
    "9" * 5000,
    "/etc/passwd",
    "../../x",
    "x\x1b[2Jy",
    "x\0y",
    b"\xff\x00",
    -1,
    0,
    1.5,
    1 << 62,
    1e300,
    float("inf"),
)
#: What is in every store that is made here, with what it is joined by left out.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "run": (
        "id",
        "name",
        "created",
        "request",
        "identity",
        "definition",
        "goal",
        "state",
        "stopped_by",
        "drained",
        "counted",
        "tally",
        "ranges",
        "progress",
        "own",
        "ended",
        "probe",
        "probed",
    ),
    "session": ("sweep", "started", "wall", "host", "pid", "backend", "nodes", "start"),
    "turn": ("session", "started", "wall"),
    "outcome": (
        "first",
        "stop",
        "tally",
        "node",
        "slot",
        "pid",
        "attempt",
        "created",
        "started",
        "ended",
        "received",
        "wall",
        "cpu",
        "variant",
        "checksum",
    ),
    "spare": ("first", "stop", "node", "at", "verdict", "tally"),
    "failure": ("at", "block", "blocks", "node", "attempt", "kind", "type", "message", "traceback"),
    "event": ("sweep", "run", "at", "node", "text"),
    "wish": ("key", "hosts", "answer"),
    "sweep": (
        "id",
        "name",
        "created",
        "request",
        "spec",
        "stopped_by",
        "progress",
        "asked",
        "mark",
    ),
    "point": ("place", "given", "mark"),
}
_WHAT = "id, name, created, request, identity, definition, goal"
_END = "state, stopped_by, drained, counted, tally, ranges"


def made(folder: Path) -> None:
    """A folder with a store of two runs and a sweep of two points, and something in every table."""
    one, store = str(spec(folder, backend="serial", samples=4000)), str(folder / "runs")
    for name in ("healthy", "victim"):
        assert run(["submit", one, "--set", f"name={name}", "--store", store, "--quiet"]) == 0
    many = ["submit", one, "--set", "seed=1, 2", "--store", store, "--quiet"]
    assert run(many) == 0
    with opened(folder) as db:
        (key,) = db.execute("SELECT key FROM run WHERE name = 'victim'").fetchone()
        db.execute("INSERT INTO spare VALUES (?, 0, 1, 'n', 1.0, 'equal', NULL)", (key,))
        failure = (key, 1.0, 0, 1, "n", 1, "raised", "E", "no", "trace")
        db.execute(f"INSERT INTO failure VALUES ({', '.join('?' * 10)})", failure)
        event = "INSERT INTO event ({}, at, node, text) VALUES (?, 1.0, 'n', 'gone')"
        db.execute(event.format("run"), (key,))
        db.execute('INSERT INTO wish VALUES (1, ?, \'{"add": [], "drain": []}\', NULL)', (key,))
        (sweep,) = db.execute("SELECT key FROM sweep").fetchone()
        db.execute(event.format("sweep"), (sweep,))


def copied(folder: Path, to: Path) -> Path:
    """A folder like another one."""
    shutil.copytree(folder, to)
    return to


def opened(folder: Path) -> closing[sqlite3.Connection]:
    """A store's file, without what the database itself refuses; each statement is committed."""
    db = sqlite3.connect(folder / "runs" / FILE, isolation_level=None)
    db.execute("PRAGMA ignore_check_constraints = ON")
    for (trigger,) in db.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'trigger'"
    ).fetchall():
        db.execute(f"DROP TRIGGER {trigger}")
    return closing(db)


def forge(folder: Path, table: str, column: str, value: object) -> bool:
    """Write a value into one row of a table, the victim's, and make all marks hold again.

    False where SQLite refuses that value there, or where the column is a mark.
    """
    where = "name = 'victim'" if table == "run" else "rowid = (SELECT min(rowid) FROM {})"
    if table in ("outcome", "point"):
        where = {
            "outcome": "run = (SELECT key FROM run WHERE name = 'victim') AND first = 0",
            "point": "place = 0",
        }[table]
    with opened(folder) as db:
        try:
            db.execute(f"UPDATE {table} SET {column} = ? WHERE {where.format(table)}", (value,))
        except (sqlite3.IntegrityError, OverflowError):
            return False
        seal(db, but=column)
    return True


def seal(db: sqlite3.Connection, *, but: str = "") -> None:
    """Make the marks of every row hold, as somebody does who knows how; but those of a column."""
    for key, *row, probe in db.execute(f"SELECT key, {_WHAT}, {_END}, probe FROM run").fetchall():
        what, end = What(*row[:7]), End(*row[7:])
        ended = None if end == UNENDED else end.mark(what.id)
        marks = {"own": what.mark, "ended": ended, "probed": probe_mark(what.id, probe)}
        for column in marks.keys() - {but}:
            db.execute(f"UPDATE run SET {column} = ? WHERE key = ?", (marks[column], key))
        if but != "checksum":
            _seal_outcomes(db, key, what.id)
    if but != "mark":
        _seal_sweeps(db)


def _seal_outcomes(db: sqlite3.Connection, key: int, name: str) -> None:
    rows = db.execute("SELECT first, stop, tally FROM outcome WHERE run = ?", (key,)).fetchall()
    db.executemany(
        "UPDATE outcome SET checksum = ? WHERE run = ? AND first = ?",
        [(checksum(name, *row), key, row[0]) for row in rows],
    )


def _seal_sweeps(db: sqlite3.Connection) -> None:
    columns = "key, id, name, created, request, spec, asked"
    for key, *row in db.execute(f"SELECT {columns} FROM sweep").fetchall():
        db.execute("UPDATE sweep SET mark = ? WHERE key = ?", (sweep_mark(*row), key))
        points = db.execute("SELECT place, run, given FROM point WHERE sweep = ?", (key,))
        db.executemany(
            "UPDATE point SET mark = ? WHERE sweep = ? AND place = ?",
            [(point_mark(row[0], *point), key, point[0]) for point in points.fetchall()],
        )


def cases(rng: random.Random) -> Iterator[tuple[str, str, object]]:
    """Every table, column and value, in an order of chance."""
    every = [
        (table, column, value)
        for table, columns in COLUMNS.items()
        for column in columns
        for value in VALUES
    ]
    rng.shuffle(every)
    yield from every


def everything(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but those of stores, by its path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not {"runs", "out"} & set(path.relative_to(folder).parts)
    }
