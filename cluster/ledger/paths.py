"""Files of a run beside the database: the one place where an id becomes a path."""

from __future__ import annotations

from pathlib import Path

from cluster.common.errors import StoreError
from cluster.ledger.judge import is_id

LOCKS, LOGS = "locks", "logs"


def folder_of(store: Path, name: str) -> Path:
    """A folder of a store; a link there would have files written, or read, somewhere else.

    Raises:
        StoreError: it is a link.
    """
    folder = store / name
    if folder.is_symlink():
        fix = "remove the link; the store makes the folder itself"
        raise StoreError(
            "it is a link, and must be a folder of the store", where=str(folder), fix=fix
        )
    return folder


def log_of(run: str, store: Path) -> Path:
    """Where a run without a terminal puts what it says."""
    return folder_of(store, LOGS) / f"{named(run, store)}.log"


def named(run: str, store: Path) -> str:
    """The id of a run or a sweep, as the name of a file.

    Raises:
        StoreError: it is no id.
    """
    if not is_id(run):
        raise StoreError(
            f"{ascii(run)[:80]} is no id of a run, and names no file",
            where=str(store),
            fix="restore the store from a copy; ids are letters, digits, '.', '_' and '-'",
        )
    return run
