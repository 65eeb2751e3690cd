"""What the tests of the ledger share: rows made by hand, a second connection, a small disk."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cluster import testing
from cluster.ledger import FILE, Ledger, Run, RunWriter, sessions
from cluster.sampling.task import Outcome, Task, checksum
from cluster.testing import work_of
from tests.conftest import need

# What is mounted there is called so in the table of mounts.
SMALL_DISK = "cluster-test"


def entered(ledger: Ledger, name: str = "run") -> Run:
    """A new run of that id."""
    return testing.entered(ledger, replace(work_of(), run=name))


def begin(
    ledger: Ledger, run: Run, backend: str, nodes: dict[str, int], start: str | None = None
) -> int:
    """Enter a start of a run; its key."""
    return sessions.begin(ledger, run, backend, nodes, start, time.time())


def tally(first: int, stop: int) -> str:
    """A tally of a block range."""
    return f'{{"hits":{stop - first},"kind":"hits","samples":{64 * (stop - first)}}}'


def outcome(first: int, stop: int, run: str = "run", text: str | None = None) -> Outcome:
    """A counted outcome of node ``a``."""
    text = tally(first, stop) if text is None else text
    mark = checksum(run, first, stop, text)
    return Outcome(1, first, stop, text, None, 7, 1.0, 2.0, 1.0, 0.5, "python", mark, "a", 0)


def put(writer: RunWriter, first: int, stop: int, text: str | None = None) -> None:
    """Count a block range."""
    writer.count(Task(1, first, stop, 1, 0.5), outcome(first, stop, text=text), 3.0)


def insert(ledger: Ledger, run: Run, first: int, stop: int) -> None:
    """Count a block range, and wait until it is durable."""
    with ledger.writer(run) as writer:
        put(writer, first, stop)
        writer.flush()


@contextmanager
def by_hand(store: Path) -> Iterator[sqlite3.Connection]:
    """A plain connection to the file of a store, committed at its end."""
    db = sqlite3.connect(store / FILE)
    try:
        yield db
        db.commit()
    finally:
        db.close()


def damage(store: Path, column: str, first: int, value: bytes) -> None:
    """Write bytes over a column of a counted row, as a flipped bit would."""
    with by_hand(store) as db:
        trigger, text = db.execute(
            "SELECT name, sql FROM sqlite_schema WHERE name = 'outcome_stays'"
        ).fetchone()
        db.execute(f"DROP TRIGGER {trigger}")
        db.execute(f"UPDATE outcome SET {column} = CAST(? AS TEXT) WHERE first = ?", (value, first))
        db.execute(text)


def with_pools(db: sqlite3.Connection) -> None:
    """Make the tables of a store those of the fourth format: starts of sweeps were pools."""
    db.executescript(
        """
        DROP INDEX event_run;
        ALTER TABLE session RENAME TO new_session;
        ALTER TABLE event RENAME TO new_event;
        CREATE TABLE session (key INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES run,
            started REAL NOT NULL, wall REAL, host TEXT NOT NULL, pid INTEGER NOT NULL,
            backend TEXT NOT NULL, nodes TEXT NOT NULL, start TEXT);
        CREATE INDEX session_run ON session (run);
        CREATE TABLE pool (key INTEGER PRIMARY KEY, sweep INTEGER NOT NULL REFERENCES sweep,
            started REAL NOT NULL, wall REAL, host TEXT NOT NULL, pid INTEGER NOT NULL,
            backend TEXT NOT NULL, nodes TEXT NOT NULL);
        CREATE INDEX pool_sweep ON pool (sweep);
        CREATE TABLE event (run INTEGER NOT NULL REFERENCES run, at REAL NOT NULL, node TEXT,
            text TEXT NOT NULL);
        CREATE INDEX event_run ON event (run);
        CREATE TABLE pool_event (pool INTEGER NOT NULL REFERENCES pool, at REAL NOT NULL,
            node TEXT, text TEXT NOT NULL);
        CREATE INDEX pool_event_pool ON pool_event (pool);
        INSERT INTO session SELECT t.key, t.run, t.started, t.wall, s.host, s.pid, s.backend,
            s.nodes, s.start FROM turn AS t JOIN new_session AS s ON s.key = t.session;
        INSERT INTO pool SELECT key, sweep, started, wall, host, pid, backend, nodes
            FROM new_session WHERE sweep IS NOT NULL;
        INSERT INTO event SELECT run, at, node, text FROM new_event WHERE run IS NOT NULL;
        INSERT INTO pool_event SELECT p.key, e.at, e.node, e.text FROM new_event AS e
            JOIN (SELECT sweep, max(key) AS key FROM pool GROUP BY sweep) AS p ON p.sweep = e.sweep;
        DROP TABLE turn;
        DROP TABLE new_event;
        DROP TABLE new_session;
        PRAGMA user_version = 4;
        """
    )


def without_marks(db: sqlite3.Connection) -> None:
    """Make the rows of a store what they were in the third format, which had no marks."""
    with_pools(db)
    db.execute(
        "UPDATE run SET definition = json_set(definition, '$.probe', probe) WHERE probe IS NOT NULL"
    )
    for column in ("own", "ended", "probe", "probed"):
        db.execute(f"ALTER TABLE run DROP COLUMN {column}")
    for table in ("sweep", "point"):
        db.execute(f"ALTER TABLE {table} DROP COLUMN mark")
    db.execute("PRAGMA user_version = 3")


@contextmanager
def small_disk(folder: Path, options: str) -> Iterator[Path]:
    """A file system in memory, mounted at a folder with these options."""
    folder.mkdir()
    need(os.geteuid() == 0, "root, to mount a small disk")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", options, SMALL_DISK, folder])
    need(mounted.returncode == 0, "the right to mount a file system (a container may lack it)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, options: str) -> None:
    """Change the options of a small disk."""
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)
