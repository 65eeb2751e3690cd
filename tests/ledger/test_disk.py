"""The disk's own faults: full, read-only, gone, damaged; and what is never lost by them."""

from __future__ import annotations

import ast
import os
import random
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import cluster
from cluster import api
from cluster.common.errors import StoreError
from cluster.dispatch import Policy
from cluster.dispatch.events import Alarm
from cluster.ledger import (
    FILE,
    SCHEMA,
    GroupCommitter,
    Ledger,
    Run,
    RunWriter,
    node_changes,
    sessions,
    sweeps,
)
from cluster.sampling.plan import Goal
from cluster.testing import Driven, drive, work_of
from tests.backends.engines import serial
from tests.cli.shell import spec
from tests.ledger.stores import (
    begin,
    by_hand,
    damage,
    entered,
    insert,
    put,
    remount,
    small_disk,
    tally,
    without_marks,
)

GOAL = Goal(12)
SPEC = {"kernel": "kernel.py:f", "backend": "serial"}


def driven(store: Path, goal: Goal = GOAL) -> Driven:
    """A run of 12 blocks, one task each, to its end in a store."""
    return drive(serial, work_of(), goal, store=store, policy=Policy(pinned=1))


# -- full, read-only, gone ------------------------------------------------------------------------


def fill(ledger: Ledger, run: Run, acknowledged: list[int]) -> None:
    """Count block after block, in large rows, until the disk is full."""
    with ledger.writer(run) as writer:
        for first in range(10**6):
            put(writer, first, first + 1, tally(first, first + 1) + " " * 2000)
            writer.flush()
            acknowledged.append(first)


@pytest.mark.fault(44)
def test_a_full_disk_stops_cleanly_and_loses_nothing_acknowledged(tmp_path: Path) -> None:
    """The error says what to do; every row that was flushed is there; with space it goes on."""
    with small_disk(tmp_path / "disk", "size=600k") as disk:
        with Ledger(disk, create=True) as ledger, ledger.lock("run"):
            run = entered(ledger)
            acknowledged: list[int] = []
            with pytest.raises(StoreError) as caught:
                fill(ledger, run, acknowledged)
            assert "full" in caught.value.message
            assert "free some space" in str(caught.value.fix)
            assert caught.value.code == 74
        assert len(acknowledged) > 20
        remount(disk, "size=8m")
        with Ledger(disk) as ledger:
            rows = list(ledger.counted(run))
            assert len(rows) >= len(acknowledged)
            assert all(row.intact for row in rows)
            assert [row.first for row in rows] == list(range(len(rows)))
            insert(ledger, run, len(rows), len(rows) + 1)
            assert ledger.check() == "ok"


@contextmanager
def stuck(store: Path) -> Iterator[None]:
    """A disk that takes nothing: another process keeps the file for itself."""
    with by_hand(store) as db:
        db.execute("BEGIN IMMEDIATE")
        yield


def test_a_disk_that_hangs_is_told_of_and_waited_for_by_nobody(tmp_path: Path) -> None:
    """By the flush at the end of a run, by the end of the thread, and by a backlog."""
    with Ledger(tmp_path, create=True) as ledger:
        run, begun = entered(ledger), time.monotonic()
        with stuck(tmp_path):
            for rows, flush in ((1, True), (1, False), (7, False)):
                with pytest.raises(StoreError, match=r"the disk took more than 0\.[24] s"):
                    count(ledger, run, rows, flush=flush)
        assert time.monotonic() - begun < 10


def count(ledger: Ledger, run: Run, rows: int, *, flush: bool) -> None:
    """Count some rows, and see that they are durable by a flush or by the end of the thread."""
    scribe = GroupCommitter(ledger, busy=0.2, room=2)
    with RunWriter(scribe, run, alone=True) as writer:
        for first in range(rows):
            put(writer, first, first + 1)
        if flush:
            writer.flush(0.2)


@pytest.mark.fault(44)
def test_a_run_on_a_full_disk_resumes_to_the_same_digest(tmp_path: Path) -> None:
    """Filled in the middle of a run by somebody else; freed, and resumed."""
    honest = drive(serial, work_of(), Goal(400))
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        driven(disk)
        with (disk / "ballast").open("wb") as ballast, pytest.raises(OSError, match="space"):
            ballast.write(bytes(2 << 20))
        with pytest.raises(StoreError, match="full"):
            drive(serial, work_of(), Goal(400), store=disk)
        (disk / "ballast").unlink()
        assert drive(serial, work_of(), Goal(400), store=disk).digest == honest.digest


