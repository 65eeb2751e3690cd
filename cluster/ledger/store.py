"""The ledger: every run of a store, and what was counted of each."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from cluster.common.errors import StoreError, UsageError, did_you_mean
from cluster.ledger.database import Database
from cluster.ledger.faults import translated
from cluster.ledger.judge import (
    COLUMNS,
    FAILURE,
    SPARE,
    Kinds,
    Wrong,
    is_id,
    is_time,
    is_word,
    run_of,
    wrong_column,
)
from cluster.ledger.locks import Owner, flock, holder, unlock, write_owner
from cluster.ledger.marks import End, What, probe_mark, taken_apart
from cluster.ledger.paths import LOCKS, folder_of, named
from cluster.ledger.rows import Counted, Damaged, NodeTotals, Run, Speed
from cluster.ledger.tables import FINISH, INSERT_RUN, UNENDED
from cluster.ledger.writer import GroupCommitter, RunWriter
from cluster.sampling.task import checksum

#: The folder of a store.
Where = str | Path
# A result shows the first failures, up to this many.
_MOST_FAILURES = 100
_MOST_BLOCKS = 1 << 62
_MOST_SECONDS = "1e12"
# SQLite takes text to be greater than any number, so this also excludes what is no number at all.
POSSIBLE = f"CASE WHEN {{0}} BETWEEN 0 AND {_MOST_SECONDS} THEN {{0}} ELSE 0.0 END"
#: Shown instead of a damaged name of a node.
DAMAGED_NODE = "(damaged)"
_TROUBLES = ("failure", "spare", "event")
_NEWEST_FIRST = "ORDER BY created DESC, key DESC"
AGAIN = (
    "restore the store from a copy, or submit the spec again, which begins a new run; nothing of"
    " this one is removed"
)


class Ledger(Database):
    """The runs of a store. Reading disturbs no writer; a run is written by its lock's holder."""

    def __init__(self, store: Path, *, create: bool = False, write: bool = False) -> None:
        super().__init__(store, create=create, write=write)
        self._left_out: dict[str, None] = {}

    # -- runs ---------------------------------------------------------------------------------

    def runs(self) -> list[Run]:
        """Every run that is not damaged, newest first."""
        return [row for row in self.everything() if isinstance(row, Run)]

    def everything(self) -> list[Run | Damaged]:
        """Every run, newest first, with the damaged ones."""
        return list(self.rows(_NEWEST_FIRST, ()))

    def run(self, name: str) -> Run:
        """The run of that id, of the only id with that prefix, or of a point: SWEEP/PLACE.

        Raises:
            UsageError: there is none, or several.
            StoreError: its row is damaged.
        """
        _check_named(name)
        sweep, slash, place = name.rpartition("/")
        if slash and place.isdecimal() and (key := self.sweep_key(sweep)) is not None:
            return self._point(sweep, key, int(place))
        pattern = name.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
        # Without the index, which may hold another id than a damaged row.
        found = self.all(
            "SELECT key, id FROM run NOT INDEXED WHERE id LIKE ? ESCAPE '\\' ORDER BY created",
            (pattern,),
        )
        exact = [(key, run) for key, run in found if run == name]
        if len(exact or found) == 1:
            return self._one((exact or found)[0][0])
        if found:
            several = ", ".join(_shown(run) for _, run in found[:5])
            if self.sweep_key(name) is not None and all(
                self._is_point(key) for key, _ in found[:5]
            ):
                fix = f"name one of its points, such as {name}/0"
                raise UsageError(f"{name!r} is a sweep, and this takes one run", fix=fix)
            text = f"several runs begin with {name!r}: {several}"
            raise UsageError(text, fix="give more of the id")
        ids = filter(is_id, (row[0] for row in self.all("SELECT id FROM run", ())))
        raise UsageError(
            f"no run {name!r} in {self.store}",
            fix=did_you_mean(name, ids) or "'cluster ls' lists the runs",
        )

    def _one(self, key: int) -> Run:
        for run in self.selected("WHERE key = ?", (key,)):
            return run
        raise UsageError(
            f"the run was removed from {self.store}", fix="'cluster ls' lists the runs"
        )

    def _is_point(self, run: int) -> bool:
        return bool(self.all("SELECT 1 FROM point WHERE run = ? LIMIT 1", (run,)))

    def sweep_key(self, name: str) -> int | None:
        """The key of the sweep of that id, the newest of that name, or the only one so prefixed.

        Raises:
            UsageError: the name is empty, a prefix of every id.
        """
        _check_named(name)
        rows = self.all(
            "SELECT key, id = ? OR name = ? FROM sweep"
            " WHERE id = ? OR name = ? OR substr(id, 1, length(?)) = ?"
            " ORDER BY id = ? DESC, name = ? DESC, created DESC, key DESC",
            (name,) * 8,
        )
        meant = [key for key, whole in rows if whole] or [key for key, _ in rows if len(rows) == 1]
        return meant[0] if meant else None

    def _point(self, sweep: str, key: int, place: int) -> Run:
        where = "WHERE key = (SELECT run FROM point WHERE sweep = ? AND place = ?)"
        # The largest integer of SQLite, beyond the points of any sweep.
        for run in self.selected(where, (key, min(place, (1 << 63) - 1))):
            return run
        ((points,),) = self.all("SELECT count(*) FROM point WHERE sweep = ?", (key,))
        raise UsageError(f"the sweep {sweep} has the points 0 to {points - 1}, and none {place}")

    def newest(self, request: str) -> Run | None:
        """The newest run with a request key, or None."""
        found = self.selected(
            "WHERE request = ? ORDER BY created DESC, key DESC LIMIT 1", (request,)
        )
        return next(found, None)

    def create(
        self,
        run: str,
        name: str,
        request: str,
        identity: str,
        definition: Mapping[str, Any],
        goal: object,
        *,
        once: bool = False,
    ) -> Run:
        """Enter a new run.

        Args:
            run: its id.
            name: its spec's name.
            request: the key under which the same request finds it again.
            identity: what it computes, as a hash.
            definition: the resolved request.
            goal: until when it computes.
            once: if the request has a run by now, return that instead.
        """
        text, probe = taken_apart(definition)
        texts = text, json.dumps(goal)
        with self.transaction():
            # Inside the transaction: of two processes that start at once, only one enters it.
            if once and (earlier := self.newest(request)):
                return earlier
            self.enter(What(run, name, time.time(), request, identity, *texts), probe)
        return self.run(run)

    def enter(self, what: What, probe: str | None) -> int:
        """Enter a new run with the result of its probe; its key. Call it in a transaction."""
        row = (*what, what.mark, probe, probe_mark(what.id, probe))
        key = self.db.execute(INSERT_RUN, row).lastrowid
        assert key is not None
        return key

    def set_goal(self, run: Run, definition: Mapping[str, Any], goal: object) -> None:
        """Replace the goal of a run, which is open again.

        Args:
            run: the run, which this process has locked.
            definition: the resolved request with the new goal.
            goal: the new goal.
        """
        self.set_goals([(run, definition, goal)])

    def set_goals(self, changes: Iterable[tuple[Run, Mapping[str, Any], object]]) -> None:
        """The same for many runs: (run, definition, goal) of each."""
        rows = []
        for run, definition, goal in changes:
            text, _ = taken_apart(definition)
            names = run.id, run.name, run.created, run.request, run.identity
            what = What(*names, text, json.dumps(goal))
            rows.append((what.definition, what.goal, what.mark, run.key))
        with self.transaction():
            self.db.executemany(
                f"UPDATE run SET definition = ?, goal = ?, own = ?, {UNENDED} WHERE key = ?", rows
            )

    def finish(self, run: Run, end: End) -> None:
        """Record how a session of a run ended."""
        with self.transaction():
            self.db.execute(FINISH, (*end, end.mark(run.id), run.key))

    def state(self, run: Run) -> str:
        """The state of a run now.

        ``running`` while a process holds its lock; ``interrupted`` if the last one ended without
        recording an end.
        """
        if holder(self.lock_path(run.id)) is not None:
            return "running"
        return "interrupted" if run.state == "running" else run.state

    def holder(self, run: Run) -> Owner | None:
        """The process that holds the run's lock now, or None."""
        return holder(self.lock_path(run.id))

    # -- locks ----------------------------------------------------------------------------------

    @contextmanager
    def lock(self, run: str) -> Iterator[None]:
        """Lock a run; the lock is released with the process, however it ends.

        Raises:
            Locked: another process holds it; or, on a network file system, another host owns the
                store.
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
            unlock(descriptor)

    # -- what was counted ---------------------------------------------------------------------

    def counted(self, run: Run, first: int = 0, stop: int | None = None) -> Iterator[Counted]:
        """The counted ranges that overlap the blocks [first, stop), in order, each checked.

        They are streamed, so a run of millions of tasks takes no memory to read.

        Args:
            run: the run.
            first: the first block.
            stop: the block after the last one; None: no limit.

        Raises:
            StoreError: a row is not a range of blocks, or the file cannot be read.
        """
        with translated(self.path):
            rows = self.db.execute(
                "SELECT first, stop, tally, node, checksum FROM outcome"
                " WHERE run = ? AND stop > ? AND first < ? ORDER BY first",
                (run.key, min(first, _MOST_BLOCKS), _end(stop)),
            )
            yield from self.read(run, rows)

    def read(self, run: Run, rows: Iterable[tuple[Any, ...]]) -> Iterator[Counted]:
        """Rows of outcomes (first, stop, tally, node, ..., checksum), each checked.

        Raises:
            StoreError: a row is not a range of blocks.
        """
        names: dict[object, str] = {}
        for first, stop, tally, node, *_, mark in rows:
            if not (type(first) is type(stop) is int and 0 <= first < stop <= _MOST_BLOCKS):
                raise self._no_blocks(run, first, stop)
            if node not in names:
                names[node] = node_name(node)
            intact = isinstance(tally, str) and checksum(run.id, first, stop, tally) == mark
            yield Counted(first, stop, tally, names[node], intact)

    def _no_blocks(self, run: Run, first: object, stop: object) -> StoreError:
        place = f"{ascii(first)[:40]} to {ascii(stop)[:40]}"
        return StoreError(
            f"row {place} of the table outcome, columns first and stop: no blocks of {run.id}",
            where=str(self.path),
            fix="restore the store from a copy, or take that row out with sqlite3",
        )

    def node_totals(self, run: Run, counted: int | None = None) -> list[NodeTotals]:
        """What each node computed of the blocks [0, counted), or of all counted blocks."""
        # Each duration is measured by one steady clock, so the clocks of hosts need not agree and
        # may step. An impossible time was recorded as 0 and contributes nothing.
        lost = "max(0.0, (received - created) - wall)"
        rows = self.all(
            f"SELECT node, count(*), sum(stop - first), sum({POSSIBLE.format('wall')}),"
            f" sum({POSSIBLE.format('cpu')}), sum(CASE WHEN started > 0 THEN {lost} ELSE 0.0 END)"
            " FROM outcome WHERE run = ? AND stop <= ? GROUP BY node ORDER BY node",
            (run.key, _end(counted)),
        )
        return [NodeTotals(node_name(row[0]), *map(sum_of, row[1:])) for row in rows]

    def speeds(self, run: Run) -> list[Speed]:
        """How fast each node drew the blocks of a run."""
        rows = self.all(
            "SELECT node, count(*), sum(n), sum(wall), sum(n * n), sum(n * wall), sum(wall * wall)"
            " FROM (SELECT node, stop - first AS n, wall FROM outcome WHERE run = ?"
            f" AND wall BETWEEN 1e-12 AND {_MOST_SECONDS}) GROUP BY node ORDER BY node",
            (run.key,),
        )
        return [Speed(node_name(row[0]), *map(sum_of, row[1:])) for row in rows]

    def failures(self, run: Run) -> list[dict[str, Any]]:
        """The first failures of a run, in order of time."""
        rows = self.all(
            f"SELECT rowid, {', '.join(FAILURE)} FROM failure WHERE run = ? ORDER BY rowid LIMIT ?",
            (run.key, _MOST_FAILURES),
        )
        return [
            dict(zip(FAILURE, row, strict=True)) for row in self.believed("failure", FAILURE, rows)
        ]

    def troubles(self, run: Run) -> bool:
        """Whether a run has any failure, uncounted outcome or event; most points have none."""
        sql = " UNION ALL ".join(f"SELECT 1 FROM {name} WHERE run = ?" for name in _TROUBLES)
        return bool(self.all(f"{sql} LIMIT 1", (run.key,) * len(_TROUBLES)))

    def spares(self, run: Run) -> list[tuple[int, int, str, str]]:
        """Outcomes that were not counted: first, stop, node and verdict of each."""
        rows = self.all(
            "SELECT rowid, first, stop, node, verdict FROM spare WHERE run = ? ORDER BY rowid",
            (run.key,),
        )
        return self.believed("spare", SPARE, rows)

    def set_aside(self, run: Run, row: Counted, verdict: str) -> None:
        """Move a counted range to the uncounted ones; its blocks have to be computed again.

        Args:
            run: the run, which this process has locked.
            row: the range.
            verdict: why it no longer counts.
        """
        with self.transaction():
            self.db.execute(
                "INSERT INTO spare SELECT run, first, stop, node, ?, ?, tally FROM outcome"
                " WHERE run = ? AND first = ?",
                (time.time(), verdict, run.key, row.first),
            )
            self.db.execute("DELETE FROM outcome WHERE run = ? AND first = ?", (run.key, row.first))

    def writer(self, run: Run) -> RunWriter:
        """A writer for one run, with a thread of its own."""
        return RunWriter(self.committer(), run, alone=True)

    def committer(self) -> GroupCommitter:
        """The thread that writes for the dispatcher of several runs."""
        return GroupCommitter(self)

    # -- damaged rows --------------------------------------------------------------------------

    def believed(
        self, table: str, kinds: Kinds, rows: Iterable[tuple[Any, ...]]
    ) -> list[tuple[Any, ...]]:
        """The valid ones of some rows, without their first column, which is their number.

        For rows on which no result depends: damaged ones are left out, and named by
        :meth:`left_out`.

        Args:
            table: its name.
            kinds: a check for each column.
            rows: the number of each row, and its columns.
        """
        found = []
        for number, *row in rows:
            column = wrong_column(kinds, row)
            if column is None:
                found.append(tuple(row))
            else:
                self.leave_out(table, number, column)
        return found

    def leave_out(self, table: str, number: int, column: str) -> None:
        """Note that a row is left out because a column is damaged.

        Args:
            table: its name.
            number: of the row.
            column: its name.
        """
        text = f"row {number} of the table {table} is damaged and left out: column {column}"
        # A dict keeps the order, and each text once.
        self._left_out[text] = None

    def left_out(self) -> list[str]:
        """The rows that were left out since the last call, in words."""
        words = list(self._left_out)
        self._left_out.clear()
        return words

    # -- inside -------------------------------------------------------------------------------

    def selected(self, where: str, values: tuple[object, ...]) -> Iterator[Run]:
        """The runs that a clause of SQL selects.

        Raises:
            StoreError: one of them is damaged.
        """
        for row in self.rows(where, values):
            if isinstance(row, Damaged):
                raise row.error
            yield row

    def rows(self, where: str, values: tuple[object, ...]) -> Iterator[Run | Damaged]:
        """The same, with the damaged ones."""
        for row in self.all(f"SELECT {', '.join(COLUMNS)} FROM run {where}", values):
            try:
                yield run_of(row)
            except Wrong as wrong:
                yield self.refused("run", row, wrong, AGAIN)

    def refused(self, table: str, row: Sequence[Any], wrong: Wrong, fix: str) -> Damaged:
        """A damaged row of runs or sweeps, with the error to raise for it.

        Args:
            table: its name.
            row: key, id, name, created and further columns.
            wrong: the damaged column.
            fix: what to do about it.
        """
        key, name = row[0], _shown(row[1])
        error = StoreError(
            f"the {table} {name} is damaged: row {key} of the table {table}, {wrong}",
            where=str(self.path),
            fix=fix,
        )
        created = float(row[3]) if is_time(row[3]) else 0.0
        return Damaged(key, name, _shown(row[2]), created, error)

    def lock_path(self, run: str) -> Path:
        """The lock file of a run."""
        return self.locks / named(run, self.store)

    @cached_property
    def locks(self) -> Path:
        """The folder of the lock files."""
        return folder_of(self.store, LOCKS)


def _end(blocks: int | None) -> int:
    """An end of blocks that SQLite can compare: its integers are below 2**63."""
    return _MOST_BLOCKS if blocks is None else min(blocks, _MOST_BLOCKS)


def node_name(name: object) -> str:
    """The name of a node, or :data:`DAMAGED_NODE`."""
    return name if isinstance(name, str) and is_word(name) else DAMAGED_NODE


def sum_of(value: object) -> Any:
    """A sum computed by SQLite; 0 if it is not a finite number."""
    # Infinity and NaN minus themselves are NaN.
    return value if isinstance(value, int | float) and value - value == 0 else 0


def _shown(text: object) -> str:
    """What should be an id or a name, safe to print."""
    return text if isinstance(text, str) and is_id(text) else ascii(text)[:80]


def _check_named(name: str) -> None:
    """Refuse the empty name, a prefix of every id."""
    if not name:
        raise UsageError("no run has an empty name", fix="name one; 'cluster ls' lists them")


@contextmanager
def opened(store: Where | Ledger) -> Iterator[Ledger]:
    """The ledger of a store; an open ledger is returned as it is."""
    if isinstance(store, Ledger):
        yield store
    else:
        with Ledger(Path(store)) as ledger:
            yield ledger
