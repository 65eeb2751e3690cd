"""Sessions and events: when a run or a sweep was computed, by which process, and what happened.

A session is one start of a run alone, or of a sweep, on one backend. Each run that it computed has
a turn in it: a run alone from the beginning, a point from its first task on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from cluster.ledger.judge import EVENT, SESSION, SPAN, is_count
from cluster.ledger.locks import Owner
from cluster.ledger.marks import End
from cluster.ledger.rows import JobRow, NodeTotals, Run, SweepRow
from cluster.ledger.store import POSSIBLE, Ledger, node_name, sum_of
from cluster.ledger.tables import FINISH, UNENDED
from cluster.ledger.writer import GroupCommitter

# A result shows the newest events, up to this many.
_MOST_EVENTS = 1000
# The most at a time: a node that is lost has had them all the same.
_SLOTS = (
    "UPDATE session SET nodes = json_set(nodes, ?, max(?, coalesce(json_extract(nodes, ?), 0)))"
    " WHERE key = ?"
)
_NOTE = "INSERT INTO event (sweep, run, at, node, text) VALUES (?, ?, ?, ?, ?)"


class _Kind(NamedTuple):
    """How the rows of a run, or of a sweep, are selected; each clause has the key as parameter.

    Attributes:
        column: the column with the key, in the tables of events and of ``spans``.
        spans: the table with the times at which it was computed.
        session: the column of ``spans`` with the session.
        runs: the clause that selects its runs, for tables with a column ``run``.
    """

    column: str
    spans: str
    session: str
    runs: str

    def during(self, time: str) -> str:
        """The clause that selects rows of its runs from the times at which it was computed itself.

        A point can also be computed alone, as a run; a sweep only reports what its own sessions
        drew. The clause has the key as parameter once for a run, and twice for a sweep.

        Args:
            time: the column with the time of a row.
        """
        if self.spans == "turn":
            return self.runs
        return (
            f"{self.runs} AND EXISTS (SELECT 1 FROM session WHERE sweep = ? AND {time} >= started"
            f" AND {time} <= started + coalesce(wall, 9e99))"
        )


_RUN = _Kind("run", "turn", "session", "run = ?")
_SWEEP = _Kind("sweep", "session", "key", "run IN (SELECT run FROM point WHERE sweep = ?)")


# -- sessions -------------------------------------------------------------------------------------


def sessions_of(ledger: Ledger, job: JobRow) -> list[dict[str, Any]]:
    """Every start of a run or a sweep: started, seconds, host, pid, backend, nodes, start.

    For a start that was killed or is still running, ``seconds`` extend to its last outcome.
    ``nodes`` are slots by name; ``start`` is the key of a scheduled start.
    """
    kind = _kind(job)
    # A killed start records no end; its outcomes are those before the next start.
    spans = (
        f"SELECT key, {kind.session} AS session, started, wall, lead(started, 1, 9e99)"
        f" OVER (ORDER BY key) AS next FROM {kind.spans} WHERE {kind.column} = ?"
    )
    last = (
        f"SELECT max(received) FROM outcome WHERE {kind.runs} AND received >= p.started"
        " AND received < p.next"
    )
    rows = ledger.all(
        f"SELECT p.key, p.started, coalesce(p.wall, ({last}) - p.started, 0.0),"
        f" s.key, {', '.join(f's.{name}' for name in SESSION)}"
        f" FROM ({spans}) AS p JOIN session AS s ON s.key = p.session ORDER BY p.key",
        (job.key, job.key),
    )
    found = []
    for row in rows:
        span = ledger.believed(kind.spans, SPAN, [row[:3]])
        own = ledger.believed("session", SESSION, [row[3:]])
        if span and own:
            (started, seconds), session = span[0], dict(zip(SESSION, own[0], strict=True))
            session["nodes"] = json.loads(session["nodes"])
            found.append({"started": started, "seconds": seconds, **session})
    return found


def computing(ledger: Ledger, sweep: SweepRow) -> dict[int, tuple[str, int]]:
    """The process (host, pid) that last began to compute each run of a sweep, by the run's key."""
    rows = ledger.all(
        "SELECT t.run, s.host, s.pid, max(t.key) FROM turn AS t JOIN session AS s"
        f" ON s.key = t.session WHERE t.{_SWEEP.runs} GROUP BY t.run",
        (sweep.key,),
    )
    return {run: (host, pid) for run, host, pid, _ in rows}


