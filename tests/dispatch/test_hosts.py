"""Several hosts: retries on other hosts, hosts set aside, flapping nodes, stranded blocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.backends.base import NodeEvent, Pause
from cluster.dispatch import Policy
from cluster.dispatch.events import Alarm
from cluster.dispatch.failures import STRANDED, STRIKES
from cluster.dispatch.in_flight import Pace
from cluster.ledger.sessions import uncounted
from cluster.sampling.plan import Goal
from cluster.sampling.task import Fault, Task
from tests.dispatch.bench import Bench, bench, tiles

ONE = Policy(pinned=1)


def gone(b: Bench, node: str) -> None:
    """A node has no slot any more."""
    b.many.on_node(NodeEvent(node, 0, "by hand"))


def fail_for_others(b: Bench, times: int, bad: str = "a", good: str = "b") -> None:
    """One node loses so many tasks, and another does them."""
    for _ in range(times):
        task = b.take(bad)
        b.lose(task, node=bad)
        again = b.take(good)
        assert again.first == task.first
        b.answer(again, good)


# -- elsewhere first ------------------------------------------------------------------------------


def test_an_engine_that_chooses_avoids_the_node_that_failed_until_another_has_tried(
    tmp_path: Path,
) -> None:
    """While what it failed waits or is being retried; but not if it is the only node."""
    with bench(tmp_path, Goal(9), ONE) as b:
        b.join("a", "b")
        b.lose(b.take("a"))
        assert set(b.many.avoided()) == {"a"}
        again = b.take("b")
        assert set(b.many.avoided()) == {"a"}
        b.answer(again, "b")
        assert not b.many.avoided()
        b.lose(b.take("b"), node="b")
        gone(b, "a")
        assert not b.many.avoided()


@pytest.mark.parametrize("kind", ["lost", "refused"])
def test_a_block_that_failed_goes_to_another_node(tmp_path: Path, kind: str) -> None:
    """The node that failed it continues with other blocks; the next node gets it."""
    with bench(tmp_path, Goal(9), Policy(pinned=1, raised=3)) as b:
        b.join("a", "b")
        bad = b.take("a")
        if kind == "lost":
            b.lose(bad)
        else:
            b.answer(bad, checksum="0" * 16)
        assert b.take("a").first != bad.first
        assert b.take("b").first == bad.first


def test_after_a_short_patience_the_same_node_gets_it_again(tmp_path: Path) -> None:
    """The other node is ready, but takes no task."""
    with bench(tmp_path, Goal(1), ONE) as b:
        b.join("a", "b")
        b.lose(b.take("a"))
        b.wait(4)
        assert b.rest("a") is Pause.NOW
        b.wait(2)
        assert b.take("a").attempt == 2


def test_a_node_without_others_gets_its_failed_block_at_once(tmp_path: Path) -> None:
    """There is no other node to wait for."""
    with bench(tmp_path, Goal(1), ONE) as b:
        b.join("a", "b")
        bad = b.take("a")
        gone(b, "b")
        b.lose(bad)
        assert b.take("a").attempt == 2


def test_the_parts_of_a_lost_task_go_elsewhere_too(tmp_path: Path) -> None:
    """One of them has the block that killed the worker."""
    with bench(tmp_path, Goal(16), Policy(pinned=16)) as b:
        b.join("a", "b")
        b.lose(b.take("a"))
        assert b.rest("a") is Pause.NOW
        assert b.take("b").stop == 2


def test_a_second_copy_goes_to_another_node(tmp_path: Path) -> None:
    """The node of the task is the slow one, so a free slot of it gets no copy."""
    with bench(tmp_path, Goal(1), ONE) as b:
        b.join("a", "b", slots=2)
        stalled = b.take("a")
        b.wait(6)
        b.core.paces["a"] = Pace(0.1)
        assert b.rest("a") is Pause.NOW
        assert b.take("b").first == stalled.first


# -- hosts that are set aside ---------------------------------------------------------------------


def test_a_host_that_fails_what_others_do_is_set_aside_and_named(tmp_path: Path) -> None:
    """After three such tasks, not before; in the ledger and to the observers."""
    with bench(tmp_path, Goal(99), ONE) as b:
        b.join("a", "b")
        fail_for_others(b, STRIKES - 1)
        assert not b.told(Alarm)
        fail_for_others(b, 1)
        assert b.rest("a") is Pause.NOW
        assert isinstance(b.many.take("b"), Task)
        [alarm] = b.told(Alarm)
        assert (alarm.node, "set aside" in alarm.message) == ("a", True)


def test_the_last_usable_host_is_not_set_aside(tmp_path: Path) -> None:
    """A host that was set aside is used again when the others are gone."""
    with bench(tmp_path, Goal(99), ONE) as b:
        b.join("a", "b")
        fail_for_others(b, STRIKES)
        assert b.rest("a") is Pause.NOW
        gone(b, "b")
        assert isinstance(b.many.take("a"), Task)


def test_a_host_that_does_its_block_in_the_end_is_not_blamed(tmp_path: Path) -> None:
    """Its worker died; the next one drew the block on the same host."""
    with bench(tmp_path, Goal(99), ONE) as b:
        b.join("a")
        for _ in range(STRIKES):
            b.lose(b.take("a"))
            b.answer(b.take("a"))
        b.join("b")
        b.answer(b.take("b"), "b")
        assert not b.core.nodes["a"].aside
        assert isinstance(b.many.take("a"), Task)


def test_a_poison_block_sets_no_host_aside(tmp_path: Path) -> None:
    """Every host fails it and none does it: the block is at fault."""
    with bench(tmp_path, Goal(9), Policy(pinned=1, lost=9)) as b:
        b.join("a", "b")
        for node in "abababab":
            task = b.take(node)
            while task.first:
                b.answer(task, node)
                task = b.take(node)
            b.lose(task, node=node)
        assert not any(state.aside for state in b.core.nodes.values())


# -- nodes that flap ------------------------------------------------------------------------------


@pytest.mark.fault(10)
def test_a_node_lost_three_times_rests_twice_as_long_each_time(tmp_path: Path) -> None:
    """Other nodes work meanwhile; it is reported; after its rest it gets tasks again."""
    with bench(tmp_path, Goal(99), ONE) as b:
        b.join("b")
        for rest in (0, 0, 5, 10, 20):
            b.join("a")
            gone(b, "a")
            b.join("a")
            if rest:
                b.wait(rest - 1)
                assert b.rest("a") is Pause.NOW
                b.wait(1)
            b.answer(b.take("a"))
        assert ["5 s" in alarm.message for alarm in b.told(Alarm)] == [True, False, False]


@pytest.mark.fault(10)
def test_a_flapping_node_works_when_it_is_the_only_one(tmp_path: Path) -> None:
    """Resting makes no sense if no other node could work."""
    with bench(tmp_path, Goal(99), ONE) as b:
        for _ in range(5):
            b.join("a")
            gone(b, "a")
        b.join("a")
        assert isinstance(b.many.take("a"), Task)


# -- hosts that a person has drained --------------------------------------------------------------


def test_a_drain_is_no_loss_and_forgets_what_was_held_against_a_host(tmp_path: Path) -> None:
    """However often: no rest follows, and a host that was set aside works again when added."""
    with bench(tmp_path, Goal(99), ONE) as b:
        b.join("a", "b")
        fail_for_others(b, STRIKES)
        assert b.rest("a") is Pause.NOW
        for _ in range(4):
            b.many.on_node(NodeEvent("a", 0, "by hand", asked=True))
            b.join("a")
        b.answer(b.take("a"))
        assert not any("lost" in alarm.message for alarm in b.told(Alarm))


def test_an_engine_that_chooses_is_told_whom_to_avoid(tmp_path: Path) -> None:
    """Nodes that would get no task by name, as long as others can work."""
    with bench(tmp_path, Goal(99), ONE) as b:
        b.join("a", "b")
        assert not b.many.avoided()
        fail_for_others(b, STRIKES)
        assert list(b.many.avoided()) == ["a"]
        gone(b, "b")
        assert not b.many.avoided()


# -- what was attempted ---------------------------------------------------------------------------


@pytest.mark.parametrize(("block", "begun"), [(3, 1), (6, 4), (None, 5), (99, 5)])
def test_a_failed_attempt_counts_the_blocks_that_were_begun(
    tmp_path: Path, block: int | None, begun: int
) -> None:
    """Three of [0, 8) are counted: goodput includes these, the bad one, and those between."""
    with bench(tmp_path, Goal(8), Policy(pinned=8, lost=9)) as b:
        b.join("a")
        task = b.take("a")
        part = b.true(task._replace(stop=3))
        fault = Fault("lost", block, "WorkerLost", "by hand")
        b.many.on_outcome(part._replace(fault=fault))
        assert b.core.count.blocks == 3
        b.core.writer.flush()
        assert uncounted(b.ledger, b.run)["a"][1] == begun


# -- stranded blocks ------------------------------------------------------------------------------


@pytest.mark.fault(13)
def test_the_loss_of_a_node_costs_its_blocks_no_attempt_but_not_for_ever(tmp_path: Path) -> None:
    """It is owed again each time; at the fifth the block is a suspect, as after a lost worker."""
    with bench(tmp_path, Goal(1), Policy(pinned=1, lost=1)) as b:
        b.join("a")
        for _ in range(STRANDED - 1):
            b.lose(b.take("a"), "stranded")
            assert not b.ledger.failures(b.run)
        b.lose(b.take("a"), "stranded")
        assert b.core.failed == {0}


@pytest.mark.fault(13)
def test_what_is_stranded_is_counted_block_by_block(tmp_path: Path) -> None:
    """Lengths change between attempts; different blocks stranded once each are not suspects."""
    with bench(tmp_path, Goal(40), Policy(pinned=4, lost=1)) as b:
        b.join("a", slots=10)
        tasks = [b.take("a") for _ in range(10)]
        for task in tasks:
            b.lose(task, "stranded")
        assert not b.core.failed
        assert not b.ledger.failures(b.run)
        b.finish()
        assert tiles(b.rows(), 40)


# -- weights --------------------------------------------------------------------------------------


def test_a_nodes_weight_says_its_speed_until_it_was_measured(tmp_path: Path) -> None:
    """The first tasks of a host that joins late are as long as its relative weight suggests."""
    lengths = {}
    for weight in (0.05, 1.0):
        with bench(tmp_path / str(weight), Goal(10_000)) as b:
            b.core.weights = {"a": 1.0, "b": weight}
            b.join("a")
            b.answer(b.take("a"), wall=0.2)
            b.join("b")
            task = b.take("b")
            lengths[weight] = task.stop - task.first
    assert lengths[0.05] == 1
    assert lengths[1.0] > 1
