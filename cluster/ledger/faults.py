"""What SQLite and the system raise, turned into errors that name the file and the cure."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.errors import StoreError

# Seconds to wait for another process that writes.
BUSY = 30.0
LOOK = "check the disk and the rights of the folder, then resume"


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system raise into a StoreError that names the file and the cure."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(f"{error}", where=str(path), fix=_cure(error)) from error
    except OSError as error:
        raise StoreError(f"{error.strerror or error}", where=str(path), fix=LOOK) from error


def _cure(error: sqlite3.Error) -> str:
    text = str(error)
    if "counted already" in text:
        return "see that no other process works on this run, then resume"
    if "full" in text:
        return "free some space, then resume; nothing that was counted is lost"
    if "locked" in text:
        return f"another process kept the store busy for {BUSY:g} s; try again"
    if "malformed" in text or "not a database" in text:
        return (
            "the file is damaged, or no store: restore it, recover it with sqlite3's .recover,"
            " or name another --store"
        )
    return LOOK


def no_store(store: Path) -> StoreError:
    """The error of a folder that holds no store."""
    return StoreError(f"there is no store in {store}", fix="name it with --store, or submit first")


def broken(error: Exception, path: Path) -> StoreError:
    """Any other error, as one of the store."""
    return StoreError(f"{type(error).__name__}: {error}", where=str(path), fix=LOOK)
