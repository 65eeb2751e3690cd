"""What is told of a sweep for which much has happened."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cluster import api
from cluster.dispatch.events import Event, Noted
from cluster.ledger import Ledger
from cluster.unattended.detached.watched import WatchedRun
from tests.lifecycle.folder import Folder


def noted(ledger: Ledger, text: str, times: int) -> None:
    """So much happens to the only sweep."""
    rows = [(1, 1.0, f"{text} {number}") for number in range(times)]
    with ledger.transaction():
        ledger.db.executemany("INSERT INTO event (sweep, at, text) VALUES (?, ?, ?)", rows)


def words_of(events: Iterable[Event]) -> list[str]:
    """What was noted of it."""
    return [event.text for event in events if isinstance(event, Noted)]


def test_the_news_of_a_sweep_do_not_end_after_a_thousand(tmp_path: Path) -> None:
    """Who watches it hears the next one, once; and its result has the newest."""
    Folder(tmp_path, backend="serial")
    api.submit(api.load(tmp_path / "s.yaml"), store=tmp_path / "runs")
    with Ledger(tmp_path / "runs") as ledger:
        noted(ledger, "old", 1200)
        watched = WatchedRun(ledger, "swept")
        assert words_of(watched.news()) == []
        noted(ledger, "new", 3)
        assert words_of(watched.news()) == ["new 0", "new 1", "new 2"]
        assert words_of(watched.news()) == []
        events = [event["text"] for event in api.show("swept", ledger).events]
        assert len(events) == 1000
        assert events[-4:] == ["old 1199", "new 0", "new 1", "new 2"]
