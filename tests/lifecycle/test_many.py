"""Many runs on one pool: whose turn it is, what ends them, and that none takes from another."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from cluster.backends.base import Backend, Items, NodeEvent, Options, Source
from cluster.common.states import State
from cluster.dispatch import Policy, Stop
from cluster.dispatch.events import Alarm, Draining, Progress
from cluster.dispatch.many import Manner
from cluster.hosts.nodes import Node
from cluster.sampling.plan import Goal, Target
from cluster.sampling.task import Outcome, Task, Work
from cluster.testing import HOSTILE, FakeClock, Simulated, Weather, work_of
from tests.backends.engines import serial
from tests.dispatch.bench import tampered
from tests.lifecycle.shelf import Shelf

CALM = Weather(dies=0, vanishes=0, twice=0, forged=0, late=0)
STORM = Weather(
    dies=0.15, trips=0.1, vanishes=0.05, hangs=0.02, late=0.5, twice=0.3, forged=0.05, slow=20
)
PATIENT = Policy(raised=99, lost=99, timeout=30)
# Unequal, so that ends do not come together; one of them runs to a target.
GOALS = (Goal(40), Goal(7), Goal(None, Target(half_width=0.06)), Goal(1), Goal(90), Goal(25))


def nodes(count: int = 3, slots: int = 2) -> tuple[Node, ...]:
    """Hosts ``n0`` and so on."""
    return tuple(Node(f"n{index}", slots=slots) for index in range(count))


def simulated(shelf: Shelf, seed: int, weather: Weather, manner: Manner | None = None) -> None:
    """Compute the runs of a shelf on a cluster of that fate."""
    clock, starts = FakeClock(), count()
    shelf.turn(
        lambda: Simulated(nodes(), clock, 1000 * seed + next(starts), weather), manner, clock
    )


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str | None]:
    """The digest of each run, computed alone, on one slot."""
    digests = {}
    for number, goal in enumerate(GOALS):
        work = replace(work_of(seed=number), run=f"r{number}")
        alone = Shelf(tmp_path_factory.mktemp("alone"), [goal], works=[work])
        alone.turn(serial)
        digests[number] = alone.digests[0]
    return digests


@pytest.mark.fault(3, 4, 6, 9, 12, 23, 25, 27)
@pytest.mark.parametrize("breadth", [True, False])
@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_fate_each_run_has_the_digest_that_it_has_alone(
    honest: dict[int, str | None], seed: int, breadth: bool, tmp_path: Path
) -> None:
    """Deaths, lost nodes, hangs, twins, late and forged outcomes, over runs that share slots."""
    shelf = Shelf(tmp_path, GOALS, PATIENT)
    simulated(shelf, seed, STORM, Manner(breadth=breadth))
    assert shelf.digests == honest
    assert {ending.state for ending in shelf.endings.values()} == {State.DONE}
    assert sorted(shelf.endings) == list(range(len(GOALS)))
    assert shelf.unbegun == []


def test_breadth_gives_every_run_a_task_before_any_has_two(tmp_path: Path) -> None:
    """So every point has a first estimate early; depth takes them one after the other."""
    goals = [Goal(200)] * 20
    wide, deep = Shelf(tmp_path / "wide", goals), Shelf(tmp_path / "deep", goals)
    for shelf, breadth in ((wide, True), (deep, False)):
        seen = Recorded(nodes(1, 1))
        shelf.turn(lambda seen=seen: seen, Manner(breadth=breadth))  # type: ignore[misc]
        assert shelf.begun == list(range(20))
        if breadth:
            assert len({run for run, _ in seen.tasks[:20]}) == 20
        else:
            runs = [run for run, _ in seen.tasks]
            assert runs == sorted(runs, key=lambda run: int(run[1:]))


class Recorded(Simulated):
    """A calm cluster that writes down what it was given."""

    def __init__(self, hosts: tuple[Node, ...]) -> None:
        super().__init__(hosts, FakeClock(), 1, CALM)
        self.tasks: list[tuple[str, int]] = []

    def _fly(self, work: Work, task: Task, host: str) -> None:
        self.tasks.append((work.run, task.stop - task.first))
        super()._fly(work, task, host)


def test_no_slot_idles_while_one_run_finishes_its_tail(tmp_path: Path) -> None:
    """Over the whole, the slots are busy but for the very end."""
    clock = FakeClock()
    hosts = nodes(2, 2)
    engine = Simulated(hosts, clock, 3, replace(CALM, slow=1))
    shelf = Shelf(tmp_path, [Goal(n) for n in (3000, 10, 700, 1, 150, 40, 900, 2)])
    begin = clock.steady()
    many = shelf.turn(lambda: engine, Manner(breadth=False), clock)
    wall = clock.steady() - begin
    busy = sum(state.busy for state in many.nodes.values())
    assert busy / (4 * wall) > 0.9


def test_a_run_that_fails_stops_no_other_unless_that_is_asked(tmp_path: Path) -> None:
    """Keep going is the default; failing fast drains, and what was not begun stays so."""
    bad = replace(work_of(HOSTILE["raises"].text), run="r0")
    works = [bad, *(replace(work_of(seed=n), run=f"r{n}") for n in range(1, 6))]
    going = Shelf(tmp_path / "going", [Goal(20)] * 6, works=works)
    going.turn(serial, Manner(breadth=False))
    states = [going.endings[n].state for n in range(6)]
    assert states == [State.FAILED, *[State.DONE] * 5]
    fast = Shelf(tmp_path / "fast", [Goal(20)] * 6, works=works)
    many = fast.turn(serial, Manner(breadth=False, keep_going=False))
    assert many.draining == "failure"
    assert fast.endings[0].state is State.FAILED
    assert set(fast.unbegun) | set(fast.endings) == set(range(6))
    assert fast.unbegun


def test_a_signal_drains_all_and_the_rest_is_as_it_was(tmp_path: Path) -> None:
    """What was begun is interrupted and drained; a second start ends with the same digests."""
    goals, stop = [Goal(50)] * 8, Stop()
    shelf = Shelf(tmp_path / "a", goals)
    clock = FakeClock()
    engine = Stopping(nodes(2, 1), clock, stop, after=20)
    many = shelf.turn(lambda: engine, Manner(), clock, stop)
    assert many.draining == "SIGINT"
    assert len([event for event in shelf.events if isinstance(event, Draining)]) == 1
    assert {ending.state for ending in shelf.endings.values()} == {State.INTERRUPTED}
    assert all(ending.drained for ending in shelf.endings.values())
    again, unbroken = Shelf(tmp_path / "a", goals), Shelf(tmp_path / "b", goals)
    again.turn(serial)
    unbroken.turn(serial)
    assert again.digests == unbroken.digests


class Stopping(Simulated):
    """A calm cluster whose person has enough after so many outcomes."""

    def __init__(self, hosts: tuple[Node, ...], clock: FakeClock, stop: Stop, after: int) -> None:
        super().__init__(hosts, clock, 1, CALM)
        self._stop, self._after = stop, after

    def _deliver(self) -> Outcome | NodeEvent | None:
        self._after -= 1
        if self._after == 0:
            self._stop.reason = "SIGINT"
        return super()._deliver()


def test_a_run_s_own_time_counts_from_its_first_task_and_ends_only_it(tmp_path: Path) -> None:
    """max_time of a point, and of the whole."""
    goals = [Goal(100_000, max_time=5.0), Goal(40), Goal(100_000, max_time=5.0)]
    clock = FakeClock()
    shelf = Shelf(tmp_path, goals, Policy(pinned=10))
    engine = Simulated(nodes(1, 1), clock, 1, replace(CALM, slow=1))
    shelf.turn(lambda: engine, Manner(breadth=False), clock)
    words = [(shelf.endings[n].state, shelf.endings[n].stopped_by) for n in range(3)]
    timed = (State.PARTIAL, "max_time")
    assert words == [timed, (State.DONE, "samples"), timed]
    assert 10 < clock.steady() < 20
    whole = Shelf(tmp_path / "whole", [Goal(100_000)] * 3)
    clock = FakeClock()
    engine = Simulated(nodes(1, 1), clock, 1, CALM)
    many = whole.turn(lambda: engine, Manner(breadth=False), clock, max_time=3.0)
    assert many.draining == "max_time"
    assert whole.endings[0].state is State.PARTIAL
    assert whole.unbegun == [1, 2]


def test_progress_says_how_many_runs_have_ended(tmp_path: Path) -> None:
    """Of how many, and their blocks together."""
    shelf = Shelf(tmp_path, [Goal(30)] * 10)
    many = shelf.turn(serial, Manner(blocks=300))
    last = many.progress(1.0)
    assert isinstance(last, Progress)
    assert (last.points_done, last.points, last.blocks_done, last.blocks) == (10, 10, 300, 300)


class Biased(Backend):
    """Four nodes, of which n0 counts hits that were none."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(nodes(4, 1), Options())
        self._engine = Simulated(self.nodes, clock, 1, CALM)

    def run(self, work: Work, source: Source) -> Items:
        """See :meth:`Backend.run`."""
        for item in self._engine.run(work, source):
            wrong = isinstance(item, Outcome) and item.node == "n0" and item.tally
            yield _with_more_hits(item) if wrong and isinstance(item, Outcome) else item


