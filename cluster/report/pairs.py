"""Comparison of two runs of a store, or of two sweeps point by point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.common.canonical import canonical
from cluster.common.errors import UsageError
from cluster.ledger import JobRow, Ledger, Run, Where, opened, sweeps
from cluster.report.comparison import Comparison, Side
from cluster.report.comparison import compare as _compared
from cluster.report.recorded import result_at
from cluster.sampling.streams import point_of


def compare(a: str, b: str, store: Where = "runs") -> list[Comparison]:
    """Compare two runs, or two sweeps point by point; points match by what the sweep varies.

    Args:
        a: id of a run or a sweep, or an unambiguous prefix.
        b: id of the other one, of the same kind.
        store: the folder of the ledger, or the open ledger.

    Raises:
        UsageError: there is no such run; only one is a sweep; or they have no common point.
    """
    with opened(store) as ledger:
        one, other = sweeps.job_named(ledger, a), sweeps.job_named(ledger, b)
        if isinstance(one, Run) != isinstance(other, Run):
            raise UsageError(f"{a} and {b} cannot be compared: one is a sweep, the other a run")
        pairs = _pairs(ledger, one, other)
        if not pairs:
            fix = "points match where the keys that the sweeps vary have equal values"
            raise UsageError(f"{one.id} and {other.id} have no point in common", fix=fix)
        return [
            _compared(_side(ledger, x), _side(ledger, y), among=len(pairs), given=given or None)
            for given, x, y in pairs
        ]


def _pairs(ledger: Ledger, one: JobRow, other: JobRow) -> list[tuple[Mapping[str, Any], Run, Run]]:
    """What both are given, and the run of each; two runs alone are given nothing, and one pair."""
    theirs = {canonical(dict(given)): run for _, given, run in sweeps.runs_of(ledger, other)}
    ours = [(canonical(dict(given)), given, run) for _, given, run in sweeps.runs_of(ledger, one)]
    return [(given, run, theirs[key]) for key, given, run in ours if key in theirs]


def _side(ledger: Ledger, run: Run) -> Side:
    own = run.definition
    point = point_of({} if own.get("common") else own["params"])
    return Side(
        result_at(ledger, run),
        (own["scale"], own["offset"]),
        (own["seed"], point),
        ledger.speeds(run),
    )
