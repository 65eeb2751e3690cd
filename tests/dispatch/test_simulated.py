"""Whole runs on a simulated cluster with every fault that an engine may have, from seeds.

A failure names its seed; ``drive`` with that seed does the same again.
"""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from cluster.backends.base import Backend, Items, NodeEvent, Source
from cluster.common.errors import EngineError, StopNow
from cluster.common.states import State
from cluster.dispatch import Policy, Stop
from cluster.dispatch.events import Alarm, AttemptFailed
from cluster.hosts.nodes import Node
from cluster.sampling.plan import Checkpoints, Goal, Target
from cluster.sampling.task import Outcome, Task, Work
from cluster.testing import Driven, FakeClock, Make, Simulated, Weather, drive, work_of
from tests.backends.engines import serial
from tests.dispatch.bench import tampered, tiles

SEEDS = 20
CHUNKS = 10
BLOCKS = 120
WORK = work_of(block=16)
# Fate is harsher here than any block deserves; what counts is that every block gets through.
PATIENT = Policy(raised=99, lost=99, timeout=30)
STORM = Weather(
    dies=0.15, trips=0.15, vanishes=0.05, hangs=0.02, late=0.5, twice=0.3, forged=0.05, slow=20
)
TARGET = Target(half_width=0.03)


def nodes(count: int = 4, slots: int = 2) -> tuple[Node, ...]:
    """Hosts ``n0`` and so on."""
    return tuple(Node(f"n{index}", slots=slots) for index in range(count))


def simulated(
    seed: int,
    goal: Goal,
    weather: Weather | None = None,
    policy: Policy = PATIENT,
    *,
    kind: type[Simulated] = Simulated,
    hosts: tuple[Node, ...] | None = None,
    work: Work = WORK,
    store: Path | None = None,
    stop: Stop | None = None,
    wait: float = 60.0,
) -> Driven:
    """A run on a simulated cluster with this fate."""
    clock, starts = FakeClock(), count()
    make: Make = lambda: kind(hosts or nodes(), clock, 1000 * seed + next(starts), weather)  # noqa: E731
    return drive(make, work, goal, policy=policy, clock=clock, store=store, stop=stop, wait=wait)


@pytest.fixture(scope="module")
def honest() -> Driven:
    """The plain run, on one slot."""
    return drive(serial, WORK, Goal(BLOCKS))


@pytest.fixture(scope="module")
def met() -> Driven:
    """The plain run to a target, on one slot."""
    return drive(serial, WORK, Goal(None, TARGET))


# -- one answer -----------------------------------------------------------------------------------


@pytest.mark.fault(3, 4, 6, 9, 10, 12, 23, 25, 27, 28, 92)
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_whatever_the_fate_every_block_is_counted_once(honest: Driven, chunk: int) -> None:
    """Deaths, lost nodes, hangs, duplicates, late and forged outcomes: the same digest."""
    for seed in range(chunk * SEEDS, (chunk + 1) * SEEDS):
        driven = simulated(seed, Goal(BLOCKS), STORM)
        assert driven.ending.state is State.DONE, f"seed {seed}: {driven.ending}"
        assert driven.digest == honest.digest, f"seed {seed}"
        assert tiles(driven.rows, BLOCKS), f"seed {seed}"
        assert driven.ending.drained, f"seed {seed}"
        assert {spare[3] for spare in driven.spares} <= {"equal", "unchecked"}, f"seed {seed}"
        assert not [e for e in driven.events if isinstance(e, Alarm) and "differ" in e.message]


@pytest.mark.fault(57, 91)
def test_every_forged_outcome_is_refused_with_its_nodes_name() -> None:
    """Over many fates: reported as refused, at an existing node, and never counted."""
    refused = 0
    for seed in range(30):
        driven = simulated(seed, Goal(BLOCKS), Weather(forged=0.3))
        failures = [row for row in driven.failures if row["kind"] == "refused"]
        refused += len(failures)
        assert all(row["node"] in {"n0", "n1", "n2", "n3"} for row in failures)
        assert all("checksum" in row["message"] for row in failures)
        assert all(row.intact for row in driven.rows)
    assert refused > 200


