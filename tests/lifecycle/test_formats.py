"""Stores of older formats: read as they were, and left alone while their version is at work."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cluster import api
from cluster.common.errors import Locked
from cluster.ledger import FILE, SCHEMA, Ledger, remove, sessions, sweeps
from cluster.unattended.detached.watched import WatchedRun
from tests.ledger.stores import by_hand, with_pools, without_marks
from tests.lifecycle.folder import Folder


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a sweep of two starts, a point of it that was extended alone, and a run."""
    folder, store = Folder(tmp_path, backend="serial"), tmp_path / "runs"
    api.submit(api.load(tmp_path / "s.yaml"), store=store)
    folder.write(samples=1280)
    api.submit(api.load(tmp_path / "s.yaml"), store=store)
    api.extend("swept/1", store, overrides=["samples=1920"])
    folder.write(name="alone", sweep=None)
    api.submit(api.load(tmp_path / "s.yaml"), store=store)
    with Ledger(store) as ledger:
        for name in ("swept", "alone"):
            sessions.note(ledger, sweeps.job_named(ledger, name), f"a note on {name}")
    return store


def shown(store: Path) -> list[dict[str, Any]]:
    """All that `show` tells of the sweep, of the point and of the run."""
    return [api.show(name, store).to_json() for name in ("swept", "swept/1", "alone")]


def version(store: Path) -> int:
    """The format that a store's file is of."""
    with by_hand(store) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


@pytest.mark.parametrize("older", [with_pools, without_marks], ids=["pools", "no marks"])
def test_a_store_of_an_older_format_shows_what_it_showed(store: Path, older: Any) -> None:
    """Every start, node and event of a sweep, of a point computed alone, and of a run."""
    before = shown(store)
    with by_hand(store) as db:
        older(db)
    assert shown(store) == before
    with by_hand(store) as db:
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        # The starts of the sweep, of the point and of the run; five points twice, and two alone.
        assert db.execute("SELECT count(*), count(sweep) FROM session").fetchone() == (4, 2)
        assert db.execute("SELECT count(*) FROM turn").fetchone() == (12,)
    assert version(store) == SCHEMA
    assert not {"pool", "pool_event", "old_session", "old_event"} & tables


def test_an_older_store_is_gone_on_with(store: Path) -> None:
    """Its sweep is extended, watched and removed like one of this format."""
    with by_hand(store) as db:
        with_pools(db)
    result = api.extend("swept", store, overrides=["samples=2560"])
    assert (result.state, result.samples) == ("done", 5 * 2560)
    with Ledger(store) as ledger:
        sweep = sweeps.named(ledger, "swept")
        assert sweep is not None
        assert len(sessions.sessions_of(ledger, sweep)) == 3
        assert len(list(WatchedRun(ledger, "swept").news())) == 2
        for run in ledger.runs():
            remove(ledger, run)
    with by_hand(store) as db:
        for table in ("session", "turn", "event", "point", "sweep", "run"):
            assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table


def test_rows_of_what_an_older_store_no_longer_has_are_left_behind(store: Path) -> None:
    """A damaged store may have sessions and events of no run, and pools of no sweep."""
    with by_hand(store) as db:
        with_pools(db)
        db.execute("DELETE FROM run WHERE name = 'alone'")
        db.execute("DELETE FROM sweep")
    with Ledger(store) as ledger:
        assert len(ledger.runs()) == 5
        assert ledger.all("SELECT count(*), count(sweep) FROM session", ()) == [(3, 0)]
        assert ledger.all("SELECT count(*) FROM event WHERE sweep IS NOT NULL", ()) == [(0,)]


def test_a_store_in_which_an_older_version_computes_is_read_in_a_copy(store: Path) -> None:
    """That version would end at the next row of a table that is gone; nothing else is written."""
    with Ledger(store) as ledger:
        run = ledger.run("alone").id
        before = shown(store)
        with ledger.lock(run):
            with by_hand(store) as db:
                with_pools(db)
            during = shown(store)
            with pytest.raises(Locked, match="an older version of cluster computes") as caught:
                api.resume(run, store)
            assert "kill -TERM" in (caught.value.fix or "")
            assert version(store) == 4
    assert [each["nodes"] for each in during] == [each["nodes"] for each in before]
    assert shown(store) == before
    assert version(store) == SCHEMA


def test_a_run_that_was_replaced_in_its_sweep_keeps_its_starts(store: Path, tmp_path: Path) -> None:
    """Its sweep is removed with its last point; what the other one has to tell stays."""
    with closing(Ledger(store)) as ledger:
        sweep = sweeps.named(ledger, "swept")
        assert sweep is not None
        runs = [run for _, _, run in sweeps.runs_of(ledger, sweep)]
        with ledger.transaction():
            ledger.db.execute("DELETE FROM point WHERE run = ?", (runs[0].key,))
        before = sessions.sessions_of(ledger, runs[0])
        for run in runs[1:]:
            remove(ledger, run)
        assert sweeps.named(ledger, "swept") is None
        assert sessions.sessions_of(ledger, runs[0]) == before
        assert len(before) == 2
        remove(ledger, runs[0])
        assert ledger.all("SELECT count(*) FROM session", ()) == [(1,)]
    assert (store / FILE).is_file()
    assert api.show("alone", store).state == "done"
