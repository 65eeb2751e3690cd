"""Sweeps in the ledger: which runs they have, and what happened to the pools that computed them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from cluster.ledger.locks import Owner
from cluster.ledger.rows import Run, Wish
from cluster.ledger.store import Ledger
from cluster.ledger.tables import UNENDED
from cluster.ledger.writer import MOST_SLOTS, Scribe

# So many values of one statement every SQLite takes.
_MANY = 500
_EVENTS = "pool_event WHERE pool IN (SELECT key FROM pool WHERE sweep = ?)"


class Sweep(NamedTuple):
    """A row of the table of sweeps."""

    key: int
    id: str
    name: str
    created: float
    request: str
    spec: dict[str, Any]
    stopped_by: str | None
    progress: dict[str, Any] | None
    asked: frozenset[int] | None


class Fresh(NamedTuple):
    """A run to be entered; ``definition`` and ``goal`` are JSON."""

    id: str
    name: str
    request: str
    identity: str
    definition: str
    goal: str


class PoolTotals(NamedTuple):
    """What a node counted for one run while pools of a sweep were up; times in seconds."""

    node: str
    run: int
    tasks: int
    blocks: int
    wall: float
    cpu: float
    lost: float


def named(ledger: Ledger, name: str) -> Sweep | None:
    """The sweep of that id, the newest of that name, or the only one whose id starts so."""
    key = ledger.sweep_key(name)
    return None if key is None else _sweeps(ledger, "WHERE key = ?", (key,))[0]


def listed(ledger: Ledger) -> list[Sweep]:
    """Every sweep, newest first."""
    return _sweeps(ledger, "ORDER BY created DESC, key DESC", ())


def known_runs(ledger: Ledger, requests: Sequence[str]) -> dict[str, list[Run]]:
    """The runs of each of these request keys, newest first."""
    found: dict[str, list[Run]] = {}
    keys = list(dict.fromkeys(requests))
    for at in range(0, len(keys), _MANY):
        some = keys[at : at + _MANY]
        marks = ", ".join("?" * len(some))
        order = "ORDER BY created DESC, key DESC"
        for run in ledger.selected(f"WHERE request IN ({marks}) {order}", tuple(some)):
            found.setdefault(run.request, []).append(run)
    return found


def runs_of_others(ledger: Ledger, name: str) -> frozenset[int]:
    """The runs (keys) that are points of sweeps of any other name."""
    rows = ledger.all(
        "SELECT run FROM point WHERE sweep IN (SELECT key FROM sweep WHERE name != ?)", (name,)
    )
    return frozenset(run for (run,) in rows)


def runs_of(ledger: Ledger, sweep: Sweep) -> list[tuple[int, Mapping[str, Any], Run]]:
    """A sweep's points, in order: place, what the sweep gave it, and its run.

    One whose run is removed in that moment is a point no more.
    """
    rows = ledger.all("SELECT place, run, given FROM point WHERE sweep = ? ORDER BY place",
                      (sweep.key,))  # fmt: skip
    where = "WHERE key IN (SELECT run FROM point WHERE sweep = ?)"
    runs = {run.key: run for run in ledger.selected(where, (sweep.key,))}
    return [(place, json.loads(given), runs[run]) for place, run, given in rows if run in runs]


def as_they_are(ledger: Ledger, sweep: Sweep, known: Mapping[int, Run]) -> dict[int, Run]:
    """Of these runs of a sweep, by key, those that are still there, as they are now.

    Only those are read whole that are not as they were known.

    The definition of a run, by far its longest part, changes with its goal only; the result of the
    kernel's probe, which is added to it, is not looked for.
    """
    fields = ("key", "goal", "ranges", "state", "stopped_by", "counted")
    rows = ledger.all(
        f"SELECT {', '.join(fields)} FROM run"
        " WHERE key IN (SELECT run FROM point WHERE sweep = ?)", (sweep.key,),
    )  # fmt: skip
    runs = {}
    for key, goal, ranges, *rest in rows:
        if key not in known:
            continue
        run, now = known[key], [json.loads(goal), json.loads(ranges or "null"), *rest]
        if now != [getattr(run, name) for name in fields[1:]]:
            run = next(ledger.selected("WHERE key = ?", (key,)))
        runs[key] = run
    return runs


def begun_by(ledger: Ledger, sweep: Sweep) -> dict[int, tuple[str, int]]:
    """Which process, host and pid, gave out the first task of the newest start of each run."""
    rows = ledger.all(
        "SELECT run, host, pid, max(key) FROM session"
        " WHERE run IN (SELECT run FROM point WHERE sweep = ?) GROUP BY run", (sweep.key,),
    )  # fmt: skip
    return {run: (host, pid) for run, host, pid, _ in rows}


def had_their_time(ledger: Ledger, sweep: Sweep, start: str) -> frozenset[int]:
    """The runs (keys) that a scheduled start computed last, and left by a limit of time.

    That limit is the run's own, or the whole sweep's: then none of its runs is to get more.
    """
    newest = "SELECT start FROM session WHERE run {} ORDER BY key DESC LIMIT 1"
    ours = "(SELECT run FROM point WHERE sweep = s.key)"
    rows = ledger.all(
        "SELECT p.run FROM sweep AS s JOIN point AS p ON p.sweep = s.key JOIN run AS r"
        f" ON r.key = p.run WHERE s.key = ? AND (s.stopped_by = 'max_time'"
        f" AND ({newest.format('IN ' + ours)}) = ?"
        f" OR r.stopped_by = 'max_time' AND ({newest.format('= p.run')}) = ?)",
        (sweep.key, start, start),
    )
    return frozenset(run for (run,) in rows)


def with_rows(ledger: Ledger, sweep: Sweep) -> set[int]:
    """The keys of a sweep's runs of which anything is counted."""
    rows = ledger.all(
        "SELECT run FROM point AS p WHERE sweep = ? AND EXISTS"
        " (SELECT 1 FROM outcome WHERE run = p.run)", (sweep.key,),
    )  # fmt: skip
    return {run for (run,) in rows}