@pytest.mark.fault(44)
@pytest.mark.parametrize("room", ["8k", "32k", "100k", "180k"])
def test_a_disk_that_is_full_at_submit_is_told_with_what_to_do(tmp_path: Path, room: str) -> None:
    """Before the run is entered it is sent again, after that resumed; and looking needs no room."""
    path = spec(tmp_path, backend="serial", nodes=None, samples=4000)
    with small_disk(tmp_path / "disk", f"size={room}") as disk:
        with pytest.raises(StoreError, match="full") as caught:
            cluster.submit(cluster.load(path), store=disk / "runs")
        fix = str(caught.value.fix)
        assert fix.startswith("free some space, then try again")
        assert ("cluster resume" in fix) == (room == "180k")
        if room == "180k":
            (run,) = api.runs(disk / "runs")
            assert run.state == "interrupted"
        else:
            with pytest.raises(StoreError, match="no store"):
                api.runs(disk / "runs")
        remount(disk, "size=8m")
        assert cluster.submit(cluster.load(path), store=disk / "runs", resume=True).blocks == 4


@pytest.mark.fault(46)
def test_a_read_only_disk_is_a_store_error(tmp_path: Path) -> None:
    """One line, with the place; not a traceback."""
    with small_disk(tmp_path / "disk", "size=1m") as disk:
        driven(disk / "store")
        remount(disk, "ro")
        for store in (disk / "store", disk / "new"):
            with pytest.raises(StoreError) as caught:
                driven(store)
            assert caught.value.code == 74
            assert str(disk) in str(caught.value)
            assert caught.value.fix


@pytest.mark.fault(46)
@pytest.mark.parametrize("what", ["removed", "replaced"])
def test_a_store_that_goes_away_while_it_is_written_is_an_error(tmp_path: Path, what: str) -> None:
    """SQLite would go on in the removed file, and acknowledge what nobody can ever read."""
    store = tmp_path / "store"
    with Ledger(store, create=True) as ledger:
        run = entered(ledger)
        with ledger.writer(run) as writer:
            put(writer, 0, 5)
            writer.flush()
            shutil.rmtree(store)
            if what == "replaced":
                Ledger(store, create=True).close()
            put(writer, 5, 9)
            with pytest.raises(StoreError, match="removed") as caught:
                writer.flush()
        assert caught.value.fix


@pytest.mark.fault(46)
def test_a_store_that_is_a_file_or_lies_below_one_is_a_store_error(tmp_path: Path) -> None:
    """EEXIST and ENOTDIR, told with the place."""
    (tmp_path / "file").write_text("")
    for store in (tmp_path / "file", tmp_path / "file" / "store"):
        with pytest.raises(StoreError, match="file"):
            Ledger(store, create=True)


def test_a_store_that_is_not_there_is_not_made_by_reading(tmp_path: Path) -> None:
    """Looking creates nothing, and says what to do."""
    (tmp_path / "begun").mkdir()
    # Where a submit was killed, or is, between making the file and its tables.
    (tmp_path / "begun" / FILE).touch()
    for store in (tmp_path / "none", tmp_path / "begun"):
        with pytest.raises(StoreError, match="no store") as caught:
            Ledger(store)
        assert caught.value.fix
    assert not (tmp_path / "none").exists()
    Ledger(tmp_path / "begun", create=True).close()


@pytest.mark.fault(44)
def test_a_writer_that_dies_of_anything_is_told_at_the_next_call(tmp_path: Path) -> None:
    """An error that is not SQLite's either: no flush waits for a thread that is gone."""
    with Ledger(tmp_path, create=True) as ledger:
        run = entered(ledger)
        with ledger.writer(run) as writer:
            writer.event("\ud800", "a name that is no text", 1.0)
            with pytest.raises(StoreError, match="surrogates"):
                writer.flush(timeout=20)


# -- damaged --------------------------------------------------------------------------------------


def cell(store: Path, column: str, first: int) -> bytes:
    """The bytes of a column of a counted row."""
    with by_hand(store) as db:
        sql = f"SELECT CAST({column} AS BLOB) FROM outcome WHERE first = ?"
        return bytes(db.execute(sql, (first,)).fetchone()[0])