def had_their_time(ledger: Ledger, sweep: SweepRow, start: str) -> frozenset[int]:
    """The runs (keys) whose last computation, by a scheduled start, ended at a time limit.

    The limit is a run's own, or that of the whole sweep, which then ends all of its runs.

    Args:
        ledger: the store.
        sweep: the sweep.
        start: the key of the scheduled start.
    """
    of_run = (
        "SELECT s.start FROM turn AS t JOIN session AS s ON s.key = t.session WHERE t.run = p.run"
        " ORDER BY t.key DESC LIMIT 1"
    )
    of_sweep = "SELECT start FROM session WHERE sweep = w.key ORDER BY key DESC LIMIT 1"
    rows = ledger.all(
        "SELECT p.run FROM sweep AS w JOIN point AS p ON p.sweep = w.key JOIN run AS r"
        " ON r.key = p.run WHERE w.key = ?"
        f" AND (w.stopped_by = 'max_time' AND ({of_sweep}) = ?"
        f" OR r.stopped_by = 'max_time' AND ({of_run}) = ?)",
        (sweep.key, start, start),
    )
    return frozenset(run for (run,) in rows)


def totals(ledger: Ledger, sweep: SweepRow) -> list[tuple[int, NodeTotals]]:
    """What each node counted in the sessions of a sweep, by run: pairs of a run's key and sums."""
    lost = "max(0.0, (o.received - o.created) - o.wall)"
    rows = ledger.all(
        f"SELECT o.run, o.node, count(*), sum(o.stop - o.first), sum({POSSIBLE.format('o.wall')}),"
        f" sum({POSSIBLE.format('o.cpu')}), sum(CASE WHEN o.started > 0 THEN {lost} ELSE 0.0 END)"
        f" FROM outcome AS o WHERE {_SWEEP.during('o.received')} GROUP BY o.node, o.run",
        (sweep.key, sweep.key),
    )
    return [(run, NodeTotals(node_name(node), *map(sum_of, sums))) for run, node, *sums in rows]


def uncounted(ledger: Ledger, job: JobRow) -> dict[str, tuple[int, int]]:
    """The failed attempts of each node, and the number of blocks that it began or drew in vain.

    Nodes without any are left out. For a sweep, only its own sessions are considered.
    """
    ours = _kind(job).during("at")
    rows = ledger.all(
        f"SELECT node, sum(failed), sum(blocks) FROM (SELECT node, 1 AS failed, blocks FROM failure"
        f" WHERE {ours} UNION ALL SELECT node, 0, stop - first FROM spare WHERE {ours})"
        " GROUP BY node",
        (job.key,) * 2 * ours.count("?"),
    )
    return {node_name(node): (int(sum_of(n)), int(sum_of(blocks))) for node, n, blocks in rows}


def _kind(job: JobRow) -> _Kind:
    return _SWEEP if isinstance(job, SweepRow) else _RUN


# -- events ---------------------------------------------------------------------------------------


def events_of(ledger: Ledger, job: JobRow) -> list[dict[str, Any]]:
    """The newest events of a run, or of a sweep and its nodes, in order of time."""
    rows = ledger.all(
        f"SELECT rowid, at, node, text FROM event WHERE {_kind(job).column} = ?"
        " ORDER BY rowid DESC LIMIT ?",
        (job.key, _MOST_EVENTS),
    )
    believed = ledger.believed("event", EVENT, reversed(rows))
    return [dict(zip(EVENT, row, strict=True)) for row in believed]


def events_since(ledger: Ledger, job: JobRow, number: int) -> Iterator[tuple[int, str | None, str]]:
    """The events after a known one: the number, node and text of each.

    Args:
        ledger: the store.
        job: the run or the sweep.
        number: of the known event; 0: all events.
    """
    rows = ledger.all(
        f"SELECT rowid, rowid, at, node, text FROM event WHERE {_kind(job).column} = ?"
        " AND rowid > ? ORDER BY rowid",
        (job.key, number),
    )
    for found, _, node, text in ledger.believed("event", {"rowid": is_count, **EVENT}, rows):
        yield found, node, text


def last_event(ledger: Ledger, job: JobRow) -> int:
    """The number of the newest event; 0 if there is none."""
    newest = f"SELECT coalesce(max(rowid), 0) FROM event WHERE {_kind(job).column} = ?"
    return int(ledger.all(newest, (job.key,))[0][0])


def note(ledger: Ledger, job: JobRow, text: str) -> None:
    """Record an event from any process: it is no result, so no lock is needed.

    Args:
        ledger: the store.
        job: the run or the sweep.
        text: what happened.
    """
    with ledger.transaction():
        ledger.db.execute(_NOTE, (*_keys(job), time.time(), None, text))


