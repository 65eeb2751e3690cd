"""The conformance suite: what every engine must do, and what it must survive."""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from cluster.backends.base import Backend, Item, Items, NodeEvent, Pause, Source
from cluster.dispatch import (
    Clock,
    Ending,
    Loop,
    Manner,
    MultiScheduler,
    Policy,
    RunScheduler,
    Stop,
    SystemClock,
    recount,
)
from cluster.dispatch.events import Event, Observer, Progress
from cluster.dispatch.nodes import NodeStates
from cluster.hosts.process_tree import descendants
from cluster.ledger import Counted, Ledger, Run, RunWriter
from cluster.report.result import digest
from cluster.sampling.kernels import KernelSource as Text
from cluster.sampling.plan import Goal
from cluster.sampling.progress import Count
from cluster.sampling.tally import Hits, Tally, from_json
from cluster.sampling.task import Outcome, Task, Work, perform
from cluster.spec.request import identity_of

PLAIN = """
from cluster import Hits
def f(rng, samples): return Hits((rng.random(samples) < .25).sum(), samples)
"""
SLEEPS = """
import time
from cluster import Hits
def f(rng, samples): time.sleep({seconds}); return Hits(0, samples)
"""
# Every sample is a hit if it is drawn in a main thread, and none else.
WHERE = """
import threading, time
from cluster import Hits
def f(rng, samples):
    time.sleep({seconds})
    return Hits(samples * (threading.current_thread() is threading.main_thread()), samples)
"""
FORKS = """
import os, time
from cluster import Hits
def f(rng, samples):
    if not os.fork(): time.sleep(60)
    return Hits(0, samples)
"""


class Hostile(NamedTuple):
    """A kernel that misbehaves at one block.

    Attributes:
        text: its file; the function is ``f``, and draws correctly at all blocks but one.
        kind: kind of the fault that must be reported; None if the run must succeed.
        kills: whether it ends or hangs the process that runs it.
        words: text that the reported fault must contain.
    """

    text: str
    kind: str | None
    kills: bool = False
    words: str = ""


BAD_BLOCK = 5
# Seconds; no check of a correct engine takes this long, even on a slow machine.
_LONGEST_CHECK = 120.0


def _hostile(act: str, kind: str | None, *, kills: bool = False, words: str = "") -> Hostile:
    text = f"""
import os, signal, sys
from cluster import Hits, Moments

class Unpicklable(Exception):
    def __init__(self, one, two):
        self.lock = __import__("threading").Lock()
        super().__init__("cannot be " + "unpickled")
    def __reduce__(self):
        raise TypeError("no")

class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text either")

def act(samples):
    {act}

def f(stream, samples):
    if stream.block == {BAD_BLOCK}:
        returned = act(samples)
        if returned is not None:
            return returned
    rng = stream.generator()
    return Hits((rng.random(samples) < .25).sum(), samples)
"""
    return Hostile(text, kind, kills, words)


HOSTILE: dict[str, Hostile] = {
    "raises": _hostile("raise ValueError('out of cheese')", "raised", words="out of cheese"),
    "unpicklable": _hostile("raise Unpicklable(1, 2)", "raised", words="cannot be unpickled"),
    "mute": _hostile("raise Mute", "raised", words="Mute"),
    "surrogate": _hostile("raise ValueError(chr(0xd800))", "raised", words="ValueError"),
    "recursion": _hostile("act(samples)", "raised", words="RecursionError"),
    "interrupts": _hostile("raise KeyboardInterrupt", "raised", words="KeyboardInterrupt"),
    "sys_exit": _hostile("sys.exit(0)", "raised", words="SystemExit"),
    "os_exit": _hostile("os._exit(0)", "lost", kills=True, words="exited with 0"),
    "segfault": _hostile(
        "os.kill(os.getpid(), signal.SIGSEGV)", "lost", kills=True, words="SIGSEGV"
    ),
    "hangs": _hostile("\n    while True: pass", "timeout", kills=True),
    "prints": _hostile(
        "print('x' * (1 << 20)); sys.stdout.flush(); os.write(1, b'[1,2,3]' * 1000 + b'\\n')", None
    ),
    "closes": _hostile("sys.stdout.close()", None),
    "forks": _hostile("\n    os.fork() or __import__('time').sleep(0.05)", None),
    "nan": _hostile("return Moments.of([float('nan')] * samples)", "refused", words="NaN"),
    "too_many_hits": _hostile("return Hits(samples + 1, samples)", "refused", words="more hits"),
    "wrong_count": _hostile("return Hits(1, samples + 1)", "refused", words="was asked for"),
    "wrong_kind": _hostile("return Moments.of([1.0] * samples)", "refused", words="add up"),
    "not_a_tally": _hostile("return 0.25", "refused", words="float"),
}


