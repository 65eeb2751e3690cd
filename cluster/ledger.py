"""The SQLite file that holds every run: the only truth, and the only writer of results.

A block range is counted once because the database refuses a second one: ``outcome`` has a trigger
on overlap. What was committed is durable (synchronous FULL); a writer thread commits in groups,
so the dispatcher never waits for the disk.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from cluster.errors import Locked, StoreError, UsageError, did_you_mean
from cluster.work import Fault, Outcome, Task, checksum

SCHEMA = 1
FILE = "ledger.sqlite"
SQLITE = sqlite3.sqlite_version

# Kinds of file system that other hosts may write to at the same time. Write-ahead logging needs
# shared memory between all users of the file, which they do not give.
NETWORK = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "fuse.ceph", "fuse.glusterfs", "fuse.sshfs", "gfs2",
    "gpfs", "lustre", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "smb3", "smbfs",
})  # fmt: skip
_OWNER_BEAT = 10.0
_OWNER_DEAD = 60.0
_BUSY = 30.0
_GROUP = 0.02
_MOST_WAITING = 20_000
_LOOK = "check the disk and the rights of the folder, then resume"

_TABLES = """
CREATE TABLE run (
    key        INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    created    REAL NOT NULL,
    request    TEXT NOT NULL,          -- request key: what was asked for, to find it again
    identity   TEXT NOT NULL,
    definition TEXT NOT NULL,          -- JSON: the resolved request, kernel text and all
    goal       TEXT NOT NULL,          -- JSON: until when; extend replaces it
    state      TEXT NOT NULL DEFAULT 'running',
    stopped_by TEXT,
    drained    INTEGER,
    counted    INTEGER,                -- the blocks [0, counted) are the result; NULL: all
    tally      TEXT,                   -- their tally, when this start of the run had ended
    ranges     TEXT,                   -- JSON: and the blocks themselves, merged ranges
    progress   TEXT                    -- JSON: the newest estimate, for readers
);
CREATE INDEX run_request ON run (request, created);
CREATE TABLE session (                 -- one start of a run: submit, resume or extend
    key     INTEGER PRIMARY KEY,
    run     INTEGER NOT NULL REFERENCES run,
    started REAL NOT NULL,
    wall    REAL,                      -- seconds; NULL: it did not end by itself
    host    TEXT NOT NULL,
    pid     INTEGER NOT NULL,
    backend TEXT NOT NULL,
    nodes   TEXT NOT NULL              -- JSON: slots by node
);
CREATE TABLE outcome (                 -- the blocks [first, stop) of a run, counted
    run      INTEGER NOT NULL REFERENCES run,
    first    INTEGER NOT NULL CHECK (first >= 0),
    stop     INTEGER NOT NULL CHECK (stop > first),
    tally    TEXT NOT NULL,
    node     TEXT NOT NULL,
    slot     INTEGER NOT NULL,
    pid      INTEGER NOT NULL,
    attempt  INTEGER NOT NULL,
    created  REAL NOT NULL,            -- dispatcher's clock
    started  REAL NOT NULL,            -- worker's clock
    ended    REAL NOT NULL,            -- worker's clock
    received REAL NOT NULL,            -- dispatcher's clock
    wall     REAL NOT NULL,            -- seconds, steady clock of the worker
    cpu      REAL NOT NULL,
    variant  TEXT NOT NULL,
    checksum TEXT NOT NULL,
    PRIMARY KEY (run, first)
) WITHOUT ROWID;
CREATE TRIGGER outcome_once BEFORE INSERT ON outcome
WHEN (SELECT stop FROM outcome WHERE run = NEW.run AND first < NEW.stop
      ORDER BY first DESC LIMIT 1) > NEW.first
