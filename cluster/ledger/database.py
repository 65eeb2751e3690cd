"""The SQLite file of a store: opened, upgraded, and on a network owned by one host at a time."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from cluster.common.errors import Locked, StoreError
from cluster.common.files import make_folder
from cluster.ledger.faults import BUSY, is_full, no_store, translated
from cluster.ledger.judge import is_time
from cluster.ledger.locks import Owner, holder
from cluster.ledger.paths import LOCKS, folder_of
from cluster.ledger.places import (
    check_ours,
    check_place,
    connected,
    connected_to_read,
    may_write,
    private_copy,
    read_only,
)
from cluster.ledger.tables import SCHEMA, TABLES, UNMARKED, UPGRADES, statements
from cluster.ledger.upgrade import mark_rows
from cluster.sampling.kernels import refuse_verbs

FILE = "ledger.sqlite"
SQLITE = sqlite3.sqlite_version

# File systems that other hosts may write to at the same time. Write-ahead logging needs memory
# shared by all users of the file, which these do not provide.
NETWORK = frozenset(
    {
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "fuse.ceph",
        "fuse.glusterfs",
        "fuse.sshfs",
        "gfs2",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "panfs",
        "smb3",
        "smbfs",
    }
)
# Seconds between the heartbeats of a host that owns a store, and after which it counts as gone.
OWNER_BEAT = 10.0
_OWNER_DEAD = 60.0


class Database:
    """An open store. Reading disturbs no writer; a run is written by the holder of its lock.

    A store that this process may not write is read as it is; an older format is upgraded in a
    private copy.

    Args:
        store: the folder.
        create: make it if it is missing; otherwise that is an error.
        write: it will be written: a read-only store is refused at once.

    Raises:
        StoreError: it cannot be opened, was written by a newer version, or is not a store.
        Locked: it is to be written, and an older version is computing a run of it.
    """

    def __init__(self, store: Path, *, create: bool = False, write: bool = False) -> None:
        refuse_verbs()
        self.store = store
        self.path = store / FILE
        self._open = ExitStack()
        with translated(self.path):
            check_place(store, self.path)
            if create:
                make_folder(store)
            elif not self.path.is_file():
                raise no_store(store)
            self.network = file_system(store) in NETWORK
            if create:
                _make_private(self.path)
            self.writable = may_write(self.path)
            if create or write:
                self.check_writable()
            try:
                self.db = self._opened(read=not (create or write))
                self._prepare(create, read=not (create or write))
            except BaseException:
                self.close()
                raise
            self._place = self.path.absolute()
            self._file = _identity(self._place)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with suppress(sqlite3.Error):
            self._open.close()

    def check_writable(self) -> None:
        """Refuse a store that this process may only read.

        Raises:
            StoreError: it is read-only, or its file is a link.
        """
        if self.path.is_symlink():
            # Its locks would lie in this folder, those of other users in the file's own folder.
            raise StoreError(
                f"{self.path} is a link to {os.readlink(self.path)}: what is written through it"
                " is not locked",
                where=str(self.path),
                fix=f"name the folder of the file itself: --store {self.path.resolve().parent}",
            )
        if not self.writable:
            raise read_only(self.path)

    def connect(self) -> sqlite3.Connection:
        """Another connection to the file, for another thread."""
        db = connected(str(self.path.absolute()))
        self._configure(db)
        return db

    def _configure(self, db: sqlite3.Connection) -> None:
        _set_journal(db, "DELETE" if self.network else "WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA foreign_keys = ON")

    def _opened(self, *, read: bool) -> sqlite3.Connection:
        if not self.writable:
            db = connected_to_read(self.path, self.network, self._open)
            self._open.enter_context(closing(db))
            check_ours(db, self.path)
            return db
        db = self._open.enter_context(closing(connected(str(self.path.absolute()))))
        try:
            # Before the journal's mode is set: that would be written into another program's file.
            check_ours(db, self.path)
            self._configure(db)
        except sqlite3.OperationalError as error:
            if not (read and is_full(error, self.path)):
                raise
            self.writable = False  # no room for the index, but it can still be read
            return self._opened(read=read)
        return db

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit everything that is written in it, or nothing; nested ones join the outer one."""
        self.check_writable()
        with self._transaction():
            yield

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        if self.db.in_transaction:
            yield
            return
        with translated(self.path):
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self.db.execute("ROLLBACK")
                raise

    def all(self, sql: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
        """All rows of a query.

        Raises:
            StoreError: the file cannot be read.
        """
        # A name typed by a person may not be UTF-8; then nothing in the store has that name.
        known = tuple(_known(value) if isinstance(value, str) else value for value in values)
        with translated(self.path):
            return self.db.execute(sql, known).fetchall()

    def check(self) -> str:
        """SQLite's own verdict on the file: ``ok``, or what is wrong."""
        return str(self.all("PRAGMA quick_check(1)", ())[0][0])

    def check_there(self) -> None:
        """Check that the file is still in its place: SQLite would go on writing a removed one.

        Raises:
            StoreError: it was removed or replaced.
        """
        if _identity(self._place) != self._file:
            raise StoreError(
                "the store was removed or replaced while it was written",
                where=str(self.path),
                fix="what was written since then is lost with it; bring it back, then resume",
            )

    def own(self) -> None:
        """On a network file system, become the only host that writes.

        Raises:
            Locked: another host is.
        """
        if not self.network:
            return
        me = Owner.here()
        with self.transaction():
            row = self.db.execute("SELECT host, pid, beat FROM owner").fetchone()
            # An impossible heartbeat counts as none: its owner is taken for gone.
            if row and row[0] != me.host and is_time(row[2]) and time.time() - row[2] < _OWNER_DEAD:
                raise Locked(
                    f"the store {self.store} is on a network file system and in use by process"
                    f" {row[1]} on {row[0]}",
                    fix=f"run there, or wait {_OWNER_DEAD:g} s after it",
                )
            self.db.execute(
                "INSERT OR REPLACE INTO owner VALUES (1, ?, ?, ?)", (me.host, me.pid, me.since)
            )

    def beat(self, db: sqlite3.Connection) -> None:
        """Record this owner's heartbeat; call it in a transaction.

        A machine that was asleep for longer than ``_OWNER_DEAD`` wakes in the middle of a run.

        Raises:
            StoreError: another host took over.
        """
        me = Owner.here()
        mine = "UPDATE owner SET pid = ?, beat = ? WHERE host = ?"
        if not db.execute(mine, (me.pid, me.since, me.host)).rowcount:
            rows = db.execute("SELECT host, pid FROM owner").fetchall()
            other = "".join(f": process {pid} on {host}" for host, pid in rows)
            raise StoreError(
                f"another host took the store over while this one was silent{other}",
                where=str(self.path),
                fix="nothing that was counted is lost; resume there, or here when that has ended",
            )

    def _prepare(self, create: bool, *, read: bool) -> None:
        (version,) = self.db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            if not create:
                raise no_store(self.store)
            self._make_tables()
        elif version in UPGRADES:
            self._upgrade_or_copy(read)
        elif version != SCHEMA:
            raise StoreError(
                f"the store has format {version}, this version reads format {SCHEMA}",
                where=str(self.path),
                fix="use the version of cluster that wrote it, or another --store",
            )

    def _upgrade_or_copy(self, read: bool) -> None:
        """Upgrade a store of an older format, unless an older version is computing a run of it.

        That process would fail at its next write to a table that is no longer there. Until it has
        ended, readers use a private copy, and writers are refused.
        """
        owner = next(self._holders(), None)
        if owner is not None and not read:
            raise Locked(
                f"an older version of cluster computes a run of this store: {owner}",
                where=str(self.path),
                fix=f"wait for it, or have it end what it has begun: kill -TERM {owner.pid}",
            )
        if owner is not None or not self.writable:
            self.writable = False
            self.db = private_copy(self.db, self._open)
        self._upgrade()

    def _holders(self) -> Iterator[Owner]:
        """The processes that hold runs of the store now."""
        folder = folder_of(self.store, LOCKS)
        for path in folder.iterdir() if folder.is_dir() else ():
            owner = holder(path)
            if owner is not None:
                yield owner

    def _upgrade(self) -> None:
        with self._transaction():
            # Another process may have been first.
            (version,) = self.db.execute("PRAGMA user_version").fetchone()
            for step in range(version, SCHEMA):
                for statement in statements(UPGRADES[step]):
                    self.db.execute(statement)
                if step == UNMARKED:
                    mark_rows(self.db)
            self.db.execute(f"PRAGMA user_version = {SCHEMA}")

    def _make_tables(self) -> None:
        with self.transaction():
            # Another process may have been first.
            (version,) = self.db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in statements(TABLES):
                    self.db.execute(statement)
                self.db.execute(f"PRAGMA user_version = {SCHEMA}")


def file_system(path: Path) -> str:
    """The type of the file system that holds a path, as ``/proc/self/mountinfo`` names it.

    Empty if it cannot be determined.
    """
    try:
        # Another user's mount point may have a name in another encoding.
        lines = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    real = path.resolve()
    best, kind = -1, ""
    for line in lines:
        before, _, after = line.partition(" - ")
        mount = Path(before.split()[4].replace("\\040", " "))
        if real.is_relative_to(mount) and len(mount.parts) >= best:
            best, kind = len(mount.parts), after.split()[0]
    return kind


def _set_journal(db: sqlite3.Connection, mode: str) -> None:
    """Set the journal mode. SQLite's own timeout does not cover the lock that this takes."""
    deadline = time.monotonic() + BUSY
    while True:
        try:
            db.execute(f"PRAGMA journal_mode = {mode}")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _make_private(path: Path) -> None:
    """Create an empty file that only its owner may read; SQLite's side files inherit its mode."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file, or None if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _known(text: str) -> str:
    return text.encode(errors="surrogateescape").decode(errors="replace")