Make = Callable[[], Backend]


@dataclass
class Subject:
    """An engine under test: a factory of engines with at least two slots, and their clock."""

    make: Make
    clock: Clock = field(default_factory=SystemClock)

    @property
    def in_process(self) -> bool:
        """Whether kernels run in the dispatcher's process, which they can then kill or hang."""
        return self.make().in_process


@dataclass(frozen=True)
class Driven:
    """The outcome of :func:`drive`.

    Attributes:
        ending: how the run ended.
        digest, tally: of all counted blocks; None if there are none.
        rows: the counted rows of the ledger.
        failures: failed attempts.
        spares: outcomes that were compared instead of counted.
        events: everything that observers were sent.
        node_blocks: counted blocks, by node.
        reason: why the loop ended.
    """

    ending: Ending
    digest: str | None
    tally: Tally | None
    rows: list[Counted]
    failures: list[dict[str, Any]]
    spares: list[tuple[Any, ...]]
    events: list[Event]
    node_blocks: Mapping[str, int]
    reason: str


def work_of(text: str = PLAIN, *, block: int = 64, seed: int = 1) -> Work:
    """The work of a kernel whose function is ``f``.

    Args:
        text: the kernel's file.
        block: samples in a block.
        seed: of the streams.
    """
    return Work("run", Text("kernel.py", "f", {"kernel.py": text}), {}, seed, 2, block)


@dataclass
class OneRun:
    """The registry of a single run under test: see :class:`cluster.dispatch.many.RunRegistry`.

    Attributes:
        work: what the run draws.
        count: what is counted so far.
        policy: how failures are handled.
        ledger, run, writer: where the run is recorded.
        clock: its clock.
        observe: called with each event.
        core: the run's scheduler; set by :meth:`open`.
        ending: how it ended; set by :meth:`ended`.
    """

    work: Work
    count: Count
    policy: Policy
    ledger: Ledger
    run: Run
    writer: RunWriter
    clock: Clock
    observe: Observer
    core: RunScheduler = field(init=False)
    ending: Ending = field(init=False)

    def many(self, wait: float = 60.0) -> MultiScheduler:
        """A scheduler of the run alone; after ``wait`` seconds without a slot it drains."""
        manner = Manner(alone=True, keep_going=False, wait=wait)
        return MultiScheduler(self, 1, [0], manner, self.clock, self.observe)

    def work_of(self, _run: str) -> Work:
        """The work, which is the same for any run."""
        return self.work

    def name_of(self, _number: int) -> str:
        """The run's id."""
        return self.work.run

    def open(self, _number: int, nodes: NodeStates) -> RunScheduler:
        """Make the scheduler of the run."""
        self.core = RunScheduler(
            self.work,
            self.count,
            self.policy,
            self.writer,
            self.clock,
            self.observe,
            lambda first, stop: list(self.ledger.counted(self.run, first, stop)),
            nodes,
        )
        return self.core

    def began(self, _number: int) -> None:
        """Ignore the start; nothing is recorded of it."""

    def ended(self, _number: int, _core: RunScheduler, ending: Ending) -> None:
        """Keep how the run ended; the numbers and the scheduler are those of :meth:`open`."""
        self.ending = ending

    def closed(self, _number: int) -> None:
        """Ignore that no task of the run is in flight any more."""

    def record(self, _progress: Progress) -> None:
        """Ignore progress; the scheduler of a single run records its own."""

    def note(self, node: str | None, text: str) -> None:
        """Record what happened to a node."""
        self.writer.event(node, text, self.clock.now())

    def slots(self, _node: str, _slots: int) -> None:
        """Slots are recorded with a start, of which there is none here."""


def drive(  # noqa: PLR0913  # every one but three has a default
    make: Make,
    work: Work,
    goal: Goal,
    *,
    policy: Policy | None = None,
    clock: Clock | None = None,
    store: Path | None = None,
    stop: Stop | None = None,
    wait: float = 60.0,
) -> Driven:
    """Compute a run on an engine, with a real ledger.

    Args:
        make: makes an engine; called again if an engine fails.
        work: what to draw.
        goal: how much to draw.
        policy: how failures are handled.
        clock: the clock of the scheduler; None: the system's.
        store: folder of the ledger; None: a temporary one. A run that it already holds continues.
        stop: set its ``reason`` to drain.
        wait: seconds without a usable slot until the run drains.
    """
    if store is None:
        with tempfile.TemporaryDirectory() as folder:
            return drive(
                make,
                work,
                goal,
                policy=policy,
                clock=clock,
                store=Path(folder),
                stop=stop,
                wait=wait,
            )
    events: list[Event] = []
    with Ledger(store, create=True) as ledger, ledger.lock(work.run):
        known = [run for run in ledger.runs() if run.id == work.run]
        run = known[0] if known else entered(ledger, work)
        count = recount(ledger, run, goal, work, (1, 0), events.append)
        with ledger.writer(run) as writer:
            book = OneRun(
                work,
                count,
                policy or Policy(),
                ledger,
                run,
                writer,
                clock or SystemClock(),
                events.append,
            )
            many = book.many(wait)
            loop = Loop(many, stop or Stop(), goal.max_time)
            loop.run(make)
            many.finish()
            writer.flush()
        tally = count.tally()
        return Driven(
            book.ending,
            digest(work.run, count.ranges, work.block, tally),
            tally,
            list(ledger.counted(run)),
            ledger.failures(run),
            ledger.spares(run),
            events,
            {total.node: total.blocks for total in ledger.node_totals(run)},
            loop.reason,
        )