def note_once(ledger: Ledger, run: Run, text: str, since: float) -> bool:
    """Record a request of another process to the one that computes a run.

    Args:
        ledger: the store.
        run: the run.
        text: the request, in words.
        since: seconds since the epoch; an earlier request was for an earlier start of the run.

    Returns:
        False: it has been recorded already since then.
    """
    with ledger.transaction():
        found = ledger.db.execute(
            "INSERT INTO event (run, at, text) SELECT ?, ?, ? WHERE NOT EXISTS"
            " (SELECT 1 FROM event WHERE run = ? AND text = ? AND at >= ?)",
            (run.key, time.time(), text, run.key, text, since),
        )
        return found.rowcount == 1


def _keys(job: JobRow) -> tuple[int | None, int | None]:
    """Sweep and run of an event."""
    return (job.key, None) if isinstance(job, SweepRow) else (None, job.key)


# -- written while it is computed -----------------------------------------------------------------


def begin(
    ledger: Ledger,
    job: JobRow,
    backend: str,
    nodes: Mapping[str, int],
    start: str | None,
    at: float,
) -> int:
    """Enter a session. The turn of a run alone begins with it.

    Args:
        ledger: the store.
        job: the run or the sweep, whose locks are held.
        backend: name of the engine.
        nodes: slots by node.
        start: the key of a scheduled start; None: a person started it.
        at: now, in seconds since the epoch.

    Returns:
        The key of the session.

    Raises:
        Locked: on a network file system, another host owns the store.
        StoreError: the disk failed.
    """
    me = Owner.here()
    ledger.own()
    sweep, _ = _keys(job)
    row = sweep, at, me.host, me.pid, backend, json.dumps(dict(nodes)), start
    with ledger.transaction():
        key = ledger.db.execute(
            "INSERT INTO session (sweep, started, host, pid, backend, nodes, start)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            row,
        ).lastrowid
        assert key is not None
        if isinstance(job, Run):
            for sql, values in _beginning(job, key, at):
                ledger.db.execute(sql, values)
    return key


def _beginning(run: Run, session: int, at: float) -> Iterator[tuple[str, tuple[object, ...]]]:
    """The statements that begin a run's turn."""
    if run.state != "running":
        yield f"UPDATE run SET {UNENDED} WHERE key = ?", (run.key,)
    yield "INSERT INTO turn (session, run, started) VALUES (?, ?, ?)", (session, run.key, at)


class SessionWriter:
    """Writes what a dispatcher records about a session, and about its runs as a whole.

    Args:
        committer: writes the rows, in groups.
        job: the run or the sweep.
        session: its key, from :func:`begin`.
    """

    def __init__(self, committer: GroupCommitter, job: JobRow, session: int) -> None:
        self._committer, self._job, self._session = committer, job, session

    def begin(self, run: Run, at: float) -> None:
        """Begin the turn of a point, as its first task is given out."""
        for sql, values in _beginning(run, self._session, at):
            # The turn may end in the same group, whose early statements are executed first.
            self._committer.put(sql, values, late=False)

    def end(self, run: Run, wall: float) -> None:
        """Record how many seconds the turn of a run took."""
        sql = "UPDATE turn SET wall = ? WHERE session = ? AND run = ?"
        self._committer.put(sql, (wall, self._session, run.key))

    def close(self, wall: float) -> None:
        """Record that the session ended by itself, after how many seconds."""
        self._committer.put("UPDATE session SET wall = ? WHERE key = ?", (wall, self._session))

    def finish(self, run: Run, end: End) -> None:
        """Record how a run ended; see :meth:`Ledger.finish`."""
        self._committer.put(FINISH, (*end, end.mark(run.id), run.key))

    def event(self, node: str | None, text: str, at: float) -> None:
        """Record what happened to a node, or to the engine.

        Args:
            node: None: it is of no node.
            text: what happened.
            at: when, in seconds since the epoch.
        """
        self._committer.put(_NOTE, (*_keys(self._job), at, node, text))

    def slots(self, node: str, slots: int) -> None:
        """Record how many slots a node has; the session keeps the most."""
        path = f'$."{node}"'
        self._committer.put(_SLOTS, (path, slots, path, self._session))

    def progress(self, sweep: SweepRow, progress: Mapping[str, object]) -> None:
        """Replace what readers see of a sweep."""
        text = json.dumps(dict(progress))
        self._committer.put("UPDATE sweep SET progress = ? WHERE key = ?", (text, sweep.key))
