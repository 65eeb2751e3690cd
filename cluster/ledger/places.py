"""What stands where a store is to be: looked at before SQLite opens it, or makes it."""

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
# What every format of a store has, and no other program's file.
_OURS = {"run", "session", "outcome", "spare", "failure", "event", "owner"}

# Their statements, but for spaces; every format has the same.
_TRIGGERS = {" ".join(sql.split()).removesuffix(";") for sql in triggers()}


def check_place(store: Path, file: Path) -> None:
    """Refuse what can be no store, and what a store would be made through.

    Raises:
        StoreError: a link leads nowhere, or something else than a folder or a file is there.
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
        StoreError: it has tables, and not those of a store; or what SQLite obeys of itself.
    """
    rows = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    tables = {str(name) for (name,) in rows}
    if tables and not tables >= _OURS:
        raise StoreError(
            "this is the SQLite file of another program, not a store",
            where=str(file),
            fix=_ANOTHER,
        )
    # A store that somebody sent may bring statements, which SQLite would run at our next write.
    obeyed = "SELECT type, name, sql FROM sqlite_master WHERE type IN ('trigger', 'view')"
    for kind, name, sql in db.execute(obeyed):
        if kind == "view" or " ".join(str(sql).split()) not in _TRIGGERS:
            raise StoreError(
                f"this store has the {kind} {ascii(name)[:80]}, which no store has",
                where=str(file),
                fix="do not use it: somebody changed it. Restore it from a copy",
            )


def read_only(file: Path) -> StoreError:
    """The error of a store that this process may look at, and not write."""
    return StoreError(
        "this store is read-only: it can be looked at, and not written",
        where=str(file),
        fix="copy its folder to where you may write (cp -r), and name the copy with --store",
    )


def may_write(file: Path) -> bool:
    """Whether this process may write a ledger, and the files that SQLite makes beside it."""
    return os.access(file, os.W_OK) and os.access(file.resolve().parent, os.W_OK | os.X_OK)


def connected(place: str, *, uri: bool = False) -> sqlite3.Connection:
    """A connection; autocommit, so that every transaction is written out.

    Args:
        place: an absolute path, which SQLite takes for no URI; or a URI.
        uri: which of them.
    """
    db = sqlite3.connect(
        place, timeout=BUSY, isolation_level=None, check_same_thread=False, uri=uri
    )
    # A flipped bit must not keep whole rows from being read: their checksum tells it.
    db.text_factory = _text
    return db


def connected_to_read(file: Path, live: bool, stack: ExitStack) -> sqlite3.Connection:
    """A connection that reads a file which this process may not write.

    Where another process writes it, SQLite's own locks hold. Where a killed writer left its log
    and SQLite would have to write to read it, it does so in a private copy.

    Args:
        file: the ledger.
        live: a writer keeps no write-ahead log, so that nothing but its locks would tell of it.
        stack: removes the copy.

    Raises:
        OSError: it cannot be read, or not be copied.
        sqlite3.Error: it is no SQLite file.
    """
    real = file.resolve()
    with real.open("rb"):  # in the system's words, which are better than SQLite's
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
    """The same rows in a file of this process alone; the stack closes and removes it."""
    copy = connected(str(_private(stack) / "copy.sqlite"))
    stack.enter_context(closing(copy))
    db.backup(copy)
    return copy


def _private(stack: ExitStack) -> Path:
    return Path(stack.enter_context(TemporaryDirectory(prefix="cluster-")))


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
