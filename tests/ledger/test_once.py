"""The database itself counts a block once, and what it acknowledged stays."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import cluster.ledger.writer as writer_room
from cluster.common.errors import StoreError
from cluster.hosts.nodes import Node
from cluster.ledger import Ledger, NodeChangeRequest, Run, node_changes, remove, sessions
from cluster.ledger.marks import End
from cluster.ledger.tables import TABLES
from cluster.sampling.task import Fault, Task
from tests.ledger.stores import begin, by_hand, entered, insert, outcome, put, tally

SHAPES = {
    "the same": (10, 20),
    "inside": (12, 15),
    "at its start": (10, 11),
    "at its end": (19, 20),
    "around": (5, 25),
    "over its start": (5, 11),
    "over its end": (19, 30),
    "same start, longer": (10, 21),
    "same end, longer": (9, 20),
    "over two": (15, 35),
    "over a gap": (20, 31),
}


def spans(ledger: Ledger, run: Run) -> list[tuple[int, int]]:
    """The counted ranges."""
    return [(row.first, row.stop) for row in ledger.counted(run)]


@pytest.mark.parametrize("shape", SHAPES)
def test_an_overlap_is_refused_by_the_database(tmp_path: Path, shape: str) -> None:
    """Whatever its shape, from any connection: nothing of it is counted."""
    with Ledger(tmp_path, create=True) as ledger:
        run = entered(ledger)
        insert(ledger, run, 10, 20)
        insert(ledger, run, 30, 40)
        with pytest.raises(StoreError, match="counted already"):
            insert(ledger, run, *SHAPES[shape])
        assert spans(ledger, run) == [(10, 20), (30, 40)]


def test_neighbours_and_other_runs_do_not_overlap(tmp_path: Path) -> None:
    """Ranges that only touch are counted, and each run has its own blocks."""
    with Ledger(tmp_path, create=True) as ledger:
        run, other = entered(ledger), entered(ledger, "other")
        for span in ((10, 20), (20, 30), (9, 10), (0, 9), (30, 31)):
            insert(ledger, run, *span)
        insert(ledger, other, 0, 31)
        assert spans(ledger, run) == [(0, 9), (9, 10), (10, 20), (20, 30), (30, 31)]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)), max_size=15))
def test_what_is_counted_is_disjoint_whatever_is_tried(tries: list[tuple[int, int]]) -> None:
    """Random ranges, one after the other: exactly those are taken that overlap nothing taken."""
    db = sqlite3.connect(":memory:")
    db.executescript(TABLES)
    taken: set[int] = set()
    for first, length in tries:
        blocks = set(range(first, first + length))
        row = (1, first, first + length, "", "a", *[0] * 10, "")
        try:
            db.execute(f"INSERT INTO outcome VALUES ({', '.join('?' * 16)})", row)
        except sqlite3.IntegrityError:
            assert blocks & taken
        else:
            assert not blocks & taken
            taken |= blocks
    db.close()


def test_one_overlap_refuses_its_whole_group(tmp_path: Path) -> None:
    """A group is one transaction: a dispatcher that counts twice is stopped, not half believed."""
    with Ledger(tmp_path, create=True) as ledger:
        run = entered(ledger)
        with ledger.writer(run) as writer:
            with writer._committer._wake:
                for span in ((0, 5), (5, 9), (4, 6)):
                    put(writer, *span)
            with pytest.raises(StoreError, match="counted already"):
                writer.flush()
        assert spans(ledger, run) == []


@pytest.mark.parametrize("change", ["stop = 30", "tally = 'x'", "node = 'b'", "run = 2"])
def test_a_counted_row_does_not_change(tmp_path: Path, change: str) -> None:
    """No UPDATE of a counted outcome, from any program."""
    with Ledger(tmp_path, create=True) as ledger:
        run = entered(ledger)
        insert(ledger, run, 0, 5)
        with by_hand(tmp_path) as db, pytest.raises(sqlite3.IntegrityError, match="not change"):
            db.execute(f"UPDATE outcome SET {change}")


@pytest.mark.parametrize("span", [(5, 5), (5, 4), (-1, 3)])
def test_an_impossible_range_is_refused(tmp_path: Path, span: tuple[int, int]) -> None:
    """Empty, reversed or negative: not a range of blocks."""
    with Ledger(tmp_path, create=True) as ledger:
        run = entered(ledger)
        with pytest.raises(StoreError, match="CHECK"):
            insert(ledger, run, *span)


def test_a_row_is_durable_by_itself_within_50_ms(tmp_path: Path) -> None:
    """Nobody flushes: another connection sees it all the same, after the group's short wait."""
    assert writer_room._GROUP <= 0.05
    with Ledger(tmp_path, create=True) as ledger, ledger.writer(entered(ledger)) as writer:
        put(writer, 0, 5)
        deadline, seen = time.monotonic() + 30, 0
        with by_hand(tmp_path) as db:
            assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            while not seen and time.monotonic() < deadline:
                (seen,) = db.execute("SELECT count(*) FROM outcome").fetchone()
        assert seen == 1