def entered(ledger: Ledger, work: Work) -> Run:
    """Enter a new run of a work into a ledger, with an unlimited goal."""
    definition: dict[str, Any] = {
        "params": dict(work.params),
        "seed": work.seed,
        "block": work.block,
        "scale": 1.0,
        "offset": 0.0,
        "reference": None,
        "source": work.source.to_json(),
        "spec": {"backend": "serial"},
    }
    identity = identity_of(definition, work.source.sha)
    return ledger.create(work.run, "driven", "", identity, definition, Goal(None).to_json())


# -- the conformance suite ------------------------------------------------------------------------


class Script(Source):
    """A source of a fixed number of tasks that records which nodes asked.

    Args:
        tasks: number of tasks.
        blocks: length of each task.
        pauses: how often to answer ``Pause.NOW`` first.

    Attributes:
        asked: the node of each call of :meth:`take`.
        given: the tasks so far.
        kill: ids of tasks to revoke; filled in by the check.
    """

    def __init__(self, tasks: int, *, blocks: int = 1, pauses: int = 0) -> None:
        self.asked: list[str | None] = []
        self.given: list[Task] = []
        self.kill: set[int] = set()
        self._tasks, self._blocks, self._pauses = tasks, blocks, pauses

    def take(self, node: str | None = None) -> Task | Pause:
        """Give the next task of ``blocks`` blocks, after the pauses."""
        self.asked.append(node)
        if self._pauses:
            self._pauses -= 1
            return Pause.NOW
        if len(self.given) == self._tasks:
            return Pause.END
        first = len(self.given) * self._blocks
        task = Task(len(self.given) + 1, first, first + self._blocks, 1, time.time())
        self.given.append(task)
        return task

    def revoked(self) -> Collection[int]:
        """The tasks that the check put into ``kill``."""
        return self.kill


def check_every_task_is_answered_once(subject: Subject) -> None:
    """There is one outcome per task, with the task's blocks, its node, process and times."""
    source = Script(40, blocks=3)
    outcomes = _outcomes(subject, work_of(), source)
    assert sorted(o.task for o in outcomes) == [task.id for task in source.given]
    for outcome in outcomes:
        task = source.given[outcome.task - 1]
        assert (outcome.first, outcome.stop, outcome.fault) == (task.first, task.stop, None)
        assert outcome.node
        assert outcome.pid
        assert outcome.with_possible_times() is outcome


def check_outcomes_do_not_depend_on_the_engine(subject: Subject) -> None:
    """Each task has the tally that a direct call of ``perform`` gives."""
    work, source = work_of(), Script(12, blocks=2)
    for outcome in _outcomes(subject, work, source):
        assert outcome.tally == perform(work, source.given[outcome.task - 1]).tally


def check_an_empty_source_ends_it(subject: Subject) -> None:
    """Without any task the engine starts, asks once, and ends."""
    assert _outcomes(subject, work_of(), Script(0)) == []


def check_it_asks_again_after_a_pause(subject: Subject) -> None:
    """After ``Pause.NOW`` the engine asks again."""
    assert len(_outcomes(subject, work_of(), Script(4, pauses=3))) == 4


def check_a_joined_node_is_announced(subject: Subject) -> None:
    """A NodeEvent with the usable slots precedes the first outcome."""
    with running(subject, work_of(), Script(3)) as items:
        first = next(item for item in items if item is not None)
        assert isinstance(first, NodeEvent)
        assert first.slots > 0


def check_it_ticks_while_nothing_finishes(subject: Subject) -> None:
    """During a long task the engine still yields, so that the scheduler can check its deadlines."""
    ticks, tally = 0, None
    with running(subject, work_of(WHERE.format(seconds=2.5)), Script(1)) as items:
        for item in items:
            ticks += item is None
            if isinstance(item, Outcome):
                tally = from_json(json.loads(item.tally or ""))
                break
    # An engine that runs kernels in its own main thread cannot tick while it is inside of one.
    assert ticks or (subject.in_process and tally == Hits(64, 64))


