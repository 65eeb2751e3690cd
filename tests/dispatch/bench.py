"""A bench for a scheduler: tests take tasks and answer them one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.backends.base import NodeEvent, Pause
from cluster.dispatch import MultiScheduler, Policy, RunScheduler
from cluster.dispatch.events import Event
from cluster.ledger import Counted, Ledger, Run
from cluster.sampling.plan import Goal, Target
from cluster.sampling.progress import Count
from cluster.sampling.task import Outcome, Task, Work, checksum, perform
from cluster.testing import FakeClock, OneRun, entered, work_of

# No interval is ever so narrow: a goal of its own blocks, cut by checkpoints all the same.
NEVER = Target(half_width=1e-12)


@dataclass
class Bench:
    """The schedulers of a run, its clock and ledger, and the events that it reported."""

    many: MultiScheduler
    core: RunScheduler
    clock: FakeClock
    ledger: Ledger
    run: Run
    events: list[Event]

    def join(self, *nodes: str, slots: int = 1) -> None:
        """Give the nodes (by default ``a``) this number of usable slots."""
        for node in nodes or ("a",):
            self.many.on_node(NodeEvent(node, slots, "by hand"))

    def take(self, node: str = "a") -> Task:
        """Take a task; there must be one."""
        task = self.many.take(node)
        assert isinstance(task, Task), task
        return task

    def rest(self, node: str = "a") -> Pause:
        """The pause that comes in place of a task; there must be no task."""
        answer = self.many.take(node)
        assert isinstance(answer, Pause), answer
        return answer

    def true(self, task: Task, node: str = "a", wall: float = 0.01) -> Outcome:
        """The outcome of a correct node that takes ``wall`` seconds per block."""
        outcome = perform(self.core.work, task)
        return outcome._replace(node=node, wall=wall * (task.stop - task.first))

    def answer(self, task: Task, node: str = "a", **changes: Any) -> None:
        """Answer a task as a correct node does, with some fields changed."""
        wall = changes.pop("wall", 0.01)
        self.many.on_outcome(self.true(task, node, wall)._replace(**changes))

    def lose(self, task: Task, kind: str = "lost", node: str = "a") -> None:
        """Answer that the worker of a task was lost."""
        self.many.on_outcome(
            Outcome.without_answer(task, kind, "by hand", None)._replace(node=node)
        )

    def wait(self, seconds: float) -> None:
        """Let time pass, with a tick every second."""
        for _ in range(int(seconds)):
            self.clock.advance(1.0)
            self.many.on_tick()

    def rows(self) -> list[Counted]:
        """The rows of the ledger."""
        self.core.writer.flush()
        return list(self.ledger.counted(self.run))

    def told(self, kind: type[Event]) -> list[Any]:
        """The events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def finish(self, node: str = "a") -> None:
        """Take and answer tasks until there are none left."""
        while isinstance(task := self.many.take(node), Task):
            self.answer(task, node)
        assert task is Pause.END


@contextmanager
def bench(
    store: Path,
    goal: Goal,
    policy: Policy | None = None,
    work: Work | None = None,
    wait: float = 60.0,
) -> Iterator[Bench]:
    """A core over a real ledger, with no node yet."""
    work, clock, events = work or work_of(), FakeClock(), list[Event]()
    with Ledger(store, create=True) as ledger, ledger.lock(work.run):
        run = entered(ledger, work)
        with ledger.writer(run) as writer:
            count = Count(goal, 1, 0)
            book = OneRun(
                work, count, policy or Policy(), ledger, run, writer, clock, events.append
            )
            many = book.many(wait)
            yield Bench(many, book.core, clock, ledger, run, events)


def tampered(outcome: Outcome, run: str = "run") -> Outcome:
    """The outcome of a node that computes wrongly: one hit more, with a valid checksum."""
    text = outcome.tally or ""
    hits = int(text.partition('"hits":')[2].partition(",")[0])
    text = text.replace(f'"hits":{hits}', f'"hits":{hits + 1}')
    return outcome._replace(tally=text, checksum=checksum(run, outcome.first, outcome.stop, text))


def tiles(rows: list[Counted], blocks: int) -> bool:
    """Whether rows cover [0, blocks) without a gap or an overlap."""
    ends = [0, *(row.stop for row in rows)]
    return [row.first for row in rows] == ends[:-1] and ends[-1] == blocks
