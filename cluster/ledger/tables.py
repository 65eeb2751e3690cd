"""The tables of a store, and the one statement that fills the large one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

SCHEMA = 5

_WISHES = """CREATE TABLE wish (      -- of people, for a run that is being computed
    key    INTEGER PRIMARY KEY,
    run    INTEGER NOT NULL REFERENCES run,
    hosts  TEXT NOT NULL,              -- JSON: add, drain
    answer TEXT                        -- JSON, of its dispatcher; NULL: none yet
);
"""
_SWEEPS = """CREATE TABLE sweep (     -- many runs of one spec, each in the table of runs
    key        INTEGER PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    name       TEXT NOT NULL,
    created    REAL NOT NULL,
    request    TEXT NOT NULL,          -- over the request keys of its points, to find it again
    spec       TEXT NOT NULL,          -- JSON: the spec as it was sent last
    stopped_by TEXT,                   -- what ended its last start early; NULL: nothing
    progress   TEXT                    -- JSON: where it stands, for readers
);
CREATE INDEX sweep_request ON sweep (request, created);
CREATE TABLE point (                   -- which runs a sweep has; a run may be in several
    sweep INTEGER NOT NULL REFERENCES sweep,
    place INTEGER NOT NULL,            -- in the list, from 0
    run   INTEGER NOT NULL REFERENCES run,
    given TEXT NOT NULL,               -- JSON: what the sweep gives it, by dotted key
    PRIMARY KEY (sweep, place)
) WITHOUT ROWID;
CREATE INDEX point_run ON point (run);
"""
_SESSIONS = """CREATE TABLE session (  -- one start of a run alone, or of a sweep, on one backend
    key     INTEGER PRIMARY KEY,
    sweep   INTEGER REFERENCES sweep,  -- NULL: of a run alone, or of one that is gone
    started REAL NOT NULL,
    wall    REAL,                      -- seconds; NULL: it did not end by itself
    host    TEXT NOT NULL,
    pid     INTEGER NOT NULL,
    backend TEXT NOT NULL,
    nodes   TEXT NOT NULL,             -- JSON: slots by node, the most that each had
    start   TEXT                       -- key of a scheduled start; NULL: a person's
);
CREATE INDEX session_sweep ON session (sweep);
CREATE TABLE turn (                    -- a run in a session: of a sweep, from its first task on
    key     INTEGER PRIMARY KEY,
    session INTEGER NOT NULL REFERENCES session,
    run     INTEGER NOT NULL REFERENCES run,
    started REAL NOT NULL,
    wall    REAL                       -- seconds; NULL: it did not end by itself
);
CREATE INDEX turn_session ON turn (session);
CREATE INDEX turn_run ON turn (run);
CREATE TABLE event (                   -- what happened to a run, or to a sweep and its nodes
    sweep INTEGER REFERENCES sweep,
    run   INTEGER REFERENCES run,
    at    REAL NOT NULL,
    node  TEXT,
    text  TEXT NOT NULL,
    CHECK ((sweep IS NULL) <> (run IS NULL))
);
CREATE INDEX event_sweep ON event (sweep);
CREATE INDEX event_run ON event (run);
"""
# JSON: the places of the points that its starts were to compute; NULL: all.
_ASKED = "ALTER TABLE sweep ADD COLUMN asked TEXT;\n"
# The marks of :mod:`cluster.ledger.marks`; NULL in ``ended``: the run has not ended. ``probe`` is
# the result of the kernel's probe at the run's first start.
_MARKS = """ALTER TABLE run ADD COLUMN own TEXT;
ALTER TABLE run ADD COLUMN ended TEXT;
ALTER TABLE run ADD COLUMN probe TEXT;
ALTER TABLE run ADD COLUMN probed TEXT;
ALTER TABLE sweep ADD COLUMN mark TEXT;
ALTER TABLE point ADD COLUMN mark TEXT;
"""
TABLES = (
    """
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
"""
    + _WISHES
    + _SWEEPS
    + _ASKED
    + _MARKS
    + _SESSIONS
    + """