def check_closing_is_prompt(subject: Subject) -> None:
    """Closing the generator does not wait for long tasks."""
    work, begun = work_of(SLEEPS.format(seconds=1)), 0.0
    with subject.make() as engine:
        with closing(engine.run(work, Script(100))) as items:
            next(item for item in items if isinstance(item, Outcome))
            begun = time.monotonic()
        assert time.monotonic() - begun < 2
    assert time.monotonic() - begun < 5


def check_a_revoked_task_is_ended_by_force(subject: Subject) -> None:
    """A hung task is killed when the source revokes it, and answered; others continue.

    Outcomes of earlier tasks are not held back by it.
    """
    if subject.in_process:
        return  # a thread cannot be killed: see "What each survives" in docs/backends.md
    source = Script(10)
    answered: dict[int, Outcome] = {}
    latest = math.inf
    with running(subject, work_of(HOSTILE["hangs"].text), source) as items:
        for item in items:
            if isinstance(item, Outcome):
                answered[item.task], latest = item, time.monotonic()
            elif len(answered) >= BAD_BLOCK and time.monotonic() - latest > 1:
                source.kill = {BAD_BLOCK + 1}
    assert len(answered) == len(source.given)
    fault = answered[BAD_BLOCK + 1].fault
    assert fault is not None
    assert fault.kind in ("timeout", "lost")


def check_nothing_is_left_behind(subject: Subject) -> None:
    """When the engine is closed, no process that it or a kernel started is alive."""
    before = descendants(os.getpid())
    _outcomes(subject, work_of(PLAIN if subject.in_process else FORKS), Script(3))
    assert not left_behind(before)


def left_behind(before: set[int]) -> set[int]:
    """Our descendants that are not in ``before``, and do not end within five seconds."""
    deadline = time.monotonic() + 5
    while (left := descendants(os.getpid()) - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


CHECKS: tuple[Callable[[Subject], None], ...] = (
    check_every_task_is_answered_once,
    check_outcomes_do_not_depend_on_the_engine,
    check_an_empty_source_ends_it,
    check_it_asks_again_after_a_pause,
    check_a_joined_node_is_announced,
    check_it_ticks_while_nothing_finishes,
    check_closing_is_prompt,
    check_a_revoked_task_is_ended_by_force,
    check_nothing_is_left_behind,
)


def check_hostile(subject: Subject, name: str) -> None:
    """Run a hostile kernel: the run ends, and reports the fault at the right block.

    Whatever the kernel does there, every other counted block has its correct tally.

    Args:
        subject: the engine under test.
        name: a key of :data:`HOSTILE`.

    Raises:
        AssertionError: the run ended otherwise, or counted a wrong block.
    """
    hostile = HOSTILE[name]
    # The kernel that hangs must wait for its timeout; the others must not run into it under load.
    policy = Policy(timeout=1.0 if hostile.kind == "timeout" else 30.0, lost=2)
    driven = drive(subject.make, work_of(hostile.text), Goal(12), policy=policy)
    for row in driven.rows:
        honest = perform(work_of(), Task(0, row.first, row.stop, 1, 0.0))
        assert (row.intact, row.tally) == (True, honest.tally)
    if hostile.kind is None:
        assert driven.ending.state.value == "done"
        return
    assert (driven.ending.state.value, driven.ending.stopped_by) == ("failed", "failure")
    failure = driven.failures[-1]
    assert (failure["kind"], failure["block"]) == (hostile.kind, BAD_BLOCK)
    assert hostile.words in f"{failure['type']} {failure['message']} {failure['traceback']}"
    assert not [row for row in driven.rows if row.first <= BAD_BLOCK < row.stop]


@contextmanager
def running(subject: Subject, work: Work, source: Source) -> Iterator[Iterator[Item]]:
    """Start an engine, and give its items, which must end within two minutes.

    Args:
        subject: the engine under test.
        work: what it draws.
        source: where it gets tasks from.
    """
    with subject.make() as engine, closing(engine.run(work, source)) as items:
        yield _in_time(items)


def _in_time(items: Items) -> Iterator[Item]:
    """The items of an engine, which must end before the deadline."""
    deadline = time.monotonic() + _LONGEST_CHECK
    for item in items:
        assert time.monotonic() < deadline, f"the engine did not end within {_LONGEST_CHECK:g} s"
        yield item


def _outcomes(subject: Subject, work: Work, source: Source) -> list[Outcome]:
    with running(subject, work, source) as items:
        return [item for item in items if isinstance(item, Outcome)]
