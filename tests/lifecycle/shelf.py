"""Many runs over a real ledger, on any engine: the book that a sweep's dispatcher has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from cluster.backends.base import Backend
from cluster.dispatch import Clock, Ending, Loop, Policy, RunScheduler, Stop, SystemClock, recount
from cluster.dispatch.events import Event, Progress
from cluster.dispatch.in_flight import Pace
from cluster.dispatch.many import Manner, MultiScheduler
from cluster.dispatch.nodes import NodeStates
from cluster.ledger import Ledger, RunWriter
from cluster.report.result import digest
from cluster.sampling.plan import Goal
from cluster.sampling.task import Work
from cluster.testing import entered, work_of


class Shelf:
    """Runs r0, r1, ... with these goals; each has a seed of its own, so that none can be mixed up.

    Attributes:
        endings: of the runs that have ended.
        begun: the order in which they began.
        counted: the numbers of the runs whose blocks were counted, in the order of counting.
        digests: of what is counted, in the end.
    """

    def __init__(
        self,
        store: Path,
        goals: Sequence[Goal],
        policy: Policy | None = None,
        works: Sequence[Work] | None = None,
    ) -> None:
        self.works = works or [
            replace(work_of(seed=number), run=f"r{number}") for number in range(len(goals))
        ]
        self.endings: dict[int, Ending] = {}
        self.begun: list[int] = []
        self.closed_ones: list[int] = []
        self.notes: list[str] = []
        self.events: list[Event] = []
        self.digests: dict[int, str | None] = {}
        self._goals, self._policy = goals, policy or Policy()
        self._store = store
        self._kin: dict[str, Pace] = {}

    def turn(
        self,
        make: Callable[[], Backend],
        manner: Manner | None = None,
        clock: Clock | None = None,
        stop: Stop | None = None,
        max_time: float | None = None,
    ) -> MultiScheduler:
        """Compute them all."""
        self._clock = clock or SystemClock()
        with Ledger(self._store, create=True) as self._ledger:
            known = {run.id: run for run in self._ledger.runs()}
            self._runs = [known.get(work.run) or entered(self._ledger, work) for work in self.works]
            with self._ledger.committer() as self._committer:
                total = range(len(self.works))
                many = MultiScheduler(
                    self, len(total), total, manner or Manner(), self._clock, self.events.append
                )
                Loop(many, stop or Stop(), max_time).run(make)
                self.unbegun = many.finish()
                self._committer.flush()
            for number, work in enumerate(self.works):
                count = recount(
                    self._ledger,
                    self._runs[number],
                    self._goals[number],
                    work,
                    (1, 0),
                    self.events.append,
                )
                self.digests[number] = digest(work.run, count.ranges, work.block, count.tally())
        return many

    @property
    def work(self) -> Work:
        """See :class:`cluster.dispatch.many.RunRegistry`."""
        return self.works[0]

    def work_of(self, run: str) -> Work:
        """See :class:`cluster.dispatch.many.RunRegistry`."""
        return next(work for work in self.works if work.run == run)

    def name_of(self, number: int) -> str:
        """See :class:`cluster.dispatch.many.RunRegistry`."""
        return self.works[number].run

    def open(self, number: int, nodes: NodeStates) -> RunScheduler:
        """See :class:`cluster.dispatch.many.RunRegistry`."""
        ledger, run, work = self._ledger, self._runs[number], self.works[number]
        count = recount(ledger, run, self._goals[number], work, (1, 0), self.events.append)
        return RunScheduler(
            work,
            count,
            self._policy,
            RunWriter(self._committer, run),
            self._clock,
            self.events.append,
            lambda first, stop: list(ledger.counted(run, first, stop)),
            nodes,
            kin=self._kin,
            tag=work.run,
            first=number + len(self.works),
            step=len(self.works),
        )

    def began(self, number: int) -> None:
        """See :class:`cluster.dispatch.many.RunRegistry`."""
        self.begun.append(number)

    def ended(self, number: int, _core: RunScheduler, ending: Ending) -> None:
        """See :class:`cluster.dispatch.many.RunRegistry`."""
        assert number not in self.endings
        self.endings[number] = ending
        self._committer.flush()

    def closed(self, number: int) -> None:
        """See :class:`cluster.dispatch.many.RunRegistry`."""
        self.closed_ones.append(number)

    def record(self, progress: Progress) -> None:
        """See :class:`cluster.dispatch.many.RunRegistry`."""
        self.events.append(progress)

    def note(self, _node: str | None, text: str) -> None:
        """See :class:`cluster.dispatch.many.RunRegistry`."""
        self.notes.append(text)

    def slots(self, _node: str, _slots: int) -> None:
        """See :class:`cluster.dispatch.many.RunRegistry`."""
