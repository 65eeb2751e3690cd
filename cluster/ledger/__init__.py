"""The SQLite file that holds every run: the single source of truth, and all that writes results.

A block range is counted exactly once because the database refuses a second one: a trigger on
``outcome`` rejects overlaps. What is committed is durable (synchronous FULL); a writer thread
commits in groups, so the dispatcher never waits for the disk.

May import ``common``, ``sampling``, ``hosts`` and ``spec``.
"""

from __future__ import annotations

from cluster.ledger.database import FILE, NETWORK, SQLITE, file_system
from cluster.ledger.locks import Owner, holder
from cluster.ledger.moves import compact, judged, remove, take_over
from cluster.ledger.paths import log_of
from cluster.ledger.requests import request_of, spec_of
from cluster.ledger.rows import (
    Counted,
    Damaged,
    JobRow,
    NodeChangeRequest,
    NodeTotals,
    Run,
    Speed,
    SweepRow,
)
from cluster.ledger.store import Ledger, Where, opened
from cluster.ledger.tables import SCHEMA
from cluster.ledger.writer import GroupCommitter, RunWriter

__all__ = [
    "FILE",
    "NETWORK",
    "SCHEMA",
    "SQLITE",
    "Counted",
    "Damaged",
    "GroupCommitter",
    "JobRow",
    "Ledger",
    "NodeChangeRequest",
    "NodeTotals",
    "Owner",
    "Run",
    "RunWriter",
    "Speed",
    "SweepRow",
    "Where",
    "compact",
    "file_system",
    "holder",
    "judged",
    "log_of",
    "opened",
    "remove",
    "request_of",
    "spec_of",
    "take_over",
]
