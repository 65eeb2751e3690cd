"""The decisions of a scheduler, one at a time: task lengths, attempts, copies, clocks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from cluster.backends.base import NodeEvent, Pause
from cluster.dispatch import Policy
from cluster.dispatch.events import Alarm, AttemptFailed, Draining
from cluster.ledger.sessions import events_of
from cluster.sampling.plan import Checkpoints, Goal
from cluster.sampling.task import Fault, Outcome, Task
from tests.dispatch.bench import NEVER, Bench, bench, tampered, tiles

# -- lengths and lookahead ------------------------------------------------------------------------


def test_the_first_task_of_a_node_is_one_block(tmp_path: Path) -> None:
    """Its speed is not known yet."""
    with bench(tmp_path, Goal(100_000)) as b:
        b.join()
        assert b.take().stop == 1
        assert b.rest() is Pause.NOW


def test_a_task_is_at_most_eight_times_the_longest_that_was_seen(tmp_path: Path) -> None:
    """A speed measured on a few blocks is not extrapolated to thousands."""
    with bench(tmp_path, Goal(100_000)) as b:
        b.core._frontier = 20_000
        b.join()
        longest = tasks = 0
        while longest < 500:
            task, tasks = b.take(), tasks + 1
            length = task.stop - task.first
            assert length <= max(1, 8 * longest)
            longest = max(longest, length)
            b.answer(task, wall=1e-5)
        assert tasks < 10


def test_tasks_taper_towards_the_end(tmp_path: Path) -> None:
    """Long while much remains, at most half an even share of the rest, short at the end."""
    with bench(tmp_path, Goal(6000)) as b:
        b.join("a", slots=2)
        lengths = []
        while isinstance(task := b.many.take("a"), Task):
            lengths.append(task.stop - task.first)
            left = 6000 - task.stop
            assert lengths[-1] <= max(8, (left + lengths[-1]) / 2 + 1)
            b.answer(task)
        assert max(lengths) <= 101
        assert max(lengths) >= 80
        assert max(lengths[-3:]) <= 2
        assert tiles(b.rows(), 6000)


def test_no_task_crosses_a_checkpoint(tmp_path: Path) -> None:
    """With a target every task lies between two successive checkpoints."""
    with bench(tmp_path, Goal(2000, NEVER)) as b:
        b.join()
        rule = Checkpoints(Goal(2000, NEVER))
        while isinstance(task := b.many.take("a"), Task):
            assert not rule.crosses(task.first, task.stop)
            b.answer(task, wall=1e-6)


@pytest.mark.parametrize("blocks", [1, 7, 1000])
def test_a_pinned_length_is_kept(tmp_path: Path, blocks: int) -> None:
    """Every task has the pinned length, unless a checkpoint or the end cuts it."""
    with bench(tmp_path, Goal(500), Policy(pinned=blocks)) as b:
        b.join()
        rule = Checkpoints(Goal(500))
        while isinstance(task := b.many.take("a"), Task):
            assert task.stop == min(task.first + blocks, rule.segment(task.first).stop)
            b.answer(task)


def test_a_slot_of_unknown_speed_gets_one_task_at_a_time(tmp_path: Path) -> None:
    """Tasks are sent ahead only if their duration is known."""
    with bench(tmp_path, Goal(100)) as b:
        b.join("a", slots=2)
        b.take()
        b.take()
        assert b.rest() is Pause.NOW


@pytest.mark.parametrize(("wall", "most"), [(1e-5, 128), (0.02, 9), (0.5, 1)])
def test_lookahead_is_bounded_in_seconds_and_in_tasks(
    tmp_path: Path, wall: float, most: int
) -> None:
    """0.15 s of work ahead, at most 128 tasks per slot; none if tasks are long."""
    with bench(tmp_path, Goal(10**6), Policy(pinned=1)) as b:
        b.join()
        b.answer(b.take(), wall=wall)
        taken = 0
        while isinstance(b.many.take("a"), Task):
            taken += 1
        assert 1 <= taken <= most
        assert taken == most or wall == 0.02


def test_an_engine_that_cannot_choose_takes_for_all_nodes(tmp_path: Path) -> None:
    """``take`` without a node gives as many tasks as all nodes have slots."""
    with bench(tmp_path, Goal(400)) as b:
        b.join("a", slots=2)
        b.join("b", slots=1)
        first = [b.many.take(None) for _ in range(4)]
        assert [isinstance(task, Task) for task in first] == [True, True, True, False]
        assert b.core.nodes.slots == 3
        for task in first[:3]:
            assert isinstance(task, Task)
            b.answer(task, "b")
        while isinstance(task := b.many.take(None), Task):
            b.answer(task, "a")
        assert tiles(b.rows(), 400)
        assert set(b.core.nodes) == {"a", "b"}
        assert sum(state.samples for state in b.core.nodes.values()) == 400 * 64


# -- attempts -------------------------------------------------------------------------------------


def raised(b: Bench, task: Task, block: int) -> None:
    """A kernel raised at a block of the task; the blocks before it are done."""
    part = task._replace(stop=block)
    before = b.true(part) if block > task.first else None
    fault = Fault("raised", block, "ValueError", "no", "the traceback")
    empty = Outcome.without_answer(task, "lost", "", None)
    outcome = (before or empty)._replace(task=task.id, fault=fault, node="a")
    b.many.on_outcome(outcome)


@pytest.mark.fault(14)
def test_a_raised_block_fails_the_run_after_its_attempts(tmp_path: Path) -> None:
    """Blocks before it count at once, those after it are owed; each attempt is reported."""
    with bench(tmp_path, Goal(20), Policy(raised=2, pinned=10)) as b:
        b.join()
        raised(b, b.take(), 4)
        assert b.rows()[0][:2] == (0, 4)
        assert b.many.draining is None
        again = b.take()
        assert (again.first, again.stop, again.attempt) == (4, 5, 2)
        raised(b, again, 4)
        assert b.core.failed == {4}
        assert b.many.draining == "failure"
        assert [event.final for event in b.told(AttemptFailed)] == [False, True]
        assert [failure["block"] for failure in b.ledger.failures(b.run)] == [4]


@pytest.mark.fault(3, 4, 5)
def test_a_lost_task_is_drawn_again_in_smaller_parts(tmp_path: Path) -> None:
    """The block that did it is unknown: every part is retried, and a loss costs no attempt yet."""
    with bench(tmp_path, Goal(20), Policy(pinned=20)) as b:
        b.join()
        b.lose(b.take())
        parts = []
        for _ in range(7):
            parts.append(b.take())
            b.answer(parts[-1])
        assert [part.first for part in parts] == [0, 3, 6, 9, 12, 15, 18]
        assert b.core.count.finished
        assert not b.core.failed


@pytest.mark.fault(13)
@pytest.mark.parametrize("attempts", [1, 3])
def test_a_poison_block_fails_after_exactly_its_attempts(tmp_path: Path, attempts: int) -> None:
    """Blocks that shared its task are drawn again; alone it gets its number of attempts."""
    with bench(tmp_path, Goal(64), Policy(pinned=64, lost=attempts)) as b:
        b.join()
        alone = 0
        while isinstance(task := b.many.take("a"), Task):
            if task.first <= 7 < task.stop:
                alone += task.stop - task.first == 1
                b.lose(task)
            else:
                b.answer(task)
        assert alone == attempts
        assert b.core.failed == {7}
        assert b.many.draining == "failure"


@pytest.mark.fault(13)
def test_tasks_that_did_not_begin_cost_no_attempt(tmp_path: Path) -> None:
    """The queue of a dead worker is owed again, and no failure is recorded."""
    with bench(tmp_path, Goal(5), Policy(lost=1)) as b:
        b.join()
        for _ in range(9):
            b.lose(b.take(), "returned")
        b.finish()
        assert tiles(b.rows(), 5)
        assert not b.ledger.failures(b.run)


@pytest.mark.fault(57, 91)
def test_a_forged_tally_is_refused_with_the_nodes_name(tmp_path: Path) -> None:
    """A tally with a wrong checksum is not counted, and the node is named."""
    with bench(tmp_path, Goal(5), Policy(raised=2)) as b:
        b.join("evil")
        task = b.take("evil")
        text = (b.true(task).tally or "").replace('"hits":', '"hits":1')
        b.answer(task, "evil", tally=text)
        assert not b.rows()
        (failure,) = b.ledger.failures(b.run)
        assert (failure["node"], failure["kind"]) == ("evil", "refused")
        assert "checksum" in failure["message"]
        b.finish("evil")
        assert tiles(b.rows(), 5)


@pytest.mark.fault(26, 57, 91)
@pytest.mark.parametrize(
    "change",
    [
        {"first": 1},
        {"stop": 4},
        {"stop": 2},
        {"tally": None},
        {"stop": 0, "tally": '{"hits":0,"kind":"hits","samples":0}'},
        {"tally": '{"hits":1,"kind":"hits","samples":64}'},
        {"tally": "[" * 100_000},
        {"checksum": "0" * 16},
    ],
)
def test_an_outcome_that_is_not_the_tasks_is_refused(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    """Other blocks, a tally of other samples, no tally, a replayed checksum: never counted."""
    with bench(tmp_path, Goal(3), Policy(raised=9, pinned=3)) as b:
        b.join()
        task = b.take()
        fault = Fault("raised", 0, "ValueError", "") if change.get("stop") == 0 else None
        b.answer(task, fault=fault, **change)
        assert not b.rows()
        b.finish()
        assert tiles(b.rows(), 3)


@pytest.mark.fault(60)
@pytest.mark.parametrize(
    "times",
    [
        {"wall": math.nan},
        {"wall": -1.0},
        {"cpu": math.inf},
        {"started": 5.0, "ended": 4.0},
        {"started": 10**400},
        {"ended": math.nan},
    ],
)
def test_impossible_times_are_dropped_and_the_tally_kept(
    tmp_path: Path, times: dict[str, Any]
) -> None:
    """The result does not depend on a clock; the user is warned."""
    with bench(tmp_path, Goal(3)) as b:
        b.join()
        task = b.take()
        b.many.on_outcome(b.true(task)._replace(**times))
        b.finish()
        assert tiles(b.rows(), 3)
        assert "impossible times" in b.told(Alarm)[0].message


# -- second copies --------------------------------------------------------------------------------


@pytest.mark.fault(8, 9)
def test_a_stalled_task_gets_a_second_copy_and_the_first_answer_wins(tmp_path: Path) -> None:
    """When nothing else is owed; the slower copy is revoked, and its outcome is only compared."""
    with bench(tmp_path, Goal(9)) as b:
        b.join("a", "b")
        b.answer(b.take("a"))
        b.answer(b.take("b"), "b")
        stalled = b.take("a")
        while isinstance(task := b.many.take("b"), Task):
            b.answer(task, "b")
        assert task is Pause.NOW
        b.wait(6)
        copy = b.take("b")
        assert copy[1:4] == stalled[1:4]
        assert copy.id != stalled.id
        assert b.rest("b") is Pause.NOW, "there is no third copy"
        b.answer(copy, "b")
        assert b.core.count.finished
        assert b.many.revoked() == {stalled.id}
        b.answer(stalled)
        assert tiles(b.rows(), 9)
        assert [spare[3] for spare in b.ledger.spares(b.run)] == ["equal"]


@pytest.mark.fault(8)
def test_a_task_that_stalls_before_any_speed_is_known_gets_a_copy_too(tmp_path: Path) -> None:
    """A worker that hangs on the very first task of its node does not block the run."""
    with bench(tmp_path, Goal(9)) as b:
        b.join("a", slots=2)
        stalled = b.take()
        while isinstance(task := b.many.take("a"), Task):
            b.answer(task)
        b.wait(6)
        assert b.take().first == stalled.first


@pytest.mark.fault(9)
def test_a_fast_node_copies_what_a_slow_one_would_end_much_later(tmp_path: Path) -> None:
    """Without waiting for a stall: 1.25 times the copy's time is less than the original needs."""
    with bench(tmp_path, Goal(3), Policy(pinned=1)) as b:
        b.join("slow", "fast")
        b.answer(b.take("slow"), "slow", wall=4.0)
        b.answer(b.take("fast"), "fast", wall=0.1)
        late = b.take("slow")
        assert b.take("fast").first == late.first


