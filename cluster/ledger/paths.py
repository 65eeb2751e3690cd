"""A run's files beside the database: the only place where an id becomes a path."""

from __future__ import annotations

from pathlib import Path

from cluster.common.errors import StoreError
from cluster.ledger.judge import is_id

LOCKS, LOGS = "locks", "logs"


def folder_of(store: Path, name: str) -> Path:
    """A folder of a store.

    Raises:
        StoreError: it is a link, through which files elsewhere would be read or written.
    """
    folder = store / name
    if folder.is_symlink():
        fix = "remove the link; the store makes the folder itself"
        raise StoreError(
            "it is a link, and must be a folder of the store", where=str(folder), fix=fix
        )
    return folder


def log_of(run: str, store: Path) -> Path:
    """The log of a detached run or sweep, and of what its kernels print."""
    return folder_of(store, LOGS) / f"{named(run, store)}.log"


def named(run: str, store: Path) -> str:
    """The id of a run or a sweep, checked to be usable as a file name.

    Raises:
        StoreError: it is not an id.
    """
    if not is_id(run):
        raise StoreError(
            f"{ascii(run)[:80]} is no id of a run, and names no file",
            where=str(store),
            fix="restore the store from a copy; ids are letters, digits, '.', '_' and '-'",
        )
    return run
