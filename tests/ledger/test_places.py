"""What may stand where a store is to be: folders that may not be written, links, other files."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from cluster import api
from cluster.common.errors import StoreError
from cluster.doctor.machine import findings
from cluster.ledger import FILE, SCHEMA, Ledger, database
from cluster.ledger.tables import UPGRADES
from cluster.lifecycle import shards
from cluster.lifecycle.prune import prunable
from cluster.lifecycle.verify import verify
from cluster.unattended.detached import halt
from tests.cli.shell import ask, cluster, spec
from tests.conftest import need
from tests.ledger.stores import by_hand, entered, insert


@contextmanager
def read_only(store: Path, at: Path) -> Iterator[Path]:
    """The same folder at another place, where nobody may write it."""
    need(os.geteuid() == 0, "root, to mount a folder read-only")
    at.mkdir()
    mounted = subprocess.run(["mount", "--bind", store, at])
    need(mounted.returncode == 0, "the right to mount a folder (a container may lack it)")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", at], check=True)
        yield at
    finally:
        subprocess.run(["umount", "--lazy", at], check=True)


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in store.iterdir() if path.is_file()}


def killed(folder: Path, keep: tuple[str, ...]) -> Path:
    """A store of five rows as a killed writer leaves it: its log, or what else is to be kept."""
    with Ledger(folder / "live", create=True) as ledger:
        insert(ledger, entered(ledger), 0, 5)
        shutil.copytree(folder / "live", folder / "left")
    for end in {"-wal", "-shm"} - set(keep):
        (folder / "left" / f"{FILE}{end}").unlink()
    return folder / "left"


@pytest.mark.parametrize("keep", [("-wal", "-shm"), ("-wal",)], ids=["log and index", "log"])
def test_what_a_killed_writer_left_can_be_read_where_nothing_may_be_written(
    tmp_path: Path, keep: tuple[str, ...]
) -> None:
    """Its log is read too, and not a byte of the folder changes."""
    store = killed(tmp_path, keep)
    before = contents(store)
    with read_only(store, tmp_path / "there") as there, Ledger(there) as ledger:
        rows = list(ledger.counted(ledger.run("run")))
        assert [(row.first, row.stop, row.intact) for row in rows] == [(0, 5, True)]
        assert ledger.check() == "ok"
    assert contents(store) == before


def test_a_store_that_is_being_written_can_be_read_where_it_may_not_be(tmp_path: Path) -> None:
    """Each look sees what was written until then."""
    store = tmp_path / "store"
    with Ledger(store, create=True) as writing, read_only(store, tmp_path / "there") as there:
        run = entered(writing)
        with Ledger(there) as reading:
            for first in range(5):
                insert(writing, run, first, first + 1)
                assert len(list(reading.counted(reading.run("run")))) == first + 1


def test_a_read_only_store_of_an_older_format_is_upgraded_in_a_private_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read like one of this format, and stays as it is."""
    with Ledger(tmp_path / "store", create=True) as ledger:
        insert(ledger, entered(ledger), 0, 5)
    before = contents(tmp_path / "store")
    monkeypatch.setitem(UPGRADES, SCHEMA, "CREATE TABLE later (x INTEGER);")
    monkeypatch.setattr(database, "SCHEMA", SCHEMA + 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with read_only(tmp_path / "store", tmp_path / "there") as there, Ledger(there) as ledger:
        assert ledger.all("SELECT * FROM later", ()) == []
        assert len(list(ledger.counted(ledger.run("run")))) == 1
    assert contents(tmp_path / "store") == before
    assert {path.name for path in tmp_path.iterdir()} == {"store", "there"}


def test_every_verb_that_reads_takes_a_read_only_store_and_the_others_say_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line with the cure and 74, before anything is begun."""
    monkeypatch.chdir(tmp_path)
    path = spec(tmp_path, samples=4000, backend="serial", nodes=None)
    points = {"matrix": {"params.share": [0.25, 0.5]}}
    many = spec(tmp_path, samples=4000, backend="serial", nodes=None, name="many", sweep=points)
    sweep = api.submit(api.load(many)).run
    run = api.submit(api.load(path, ["sweep=null", "name=one"])).run
    with read_only(tmp_path / "runs", tmp_path / "there") as store:
        assert len(api.runs(store)) == 2
        assert api.show(run, store).digest
        assert api.show(sweep, store).state == "done"
        assert api.compare(sweep, sweep, store)
        assert api.repro(run, 0, store).fault is None
        assert verify(run, 1.0, store).blocks == 4
        assert shards.export(run, "0-1", tmp_path / "shard", store).run == run
        for write in (
            lambda: api.submit(api.load(path, ["sweep=null"]), store=store),
            lambda: api.submit(api.load(many), store=store),
            lambda: api.resume(run, store),
            lambda: api.resume(sweep, store),
            lambda: api.extend(run, store, overrides=["samples=8000"]),
            lambda: api.change_nodes(run, store, add=["n1"]),
            lambda: shards.merge(store, [tmp_path / "shard"]),
            lambda: prunable(store, keep=0),
            lambda: halt(run, store),
        ):
            with pytest.raises(StoreError, match="read-only") as caught:
                write()
            assert caught.value.code == 74
            assert "--store" in str(caught.value.fix)
        told = cluster("resume", run, "--store", store, cwd=tmp_path)
        assert (told.returncode, len(told.stderr.splitlines())) == (74, 2)


@pytest.mark.parametrize("name", ["file:y", "a?mode=ro", "b#c", "d%20e", "f\ng", "h;i", "é", "-j"])
def test_a_store_may_have_any_name(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite takes some for addresses: each is made, written and read where it was named."""
    monkeypatch.chdir(tmp_path)
    with Ledger(Path(name), create=True) as ledger:
        insert(ledger, entered(ledger), 0, 5)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with read_only(tmp_path / name, tmp_path / "there?") as there, Ledger(there) as ledger:
        assert len(ledger.runs()) == 1


def test_a_store_without_a_name_is_refused(tmp_path: Path) -> None:
    """``--store "$UNSET"`` means no store, and not the folder one is in."""
    for words in (("ls",), ("submit", spec(tmp_path))):
        document = ask(*words, "--store", "", cwd=tmp_path, code=2)
        assert "folder" in document["error"]["message"]
    assert not list(tmp_path.rglob(FILE))


@pytest.mark.parametrize("where", ["file", "store", "above"])
def test_no_store_is_made_through_a_link_that_leads_nowhere(tmp_path: Path, where: str) -> None:
    """Its target, on a disk that is not mounted or was purged, is named; nothing is made there."""
    store = tmp_path / "a" / "store"
    link = {"file": store / FILE, "store": store, "above": tmp_path / "a"}[where]
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path / "purged")
    for create in (True, False):
        with pytest.raises(
            StoreError, match=r"is a link to .*purged, which is not there"
        ) as caught:
            Ledger(store, create=create)
        assert caught.value.fix
    (told,) = (found for found in findings(store) if found.check == "store")
    assert told.status == "bad"
    assert not (tmp_path / "purged").exists()