@pytest.mark.fault(43)
@pytest.mark.parametrize("column", ["tally", "checksum", "node"])
@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_costs_its_row_and_nothing_else(
    tmp_path: Path, column: str, bit: int
) -> None:
    """Set aside, told, computed again; every other row is kept, and the digest is the same."""
    honest = driven(tmp_path)
    rng = random.Random(f"{column} {bit}")
    first = rng.choice(honest.rows).first
    value = bytearray(cell(tmp_path, column, first))
    value[rng.randrange(len(value))] ^= 1 << bit
    damage(tmp_path, column, first, bytes(value))
    again = driven(tmp_path)
    assert again.digest == honest.digest
    # A node's name is no part of what is counted.
    told = [event.message for event in again.events if isinstance(event, Alarm)]
    assert len(told) == len(again.spares) == (column != "node")
    assert all(spare[3] == "corrupt" for spare in again.spares)


@pytest.mark.fault(43)
def test_a_tally_swapped_with_another_rows_is_seen(tmp_path: Path) -> None:
    """Two whole, valid tallies in each other's place: the checksum holds them to their blocks."""
    honest = driven(tmp_path)
    one, two = honest.rows[2], honest.rows[3]
    damage(tmp_path, "tally", one.first, two.tally.encode())
    damage(tmp_path, "checksum", one.first, cell(tmp_path, "checksum", two.first))
    again = driven(tmp_path)
    assert [spare[0] for spare in again.spares] == [one.first]
    assert again.digest == honest.digest


@pytest.mark.fault(43)
def test_a_damaged_file_is_a_clear_error(tmp_path: Path) -> None:
    """Its header or its pages overwritten: a store error with a cure, never another answer."""
    driven(tmp_path)
    path = tmp_path / FILE
    whole = path.read_bytes()
    for start in (0, 4096):
        path.write_bytes(whole[:start] + b"\xa5" * 2048 + whole[start + 2048 :])
        with pytest.raises(StoreError) as caught:
            driven(tmp_path)
        assert "damaged" in str(caught.value.fix)


@pytest.mark.fault(41, 42)
@pytest.mark.parametrize("tail", ["torn", "zeroed", "stale"])
def test_a_bad_tail_of_the_write_ahead_log_is_dropped(tmp_path: Path, tail: str) -> None:
    """After a power loss: what was committed before it is there, and nothing half is believed."""
    live, copy = tmp_path / "live", tmp_path / "copy"
    with Ledger(live, create=True) as ledger:
        run = entered(ledger)
        for first in range(20):
            insert(ledger, run, first, first + 1)
        shutil.copytree(live, copy)
    log = copy / f"{FILE}-wal"
    data = log.read_bytes()
    end = {"torn": b"", "zeroed": bytes(5000), "stale": data[100:5100]}[tail]
    log.write_bytes(data[:-5000] + end)
    with Ledger(copy) as ledger:
        rows = list(ledger.counted(run))
        assert 10 <= len(rows) < 20
        assert all(row.intact for row in rows)
        assert [row.first for row in rows] == list(range(len(rows)))
        assert ledger.check() == "ok"


# -- versions, places, readers --------------------------------------------------------------------


@pytest.mark.fault(51)
def test_a_store_of_another_format_is_refused(tmp_path: Path) -> None:
    """Both formats are named, and nothing is touched."""
    driven(tmp_path)
    with by_hand(tmp_path) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    for create in (True, False):
        with pytest.raises(StoreError, match=f"format {SCHEMA + 1}.*format {SCHEMA}") as caught:
            Ledger(tmp_path, create=create)
        assert caught.value.fix
    with by_hand(tmp_path) as db:
        assert db.execute("SELECT count(*) FROM outcome").fetchone() != (0,)


@pytest.mark.fault(53)
def test_a_store_that_was_moved_goes_on_where_it_is(tmp_path: Path) -> None:
    """No path is kept in it: half a run here, the other half there, one digest."""
    honest = driven(tmp_path / "honest")
    driven(tmp_path / "here", Goal(5))
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert driven(tmp_path / "there").digest == honest.digest
    assert not (tmp_path / "here").exists()
    with by_hand(tmp_path / "there") as db:
        assert not [line for line in db.iterdump() if str(tmp_path) in line]