def test_a_copy_that_fails_is_no_failure_while_the_other_may_answer(tmp_path: Path) -> None:
    """Only the fault of the last copy is reported and retried."""
    with bench(tmp_path, Goal(2), Policy(lost=1)) as b:
        b.join("a", "b")
        b.answer(b.take("a"))
        stalled = b.take("a")
        b.wait(6)
        copy = b.take("b")
        b.lose(copy, node="b")
        assert not b.core.failed
        b.answer(stalled)
        assert b.core.count.finished
        assert not b.ledger.failures(b.run)


@pytest.mark.fault(14)
def test_a_copy_of_a_task_that_raised_half_way_is_not_useless(tmp_path: Path) -> None:
    """The first outcome has only a part: the block that raised is left to the copy, not lost."""
    with bench(tmp_path, Goal(8), Policy(raised=1, pinned=2)) as b:
        b.join("a", "b")
        b.answer(b.take("a"))
        stalled = b.take("a")
        while isinstance(task := b.many.take("b"), Task):
            b.answer(task, "b")
        b.wait(6)
        copy = b.take("b")
        raised(b, stalled, 3)
        assert not b.many.revoked()
        assert not b.core.failed
        raised(b, copy, 3)
        assert b.core.failed == {3}


@pytest.mark.fault(14)
def test_a_fault_at_a_block_that_is_counted_fails_nothing(tmp_path: Path) -> None:
    """One copy counted it before a later fault, so the other's fault at it does not matter."""
    with bench(tmp_path, Goal(9), Policy(raised=1, lost=1, pinned=3)) as b:
        b.join("a", "b")
        b.answer(b.take("a"))
        stalled = b.take("a")
        while isinstance(task := b.many.take("b"), Task):
            b.answer(task, "b")
        b.wait(6)
        copy = b.take("b")
        raised(b, stalled, 5)
        raised(b, copy, 4)
        assert not b.core.failed
        b.finish()
        assert tiles(b.rows(), 9)


