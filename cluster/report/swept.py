"""The result of a sweep: a result for each of its points, and what all of them together took."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from cluster.common.errors import EngineError, StoreError
from cluster.common.states import State
from cluster.report.result import SCHEMA, NodeResult, Result, finite

# What a cell begins with that spreadsheets take for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class PointResult:
    """One point of a sweep: its place in the list, what the sweep gives it, and its run."""

    point: int
    given: Mapping[str, Any]
    result: Result

    @property
    def busy_s(self) -> float:
        """Seconds of slots inside the kernel, over all its counted tasks."""
        return sum(node.busy_s for node in self.result.nodes)

    def to_json(self) -> dict[str, Any]:
        """The object in the list of ``points``."""
        return {"point": self.point, "given": finite(dict(self.given)), **self.result.to_json()}


@dataclass(frozen=True)
class SweepResult:
    """A sweep as it stands.

    Attributes:
        sweep, name: its id and its spec's name.
        state: of the points that are asked for: failed if any has; else running, interrupted or
            partial if any is; else done.
        stopped_by: what ended its last start early: failure, max_time, window, nodes or a signal;
            None: nothing did.
        points: in the order of the spec.
        wall_s: seconds over all its starts.
        nodes: what each node did for the points while the sweep was computed.
        resume: the command that goes on with it, or None.
        advice: what helps where a kernel failed, as for a run; or None.
        asked: the places of the points that were to be computed; None: all. The others are owed
            by others, who may have a store of their own.
    """

    sweep: str
    name: str
    state: str
    stopped_by: str | None
    points: Sequence[PointResult]
    wall_s: float
    nodes: Sequence[NodeResult]
    events: Sequence[Mapping[str, Any]]
    resume: str | None
    asked: frozenset[int] | None = None
    advice: str | None = None

    @property
    def own(self) -> Sequence[PointResult]:
        """The points that are asked for."""
        return [p for p in self.points if self.asked is None or p.point in self.asked]

    @property
    def owes(self) -> bool:
        """Whether a point has yet to be computed, beside those that failed."""
        return any(point.result.state not in ("done", "failed") for point in self.own)

    @property
    def exit_code(self) -> int:
        """1 if a point failed; else what ended it, if it was a signal; else 3 if any is owed."""
        return State(self.state).exit_code(self.stopped_by)

    @property
    def run(self) -> str:
        """What names it where a run is named."""
        return self.sweep

    @property
    def done(self) -> int:
        """How many points are done."""
        return sum(point.result.state == State.DONE.value for point in self.points)

    def to_json(self) -> dict[str, Any]:
        """The document of ``--json``."""
        return {
            "schema": SCHEMA,
            "sweep": self.sweep,
            "name": self.name,
            "state": self.state,
            "stopped_by": self.stopped_by,
            "points_done": self.done,
            "points_total": len(self.points),
            "points_asked": len(self.own),
            "samples": sum(point.result.samples for point in self.points),
            "wall_s": self.wall_s,
            "nodes": [vars(node) for node in self.nodes],
            "events": [dict(event) for event in self.events],
            "resume": self.resume,
            "advice": self.advice,
            "points": [point.to_json() for point in self.points],
        }


def state_of(states: Sequence[str], stopped_by: str | None) -> str:
    """The state of a sweep from those of its points, the worst first."""
    if all(state == "done" for state in states):
        return "done"
    timed = stopped_by in ("max_time", "window", "nodes")
    worst = ("failed", "running", *(() if timed else ("interrupted",)))
    return next((state for state in worst if state in states), "partial")


_COLUMNS = (
    "state", "stopped_by", "estimate", "std_error", "low", "high", "samples", "busy_s", "wall_s",
    "run", "digest",
)  # fmt: skip


def rows(result: SweepResult) -> Iterator[dict[str, Any]]:
    """A flat row a point: what the sweep gives it, by dotted key, and then the same for all."""
    keys = given_keys(result)
    for point in result.points:
        own = point.result
        low, high = _ends(own.interval)
        values = (
            own.state, own.stopped_by, own.estimate, own.std_error, low, high, own.samples,
            point.busy_s, own.wall_s, own.run, own.digest,
        )  # fmt: skip
        given = {key: point.given.get(key) for key in keys}
        yield finite({"point": point.point, **given, **dict(zip(_COLUMNS, values, strict=True))})


def given_keys(result: SweepResult) -> list[str]:
    """Every key that the sweep varies, in the order in which they come."""
    return list(dict.fromkeys(key for point in result.points for key in point.given))


def csv_text(result: SweepResult) -> str:
    """The table as CSV; a list, as that of a histogram's bins, is JSON text."""
    out = io.StringIO()
    names = ["point", *given_keys(result), *_COLUMNS]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for row in rows(result):
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return out.getvalue()


def write_parquet(result: SweepResult, path: Path) -> None:
    """The table as a Parquet file.

    Raises:
        EngineError: pyarrow is not installed.
        StoreError: the file cannot be written.
    """
    try:
        # By name: it ships no types, and a person's own mypy reads this file too.
        pa, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        fix = "pip install 'cluster-montecarlo[parquet]', or take --csv"
        raise EngineError("Parquet needs pyarrow, which is not installed here", fix=fix) from None
    table = list(rows(result))
    columns = {}
    for name in table[0] if table else ():
        values = [row[name] for row in table]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowException, OverflowError):  # numbers and words, or more than 64 bits
            columns[name] = pa.array([_word(value) for value in values], pa.string())
    try:
        parquet.write_table(pa.table(columns), path)
    except OSError as error:
        raise StoreError(f"cannot be written: {error}", where=str(path)) from None


def _cell(value: Any) -> Any:
    """A cell of the CSV; a text that a spreadsheet would compute has a quote before it."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return json.dumps(value) if isinstance(value, list | tuple | dict | bool) else value


def _word(value: Any) -> str | None:
    """A value in a column of words."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _ends(interval: Any) -> tuple[Any, Any]:
    """The low and the high end of an interval, or of each bin's."""
    if not interval:
        return None, None
    if isinstance(interval[0], list):
        return [pair[0] for pair in interval], [pair[1] for pair in interval]
    return interval[0], interval[1]