@pytest.mark.fault(55)
def test_a_reader_always_sees_a_whole_prefix(tmp_path: Path) -> None:
    """Groups of ten rows, read while they are written: never a part of one, never fewer again."""
    stop = threading.Event()
    with Ledger(tmp_path, create=True) as ledger:
        run = entered(ledger)

        def write() -> None:
            with ledger.writer(run) as writer:
                for group in range(10**6):
                    with writer._committer._wake:
                        for first in range(10 * group, 10 * group + 10):
                            put(writer, first, first + 1)
                    writer.flush()
                    if stop.is_set():
                        return

        thread = threading.Thread(target=write)
        thread.start()
        try:
            seen = 0
            while seen < 200:
                with Ledger(tmp_path) as reader:
                    rows = list(reader.counted(run))
                assert len(rows) >= seen
                assert len(rows) % 10 == 0
                assert [row.first for row in rows] == list(range(len(rows)))
                assert all(row.intact for row in rows)
                seen = len(rows)
        finally:
            stop.set()
            thread.join()


@pytest.mark.fault(99)
def test_nobody_else_can_read_a_store_whatever_the_umask(tmp_path: Path) -> None:
    """Folders 0700 and files 0600, those that SQLite makes beside its own too."""
    before = os.umask(0)
    try:
        with Ledger(tmp_path / "store", create=True) as ledger, ledger.lock("run"):
            insert(ledger, entered(ledger), 0, 5)
            paths = [tmp_path / "store", *(tmp_path / "store").rglob("*")]
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in paths}
    finally:
        os.umask(before)
    assert {f"{FILE}-wal", f"{FILE}-shm", "run", "locks"} < modes.keys()
    folders = {"store", "locks"}
    assert modes == {name: 0o700 if name in folders else 0o600 for name in modes}


def test_a_store_of_an_older_format_is_upgraded_and_keeps_its_runs(tmp_path: Path) -> None:
    """The first format had no wishes, no sweeps, and no keys of scheduled starts."""
    with Ledger(tmp_path, create=True) as ledger:
        insert(ledger, entered(ledger), 0, 5)
    with by_hand(tmp_path) as db:
        without_marks(db)
        db.execute("DROP INDEX session_run")
        for table in ("wish", "pool_event", "pool", "point", "sweep"):
            db.execute(f"DROP TABLE {table}")
        db.execute("ALTER TABLE session DROP COLUMN start")
        db.execute("PRAGMA user_version = 1")
    with Ledger(tmp_path) as ledger:
        run = ledger.run("run")
        assert [(row.first, row.stop) for row in ledger.counted(run)] == [(0, 5)]
        begin(ledger, run, "ssh", {}, start="key")
        assert sessions.sessions_of(ledger, run)[0]["start"] == "key"
        assert node_changes.newest(ledger) == 0
        assert sweeps.listed(ledger) == []


def test_a_store_whose_sweeps_had_no_parts_is_upgraded(tmp_path: Path) -> None:
    """Of the second format: all of their points were asked for."""
    with Ledger(tmp_path, create=True) as ledger, ledger.transaction():
        sweeps.enter(ledger, "s", "s", "request", SPEC, frozenset({1}))
    with by_hand(tmp_path) as db:
        without_marks(db)
        db.execute("ALTER TABLE sweep DROP COLUMN asked")
        db.execute("PRAGMA user_version = 2")
    with Ledger(tmp_path) as ledger:
        assert [sweep.asked for sweep in sweeps.listed(ledger)] == [None]
        with ledger.transaction():
            for name, places in (("s", (0,)), ("t", (0,)), ("t", (2,))):
                made = sweeps.enter(ledger, f"{name}-1", name, "request", SPEC, frozenset(places))
                assert sweeps.named(ledger, made.id) == made
        assert [sweep.asked for sweep in sweeps.listed(ledger)] == [{0, 2}, None]


@pytest.mark.fault(103)
def test_the_package_never_unpickles() -> None:
    """No room imports pickle, marshal or shelve, but those that keep an engine's own in check."""
    root = Path(cluster.__file__).parent
    keepers = {root / "backends" / "dispy" / name for name in ("shim.py", "probe.py")}
    for path in set(root.rglob("*.py")) - keepers:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", None)}
                assert not {"pickle", "marshal", "shelve"} & names, path