# -- late twins -----------------------------------------------------------------------------------


@pytest.mark.fault(6, 23, 25, 92)
def test_a_late_twin_is_compared_and_never_counted(tmp_path: Path) -> None:
    """The same outcome a second time: kept as a spare, equal."""
    with bench(tmp_path, Goal(3)) as b:
        b.join()
        task = b.take()
        b.answer(task)
        b.answer(task)
        b.finish()
        assert tiles(b.rows(), 3)
        assert not b.told(Alarm)
        assert b.ledger.spares(b.run) == [(0, 1, "a", "equal")]


@pytest.mark.fault(24)
def test_a_late_twin_that_differs_is_an_alarm_with_both_names(tmp_path: Path) -> None:
    """One of two nodes computes wrongly: the counted row stays, and the user is warned."""
    with bench(tmp_path, Goal(3)) as b:
        b.join("good", "bad")
        task = b.take("good")
        b.answer(task, "good")
        kept = b.rows()
        b.many.on_outcome(tampered(b.true(task, "bad")))
        (alarm,) = b.told(Alarm)
        assert "good" in alarm.message
        assert "bad" in alarm.message
        assert alarm.node == "bad"
        assert b.rows() == kept
        assert b.ledger.spares(b.run)[0][2:] == ("bad", "differs")
        assert "differently" in events_of(b.ledger, b.run)[-1]["text"]


