"""The request of a run and the spec of a sweep, parsed from their rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from cluster.common.errors import ClusterError, StoreError
from cluster.ledger.rows import Run, SweepRow
from cluster.ledger.store import AGAIN, Ledger
from cluster.spec import Spec
from cluster.spec.request import Request

T = TypeVar("T")


def request_of(ledger: Ledger, run: Run) -> Request:
    """What a run computes, and until when.

    Raises:
        StoreError: its definition is not a request.
    """
    row = f"row {run.key} of the table run, column definition"
    return _read(ledger, f"{run.id}: {row}", lambda: Request.from_json(run.definition))


def spec_of(ledger: Ledger, sweep: SweepRow) -> Spec:
    """The spec of a sweep, as it was last submitted.

    Raises:
        StoreError: the column does not hold a spec.
    """
    row = f"row {sweep.key} of the table sweep, column spec"
    return _read(ledger, f"{sweep.id}: {row}", lambda: Spec.from_json(sweep.spec))


def _read(ledger: Ledger, row: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except (
        ClusterError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        why = f"{type(error).__name__}: {error}"[:500]
        raise StoreError(f"{row}: {why}", where=str(ledger.path), fix=AGAIN) from None