def test_a_link_to_a_folder_is_that_folder(tmp_path: Path) -> None:
    """As many have a store on another disk."""
    (tmp_path / "scratch").mkdir()
    (tmp_path / "runs").symlink_to("scratch")
    with Ledger(tmp_path / "runs", create=True) as ledger:
        insert(ledger, entered(ledger), 0, 5)
    with Ledger(tmp_path / "scratch") as ledger:
        assert ledger.run("run")


@pytest.mark.parametrize("version", [0, 1, 2, SCHEMA, 99])
def test_the_file_of_another_program_is_refused_and_left_as_it_is(
    tmp_path: Path, version: int
) -> None:
    """Whatever number its program gave it: no table is made in it, nor its journal changed."""
    with by_hand(tmp_path) as db:
        db.execute("CREATE TABLE run (theirs TEXT)")
        db.execute(f"PRAGMA user_version = {version}")
    before = contents(tmp_path)
    for create in (True, False):
        with pytest.raises(StoreError, match="another program") as caught:
            Ledger(tmp_path, create=create)
        assert "--store" in str(caught.value.fix)
    assert contents(tmp_path) == before


def test_what_is_no_file_of_sqlite_is_refused(tmp_path: Path) -> None:
    """A text, a folder, a pipe: with the place, and nothing waits for it."""
    for name in ("text", "folder", "pipe"):
        (tmp_path / name).mkdir()
    (tmp_path / "text" / FILE).write_text("not a database\n" * 100)
    (tmp_path / "folder" / FILE).mkdir()
    os.mkfifo(tmp_path / "pipe" / FILE)
    for name in ("text", "folder", "pipe"):
        for create in (True, False):
            with pytest.raises(StoreError, match="not a") as caught:
                Ledger(tmp_path / name, create=create)
            assert str(tmp_path / name / FILE) in str(caught.value)
            assert "--store" in str(caught.value.fix)


def test_an_empty_file_is_where_a_store_is_made(tmp_path: Path) -> None:
    """As a submit that was killed at once leaves it; to be read, it holds no store."""
    (tmp_path / FILE).touch()
    with pytest.raises(StoreError, match="no store"):
        Ledger(tmp_path)
    Ledger(tmp_path, create=True).close()
    with sqlite3.connect(tmp_path / FILE) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA,)
    db.close()


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TRIGGER extra AFTER INSERT ON event BEGIN DELETE FROM outcome; END",
        "CREATE VIEW extra AS SELECT * FROM run",
    ],
)
def test_a_store_that_brings_statements_of_its_own_is_refused(tmp_path: Path, sql: str) -> None:
    """SQLite would run them at our next write."""
    with Ledger(tmp_path / "runs", create=True) as ledger:
        insert(ledger, entered(ledger), 0, 5)
    with closing(sqlite3.connect(tmp_path / "runs" / FILE)) as db:
        db.execute(sql)
        db.commit()
    with pytest.raises(StoreError, match=r"has the (trigger|view) 'extra'"):
        Ledger(tmp_path / "runs")


def test_a_file_that_is_a_link_is_read_and_not_written(tmp_path: Path) -> None:
    """Who writes through it would hold the locks of this folder, and not of the file's."""
    with Ledger(tmp_path / "real", create=True) as ledger:
        insert(ledger, entered(ledger), 0, 5)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / FILE).symlink_to(tmp_path / "real" / FILE)
    with Ledger(tmp_path / "runs") as ledger:
        assert ledger.run("run")
    with pytest.raises(StoreError, match="not locked") as caught:
        Ledger(tmp_path / "runs", write=True)
    assert str(tmp_path / "real") in str(caught.value.fix)