def test_every_connection_writes_with_full_synchronisation(tmp_path: Path) -> None:
    """Synchronous = FULL (2): a commit is on the disk before it is acknowledged."""
    with Ledger(tmp_path, create=True) as ledger:
        assert ledger.db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_everything_handed_over_before_the_end_is_written(tmp_path: Path) -> None:
    """Leaving the writer writes what waits; nothing is lost for want of a flush."""
    with Ledger(tmp_path, create=True) as ledger:
        run = entered(ledger)
        record = {
            "elapsed_s": 1.0,
            "blocks": 3000,
            "samples": 192_000,
            "samples_per_s": 9.5,
            "estimate": 0.5,
            "std_error": None,
            "nodes": [["a", 1, 3000, 192_000, 0.5, 0]],
        }
        with ledger.writer(run) as writer:
            for first in range(3000):
                put(writer, first, first + 1)
            writer.fail(Task(9, 1, 2, 1, 0.0), Fault("raised", 1, "E", "no", "trace"), "a", 1, 4.0)
            writer.spare(outcome(0, 1), "equal", 4.0)
            writer.event("a", "gone", 4.0)
            writer.progress(record)
        assert len(spans(ledger, run)) == 3000
        assert ledger.failures(run)[0]["traceback"] == "trace"
        assert ledger.spares(run) == [(0, 1, "a", "equal")]
        assert sessions.events_of(ledger, run)[0]["text"] == "gone"
        assert ledger.run("run").progress == record


def test_totals_of_a_node_add_up(tmp_path: Path) -> None:
    """Tasks, blocks, wall and CPU seconds; of a prefix where one is asked for."""
    with Ledger(tmp_path, create=True) as ledger:
        run = entered(ledger)
        for span in ((0, 5), (5, 6), (6, 20)):
            insert(ledger, run, *span)
        assert ledger.node_totals(run) == [("a", 3, 20, 3.0, 1.5, 4.5)]
        assert ledger.node_totals(run, 6) == [("a", 2, 6, 2.0, 1.0, 3.0)]


@pytest.mark.fault(44)
def test_time_lost_is_of_one_clock_each(tmp_path: Path) -> None:
    """A worker's clock that is a day off changes nothing; one that is of no use adds nothing."""
    with Ledger(tmp_path, create=True) as ledger:
        run = entered(ledger)
        with ledger.writer(run) as writer:
            for first, times in enumerate(((1.0, 2.0), (86_401.0, 86_402.0), (0.0, 0.0))):
                row = outcome(first, first + 1)._replace(started=times[0], ended=times[1])
                writer.count(Task(1, first, first + 1, 1, 0.5), row, 3.0)
        assert ledger.node_totals(run)[0].lost == 2 * 1.5