@pytest.mark.parametrize("chunk", range(4))
def test_a_target_is_met_at_the_same_checkpoint_whatever_the_fate(met: Driven, chunk: int) -> None:
    """Other slots, speeds, losses and orders: the same blocks, tally and digest."""
    for seed in range(chunk * 10, chunk * 10 + 10):
        hosts = nodes(1 + seed % 5, 1 + seed % 3)
        driven = simulated(seed, Goal(None, TARGET), STORM, hosts=hosts)
        assert driven.ending.stopped_by == "target", f"seed {seed}"
        assert (driven.tally, driven.digest) == (met.tally, met.digest), f"seed {seed}"


def test_no_counted_row_crosses_a_checkpoint() -> None:
    """So that every prefix at which a target is judged can be told from rows alone."""
    rule = Checkpoints(Goal(None))
    for seed in range(10):
        driven = simulated(seed, Goal(None, Target(half_width=0.02)))
        assert not [row for row in driven.rows if rule.crosses(row.first, row.stop)]


@pytest.mark.parametrize("pinned", [1, 3, 50])
def test_the_length_of_tasks_does_not_matter(honest: Driven, pinned: int) -> None:
    """Pinned to any length: the same digest."""
    driven = simulated(5, Goal(BLOCKS), STORM, replace(PATIENT, pinned=pinned))
    assert driven.digest == honest.digest
    assert all(row.stop - row.first <= pinned for row in driven.rows)


@pytest.mark.fault(37, 52)
@pytest.mark.parametrize("seed", range(20))
def test_a_run_in_pieces_has_the_digest_of_one_in_a_go(
    tmp_path: Path, honest: Driven, seed: int
) -> None:
    """Stopped anywhere, resumed with another fate, extended: as if nothing had happened."""
    rng = random.Random(seed)
    for goal in sorted(rng.sample(range(1, BLOCKS), 3)):
        simulated(rng.randrange(10**6), Goal(goal), STORM, store=tmp_path)
    last = simulated(rng.randrange(10**6), Goal(BLOCKS), STORM, store=tmp_path)
    assert last.digest == honest.digest
    assert tiles(last.rows, BLOCKS)


class Walled(Simulated):
    """A cluster whose dispatcher's wall clock jumps by an hour back and forth at every step."""

    def _deliver(self) -> Outcome | NodeEvent | None:
        self._clock.step_wall(self._fate.choice((-3600.0, 3600.0)))
        return super()._deliver()


@pytest.mark.fault(31, 32)
def test_jumps_of_the_wall_clock_change_nothing(honest: Driven) -> None:
    """Nothing expires, is copied or fails: the run is the same as with a stable clock."""
    quiet = Weather(dies=0, vanishes=0, twice=0, forged=0)
    driven = simulated(3, Goal(BLOCKS), quiet, Policy(timeout=30), kind=Walled)
    assert driven.digest == honest.digest
    assert not driven.failures
    assert not driven.spares


# -- a node that computes wrongly -----------------------------------------------------------------


class Wrong(Simulated):
    """Every outcome comes twice, the second one wrong and from another node."""

    def _fly(self, work: Work, task: Task, host: str) -> None:
        super()._fly(work, task, host)
        for _, _, item in list(self._pending):
            if isinstance(item, Outcome) and item.task == task.id and item.tally:
                self._post(30.0, tampered(item._replace(node="bad")))
                return


@pytest.mark.fault(24)
def test_a_late_twin_that_differs_raises_an_alarm_and_changes_nothing() -> None:
    """The tally differs and its checksum is valid: reported with both nodes, and never counted."""
    calm = Weather(dies=0, vanishes=0, twice=0, forged=0)
    goal = Goal(40)
    # One slot and long tasks: most twins come while the run still runs.
    driven = simulated(1, goal, calm, Policy(pinned=1), kind=SlowWrong, hosts=nodes(1, 1))
    assert driven.digest == drive(serial, WORK, goal).digest
    alarms = [event for event in driven.events if isinstance(event, Alarm)]
    assert alarms
    assert all("bad" in a.message and "n0" in a.message for a in alarms)
    assert {spare[3] for spare in driven.spares} == {"differs"}
    assert len(alarms) == len(driven.spares)