def enter_runs(ledger: Ledger, fresh: Sequence[Fresh]) -> list[int]:
    """Enter new runs; their keys. To be called in a transaction."""
    now, keys = time.time(), []
    for run in fresh:
        row = ledger.db.execute(
            "INSERT INTO run (id, name, created, request, identity, definition, goal)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (run.id, run.name, now, run.request, run.identity, run.definition, run.goal),
        )
        assert row.lastrowid is not None
        keys.append(row.lastrowid)
    return keys


def enter(
    ledger: Ledger, sweep: str, name: str, request: str, spec: object,
    asked: frozenset[int] | None,
) -> Sweep:  # fmt: skip
    """Enter a sweep under that id, or take the newest of the same name and points.

    To be called in a transaction. ``asked`` are the places of the points that this start is to
    compute, None all of them; those of earlier starts stay asked for.
    """
    where = "WHERE request = ? AND name = ? ORDER BY created DESC, key DESC LIMIT 1"
    found = _sweeps(ledger, where, (request, name))
    if found:
        before = found[0].asked
        both = None if asked is None or before is None else asked | before
        ledger.db.execute(
            "UPDATE sweep SET spec = ?, asked = ? WHERE key = ?",
            (json.dumps(spec), _places(both), found[0].key),
        )
        return found[0]._replace(asked=both)
    ledger.db.execute(
        "INSERT INTO sweep (id, name, created, request, spec, asked) VALUES (?, ?, ?, ?, ?, ?)",
        (sweep, name, time.time(), request, json.dumps(spec), _places(asked)),
    )
    return _sweeps(ledger, "WHERE id = ?", (sweep,))[0]


def set_points(
    ledger: Ledger, sweep: Sweep, points: Iterable[tuple[int, Mapping[str, Any]]]
) -> None:
    """Say which runs (keys) a sweep has, with what it gives them. To be called in a transaction."""
    ledger.db.execute("DELETE FROM point WHERE sweep = ?", (sweep.key,))
    rows = ((sweep.key, at, run, json.dumps(dict(given))) for at, (run, given) in enumerate(points))
    ledger.db.executemany("INSERT INTO point VALUES (?, ?, ?, ?)", rows)


def set_goals(ledger: Ledger, changes: Iterable[tuple[Run, object, object]]) -> None:
    """Ask for more of runs: (run, definition, goal) of each; see :meth:`Ledger.set_goal`."""
    rows = [(json.dumps(what), json.dumps(goal), run.key) for run, what, goal in changes]
    with ledger.transaction():
        ledger.db.executemany(
            f"UPDATE run SET definition = ?, goal = ?, {UNENDED} WHERE key = ?", rows
        )


