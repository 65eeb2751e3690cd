"""Checks of the place of a store, before SQLite opens or creates a file there."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

from cluster.common.errors import StoreError
from cluster.ledger.faults import BUSY
from cluster.ledger.tables import triggers

_ANOTHER = "name the folder of a store with --store"
# Tables that every format of a store has, and no other program's file.
_OURS = {"run", "session", "outcome", "spare", "failure", "event", "owner"}

# The statements of our triggers, with spaces normalized; every format has the same.
_TRIGGERS = {" ".join(sql.split()).removesuffix(";") for sql in triggers()}


def check_place(store: Path, file: Path) -> None:
    """Refuse a place that cannot hold a store.

    Args:
        store: the folder.
        file: the ledger in it.

    Raises:
        StoreError: a link on the way is dangling, or something is neither a folder nor a file.
    """
    for each in (*reversed(store.parents), store, file):
        if each.is_symlink() and not each.exists():
            target = os.readlink(each)
            raise StoreError(
                f"{each} is a link to {target}, which is not there",
                where=str(file),
                fix=f"make {target}, or {_ANOTHER}",
            )
        if each != file and each.exists() and not each.is_dir():
            raise StoreError(f"{each} is not a folder", where=str(file), fix=_ANOTHER)
    if file.exists() and not file.is_file():
        raise StoreError(f"{file} is not a file", where=str(file), fix=_ANOTHER)


def check_ours(db: sqlite3.Connection, file: Path) -> None:
    """Refuse the file of another program, before anything in it is changed.

    Raises:
        StoreError: it has tables other than a store's, or triggers or views that are not ours.
    """
    rows = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    tables = {str(name) for (name,) in rows}
    if tables and not tables >= _OURS:
        raise StoreError(
            "this is the SQLite file of another program, not a store",
            where=str(file),
            fix=_ANOTHER,
        )
    # A store from elsewhere may contain statements that SQLite would run at our next write.
    obeyed = "SELECT type, name, sql FROM sqlite_master WHERE type IN ('trigger', 'view')"
    for kind, name, sql in db.execute(obeyed):
        if kind == "view" or " ".join(str(sql).split()) not in _TRIGGERS:
            raise StoreError(
                f"this store has the {kind} {ascii(name)[:80]}, which no store has",
                where=str(file),
                fix="do not use it: somebody changed it. Restore it from a copy",
            )


def read_only(file: Path) -> StoreError:
    """The error of a store that this process may only read."""
    return StoreError(
        "this store is read-only",
        where=str(file),
        fix="copy its folder to where you may write (cp -r), and name the copy with --store",
    )


def may_write(file: Path) -> bool:
    """Whether this process may write a ledger, and the files that SQLite makes beside it."""
    return os.access(file, os.W_OK) and os.access(file.resolve().parent, os.W_OK | os.X_OK)


def connected(place: str, *, uri: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode, so that transactions begin and end where the code says.

    Args:
        place: an absolute path, or a URI.
        uri: whether it is a URI.
    """
    db = sqlite3.connect(
        place, timeout=BUSY, isolation_level=None, check_same_thread=False, uri=uri
    )
    # A flipped bit must not make whole rows unreadable: their checksum reveals it.
    db.text_factory = _text
    return db


def connected_to_read(file: Path, live: bool, stack: ExitStack) -> sqlite3.Connection:
    """A connection that reads a file which this process may not write.

    If another process writes it, SQLite's own locks apply. If a killed writer left its log, which
    SQLite would have to write back before it can read, that happens in a private copy.

    Args:
        file: the ledger.
        live: writers keep no write-ahead log here, so only their locks reveal them.
        stack: removes the copy.

    Raises:
        OSError: it cannot be read or copied.
        sqlite3.Error: it is not an SQLite file.
    """
    real = file.resolve()
    with real.open("rb"):  # the system's error says more than SQLite's
        pass
    logs = [Path(f"{real}{end}") for end in ("-wal", "-journal")]
    left = [log for log in logs if log.exists() and log.stat().st_size]
    if not left and not live:
        return connected(f"{real.as_uri()}?immutable=1", uri=True)
    db = connected(f"{real.as_uri()}?mode=ro", uri=True)
    try:
        db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError:
        db.close()
        folder = _private(stack)
        for each in (real, *left):
            shutil.copyfile(each, folder / each.name)
        return connected(str(folder / real.name))
    return db


def private_copy(db: sqlite3.Connection, stack: ExitStack) -> sqlite3.Connection:
    """A copy of a database in a file of its own; the stack closes and removes it."""
    copy = connected(str(_private(stack) / "copy.sqlite"))
    stack.enter_context(closing(copy))
    db.backup(copy)
    return copy


def _private(stack: ExitStack) -> Path:
    return Path(stack.enter_context(TemporaryDirectory(prefix="cluster-")))


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