def test_a_late_twin_that_differs_on_one_node_is_not_laid_on_another(tmp_path: Path) -> None:
    """An impure kernel cannot be told from a node that computes wrongly; both are mentioned."""
    with bench(tmp_path, Goal(3)) as b:
        b.join("a", slots=2)
        task = b.take("a")
        b.answer(task, "a")
        b.core.on_outcome(tampered(b.true(task, "a")))
        (alarm,) = b.told(Alarm)
        assert "than on a" not in alarm.message
        assert "draws from something else than its generator" in alarm.message


@pytest.mark.fault(25)
def test_a_late_outcome_of_uncounted_blocks_is_unchecked_and_owes_nothing_twice(
    tmp_path: Path,
) -> None:
    """The task was given up and its blocks are owed or in flight: they are drawn only once more."""
    with bench(tmp_path, Goal(12), Policy(pinned=12)) as b:
        b.join("a", slots=2)
        lost = b.take()
        b.lose(lost)
        again = b.take()
        b.answer(lost)
        assert not b.rows()
        assert b.ledger.spares(b.run)[0][3] == "unchecked"
        b.answer(again)
        drawn = again.stop - again.first
        while isinstance(task := b.many.take("a"), Task):
            drawn += task.stop - task.first
            b.answer(task)
        assert drawn == 12
        assert tiles(b.rows(), 12)