def test_slots_of_a_start_are_the_most_that_a_node_had(tmp_path: Path) -> None:
    """Also of a host that was added, whose name may be an address; of this start alone."""
    with Ledger(tmp_path, create=True) as ledger:
        run = entered(ledger)
        for slots in (1, 3):
            key = begin(ledger, run, "ssh", {"a": 4, "b": 0})
            with ledger.committer() as committer:
                writer = sessions.SessionWriter(committer, run, key)
                for node, count in (("a", 2), ("b", slots), ("b", 0), ("fe80::1%eth0", 2)):
                    writer.slots(node, count)
        nodes = [session["nodes"] for session in sessions.sessions_of(ledger, run)]
        assert nodes == [{"a": 4, "b": slots, "fe80::1%eth0": 2} for slots in (1, 3)]


def test_a_wish_is_for_one_run_and_answered_once(tmp_path: Path) -> None:
    """In the order they came, and with what became of it."""
    with Ledger(tmp_path, create=True) as ledger:
        runs = entered(ledger, "one"), entered(ledger, "two")
        assert node_changes.newest(ledger) == 0
        keys = [
            node_changes.request(ledger, run, [Node("h", slots=2)], ["g"])
            for run in (*runs, runs[0])
        ]
        assert node_changes.unanswered(ledger, keys[1]) == [
            ("one", NodeChangeRequest(keys[2], (Node("h", slots=2),), ("g",)))
        ]
        assert [wish.key for _, wish in node_changes.unanswered(ledger, 0)] == keys
        assert node_changes.answer_to(ledger, keys[2]) is None
        with ledger.writer(runs[0]) as writer:
            writer.answer(keys[2], {"added": ["h"]})
        assert node_changes.answer_to(ledger, keys[2]) == {"added": ["h"]}
        assert [wish.key for _, wish in node_changes.unanswered(ledger, 0)] == keys[:2]
        assert node_changes.newest(ledger) == keys[2]


def test_a_wish_is_newer_than_one_whose_run_was_removed(tmp_path: Path) -> None:
    """Whoever computes another run has heard of that one, and asks for what came after it."""
    with Ledger(tmp_path, create=True) as ledger:
        old, new = entered(ledger, "old"), entered(ledger, "new")
        node_changes.request(ledger, old, (), ["g"])
        heard = node_changes.newest(ledger)
        remove(ledger, old)
        key = node_changes.request(ledger, new, (), ["h"])
        assert [(run, wish.key) for run, wish in node_changes.unanswered(ledger, heard)] == [
            ("new", key)
        ]


def test_a_range_that_is_set_aside_is_owed_again(tmp_path: Path) -> None:
    """Taken out of what is counted, kept as a spare; its blocks may be counted anew."""
    with Ledger(tmp_path, create=True) as ledger:
        run = entered(ledger)
        insert(ledger, run, 0, 5)
        insert(ledger, run, 5, 9)
        (first, _) = ledger.counted(run)
        ledger.set_aside(run, first, "corrupt")
        assert spans(ledger, run) == [(5, 9)]
        assert ledger.spares(run) == [(0, 5, "a", "corrupt")]
        insert(ledger, run, 0, 5)
        assert spans(ledger, run) == [(0, 5), (5, 9)]


@pytest.mark.fault(103)
def test_nothing_at_rest_is_pickled(tmp_path: Path) -> None:
    """Every value is a number or UTF-8 text; there is no blob."""
    with Ledger(tmp_path, create=True) as ledger:
        run = entered(ledger)
        insert(ledger, run, 0, 5)
        begin(ledger, run, "serial", {"a": 1})
        ledger.finish(run, End.of("done", "samples", True, 5, tally(0, 5), [[0, 5]]))
    kinds = set()
    with by_hand(tmp_path) as db:
        for (table,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'"):
            for row in db.execute(f"SELECT * FROM {table}").fetchall():
                kinds |= {type(value) for value in row}
    assert kinds <= {int, float, str, type(None)}