BEGIN SELECT RAISE(ABORT, 'these blocks are counted already'); END;
CREATE TRIGGER outcome_stays BEFORE UPDATE ON outcome
BEGIN SELECT RAISE(ABORT, 'a counted outcome does not change'); END;
CREATE TABLE spare (                   -- computed, and not counted
    run     INTEGER NOT NULL REFERENCES run,
    first   INTEGER NOT NULL,
    stop    INTEGER NOT NULL,
    node    TEXT NOT NULL,
    at      REAL NOT NULL,
    verdict TEXT NOT NULL,             -- equal, differs, unchecked, corrupt, beyond
    tally   TEXT
);
CREATE INDEX spare_run ON spare (run);
CREATE TABLE failure (                 -- attempts that counted nothing
    run       INTEGER NOT NULL REFERENCES run,
    at        REAL NOT NULL,
    block     INTEGER,
    blocks    INTEGER NOT NULL,        -- how many were attempted
    node      TEXT NOT NULL,
    attempt   INTEGER NOT NULL,
    kind      TEXT NOT NULL,
    type      TEXT NOT NULL,
    message   TEXT NOT NULL,
    traceback TEXT NOT NULL
);
CREATE INDEX failure_run ON failure (run);
CREATE TABLE event (                   -- what happened to nodes and to the run
    run  INTEGER NOT NULL REFERENCES run,
    at   REAL NOT NULL,
    node TEXT,
    text TEXT NOT NULL
);
CREATE INDEX event_run ON event (run);
CREATE TABLE owner (                   -- on a network file system: the one host that may write
    only INTEGER PRIMARY KEY CHECK (only = 1),
    host TEXT NOT NULL,
    pid  INTEGER NOT NULL,
    beat REAL NOT NULL
);
"""

_UNENDED = (
    "state = 'running', stopped_by = NULL, drained = NULL, counted = NULL, tally = NULL,"
    " ranges = NULL"
)
_OUTCOME_COLUMNS = 16
# One statement a group: SQLite then works without the interpreter's lock, in parallel with the
# dispatcher, where a call a row would wait for that lock at every row.
_INSERT_OUTCOMES = "INSERT INTO outcome SELECT {} FROM json_each(?)".format(
    ", ".join(f"json_extract(value, '$[{column}]')" for column in range(_OUTCOME_COLUMNS))
)


class Run(NamedTuple):
    """A row of the table of runs; ``state`` is the recorded one, see :meth:`Ledger.state`."""

    key: int
    id: str
    name: str
    created: float
    request: str
    identity: str
    definition: dict[str, Any]
    goal: dict[str, Any]
    state: str
    stopped_by: str | None
    drained: bool | None
    counted: int | None
    tally: str | None
    ranges: list[list[int]] | None
    progress: dict[str, Any] | None


_JSON_COLUMNS = ("definition", "goal", "ranges", "progress")


class Counted(NamedTuple):
    """A counted range of blocks; ``intact`` is False where its checksum does not hold."""

    first: int
    stop: int
    tally: str
    node: str
    intact: bool


class NodeTotals(NamedTuple):
    """Sums over a node's counted outcomes: tasks, blocks, wall and CPU seconds."""

    node: str
    tasks: int
    blocks: int
    wall: float
    cpu: float


@dataclass(frozen=True)
class Owner:
    """Who holds a lock: host, pid and since when (seconds since the epoch)."""

    host: str
    pid: int
    since: float

    @classmethod
    def here(cls) -> Owner:
        """This process, now."""
        return cls(socket.gethostname(), os.getpid(), time.time())

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host} (since {since})"