def test_a_late_outcome_that_cannot_be_right_is_an_alarm(tmp_path: Path) -> None:
    """A given-up task's answer with an impossible tally is refused, with the node's name."""
    with bench(tmp_path, Goal(3)) as b:
        b.join()
        task = b.take()
        b.answer(task)
        b.answer(task, tally='{"hits":99,"kind":"hits","samples":64}')
        assert b.told(Alarm)[0].node == "a"
        assert not b.ledger.spares(b.run)


# -- clocks ---------------------------------------------------------------------------------------


@pytest.mark.fault(15)
def test_a_block_that_never_returns_is_revoked_at_its_deadline(tmp_path: Path) -> None:
    """The timeout after it was sent; the outcome then counts as a lost attempt."""
    with bench(tmp_path, Goal(2), Policy(timeout=60, lost=1)) as b:
        b.join()
        task = b.take()
        b.wait(59)
        assert not b.many.revoked()
        b.wait(3)
        assert b.many.revoked() == {task.id}
        b.lose(task, "timeout")
        assert b.core.failed == {0}


@pytest.mark.fault(15)
def test_a_hang_in_a_long_task_is_not_given_the_time_of_all_its_blocks(tmp_path: Path) -> None:
    """Beyond the expected duration, only the timeout of one block is added."""
    with bench(tmp_path, Goal(1000), Policy(timeout=60)) as b:
        b.join()
        while (task := b.take()).stop - task.first < 40:
            b.answer(task, wall=0.01)
        b.wait(70)
        assert b.many.revoked() == {task.id}


@pytest.mark.fault(31, 32)
@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_a_jump_of_the_wall_clock_revokes_nothing(tmp_path: Path, step: float) -> None:
    """Deadlines, waits and stalls are measured on a monotonic clock."""
    with bench(tmp_path, Goal(2), Policy(timeout=60)) as b:
        b.join()
        task = b.take()
        b.clock.step_wall(step)
        b.many.on_tick()
        assert not b.many.revoked()
        assert b.many.draining is None
        b.answer(task)
        b.finish()
        assert tiles(b.rows(), 2)


@pytest.mark.fault(31, 32)
@pytest.mark.parametrize("step", [3600.0, -3600.0])
@pytest.mark.parametrize("where", ["dispatcher", "worker"])
def test_a_jump_of_the_wall_clock_is_no_time_lost(tmp_path: Path, step: float, where: str) -> None:
    """The latency and queueing of a task are measured on monotonic clocks."""
    with bench(tmp_path, Goal(1)) as b:
        b.join()
        task = b.take()
        b.clock.advance(3.0)
        begun = b.clock.now()
        if where == "dispatcher":
            b.clock.step_wall(step)
            b.answer(task, wall=2.0)
        else:
            b.answer(task, wall=2.0, started=begun, ended=begun + max(0.0, 2.0 + step))
        b.finish()
        assert b.rows()
        assert b.ledger.node_totals(b.run)[0].lost == pytest.approx(1.0)


@pytest.mark.fault(33)
def test_a_suspended_dispatcher_renews_every_lease(tmp_path: Path) -> None:
    """Time in which the machine was suspended (a closed lid) does not count as a delay."""
    with bench(tmp_path, Goal(2), Policy(timeout=60), wait=60) as b:
        b.join("a", slots=2)
        task = b.take()
        b.wait(5)
        b.clock.advance(600)
        b.many.on_tick()
        assert not b.many.revoked()
        b.wait(50)
        assert not b.many.revoked()
        b.wait(20)
        assert b.many.revoked() == {task.id}


