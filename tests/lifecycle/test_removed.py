"""Points that are removed while somebody looks at their sweep, or sends it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster import api
from cluster.common.errors import UsageError
from cluster.ledger import Ledger, remove, sweeps
from cluster.lifecycle import entering, life
from cluster.lifecycle.job import Member
from tests.lifecycle.folder import SHARES, Folder


def removing(store: Path) -> None:
    """What `gc` does, with the first point of the only sweep."""
    with Ledger(store) as ledger:
        (sweep,) = sweeps.listed(ledger)
        remove(ledger, sweeps.runs_of(ledger, sweep)[0][2])


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a sweep that is done."""
    Folder(tmp_path, backend="serial")
    api.submit(api.load(tmp_path / "s.yaml"), store=tmp_path / "runs")
    return tmp_path / "runs"


def test_a_point_that_is_removed_while_its_sweep_is_read_is_left_out(store: Path) -> None:
    """Between the two questions that a reader asks."""

    class Slow(Ledger):
        def all(self, sql: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
            rows = super().all(sql, values)
            if sql.startswith("SELECT place"):
                removing(store)
            return rows

    with Slow(store) as ledger:
        result = api.show("swept", ledger)
    assert [point.point for point in result.members] == [1, 2, 3, 4]


def test_a_point_that_is_removed_before_it_is_held_is_told(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is computed of a sweep that is no longer whole; sent again, it is."""
    has_all = entering.has_all
    removed: list[bool] = []

    def and_then_removed(member: Member) -> bool:
        if not removed:
            removed.append(True)
            removing(store)
        return has_all(member)

    Folder(tmp_path, backend="serial", samples=1280)
    spec = api.load(tmp_path / "s.yaml")
    monkeypatch.setattr(life, "has_all", and_then_removed)
    with pytest.raises(UsageError, match="was removed before it was locked") as caught:
        api.submit(spec, store=store)
    assert caught.value.fix == "submit the sweep again"
    again = api.submit(spec, store=store)
    assert (again.state, len(again.members)) == ("done", len(SHARES))
    assert {point.result.samples for point in again.members} == {1280}