def _with_more_hits(outcome: Outcome) -> Outcome:
    for _ in range(20):
        outcome = tampered(outcome, f"r{outcome.task % 30}")
    return outcome


@pytest.mark.fault(61)
@pytest.mark.parametrize("honest", [True, False])
def test_an_odd_node_is_named_once_for_all_runs(tmp_path: Path, honest: bool) -> None:
    """At the end, as an alarm and in the ledger; none of the runs is long enough to tell alone."""
    shelf, clock = Shelf(tmp_path, [Goal(8)] * 30, Policy(pinned=1)), FakeClock()
    engine = Simulated(nodes(4, 1), clock, 1, CALM) if honest else Biased(clock)
    shelf.turn(lambda: engine, clock=clock)
    odd = [event for event in shelf.events if isinstance(event, Alarm)]
    assert [alarm.node for alarm in odd] == ([] if honest else ["n0"])
    noted = [note for note in shelf.notes if "standard errors away from that of the others" in note]
    assert len(noted) == len(odd)


class Dies(Backend):
    """An engine that breaks after a few outcomes, twice; then it works."""

    starts = 0

    def run(self, work: Work, source: Source) -> Items:
        """See :meth:`Backend.run`."""
        from cluster.common.errors import EngineError

        type(self).starts += 1
        left = 15 if type(self).starts < 3 else 10**9
        for item in serial().run(work, source):
            yield item
            left -= isinstance(item, Outcome)
            if left <= 0:
                raise EngineError("simulated")


def test_an_engine_that_breaks_is_started_again_and_nothing_is_lost(tmp_path: Path) -> None:
    """What was out of all runs is owed again."""
    shelf = Shelf(tmp_path / "a", [Goal(20)] * 5, Policy(pinned=3))
    shelf.turn(lambda: Dies(nodes(1, 1), Options()))
    assert Dies.starts == 3
    unbroken = Shelf(tmp_path / "b", [Goal(20)] * 5)
    unbroken.turn(serial)
    assert shelf.digests == unbroken.digests
    assert len(shelf.endings) == 5
