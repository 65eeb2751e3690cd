"""The table of a sweep, one row per point: as flat mappings, CSV and Parquet."""

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

# Spreadsheets evaluate a cell that begins with one of these as a formula.
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
    """One flat row per point: the keys that the sweep varies (dotted), then the fixed columns."""
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
    """Every key that the sweep varies, in order of first appearance."""
    return list(dict.fromkeys(key for point in result.members for key in point.given))


def csv_text(result: Result) -> str:
    """The table as CSV; lists, such as the bins of a histogram, are JSON text."""
    out = io.StringIO()
    names = ["point", *given_keys(result), *_COLUMNS]
    # The csv module's own default is \r\n, which other tools on Unix show as ^M.
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for row in rows(result):
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return out.getvalue()


def write_parquet(result: Result, path: Path) -> None:
    """Write the table as a Parquet file.

    Raises:
        EngineError: pyarrow is not installed.
        StoreError: the file cannot be written.
    """
    try:
        # Imported by name, because pyarrow is optional and untyped: mypy must pass without it.
        pa, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ImportError:
        fix = "pip install 'cluster-montecarlo[parquet]', or use --csv"
        raise EngineError("Parquet needs pyarrow, which is not installed here", fix=fix) from None
    table = list(rows(result))
    columns = {}
    for name in table[0] if table else ():
        values = [row[name] for row in table]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowException, OverflowError):  # mixed types, or integers beyond 64 bits
            columns[name] = pa.array([_as_text(value) for value in values], pa.string())
    try:
        parquet.write_table(pa.table(columns), path)
    except OSError as error:
        raise StoreError(f"cannot be written: {error}", where=str(path)) from None


def _cell(value: Any) -> Any:
    """A CSV cell; text that a spreadsheet would evaluate gets a quote in front."""
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return json.dumps(value) if isinstance(value, list | tuple | dict | bool) else value


def _as_text(value: Any) -> str | None:
    """A value as text, for a column whose values have no common type."""
    return value if value is None or isinstance(value, str) else json.dumps(value)


def _ends(interval: Any) -> tuple[Any, Any]:
    """The lower and upper end of an interval, or the lists of those of all bins."""
    if not interval:
        return None, None
    if isinstance(interval[0], list):
        return [pair[0] for pair in interval], [pair[1] for pair in interval]
    return interval[0], interval[1]