class SlowWrong(Wrong):
    """Such a cluster, with ten seconds to a block."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._pace = dict.fromkeys(self._pace, 10.0)


# -- nodes that go --------------------------------------------------------------------------------


class Leaving(Simulated):
    """All nodes are lost after some outcomes, with their tasks; then only time passes."""

    stays = 10

    def run(self, work: Work, source: Source) -> Items:
        outcomes = 0
        for item in super().run(work, source):
            yield item
            outcomes += isinstance(item, Outcome)
            if outcomes == self.stays:
                break
        for host in self._slots:
            yield NodeEvent(host, 0, "the cable")
        for task, host in list(self._owed.values()):
            lost = Outcome.without_answer(task, "lost", "the cable", None)
            yield lost._replace(node=host)
        while True:
            self._clock.advance(self.options.tick)
            yield None


@pytest.mark.fault(7, 11)
def test_a_run_that_loses_all_nodes_ends_partial_after_its_patience(
    tmp_path: Path, honest: Driven
) -> None:
    """Partial, by nodes, not drained; what was counted stays, and a resume has the same digest."""
    driven = simulated(1, Goal(BLOCKS), kind=Leaving, store=tmp_path, wait=60)
    assert (driven.ending.state, driven.ending.stopped_by) == (State.PARTIAL, "nodes")
    assert driven.ending.state.exit_code() == 3
    assert 60 <= driven.ending.wall < 70
    assert not driven.ending.drained
    assert "not finished" in str(driven.events)
    assert driven.rows
    assert simulated(2, Goal(BLOCKS), store=tmp_path).digest == honest.digest


class Fragile(Simulated):
    """An engine that itself fails after three outcomes, every time."""

    def run(self, work: Work, source: Source) -> Items:
        outcomes = 0
        for item in super().run(work, source):
            yield item
            outcomes += isinstance(item, Outcome)
            if outcomes == 3:
                raise EngineError("the engine's own words")


def test_an_engine_that_fails_again_and_again_is_started_again(honest: Driven) -> None:
    """As long as every start has outcomes, it continues; nothing is lost or counted twice."""
    driven = simulated(1, Goal(BLOCKS), kind=Fragile)
    assert driven.digest == honest.digest
    assert tiles(driven.rows, BLOCKS)


class GivesBack(Simulated):
    """An engine that takes a task, hands it back undone, and fails."""

    started = 0

    def run(self, work: Work, source: Source) -> Items:
        type(self).started += 1
        yield NodeEvent("h1", 1, "ready")
        task = source.take("h1")
        assert isinstance(task, Task)
        yield Outcome.without_answer(task, "returned", "its driver has ended", None)
        raise EngineError("the engine's own words")


def test_what_is_only_given_back_is_nothing_that_came_of_an_engine() -> None:
    """Engines that fail after each task are not restarted forever."""
    GivesBack.started = 0
    with pytest.raises(EngineError, match="own words"):
        simulated(1, Goal(BLOCKS), kind=GivesBack)
    assert GivesBack.started == 3


class Dead(Simulated):
    """An engine that does not start."""

    def run(self, work: Work, source: Source) -> Items:
        raise EngineError("no port is left")
        yield None


@pytest.mark.fault(1, 2)
def test_an_engine_that_never_comes_up_is_told_in_its_own_words(tmp_path: Path) -> None:
    """No start had an outcome: exit 69 and the engine's reason."""
    with pytest.raises(EngineError, match="no port is left") as caught:
        simulated(1, Goal(BLOCKS), kind=Dead)
    assert caught.value.code == 69
    clock, engines = FakeClock(), iter((Simulated, Dead, Dead, Dead, Dead))

    def make() -> Backend:
        return next(engines)(nodes(), clock, 1)

    half = drive(
        lambda: Leaves(make()), WORK, Goal(BLOCKS), policy=PATIENT, clock=clock, store=tmp_path
    )
    assert (half.ending.state, half.ending.stopped_by) == (State.PARTIAL, "nodes")
    assert half.reason == "no port is left"
    assert half.rows