class Ledger:
    """An open store. Reading disturbs nobody; a run is written by the one who holds its lock.

    Args:
        store: the folder.
        create: make it where it is missing; else that is an error.

    Raises:
        StoreError: it cannot be opened, or was written by a newer version.
    """

    def __init__(self, store: Path, *, create: bool = False) -> None:
        self.store = store
        self.path = store / FILE
        with _translated(self.path):
            if create:
                store.mkdir(mode=0o700, parents=True, exist_ok=True)
            elif not self.path.is_file():
                raise _no_store(store)
            self.network = file_system(store) in NETWORK
            if create:
                _make_private(self.path)
            self._db = self._connect()
            try:
                self._prepare(create)
            except BaseException:
                self.close()
                raise
            self._place = self.path.absolute()
            self._file = _identity(self._place)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with suppress(sqlite3.Error):
            self._db.close()

    # -- runs ---------------------------------------------------------------------------------

    def runs(self) -> list[Run]:
        """Every run, newest first."""
        return list(self._runs("ORDER BY created DESC, key DESC", ()))

    def run(self, name: str) -> Run:
        """The run of that id, or of the only id that starts so.

        Raises:
            UsageError: none, or several.
        """
        pattern = name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        found = list(self._runs("WHERE id LIKE ? ESCAPE '\\' ORDER BY created", (pattern,)))
        exact = [run for run in found if run.id == name]
        if len(exact or found) == 1:
            return (exact or found)[0]
        if found:
            several = ", ".join(run.id for run in found[:5])
            raise UsageError(f"{name!r} begins several runs: {several}", fix="give more of the id")
        ids = [row[0] for row in self._all("SELECT id FROM run", ())]
        raise UsageError(
            f"no run {name!r} in {self.store}",
            fix=did_you_mean(name, ids) or "'cluster ls' lists the runs",
        )

    def newest(self, request: str) -> Run | None:
        """The newest run of a request key, or None."""
        found = self._runs("WHERE request = ? ORDER BY created DESC, key DESC LIMIT 1", (request,))
        return next(found, None)

    def create(
        self, run: str, name: str, request: str, identity: str, definition: object, goal: object
    ) -> Run:
        """Enter a new run."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO run (id, name, created, request, identity, definition, goal)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (run, name, time.time(), request, identity, json.dumps(definition),
                 json.dumps(goal)),
            )  # fmt: skip
        return self.run(run)

    def set_goal(self, run: Run, definition: object, goal: object) -> None:
        """Ask for more of a run; what was recorded of its end is over."""
        with self._transaction():
            self._db.execute(
                f"UPDATE run SET definition = ?, goal = ?, {_UNENDED} WHERE key = ?",
                (json.dumps(definition), json.dumps(goal), run.key),
            )

    def finish(
        self, run: Run, state: str, stopped_by: str, drained: bool, counted: int | None,
        tally: str | None, ranges: object,
    ) -> None:  # fmt: skip
        """Record how a start of a run ended; its result is the blocks [0, counted), or all.

        Of one that did not drain nothing but that is recorded: it may have been cut short in the
        middle of adding, and its rows can be added up again.
        """
        if not drained:
            tally = ranges = None
        with self._transaction():
            self._db.execute(
                "UPDATE run SET state = ?, stopped_by = ?, drained = ?, counted = ?, tally = ?,"
                " ranges = ? WHERE key = ?",
                (state, stopped_by, drained, counted, tally, json.dumps(ranges), run.key),
            )

    def state(self, run: Run) -> str:
        """``running`` while somebody holds its lock, ``interrupted`` where nobody finished it."""
        if holder(self._lock_path(run.id)) is not None:
            return "running"
        return "interrupted" if run.state == "running" else run.state

    def holder(self, run: Run) -> Owner | None:
        """Who holds the run's lock now, or None."""
        return holder(self._lock_path(run.id))

    # -- sessions and locks -------------------------------------------------------------------

    @contextmanager
    def lock(self, run: str) -> Iterator[None]:
        """Hold a run; the lock goes with the process, however it ends.

        Raises:
            Locked: another process holds it; or, on a network file system, another host the store.
        """
        path = self._lock_path(run)
        with _translated(path):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _flock(descriptor, path, run)
            self._own()
            _write_owner(descriptor)
            yield
        finally:
            # A child that was forked meanwhile has the descriptor too: closing frees nothing.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def begin(self, run: Run, backend: str, nodes: Mapping[str, int]) -> int:
        """Enter a start of a run; returns the session's key."""
        me = Owner.here()
        with self._transaction():
            self._db.execute(f"UPDATE run SET {_UNENDED} WHERE key = ?", (run.key,))
            row = self._db.execute(
                "INSERT INTO session (run, started, host, pid, backend, nodes)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (run.key, time.time(), me.host, me.pid, backend, json.dumps(dict(nodes))),
            )
        assert row.lastrowid is not None
        return row.lastrowid

    def end(self, session: int, wall: float) -> None:
        """Record that a session ended by itself after so many seconds."""
        with self._transaction():
            self._db.execute("UPDATE session SET wall = ? WHERE key = ?", (wall, session))

    def sessions(self, run: Run) -> list[dict[str, Any]]:
        """Every start of a run: started, wall (None: it was killed), host, pid, backend, nodes."""
        rows = self._all(
            "SELECT started, wall, host, pid, backend, nodes FROM session WHERE run = ?"
            " ORDER BY key", (run.key,),
        )  # fmt: skip
        names = ("started", "wall", "host", "pid", "backend", "nodes")
        return [{**dict(zip(names, row, strict=True)), "nodes": json.loads(row[5])} for row in rows]

    def wall(self, run: Run) -> float:
        """Seconds over all starts of a run; of one that was killed, to its last outcome."""
        (total,) = self._all(
            "SELECT total(coalesce(wall, (SELECT max(received) FROM outcome WHERE run = s.run AND"
            " received >= s.started AND received < s.next) - s.started, 0)) FROM"
            " (SELECT *, lead(started, 1, 9e99) OVER (ORDER BY key) AS next FROM session"
            "  WHERE run = ?) AS s", (run.key,),
        )[0]  # fmt: skip
        return float(total)

    # -- what was counted ---------------------------------------------------------------------

    def counted(self, run: Run, first: int = 0, stop: int | None = None) -> Iterator[Counted]:
        """The counted ranges that touch the blocks [first, stop), in order, each checked.

        They are streamed: a run of millions of tasks takes no memory to read.
        """
        with _translated(self.path):
            rows = self._db.execute(
                "SELECT first, stop, tally, node, checksum FROM outcome"
                " WHERE run = ? AND stop > ? AND first < ? ORDER BY first",
                (run.key, first, (1 << 62) if stop is None else stop),
            )
            for low, high, tally, node, mark in rows:
                yield Counted(low, high, tally, node, checksum(run.id, low, high, tally) == mark)

    def node_totals(self, run: Run, counted: int | None = None) -> list[NodeTotals]:
        """What each node has of the blocks [0, counted), or of all."""
        rows = self._all(
            "SELECT node, count(*), sum(stop - first), sum(wall), sum(cpu) FROM outcome"
            " WHERE run = ? AND stop <= ? GROUP BY node ORDER BY node",
            (run.key, (1 << 62) if counted is None else counted),
        )
        return [NodeTotals(*row) for row in rows]

    def uncounted_blocks(self, run: Run) -> dict[str, int]:
        """Blocks that each node was given or computed, and that were not counted."""
        rows = self._all(
            "SELECT node, sum(n) FROM (SELECT node, blocks AS n FROM failure WHERE run = ?"
            " UNION ALL SELECT node, stop - first FROM spare WHERE run = ?) GROUP BY node",
            (run.key, run.key),
        )
        return dict(rows)

    def failures(self, run: Run, limit: int = 100) -> list[dict[str, Any]]:
        """The first failures of a run, in order of time."""
        names = ("at", "block", "blocks", "node", "attempt", "kind", "type", "message", "traceback")
        rows = self._all(
            f"SELECT {', '.join(names)} FROM failure WHERE run = ? ORDER BY rowid LIMIT ?",
            (run.key, limit),
        )
        return [dict(zip(names, row, strict=True)) for row in rows]

    def failure_counts(self, run: Run) -> dict[str, int]:
        """How many attempts failed on each node."""
        sql = "SELECT node, count(*) FROM failure WHERE run = ? GROUP BY node"
        return dict(self._all(sql, (run.key,)))

    def events(self, run: Run, limit: int = 1000) -> list[dict[str, Any]]:
        """What happened to nodes and to the run, in order of time."""
        rows = self._all(
            "SELECT at, node, text FROM event WHERE run = ? ORDER BY rowid LIMIT ?",
            (run.key, limit),
        )
        return [dict(zip(("at", "node", "text"), row, strict=True)) for row in rows]

    def spares(self, run: Run) -> list[tuple[int, int, str, str]]:
        """What was computed and not counted: first, stop, node, verdict."""
        return self._all(
            "SELECT first, stop, node, verdict FROM spare WHERE run = ? ORDER BY rowid", (run.key,)
        )

    def set_aside(self, run: Run, row: Counted, verdict: str) -> None:
        """Take a range out of what is counted, and keep it: its blocks are owed again."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO spare SELECT run, first, stop, node, ?, ?, tally FROM outcome"
                " WHERE run = ? AND first = ?", (time.time(), verdict, run.key, row.first),
            )  # fmt: skip
            self._db.execute(
                "DELETE FROM outcome WHERE run = ? AND first = ?", (run.key, row.first)
            )

    def writer(self, run: Run) -> Writer:
        """The thread that writes what a dispatcher counts."""
        return Writer(self, run)

    def check(self) -> str:
        """SQLite's own verdict on the file: ``ok``, or what is wrong."""
        return str(self._all("PRAGMA quick_check(1)", ())[0][0])

    # -- inside -------------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        # Autocommit: every transaction below is written out.
        db = sqlite3.connect(
            self.path, timeout=_BUSY, isolation_level=None, check_same_thread=False
        )
        _set_journal(db, "DELETE" if self.network else "WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")
        # A flipped bit must not keep whole rows from being read: their checksum tells it.
        db.text_factory = _text
        return db

    def _check_there(self) -> None:
        """Raise where the file was removed or replaced: SQLite would go on in what nobody finds."""
        if _identity(self._place) != self._file:
            raise StoreError(
                "the store was removed or replaced while it was written",
                where=str(self.path),
                fix="what was written since then is lost with it; bring it back, then resume",
            )

    def _prepare(self, create: bool) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            if not create:
                raise _no_store(self.store)
            self._make_tables()
        elif version != SCHEMA:
            raise StoreError(
                f"the store has format {version}, this version reads format {SCHEMA}",
                where=str(self.path),
                fix="use the version of cluster that wrote it, or another --store",
            )

    def _make_tables(self) -> None:
        with self._transaction():
            # Another process may have been first.
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _statements(_TABLES):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {SCHEMA}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _translated(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
                raise

    def _all(self, sql: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        with _translated(self.path):
            return self._db.execute(sql, values).fetchall()

    def _runs(self, where: str, values: tuple[object, ...]) -> Iterator[Run]:
        for row in self._all(f"SELECT {', '.join(Run._fields)} FROM run {where}", values):
            run = Run(*row)
            yield run._replace(
                drained=None if run.drained is None else bool(run.drained),
                **{name: json.loads(getattr(run, name) or "null") for name in _JSON_COLUMNS},
            )

    def _lock_path(self, run: str) -> Path:
        return self.store / "locks" / run

    def _own(self) -> None:
        """On a network file system, be the only host that writes, or say who is."""
        if not self.network:
            return
        me = Owner.here()
        with self._transaction():
            row = self._db.execute("SELECT host, pid, beat FROM owner").fetchone()
            if row and row[0] != me.host and time.time() - row[2] < _OWNER_DEAD:
                raise Locked(
                    f"the store {self.store} is on a network file system and in use by process"
                    f" {row[1]} on {row[0]}", fix=f"run there, or wait {_OWNER_DEAD:g} s after it",
                )  # fmt: skip
            self._beat(self._db)

    def _beat(self, db: sqlite3.Connection) -> None:
        me = Owner.here()
        db.execute("INSERT OR REPLACE INTO owner VALUES (1, ?, ?, ?)", (me.host, me.pid, me.since))


class Writer:
    """Commits what a dispatcher hands it, in groups, from a thread of its own.

    A row is durable within 50 ms, or ``flush`` says so earlier. An error of the disk is raised by
    the next call: nothing is ever taken for written that is not.
    """

    def __init__(self, ledger: Ledger, run: Run) -> None:
        self._ledger, self._run = ledger, run
        self._wake = threading.Condition()
        self._outcomes: list[tuple[object, ...]] = []
        self._others: list[tuple[str, tuple[object, ...]]] = []
        self._progress: str | None = None
        self._asked = self._written = 0
        self._closing = self._hurry = False
        self._error: StoreError | None = None
        self._thread = threading.Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        self._thread.join()

    def count(self, task: Task, outcome: Outcome, received: float) -> None:
        """Count the blocks of an outcome."""
        row = (
            self._run.key, outcome.first, outcome.stop, outcome.tally, outcome.node, outcome.slot,
            outcome.pid, task.attempt, task.created, outcome.started, outcome.ended, received,
            outcome.wall, outcome.cpu, outcome.variant, outcome.checksum,
        )  # fmt: skip
        with self._wake:
            self._raise()
            # A disk that cannot keep up holds the dispatcher back; memory stays flat.
            while len(self._outcomes) >= _MOST_WAITING and self._error is None:
                self._wake.wait(_BUSY)
            self._outcomes.append(row)
            self._asked += 1
            if len(self._outcomes) == 1:
                self._wake.notify_all()

    def fail(self, task: Task, fault: Fault, node: str, at: float) -> None:
        """Record an attempt that counted nothing."""
        row = (
            self._run.key, at, fault.block, task.stop - task.first, node, task.attempt,
            fault.kind, fault.type, fault.message, fault.traceback,
        )  # fmt: skip
        self._put("INSERT INTO failure VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    def spare(self, outcome: Outcome, verdict: str, at: float) -> None:
        """Keep an outcome that is not counted, with the reason."""
        row = (self._run.key, outcome.first, outcome.stop, outcome.node, at, verdict, outcome.tally)
        self._put("INSERT INTO spare VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def event(self, node: str | None, text: str, at: float) -> None:
        """Record what happened to a node, or to the run."""
        self._put("INSERT INTO event VALUES (?, ?, ?, ?)", (self._run.key, at, node, text))

    def progress(self, progress: Mapping[str, object]) -> None:
        """Replace what readers see of the running estimate."""
        with self._wake:
            self._raise()
            self._progress = json.dumps(progress)
            self._wake.notify_all()

    def flush(self, timeout: float = 60.0) -> None:
        """Return when all that was handed over is durable.

        Raises:
            StoreError: it could not be written, or not within the timeout.
        """
        deadline = time.monotonic() + timeout
        with self._wake:
            wanted, self._hurry = self._asked, True
            self._wake.notify_all()
            while self._written < wanted and self._error is None:
                if not self._wake.wait(max(0.0, deadline - time.monotonic())):
                    break
            self._raise()
            if self._written < wanted:
                text = f"the disk took more than {timeout:g} s"
                raise StoreError(text, where=str(self._path), fix=_LOOK)

    @property
    def _path(self) -> Path:
        return self._ledger.path

    def _put(self, sql: str, row: tuple[object, ...]) -> None:
        with self._wake:
            self._raise()
            self._others.append((sql, row))
            self._asked += 1
            self._wake.notify_all()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            with _translated(self._path):
                db = self._ledger._connect()
                try:
                    while self._gather():
                        self._commit(db)
                finally:
                    db.close()
        except Exception as error:  # whatever it is, nobody may wait for this thread
            with self._wake:
                self._error = error if isinstance(error, StoreError) else _broken(error, self._path)
                self._wake.notify_all()

    def _gather(self) -> bool:
        """Wait for something to write, then a moment longer for company; False at the end."""
        beat = _OWNER_BEAT if self._ledger.network else None
        with self._wake:
            while not (self._outcomes or self._others or self._progress or self._closing):
                if not self._wake.wait(beat):
                    return True
            done = self._closing and not (self._outcomes or self._others or self._progress)
            if not done:
                self._wake.wait_for(lambda: self._hurry or self._closing, _GROUP)
        return not done

    def _commit(self, db: sqlite3.Connection) -> None:
        with self._wake:
            outcomes, self._outcomes = self._outcomes, []
            others, self._others = self._others, []
            progress, self._progress = self._progress, None
            self._hurry = False
            self._wake.notify_all()
        db.execute("BEGIN IMMEDIATE")
        if outcomes:
            db.execute(_INSERT_OUTCOMES, (json.dumps(outcomes),))
        for sql, row in others:
            db.execute(sql, row)
        if progress:
            db.execute("UPDATE run SET progress = ? WHERE key = ?", (progress, self._run.key))
        if self._ledger.network:
            self._ledger._beat(db)
        db.execute("COMMIT")
        self._ledger._check_there()
        with self._wake:
            self._written += len(outcomes) + len(others)
            self._wake.notify_all()


def file_system(path: Path) -> str:
    """The type of the file system that holds a path, as ``/proc/self/mountinfo`` names it.

    Empty where that cannot be told.
    """
    try:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return ""
    real = path.resolve()
    best, kind = -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = Path(before.split()[4].replace("\\040", " "))
        if real.is_relative_to(mount) and len(mount.parts) >= best:
            best, kind = len(mount.parts), after.split()[0]
    return kind


def holder(path: Path) -> Owner | None:
    """Who holds a lock file, or None."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_owner(descriptor)
    finally:
        os.close(descriptor)
    return None


def _no_store(store: Path) -> StoreError:
    return StoreError(f"there is no store in {store}", fix="name it with --store, or submit first")


def _set_journal(db: sqlite3.Connection, mode: str) -> None:
    """Set the journal's mode; SQLite waits for every other lock, but not for the one of this."""
    deadline = time.monotonic() + _BUSY
    while True:
        try:
            db.execute(f"PRAGMA journal_mode = {mode}")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _make_private(path: Path) -> None:
    """Make an empty file for the owner alone; SQLite gives its side files the same rights."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file, or None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _broken(error: Exception, path: Path) -> StoreError:
    return StoreError(f"{type(error).__name__}: {error}", where=str(path), fix=_LOOK)


def _flock(descriptor: int, path: Path, run: str) -> None:
    # A reader that asks who holds the lock takes it for an instant: one refusal proves nothing.
    for _ in range(10):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.02)
    owner = _read_owner(descriptor)
    raise Locked(
        f"run {run} is held by {owner}", where=str(path), fix="wait for it, or stop it first"
    )


def _read_owner(descriptor: int) -> Owner:
    try:
        return Owner(**json.loads(os.pread(descriptor, 4096, 0)))
    except (ValueError, TypeError):
        return Owner("an unknown host", 0, 0.0)


def _write_owner(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(vars(Owner.here())).encode(), 0)


def _statements(script: str) -> Iterator[str]:
    statement = ""
    for line in script.strip().splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system raise into a StoreError that names the file and the cure."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"{error}", where=str(path), fix=_cure(error)) from error
    except OSError as error:
        raise StoreError(f"{error.strerror or error}", where=str(path), fix=_LOOK) from error


def _cure(error: sqlite3.Error) -> str:
    text = str(error)
    if "counted already" in text:
        return "see that no other process works on this run, then resume"
    if "full" in text:
        return "free some space, then resume; nothing that was counted is lost"
    if "locked" in text:
        return f"another process kept the store busy for {_BUSY:g} s; try again"
    if "malformed" in text or "not a database" in text:
        return "the file is damaged: restore it, or recover it with sqlite3's .recover"
    return _LOOK