def leave(ledger: Ledger, runs: Sequence[Run], state: str, stopped_by: str) -> None:
    """Say why runs whose turn never came were not begun; what they ended as before stays."""
    with ledger.transaction():
        ledger.db.executemany(
            "UPDATE run SET state = ?, stopped_by = ?, drained = 1 WHERE key = ? AND"
            " state = 'running'", [(state, stopped_by, run.key) for run in runs],
        )  # fmt: skip


def stopped(ledger: Ledger, sweep: Sweep, reason: str | None) -> None:
    """Record what ended a start of a sweep early."""
    with ledger.transaction():
        ledger.db.execute("UPDATE sweep SET stopped_by = ? WHERE key = ?", (reason, sweep.key))


def begin_pool(ledger: Ledger, sweep: Sweep, backend: str, nodes: Mapping[str, int]) -> int:
    """Enter a start of a sweep on a backend; the pool's key."""
    me = Owner.here()
    ledger.own()
    with ledger.transaction():
        row = ledger.db.execute(
            "INSERT INTO pool (sweep, started, host, pid, backend, nodes)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (sweep.key, time.time(), me.host, me.pid, backend, json.dumps(dict(nodes))),
        )
    assert row.lastrowid is not None
    return row.lastrowid


def end_pool(ledger: Ledger, pool: int, wall: float) -> None:
    """Record that a pool ended by itself after so many seconds."""
    with ledger.transaction():
        ledger.db.execute("UPDATE pool SET wall = ? WHERE key = ?", (wall, pool))


def pools(ledger: Ledger, sweep: Sweep) -> list[dict[str, Any]]:
    """Every start of a sweep: started, wall, backend, nodes; a killed one ended with an outcome."""
    rows = ledger.all(
        "SELECT started, coalesce(wall, (SELECT max(received) FROM outcome WHERE run IN"
        " (SELECT run FROM point WHERE sweep = p.sweep) AND received >= p.started AND"
        " received < p.next) - started, 0), backend, nodes FROM"
        " (SELECT *, lead(started, 1, 9e99) OVER (ORDER BY key) AS next FROM pool"
        "  WHERE sweep = ?) AS p ORDER BY key", (sweep.key,),
    )  # fmt: skip
    names = ("started", "wall", "backend", "nodes")
    return [{**dict(zip(names, row, strict=True)), "nodes": json.loads(row[3])} for row in rows]


def pool_totals(ledger: Ledger, sweep: Sweep) -> list[PoolTotals]:
    """What each node counted for each run while pools of the sweep were up."""
    lost = "max(0.0, (o.received - o.created) - o.wall)"
    rows = ledger.all(
        "SELECT o.node, o.run, count(*), sum(o.stop - o.first), sum(o.wall), sum(o.cpu),"
        f" sum(CASE WHEN o.started > 0 THEN {lost} ELSE 0.0 END)"
        " FROM outcome AS o WHERE o.run IN (SELECT run FROM point WHERE sweep = ?)"
        " AND EXISTS (SELECT 1 FROM pool WHERE sweep = ? AND o.received >= started AND"
        " o.received <= started + coalesce(wall, 9e99)) GROUP BY o.node, o.run",
        (sweep.key, sweep.key),
    )
    return [PoolTotals(*row) for row in rows]


def pool_events(ledger: Ledger, sweep: Sweep) -> list[dict[str, Any]]:
    """What happened to nodes while pools of the sweep were up, in order of time.

    Of many, the newest.
    """
    return ledger.newest_events(_EVENTS, sweep.key)


def pool_events_since(
    ledger: Ledger, sweep: Sweep, number: int
) -> list[tuple[int, str | None, str]]:
    """Those after one of a number: the number, node and text of each."""
    return ledger.all(
        f"SELECT rowid, node, text FROM {_EVENTS} AND rowid > ? ORDER BY rowid",
        (sweep.key, number),
    )


def last_pool_event(ledger: Ledger, sweep: Sweep) -> int:
    """The number of the newest of them; 0 where there is none."""
    return int(ledger.all(f"SELECT coalesce(max(rowid), 0) FROM {_EVENTS}", (sweep.key,))[0][0])


def wishes(ledger: Ledger, sweep: Sweep, after: int) -> list[tuple[str, Wish]]:
    """The wishes for points that are newer than one and not answered, each with its run's id."""
    rows = ledger.all(
        "SELECT r.id, w.key, w.hosts FROM wish AS w JOIN run AS r ON r.key = w.run WHERE w.key > ?"
        " AND w.answer IS NULL AND w.run IN (SELECT run FROM point WHERE sweep = ?) ORDER BY w.key",
        (after, sweep.key),
    )
    return [(run, Wish.read(key, hosts)) for run, key, hosts in rows]