@pytest.mark.fault(33)
def test_a_suspended_dispatcher_does_not_give_its_nodes_up(tmp_path: Path) -> None:
    """Ten minutes of sleep without a node are not ten minutes of waiting for one."""
    with bench(tmp_path, Goal(2), wait=60) as b:
        b.join()
        b.many.on_node(NodeEvent("a", 0, "gone"))
        b.wait(5)
        b.clock.advance(600)
        b.many.on_tick()
        assert b.many.draining is None
        b.wait(70)
        assert b.many.draining == "nodes"


@pytest.mark.fault(11)
def test_without_any_slot_the_run_drains_after_its_patience(tmp_path: Path) -> None:
    """``wait`` seconds after the last slot went; a slot that comes back in time resets it."""
    with bench(tmp_path, Goal(5), wait=60) as b:
        b.join()
        b.many.on_node(NodeEvent("a", 0, "gone"))
        b.wait(55)
        b.join()
        b.many.on_node(NodeEvent("a", 0, "gone again"))
        b.wait(55)
        assert b.many.draining is None
        b.wait(6)
        assert [event.reason for event in b.told(Draining)] == ["nodes"]


# -- draining -------------------------------------------------------------------------------------


def test_a_drain_counts_every_block_that_was_started(tmp_path: Path) -> None:
    """No more tasks are given out; those in flight are awaited and counted."""
    with bench(tmp_path, Goal(100)) as b:
        b.join("a", slots=3)
        tasks = [b.take() for _ in range(3)]
        b.many.drain("max_time")
        assert b.rest() is Pause.END
        assert not b.many.over
        for task in tasks:
            b.answer(task)
        assert b.many.over
        assert not b.core.undone
        assert tiles(b.rows(), 3)


def test_only_the_first_reason_to_drain_stays(tmp_path: Path) -> None:
    """A signal during a failure's drain does not hide the failure."""
    with bench(tmp_path, Goal(100)) as b:
        b.many.drain("failure")
        b.many.drain("SIGINT")
        assert [event.reason for event in b.told(Draining)] == ["failure"]


@pytest.mark.parametrize("kind", ["lost", "timeout"])
def test_a_block_lost_while_draining_is_told(tmp_path: Path, kind: str) -> None:
    """It was started and is not counted: the run has not drained."""
    with bench(tmp_path, Goal(100)) as b:
        b.join()
        task = b.take()
        b.many.drain("max_time")
        b.core._expired.add(task.id)
        b.lose(task, kind)
        assert b.many.over
        assert b.core.undone


def test_a_block_that_waits_for_its_next_attempt_is_not_drained(tmp_path: Path) -> None:
    """It was started before the drain and is not counted after it."""
    with bench(tmp_path, Goal(100)) as b:
        b.join()
        b.lose(b.take())
        b.many.drain("max_time")
        assert b.many.over
        assert b.core.undone


def test_what_is_out_when_the_engine_dies_in_a_drain_is_not_drained(tmp_path: Path) -> None:
    """The end of the engine must not make started blocks look as if they had never started."""
    with bench(tmp_path, Goal(100)) as b:
        b.join()
        b.take()
        b.many.drain("max_time")
        b.many.forget_flights()
        assert b.many.over
        assert b.core.undone


def test_the_engines_end_owes_what_was_out_and_blames_nobody(tmp_path: Path) -> None:
    """After a fresh start of the engine everything is drawn, with no failure recorded."""
    with bench(tmp_path, Goal(30)) as b:
        b.join("a", slots=3)
        for _ in range(3):
            b.take()
        b.many.forget_flights()
        assert b.core.nodes.slots == 0
        assert not b.many.revoked()
        b.join("a")
        b.finish()
        assert tiles(b.rows(), 30)
        assert not b.ledger.failures(b.run)


def test_nothing_is_revoked_for_ever(tmp_path: Path) -> None:
    """An id leaves the list of revoked tasks with the last outcome of its task."""
    with bench(tmp_path, Goal(9), Policy(timeout=60)) as b:
        b.join("a", "b")
        b.answer(b.take("a"))
        stalled = b.take("a")
        while isinstance(task := b.many.take("b"), Task):
            b.answer(task, "b")
        b.wait(70)
        assert b.many.revoked() == {stalled.id}
        copy = b.take("b")
        b.answer(stalled)
        assert b.many.revoked() == {copy.id}
        b.lose(copy, "timeout", "b")
        assert not b.many.revoked()
