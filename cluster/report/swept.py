"""The table of a sweep, a row for each of its points: flat rows, CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from cluster.common.errors import EngineError, StoreError
from cluster.report.result import Result, finite

# What a cell begins with that spreadsheets take for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


_COLUMNS = (
    "state",
    "stopped_by",
    "estimate",
    "std_error",
    "low",
    "high",
    "samples",
    "busy_s",
    "wall_s",
    "run",
    "digest",
)


def rows(result: Result) -> Iterator[dict[str, Any]]:
    """A flat row a point: what the sweep gives it, by dotted key, and then the same for all."""
    keys = given_keys(result)
    for point in result.members:
        own = point.result
        low, high = _ends(own.interval)
        values = (
            own.state,
            own.stopped_by,
            own.estimate,
            own.std_error,
            low,
            high,
            own.samples,
            point.busy_s,
            own.wall_s,
            own.run,
            own.digest,
        )
        given = {key: point.given.get(key) for key in keys}
        yield finite({"point": point.point, **given, **dict(zip(_COLUMNS, values, strict=True))})


def given_keys(result: Result) -> list[str]:
    """Every key that the sweep varies, in the order in which they come."""
    return list(dict.fromkeys(key for point in result.members for key in point.given))


def csv_text(result: Result) -> str:
    """The table as CSV; a list, as that of a histogram's bins, is JSON text."""
    out = io.StringIO()
    names = ["point", *given_keys(result), *_COLUMNS]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for row in rows(result):
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return out.getvalue()


def write_parquet(result: Result, path: Path) -> None:
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
