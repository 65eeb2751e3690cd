"""The ledger: every run of a store, and what was counted of each."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.errors import UsageError, did_you_mean
from cluster.ledger.database import Database
from cluster.ledger.faults import translated
from cluster.ledger.locks import Owner, flock, holder, write_owner
from cluster.ledger.rows import JSON_COLUMNS, Counted, NodeTotals, Run, Speed, Wish
from cluster.ledger.tables import UNENDED
from cluster.ledger.writer import Scribe, Writer
from cluster.nodes import Node
from cluster.work import checksum

#: The folder of a store.
Where = str | Path
# What a result tells of: the first failures, the newest events.
_MOST_FAILURES, _MOST_EVENTS = 100, 1000


class Ledger(Database):
    """The runs of a store. Reading disturbs nobody; a run is written by its lock's holder."""

    # -- runs ---------------------------------------------------------------------------------

    def runs(self) -> list[Run]:
        """Every run, newest first."""
        return list(self.selected("ORDER BY created DESC, key DESC", ()))

    def run(self, name: str) -> Run:
        """The run of that id, of the only id that starts so, or of a point: SWEEP/PLACE.

        Raises:
            UsageError: none, or several.
        """
        sweep, slash, place = name.rpartition("/")
        if slash and place.isdecimal() and (key := self.sweep_key(sweep)) is not None:
            return self._point(sweep, key, int(place))
        pattern = name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        found = list(self.selected("WHERE id LIKE ? ESCAPE '\\' ORDER BY created", (pattern,)))
        exact = [run for run in found if run.id == name]
        if len(exact or found) == 1:
            return (exact or found)[0]
        if found:
            several = ", ".join(run.id for run in found[:5])
            if self.sweep_key(name) is not None and all(map(self._is_point, found[:5])):
                fix = f"name one of its points, such as {name}/0"
                raise UsageError(f"{name!r} is a sweep, and this takes one run", fix=fix)
            raise UsageError(f"{name!r} begins several runs: {several}", fix="give more of the id")
        ids = [row[0] for row in self.all("SELECT id FROM run", ())]
        raise UsageError(
            f"no run {name!r} in {self.store}",
            fix=did_you_mean(name, ids) or "'cluster ls' lists the runs",
        )

    def _is_point(self, run: Run) -> bool:
        return bool(self.all("SELECT 1 FROM point WHERE run = ? LIMIT 1", (run.key,)))

    def sweep_key(self, name: str) -> int | None:
        """The sweep of that id, the newest of that name, or the only one whose id starts so."""
        rows = self.all(
            "SELECT key, id = ? OR name = ? FROM sweep"
            " WHERE id = ? OR name = ? OR substr(id, 1, length(?)) = ?"
            " ORDER BY id = ? DESC, name = ? DESC, created DESC, key DESC", (name,) * 8,
        )  # fmt: skip
        meant = [key for key, whole in rows if whole] or [key for key, _ in rows if len(rows) == 1]
        return meant[0] if meant else None

    def _point(self, sweep: str, key: int, place: int) -> Run:
        where = "WHERE key = (SELECT run FROM point WHERE sweep = ? AND place = ?)"
        # No integer of SQLite is larger, and no sweep has as many points.
        for run in self.selected(where, (key, min(place, (1 << 63) - 1))):
            return run
        ((points,),) = self.all("SELECT count(*) FROM point WHERE sweep = ?", (key,))
        raise UsageError(f"the sweep {sweep} has the points 0 to {points - 1}, and none {place}")

    def newest(self, request: str) -> Run | None:
        """The newest run of a request key, or None."""
        found = self.selected(
            "WHERE request = ? ORDER BY created DESC, key DESC LIMIT 1", (request,)
        )
        return next(found, None)

    def create(
        self, run: str, name: str, request: str, identity: str, definition: object, goal: object,
        *, once: bool = False,
    ) -> Run:  # fmt: skip
        """Enter a new run; ``once``: where the request has one by now, that is returned instead."""
        with self.transaction():
            # Looked for inside of the transaction: of two that start at once, one enters it.
            if once and (earlier := self.newest(request)):
                return earlier
            self.db.execute(
                "INSERT INTO run (id, name, created, request, identity, definition, goal)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (run, name, time.time(), request, identity, json.dumps(definition),
                 json.dumps(goal)),
            )  # fmt: skip
        return self.run(run)

    def set_goal(self, run: Run, definition: object, goal: object) -> None:
        """Ask for more of a run; what was recorded of its end is over."""
        with self.transaction():
            self.db.execute(
                f"UPDATE run SET definition = ?, goal = ?, {UNENDED} WHERE key = ?",
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
        with self.transaction():
            self.db.execute(
                "UPDATE run SET state = ?, stopped_by = ?, drained = ?, counted = ?, tally = ?,"
                " ranges = ? WHERE key = ?",
                (state, stopped_by, drained, counted, tally, json.dumps(ranges), run.key),
            )

    def state(self, run: Run) -> str:
        """``running`` while somebody holds its lock, ``interrupted`` where nobody finished it."""
        if holder(self.lock_path(run.id)) is not None:
            return "running"
        return "interrupted" if run.state == "running" else run.state

    def holder(self, run: Run) -> Owner | None:
        """Who holds the run's lock now, or None."""
        return holder(self.lock_path(run.id))

    # -- sessions and locks -------------------------------------------------------------------

    @contextmanager
    def lock(self, run: str) -> Iterator[None]:
        """Hold a run; the lock goes with the process, however it ends.

        Raises:
            Locked: another process holds it; or, on a network file system, another host the store.
        """
        self.check_writable()
        path = self.lock_path(run)
        with translated(path):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            flock(descriptor, path, run)
            self.own()
            with translated(path):
                write_owner(descriptor, Owner.here())
            yield
        finally:
            # A child that was forked meanwhile has the descriptor too: closing frees nothing.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def begin(
        self, run: Run, backend: str, nodes: Mapping[str, int], start: str | None = None
    ) -> int:
        """Enter a start of a run, by its key if it was scheduled; returns the session's key."""
        me = Owner.here()
        self.own()  # adding up a long run may have taken longer than an owner is believed in
        with self.transaction():
            self.db.execute(f"UPDATE run SET {UNENDED} WHERE key = ?", (run.key,))
            row = self.db.execute(
                "INSERT INTO session (run, started, host, pid, backend, nodes, start)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (run.key, time.time(), me.host, me.pid, backend, json.dumps(dict(nodes)), start),
            )
        assert row.lastrowid is not None
        return row.lastrowid

    def end(self, session: int, wall: float) -> None:
        """Record that a session ended by itself after so many seconds."""
        with self.transaction():
            self.db.execute("UPDATE session SET wall = ? WHERE key = ?", (wall, session))

    def sessions(self, run: Run) -> list[dict[str, Any]]:
        """Every start of a run: started, seconds, host, pid, backend, nodes (slots by name).

        ``seconds`` of one that was killed, or goes on, are those to its last outcome; ``start`` is
        the key of a scheduled one.
        """
        rows = self.all(
            "SELECT started, coalesce(wall, (SELECT max(received) FROM outcome WHERE run = s.run"
            " AND received >= s.started AND received < s.next) - s.started, 0.0),"
            " host, pid, backend, nodes, start FROM"
            " (SELECT *, lead(started, 1, 9e99) OVER (ORDER BY key) AS next FROM session"
            "  WHERE run = ?) AS s ORDER BY key", (run.key,),
        )  # fmt: skip
        names = ("started", "seconds", "host", "pid", "backend", "nodes", "start")
        return [{**dict(zip(names, row, strict=True)), "nodes": json.loads(row[5])} for row in rows]

    # -- wishes -------------------------------------------------------------------------------

    def wish(self, run: Run, add: Sequence[Node], drain: Sequence[str]) -> int:
        """Ask the dispatcher of a run for other hosts; returns the key of the wish."""
        hosts = json.dumps({"add": [node.to_json() for node in add], "drain": list(drain)})
        self.own()
        with self.transaction():
            # By the time, for a key must not come back after `gc`: it would be taken for heard.
            row = self.db.execute(
                "INSERT INTO wish (key, run, hosts)"
                " SELECT max(coalesce(max(key), 0) + 1, ?), ?, ? FROM wish",
                (time.time_ns(), run.key, hosts),
            )
        assert row.lastrowid is not None
        return row.lastrowid

    def last_wish(self) -> int:
        """The key of the newest wish for any run; 0 where there is none."""
        return int(self.all("SELECT coalesce(max(key), 0) FROM wish", ())[0][0])

    def wishes(self, run: Run, after: int) -> list[Wish]:
        """The wishes for a run that are newer than one, and not answered yet."""
        rows = self.all(
            "SELECT key, hosts FROM wish WHERE run = ? AND key > ? AND answer IS NULL ORDER BY key",
            (run.key, after),
        )
        return [Wish.read(*row) for row in rows]

    def answer(self, wish: int) -> dict[str, Any] | None:
        """What became of a wish; None while its dispatcher has not said."""
        rows = self.all("SELECT answer FROM wish WHERE key = ?", (wish,))
        found: dict[str, Any] | None = json.loads(rows[0][0] or "null")
        return found

    # -- what was counted ---------------------------------------------------------------------

    def counted(self, run: Run, first: int = 0, stop: int | None = None) -> Iterator[Counted]:
        """The counted ranges that touch the blocks [first, stop), in order, each checked.

        They are streamed: a run of millions of tasks takes no memory to read.
        """
        with translated(self.path):
            rows = self.db.execute(
                "SELECT first, stop, tally, node, checksum FROM outcome"
                " WHERE run = ? AND stop > ? AND first < ? ORDER BY first",
                (run.key, first, (1 << 62) if stop is None else stop),
            )
            for low, high, tally, node, mark in rows:
                yield Counted(low, high, tally, node, checksum(run.id, low, high, tally) == mark)

    def node_totals(self, run: Run, counted: int | None = None) -> list[NodeTotals]:
        """What each node has of the blocks [0, counted), or of all."""
        # Each length of time is of one steady clock, so that neither the clocks of two hosts need
        # to agree nor one may not step. A time that could not be was kept as 0: it says nothing.
        lost = "max(0.0, (received - created) - wall)"
        rows = self.all(
            "SELECT node, count(*), sum(stop - first), sum(wall), sum(cpu),"
            f" sum(CASE WHEN started > 0 THEN {lost} ELSE 0.0 END) FROM outcome"
            " WHERE run = ? AND stop <= ? GROUP BY node ORDER BY node",
            (run.key, (1 << 62) if counted is None else counted),
        )
        return [NodeTotals(*row) for row in rows]

    def speeds(self, run: Run) -> list[Speed]:
        """How fast each node drew the blocks of a run."""
        rows = self.all(
            "SELECT node, count(*), sum(n), sum(wall), sum(n * n), sum(n * wall), sum(wall * wall)"
            " FROM (SELECT node, stop - first AS n, wall FROM outcome WHERE run = ? AND wall > 0)"
            " GROUP BY node ORDER BY node", (run.key,),
        )  # fmt: skip
        return [Speed(*row) for row in rows]

    def uncounted_blocks(self, run: Run) -> dict[str, int]:
        """Blocks that each node was given or computed, and that were not counted."""
        rows = self.all(
            "SELECT node, sum(n) FROM (SELECT node, blocks AS n FROM failure WHERE run = ?"
            " UNION ALL SELECT node, stop - first FROM spare WHERE run = ?) GROUP BY node",
            (run.key, run.key),
        )
        return dict(rows)

    def failures(self, run: Run) -> list[dict[str, Any]]:
        """The first failures of a run, in order of time."""
        names = ("at", "block", "blocks", "node", "attempt", "kind", "type", "message", "traceback")
        rows = self.all(
            f"SELECT {', '.join(names)} FROM failure WHERE run = ? ORDER BY rowid LIMIT ?",
            (run.key, _MOST_FAILURES),
        )
        return [dict(zip(names, row, strict=True)) for row in rows]

    def failure_counts(self, run: Run) -> dict[str, int]:
        """How many attempts failed on each node."""
        sql = "SELECT node, count(*) FROM failure WHERE run = ? GROUP BY node"
        return dict(self.all(sql, (run.key,)))

    def events(self, run: Run) -> list[dict[str, Any]]:
        """What happened to nodes and to the run, in order of time: of many, the newest."""
        return self.newest_events("event WHERE run = ?", run.key)

    def newest_events(self, of: str, key: int) -> list[dict[str, Any]]:
        """The newest rows of a table of events, in order of time; ``of``: which, with a key."""
        rows = self.all(
            f"SELECT at, node, text FROM {of} ORDER BY rowid DESC LIMIT ?", (key, _MOST_EVENTS)
        )
        return [dict(zip(("at", "node", "text"), row, strict=True)) for row in reversed(rows)]

    def events_since(self, run: Run, number: int) -> list[tuple[int, str | None, str]]:
        """The events of a run after one of a number: the number, node and text of each."""
        return self.all(
            "SELECT rowid, node, text FROM event WHERE run = ? AND rowid > ? ORDER BY rowid",
            (run.key, number),
        )

    def note(self, run: Run, text: str) -> None:
        """Record what happened to a run; from any process, for it is no result."""
        with self.transaction():
            self.db.execute(
                "INSERT INTO event VALUES (?, ?, NULL, ?)", (run.key, time.time(), text)
            )

    def ask(self, run: Run, wish: str, since: float) -> bool:
        """Record a wish of somebody else to who computes a run; False where it was asked before.

        Args:
            run: the run.
            wish: in words.
            since: wishes of before, to another start of the run, are over.
        """
        with self.transaction():
            found = self.db.execute(
                "INSERT INTO event SELECT ?, ?, NULL, ? WHERE NOT EXISTS"
                " (SELECT 1 FROM event WHERE run = ? AND text = ? AND at >= ?)",
                (run.key, time.time(), wish, run.key, wish, since),
            )
            return found.rowcount == 1

    def spares(self, run: Run) -> list[tuple[int, int, str, str]]:
        """What was computed and not counted: first, stop, node, verdict."""
        return self.all(
            "SELECT first, stop, node, verdict FROM spare WHERE run = ? ORDER BY rowid", (run.key,)
        )

    def set_aside(self, run: Run, row: Counted, verdict: str) -> None:
        """Take a range out of what is counted, and keep it: its blocks are owed again."""
        with self.transaction():
            self.db.execute(
                "INSERT INTO spare SELECT run, first, stop, node, ?, ?, tally FROM outcome"
                " WHERE run = ? AND first = ?", (time.time(), verdict, run.key, row.first),
            )  # fmt: skip
            self.db.execute("DELETE FROM outcome WHERE run = ? AND first = ?", (run.key, row.first))

    def writer(self, run: Run) -> Writer:
        """The thread that writes what a dispatcher counts."""
        return Writer(self.scribe(), run, alone=True)

    def scribe(self) -> Scribe:
        """The thread that writes what the dispatcher of several runs counts."""
        return Scribe(self)

    # -- inside -------------------------------------------------------------------------------

    def selected(self, where: str, values: tuple[object, ...]) -> Iterator[Run]:
        """The runs that a clause of SQL selects."""
        for row in self.all(f"SELECT {', '.join(Run._fields)} FROM run {where}", values):
            run = Run(*row)
            yield run._replace(
                drained=None if run.drained is None else bool(run.drained),
                **{name: json.loads(getattr(run, name) or "null") for name in JSON_COLUMNS},
            )

    def lock_path(self, run: str) -> Path:
        """The file whose lock holds a run."""
        return self.store / "locks" / run


def log_of(run: str, store: Path) -> Path:
    """Where a run without a terminal puts what it says."""
    return store / "logs" / f"{run}.log"


@contextmanager
def opened(store: Where | Ledger) -> Iterator[Ledger]:
    """The ledger of a store, or the one that is open already."""
    if isinstance(store, Ledger):
        yield store
    else:
        with Ledger(Path(store)) as ledger:
            yield ledger
