"""Errors of SQLite and the system, translated into ours, which name the file and the fix."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.common.errors import StoreError

# Seconds to wait for another process that writes.
BUSY = 30.0
LOOK = "check the disk and the rights of the folder, then try again"
# Bytes; with less free space than this neither the database nor its index can grow.
_FULL = 1 << 16
_NO_ROOM = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn errors of SQLite and the system into a StoreError that names the file and the fix.

    Raises:
        StoreError: SQLite or the system failed.
    """
    try:
        yield
    except sqlite3.Error as error:
        # SQLite says "full" only when it writes the database, not when it maps the index.
        words = "database or disk is full" if is_full(error, path) else str(error)
        raise StoreError(words, where=str(path), fix=_cure(words)) from error
    except OSError as error:
        words = str(error.strerror or error)
        raise StoreError(words, where=str(path), fix=_cure(words)) from error


def is_full(error: sqlite3.Error, path: Path) -> bool:
    """Whether SQLite failed because the disk is full."""
    if "full" in str(error):
        return True
    if "I/O error" not in str(error) and "unable to open" not in str(error):
        return False
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < _FULL


def _cure(text: str) -> str:
    if "counted already" in text:
        return "see that no other process works on this run, then resume"
    if "full" in text or text in _NO_ROOM:
        return "free some space, then try again; nothing that was counted is lost"
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
    """Any other error of the writer, as an error of the store."""
    return StoreError(f"{type(error).__name__}: {error}", where=str(path), fix=LOOK)