CREATE TABLE owner (                   -- on a network file system: the one host that may write
    only INTEGER PRIMARY KEY CHECK (only = 1),
    host TEXT NOT NULL,
    pid  INTEGER NOT NULL,
    beat REAL NOT NULL
);
"""
)

_POOLS = """CREATE INDEX session_run ON session (run);
CREATE TABLE pool (                    -- one start of a sweep on one backend
    key     INTEGER PRIMARY KEY,
    sweep   INTEGER NOT NULL REFERENCES sweep,
    started REAL NOT NULL,
    wall    REAL,                      -- seconds; NULL: it did not end by itself
    host    TEXT NOT NULL,
    pid     INTEGER NOT NULL,
    backend TEXT NOT NULL,
    nodes   TEXT NOT NULL              -- JSON: slots by node
);
CREATE INDEX pool_sweep ON pool (sweep);
CREATE TABLE pool_event (              -- what happened to nodes while a pool was up
    pool INTEGER NOT NULL REFERENCES pool,
    at   REAL NOT NULL,
    node TEXT,
    text TEXT NOT NULL
);
CREATE INDEX pool_event_pool ON pool_event (pool);
"""
# Up to the fourth format, a start of a sweep was a pool with its own table of events, and each of
# its points had a session that repeated the pool's columns. Such a session becomes a turn of the
# newest pool of the same process that was open when the session began. A session without a pool is
# that of a run alone, and keeps its key. A damaged store may have rows of missing runs or sweeps;
# they are dropped, because the constraints of the new tables exclude them.
_TOGETHER = (
    """DROP INDEX IF EXISTS session_run;
DROP INDEX IF EXISTS event_run;
ALTER TABLE session RENAME TO old_session;
ALTER TABLE event RENAME TO old_event;
ALTER TABLE old_session ADD COLUMN pool INTEGER;
UPDATE old_session SET pool = (
    SELECT max(p.key) FROM pool AS p JOIN point AS q ON q.sweep = p.sweep
    WHERE q.run = old_session.run AND p.host = old_session.host AND p.pid = old_session.pid
        AND p.backend = old_session.backend AND p.started <= old_session.started
        AND old_session.started <= p.started + coalesce(p.wall, 9e99)
);
"""
    + _SESSIONS
    + """INSERT OR IGNORE INTO session
    SELECT key, NULL, started, wall, host, pid, backend, nodes, start FROM old_session
    WHERE pool IS NULL AND run IN (SELECT key FROM run);
INSERT OR IGNORE INTO session
    SELECT (SELECT coalesce(max(key), 0) FROM old_session) + key,
        (SELECT key FROM sweep WHERE key = p.sweep), started, wall, host, pid, backend, nodes,
        (SELECT max(start) FROM old_session WHERE pool = p.key)
    FROM pool AS p;
INSERT OR IGNORE INTO turn
    SELECT key, coalesce((SELECT max(key) FROM old_session) + pool, key), run, started, wall
    FROM old_session AS o
    WHERE EXISTS (SELECT 1 FROM session
        WHERE key = coalesce((SELECT max(key) FROM old_session) + o.pool, o.key))
    AND run IN (SELECT key FROM run);
INSERT OR IGNORE INTO event
    SELECT NULL, run, at, node, text FROM old_event WHERE run IN (SELECT key FROM run)
    ORDER BY old_event.rowid;
INSERT OR IGNORE INTO event
    SELECT p.sweep, NULL, e.at, e.node, e.text FROM pool_event AS e JOIN pool AS p
    ON p.key = e.pool WHERE p.sweep IN (SELECT key FROM sweep) ORDER BY e.rowid;
DROP TABLE pool_event;
DROP TABLE pool;
DROP TABLE old_session;
DROP TABLE old_event;
"""
)

# What turns a store of an older format into one of the next.
UPGRADES = {
    1: _WISHES + "ALTER TABLE session ADD COLUMN start TEXT;\n" + _SWEEPS + _POOLS,
    2: _ASKED,
    3: _MARKS,
    4: _TOGETHER,
}
# The last format whose rows have no marks.
UNMARKED = 3
UNENDED = (
    "state = 'running', stopped_by = NULL, drained = NULL, counted = NULL, tally = NULL,"
    " ranges = NULL, ended = NULL"
)
# Of :class:`cluster.ledger.marks.End`, its mark, and the run.
FINISH = (
    "UPDATE run SET state = ?, stopped_by = ?, drained = ?, counted = ?, tally = ?, ranges = ?,"
    " ended = ? WHERE key = ?"
)
# Of :class:`cluster.ledger.marks.What`, its mark, the probe and its mark.
INSERT_RUN = (
    "INSERT INTO run (id, name, created, request, identity, definition, goal, own, probe, probed)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
OUTCOME_COLUMNS = 16
# One statement a group: SQLite then works without the interpreter's lock, in parallel with the
# dispatcher, where a call a row would wait for that lock at every row.
INSERT_OUTCOMES = "INSERT INTO outcome SELECT {} FROM json_each(?)".format(
    ", ".join(f"json_extract(value, '$[{column}]')" for column in range(OUTCOME_COLUMNS))
)


def triggers() -> list[str]:
    """The statements that make the triggers of a store."""
    return [each for each in statements(TABLES) if each.startswith("CREATE TRIGGER")]


def statements(script: str) -> Iterator[str]:
    """The statements of a script, one after the other."""
    statement = ""
    for line in script.strip().splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