def note(ledger: Ledger, sweep: Sweep, text: str) -> None:
    """Record what happened to a sweep beside its computing, with its last pool if it has one."""
    with ledger.transaction():
        ledger.db.execute(
            "INSERT INTO pool_event SELECT key, ?, NULL, ? FROM pool WHERE sweep = ?"
            " ORDER BY key DESC LIMIT 1", (time.time(), text, sweep.key),
        )  # fmt: skip


class Diary:
    """What the dispatcher of a sweep hands over of runs as a whole, to be written in groups."""

    def __init__(
        self, scribe: Scribe, pool: int, backend: str, nodes: Mapping[str, int], start: str | None
    ) -> None:
        self._scribe, self._pool, self._backend, self._start = scribe, pool, backend, start
        self._nodes = dict(nodes)
        self._me = Owner.here()

    def begin(self, run: Run, at: float) -> None:
        """A start of a run: its first task is given out."""
        # It may end in the same group: what begins it is done first.
        if run.state != "running":
            self._scribe.put(f"UPDATE run SET {UNENDED} WHERE key = ?", (run.key,), late=False)
        self._scribe.put(
            "INSERT INTO session (run, started, host, pid, backend, nodes, start)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                run.key,
                at,
                self._me.host,
                self._me.pid,
                self._backend,
                json.dumps(self._nodes),
                self._start,
            ),
            late=False,
        )

    def end(self, run: Run, at: float, wall: float) -> None:
        """That start ended by itself after so many seconds."""
        sql = "UPDATE session SET wall = ? WHERE run = ? AND started = ?"
        self._scribe.put(sql, (wall, run.key, at))

    def finish(
        self, run: Run, state: str, stopped_by: str, drained: bool, counted: int | None,
        tally: str | None, ranges: object,
    ) -> None:  # fmt: skip
        """How a run ended; see :meth:`Ledger.finish`."""
        if not drained:
            tally = ranges = None
        self._scribe.put(
            "UPDATE run SET state = ?, stopped_by = ?, drained = ?, counted = ?, tally = ?,"
            " ranges = ? WHERE key = ?",
            (state, stopped_by, drained, counted, tally, json.dumps(ranges), run.key),
        )

    def note(self, node: str | None, text: str, at: float) -> None:
        """What happened to a node, or to the engine."""
        self._scribe.put("INSERT INTO pool_event VALUES (?, ?, ?, ?)", (self._pool, at, node, text))

    def slots(self, node: str, slots: int) -> None:
        """A node has had so many slots, for all runs that are begun and have not ended."""
        self._nodes[node] = most = max(slots, self._nodes.get(node, 0))
        row = f'$."{node}"', most, f'$."{node}"', self._pool
        self._scribe.put(f"UPDATE pool SET {MOST_SLOTS} WHERE key = ?", row)
        self._scribe.put(
            f"UPDATE session SET {MOST_SLOTS} WHERE wall IS NULL AND run IN (SELECT run FROM point"
            " WHERE sweep = (SELECT sweep FROM pool WHERE key = ?)) AND started >="
            " (SELECT started FROM pool WHERE key = ?) AND host = ? AND pid = ?",
            (*row, self._pool, self._me.host, self._me.pid),
        )

    def progress(self, sweep: Sweep, progress: Mapping[str, object]) -> None:
        """Replace what readers see of the sweep."""
        text = json.dumps(dict(progress))
        self._scribe.put("UPDATE sweep SET progress = ? WHERE key = ?", (text, sweep.key))


def _places(places: frozenset[int] | None) -> str | None:
    return None if places is None else json.dumps(sorted(places))


def _sweeps(ledger: Ledger, where: str, values: tuple[object, ...]) -> list[Sweep]:
    rows = ledger.all(f"SELECT {', '.join(Sweep._fields)} FROM sweep {where}", values)
    found = (Sweep(*row) for row in rows)
    return [
        row._replace(
            spec=json.loads(row.spec),  # type: ignore[arg-type]
            progress=json.loads(row.progress or "null"),  # type: ignore[arg-type]
            asked=None if row.asked is None else frozenset(json.loads(row.asked)),  # type: ignore[arg-type]
        )
        for row in found
    ]
