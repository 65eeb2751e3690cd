"""Sweeps in the ledger, and which runs are their points."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from cluster.common.errors import StoreError
from cluster.ledger.judge import (
    Wrong,
    is_count,
    is_id,
    is_reason,
    is_time,
    is_word,
    parsed,
    sweep_progress,
)
from cluster.ledger.marks import End, What, point_mark, sweep_mark, taken_apart
from cluster.ledger.rows import Damaged, JobRow, Run, SweepRow
from cluster.ledger.store import Ledger
from cluster.ledger.tables import FINISH

_COLUMNS = (
    "key",
    "id",
    "name",
    "created",
    "request",
    "spec",
    "stopped_by",
    "progress",
    "asked",
    "mark",
)
_NEWEST_FIRST = "ORDER BY created DESC, key DESC"
_AGAIN = "submit its spec again, which enters new points, or restore the store from a copy"
# Values of one statement; every build of SQLite accepts as many.
_MANY = 500


class Fresh(NamedTuple):
    """A run to be entered."""

    id: str
    name: str
    request: str
    identity: str
    definition: Mapping[str, Any]
    goal: Mapping[str, Any]


def named(ledger: Ledger, name: str) -> SweepRow | None:
    """The sweep of that id, the newest of that name, or the only one with that prefix; or None.

    Raises:
        UsageError: the name is empty.
        StoreError: its row is damaged.
    """
    key = ledger.sweep_key(name)
    return None if key is None else _sweeps(ledger, "WHERE key = ?", (key,))[0]


def job_named(ledger: Ledger, name: str) -> JobRow:
    """The sweep of a name, as :func:`named` finds it, or else the run: see :meth:`Ledger.run`.

    Raises:
        UsageError: there is neither.
        StoreError: its row is damaged.
    """
    return named(ledger, name) or ledger.run(name)


def listed(ledger: Ledger) -> list[SweepRow]:
    """Every sweep that is not damaged, newest first."""
    return [row for row in _rows(ledger, _NEWEST_FIRST, ()) if isinstance(row, SweepRow)]


def damaged(ledger: Ledger) -> list[Damaged]:
    """The damaged sweeps, newest first."""
    return [row for row in _rows(ledger, _NEWEST_FIRST, ()) if isinstance(row, Damaged)]


def known_runs(ledger: Ledger, requests: Sequence[str]) -> dict[str, list[Run]]:
    """The runs of each of these request keys, newest first, without damaged ones."""
    found: dict[str, list[Run]] = {}
    keys = list(dict.fromkeys(requests))
    for at in range(0, len(keys), _MANY):
        some = keys[at : at + _MANY]
        marks = ", ".join("?" * len(some))
        order = "ORDER BY created DESC, key DESC"
        for run in ledger.rows(f"WHERE request IN ({marks}) {order}", tuple(some)):
            if isinstance(run, Run):
                found.setdefault(run.request, []).append(run)
    return found


def runs_of_others(ledger: Ledger, name: str) -> frozenset[int]:
    """The runs (keys) that are points of sweeps of any other name."""
    rows = ledger.all(
        "SELECT run FROM point WHERE sweep IN (SELECT key FROM sweep WHERE name != ?)", (name,)
    )
    return frozenset(run for (run,) in rows)


def runs_of(ledger: Ledger, job: JobRow) -> list[tuple[int, Mapping[str, Any], Run]]:
    """The points of a sweep in order: place, what the sweep gives it, and its run; or a run alone.

    A point whose run is removed at this moment is left out.

    Raises:
        StoreError: a point, or its run, is damaged.
    """
    if isinstance(job, Run):
        return [(0, {}, job)]
    rows = ledger.all(
        "SELECT place, run, given, mark FROM point WHERE sweep = ? ORDER BY place", (job.key,)
    )
    where = "WHERE key IN (SELECT run FROM point WHERE sweep = ?)"
    runs = {run.key: run for run in ledger.selected(where, (job.key,))}
    points = [(place, _given(ledger, job, place, *row), row[0]) for place, *row in rows]
    found: list[tuple[int, Mapping[str, Any], Run]] = [
        (place, given, runs[run]) for place, given, run in points if run in runs
    ]
    for place, given, run in found:
        _check_given(ledger, job, place, given, run)
    return found


def _check_given(
    ledger: Ledger, sweep: SweepRow, place: int, given: Mapping[str, Any], run: Run
) -> None:
    """Refuse a point whose run has another parameter, or seed, than the sweep gives it."""
    for key, value in given.items():
        head, *names = key.split(".")
        had: Any = run.definition[head] if head in ("params", "seed") else value
        for name in names if head == "params" else ():
            had = had.get(name) if isinstance(had, dict) else None
        if had != value:
            raise StoreError(
                f"the sweep {sweep.id} is damaged: the run {run.id}, its point {place}, has"
                f" {ascii(had)[:40]} for {ascii(key)[:60]}, not {ascii(value)[:40]}",
                where=str(ledger.path),
                fix=_AGAIN,
            )


def _given(
    ledger: Ledger, sweep: SweepRow, place: int, run: int, given: str, mark: str
) -> dict[str, Any]:
    """What a sweep gives a point, from its columns."""
    try:
        found: dict[str, Any] = parsed("given", given, dict)
        if not (is_count(place) and is_count(run)):
            raise Wrong("place", "it and run must be numbers")
        if mark != point_mark(sweep.id, place, run, given):
            raise Wrong("mark, which marks place, run and given", "one is not what was written")
    except Wrong as wrong:
        raise StoreError(
            f"the sweep {sweep.id} is damaged: row {ascii(place)[:40]} of the table point, {wrong}",
            where=str(ledger.path),
            fix=_AGAIN,
        ) from None
    return found


def as_they_are(ledger: Ledger, sweep: SweepRow, known: Mapping[int, Run]) -> dict[int, Run]:
    """The current rows of those runs of a sweep, by key, that still exist.

    Only rows whose marks have changed are read in full.

    Args:
        ledger: the store.
        sweep: the sweep.
        known: rows of its runs, by key.
    """
    rows = ledger.all(
        "SELECT key, own, ended FROM run WHERE key IN (SELECT run FROM point WHERE sweep = ?)",
        (sweep.key,),
    )
    return {
        key: known[key]
        if known[key].marks == tuple(marks)
        else next(ledger.selected("WHERE key = ?", (key,)))
        for key, *marks in rows
        if key in known
    }


def runs_beside(ledger: Ledger, these: Sequence[str]) -> list[Run | Damaged]:
    """The runs that were not entered as points of the sweeps with these ids, newest first."""
    begun = "SELECT 1 FROM json_each(?) WHERE substr(run.id, 1, length(value) + 1) = value || '.'"
    where = f"WHERE NOT EXISTS ({begun}) {_NEWEST_FIRST}"
    return list(ledger.rows(where, (json.dumps(these),)))


def with_rows(ledger: Ledger, sweep: SweepRow) -> set[int]:
    """The keys of those runs of a sweep that have counted blocks."""
    rows = ledger.all(
        "SELECT run FROM point AS p WHERE sweep = ? AND EXISTS"
        " (SELECT 1 FROM outcome WHERE run = p.run)",
        (sweep.key,),
    )
    return {run for (run,) in rows}


def enter_runs(ledger: Ledger, fresh: Sequence[Fresh]) -> list[int]:
    """Enter new runs; returns their keys. Call it in a transaction."""
    now, keys = time.time(), []
    for run in fresh:
        text, probe = taken_apart(run.definition)
        what = What(run.id, run.name, now, run.request, run.identity, text, json.dumps(run.goal))
        keys.append(ledger.enter(what, probe))
    return keys


def enter(
    ledger: Ledger,
    sweep: str,
    name: str,
    request: str,
    spec: object,
    asked: frozenset[int] | None,
) -> SweepRow:
    """Enter a sweep, or take the newest one of the same name and points. Call it in a transaction.

    Args:
        ledger: the store.
        sweep: the id of a new sweep.
        name: its spec's name.
        request: the key under which the same set of points finds it again.
        spec: as JSON.
        asked: places of the points that this start is to compute, None for all; those of earlier
            starts are kept.
    """
    where = f"WHERE request = ? AND name = ? {_NEWEST_FIRST} LIMIT 1"
    # A damaged one is ignored: another is entered in its place.
    found = [row for row in _rows(ledger, where, (request, name)) if isinstance(row, SweepRow)]
    if found:
        before = found[0].asked
        both = None if asked is None or before is None else asked | before
        row = found[0].id, name, found[0].created, request, json.dumps(spec), _places(both)
        ledger.db.execute(
            "UPDATE sweep SET spec = ?, asked = ?, mark = ? WHERE key = ?",
            (*row[4:], sweep_mark(*row), found[0].key),
        )
        return found[0]._replace(asked=both)
    row = sweep, name, time.time(), request, json.dumps(spec), _places(asked)
    ledger.db.execute(
        "INSERT INTO sweep (id, name, created, request, spec, asked, mark)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (*row, sweep_mark(*row)),
    )
    return _sweeps(ledger, "WHERE id = ?", (sweep,))[0]


def set_points(
    ledger: Ledger, sweep: SweepRow, points: Iterable[tuple[int, Mapping[str, Any]]]
) -> None:
    """Record the points of a sweep. Call it in a transaction.

    Args:
        ledger: the store.
        sweep: the sweep.
        points: the key of each point's run, and what the sweep gives it.
    """
    ledger.db.execute("DELETE FROM point WHERE sweep = ?", (sweep.key,))
    rows = ((at, run, json.dumps(dict(given))) for at, (run, given) in enumerate(points))
    ledger.db.executemany(
        "INSERT INTO point (sweep, place, run, given, mark) VALUES (?, ?, ?, ?, ?)",
        ((sweep.key, *row, point_mark(sweep.id, *row)) for row in rows),
    )


def leave(ledger: Ledger, runs: Sequence[Run], state: str, stopped_by: str) -> None:
    """Record why runs were not begun; earlier ends of runs are kept.

    Args:
        ledger: the store.
        runs: runs of which no task was given out.
        state: of each from now on.
        stopped_by: the reason.
    """
    end = End(state, stopped_by, 1, None, None, None)
    with ledger.transaction():
        ledger.db.executemany(
            f"{FINISH} AND state = 'running'", [(*end, end.mark(run.id), run.key) for run in runs]
        )


def stopped(ledger: Ledger, sweep: SweepRow, reason: str | None) -> None:
    """Record what ended the last start of a sweep early.

    Args:
        ledger: the store.
        sweep: the sweep.
        reason: such as ``max_time``; None: nothing did.
    """
    with ledger.transaction():
        ledger.db.execute("UPDATE sweep SET stopped_by = ? WHERE key = ?", (reason, sweep.key))


def _places(places: frozenset[int] | None) -> str | None:
    return None if places is None else json.dumps(sorted(places))


def _sweeps(ledger: Ledger, where: str, values: tuple[object, ...]) -> list[SweepRow]:
    """The sweeps that a clause of SQL selects.

    Raises:
        StoreError: one of them is damaged.
    """
    found = []
    for row in _rows(ledger, where, values):
        if isinstance(row, Damaged):
            raise row.error
        found.append(row)
    return found


def _rows(ledger: Ledger, where: str, values: tuple[object, ...]) -> Iterator[SweepRow | Damaged]:
    """The same, with the damaged ones."""
    for row in ledger.all(f"SELECT {', '.join(_COLUMNS)} FROM sweep {where}", values):
        try:
            yield _sweep(row)
        except Wrong as wrong:
            yield ledger.refused("sweep", row, wrong, _AGAIN)


def _sweep(row: Sequence[Any]) -> SweepRow:
    key, name, title, created, request, text, stopped_by, progress, asked, mark = row
    if not (is_id(name) and is_id(title)):
        raise Wrong("id" if is_id(title) else "name", f"no id: {ascii((name, title))[:80]}")
    if not is_time(created):
        raise Wrong("created", f"no time: {ascii(created)[:80]}")
    spec = parsed("spec", text, dict)
    if not (is_word(spec.get("kernel")) and is_word(spec.get("backend"))):
        raise Wrong("spec", "it has no kernel, or no backend")
    places = None if asked is None else parsed("asked", asked, list)
    if places is not None and not all(map(is_count, places)):
        raise Wrong("asked", f"no places of points: {ascii(asked)[:80]}")
    if mark != sweep_mark(name, title, created, request, text, asked):
        raise Wrong(
            "mark, which marks id, name, created, request, spec and asked",
            "one of these is not what was written",
        )
    faults = [] if is_reason(stopped_by) else ["column stopped_by: no such end"]
    try:
        record = sweep_progress(progress)
    except Wrong as wrong:
        record = None
        faults.append(str(wrong))
    return SweepRow(
        key,
        name,
        title,
        created,
        request,
        spec,
        stopped_by if is_reason(stopped_by) else None,
        record,
        None if places is None else frozenset(places),
        tuple(faults),
    )