class Leaves(Backend):
    """The first twenty items of another engine; then it ends silently."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner.nodes, inner.options)
        self._inner = inner

    def run(self, work: Work, source: Source) -> Items:
        for index, item in enumerate(self._inner.run(work, source)):
            if index == 20:
                return
            yield item


# -- blocks that cannot be done -------------------------------------------------------------------


class Poisoned(Simulated):
    """Block 7 kills every worker that draws it."""

    deaths = 0

    def _fly(self, work: Work, task: Task, host: str) -> None:
        if task.first <= 7 < task.stop:
            Poisoned.deaths += task.stop - task.first == 1
            self._answer(task, host, "lost", 0.1)
        else:
            super()._fly(work, task, host)


@pytest.mark.fault(13)
@pytest.mark.parametrize("attempts", [1, 3])
def test_a_poison_block_fails_the_run_after_its_attempts_and_costs_no_other(
    attempts: int,
) -> None:
    """It is retried alone; the run drains, and every started block is counted or reported."""
    Poisoned.deaths = 0
    calm = Weather(dies=0, vanishes=0, twice=0, forged=0)
    driven = simulated(1, Goal(BLOCKS), calm, Policy(lost=attempts), kind=Poisoned)
    assert (driven.ending.state, driven.ending.stopped_by) == (State.FAILED, "failure")
    assert Poisoned.deaths == attempts
    final = [e for e in driven.events if isinstance(e, AttemptFailed) and e.final]
    assert len(final) == 1
    assert final[0].attempt == attempts
    counted = {block for row in driven.rows for block in range(row.first, row.stop)}
    begun = max(row.stop for row in driven.rows)
    assert 7 not in counted
    assert driven.ending.drained is (counted == set(range(begun)) - {7})


@pytest.mark.fault(15)
def test_hanging_tasks_are_copied_or_revoked_until_all_is_counted(honest: Driven) -> None:
    """A fifth of all tasks never answers: copies and deadlines complete the run."""
    revoked = 0
    for seed in range(10):
        weather = Weather(dies=0, vanishes=0, twice=0, forged=0, hangs=0.2)
        driven = simulated(seed, Goal(BLOCKS), weather, replace(PATIENT, timeout=100))
        assert driven.digest == honest.digest
        assert tiles(driven.rows, BLOCKS)
        assert {row["kind"] for row in driven.failures} <= {"timeout"}
        revoked += len(driven.failures)
    assert revoked


# -- stops ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_max_time_drains_and_counts_every_started_block(tmp_path: Path, seed: int) -> None:
    """Without faults every block that was given out is counted; then it resumes to the end."""
    calm = Weather(dies=0, vanishes=0, twice=0, forged=0, slow=9)
    goal = Goal(BLOCKS, max_time=0.2)
    driven = simulated(seed, goal, calm, hosts=nodes(2, 1), store=tmp_path)
    assert (driven.ending.state, driven.ending.stopped_by) == (State.PARTIAL, "max_time")
    assert driven.ending.drained
    assert len(driven.rows) > 0
    stop = max(row.stop for row in driven.rows)
    assert stop < BLOCKS
    assert tiles(driven.rows, stop)
    assert simulated(seed, Goal(BLOCKS), store=tmp_path).ending.state is State.DONE


class Interrupting(Simulated):
    """Signals of the user arrive after some outcomes."""

    stop = Stop()
    now = False

    def run(self, work: Work, source: Source) -> Items:
        outcomes = 0
        for item in super().run(work, source):
            yield item
            outcomes += isinstance(item, Outcome)
            if outcomes == 9:
                Interrupting.stop.reason = "SIGTERM"
                if self.now:
                    raise StopNow


class Impatient(Interrupting):
    """Two signals at once."""

    now = True


@pytest.mark.fault(38, 39)
@pytest.mark.parametrize("kind", [Interrupting, Impatient])
def test_a_signal_drains_and_a_second_one_ends_at_once(
    tmp_path: Path, honest: Driven, kind: type[Interrupting]
) -> None:
    """Interrupted, exit 143; only the first kind counts what was started; both can be resumed."""
    Interrupting.stop = stop = Stop()
    calm = Weather(dies=0, vanishes=0, twice=0, forged=0)
    driven = simulated(1, Goal(BLOCKS), calm, kind=kind, store=tmp_path, stop=stop)
    assert (driven.ending.state, driven.ending.stopped_by) == (State.INTERRUPTED, "SIGTERM")
    assert driven.ending.state.exit_code(driven.ending.stopped_by) == 143
    assert driven.ending.drained is (kind is Interrupting)
    assert ("not finished" in str(driven.events)) is (kind is Impatient)
    assert simulated(2, Goal(BLOCKS), store=tmp_path).digest == honest.digest
