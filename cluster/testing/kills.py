"""Kill -9 of each process that an engine has on this machine, while a run goes on."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Collection, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Self

from cluster.backends.base import Backend, Items, Pause, Source
from cluster.dispatch import Policy
from cluster.hosts.process_tree import descendants
from cluster.report.result import digest
from cluster.sampling.plan import Goal
from cluster.sampling.task import Outcome, Task, Work, perform, verified
from cluster.testing.checks import Subject, drive, left_behind, work_of

NAPS = """
import time
from cluster import Hits
def f(rng, samples):
    time.sleep(0.05)
    return Hits((rng.random(samples) < .25).sum(), samples)
"""
_BLOCKS = 60
# After so many outcomes the engine is under way, and not near its end.
_UNDER_WAY = 5


class Found:
    """The processes of an engine, by what they are to the one that draws."""

    def __init__(self, before: set[int], worker: int) -> None:
        self._ours = descendants(os.getpid()) - before
        self._worker = worker if worker in self._ours else None
        below = {pid: descendants(pid) for pid in self._ours}
        self._above = {pid for pid, theirs in below.items() if worker in theirs}
        # Other workers, which have the same command, are no servers.
        alike = {pid for pid in self._ours if _command(pid) == _command(worker)}
        drawing = alike | below.get(worker, set())
        self._beside = self._ours - self._above - drawing
        self._ours_directly = self._ours - set().union(*below.values())

    def worker(self) -> int | None:
        """The process that draws."""
        return self._worker

    def agent(self) -> int | None:
        """The one that keeps it, where that is not the dispatcher."""
        return min(self._above & self._ours_directly, default=None)

    def driver(self) -> int | None:
        """One that the dispatcher started, and that keeps no worker."""
        return min(self._beside & self._ours_directly, default=None)

    def server(self) -> int | None:
        """One that something else started, and that keeps no worker."""
        return min(self._beside - self._ours_directly, default=None)


KILLS: Mapping[str, Callable[[Found], int | None]] = {
    "worker": Found.worker,
    "agent": Found.agent,
    "driver": Found.driver,
    "server": Found.server,
}


def check_killed(subject: Subject, role: str) -> bool:
    """Kill -9 of the process of a role: the run ends done, each block once, with serial's digest.

    Returns:
        Whether the engine has such a process; where it has none, nothing was checked but the run.
    """
    killer = _Killer(role)
    policy = Policy(pinned=1, lost=3)
    driven = drive(
        lambda: _Watched(subject.make(), killer),
        work_of(NAPS),
        Goal(_BLOCKS, max_time=90.0),
        policy=policy,
    )
    assert driven.ending.state.value == "done", f"the run ended {driven.ending}"
    work = work_of()
    plain = verified(work, perform(work, Task(0, 0, _BLOCKS, 1, 0.0)))
    assert driven.digest == digest(work.run, ((0, _BLOCKS),), work.block, plain)
    assert not (left := left_behind(killer.before)), f"{len(left)} processes are left"
    return killer.victim is not None


class _Killer:
    """Ends one process of a role, once."""

    def __init__(self, role: str) -> None:
        self.before = descendants(os.getpid())
        self.victim: int | None = None
        self._find, self._seen = KILLS[role], 0

    def look(self, outcome: Outcome) -> None:
        """See one more outcome; the engine is under way with the fifth."""
        self._seen += outcome.fault is None
        if self._seen == _UNDER_WAY and self.victim is None:
            self.victim = self._find(Found(self.before, outcome.pid))
            if self.victim is not None:
                with suppress(ProcessLookupError):
                    os.kill(self.victim, signal.SIGKILL)


class _Watched(Backend):
    """An engine whose outcomes a killer sees."""

    def __init__(self, engine: Backend, killer: _Killer) -> None:
        super().__init__(engine.nodes, engine.options)
        self._engine, self._killer = engine, killer

    def __enter__(self) -> Self:
        self._engine.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._engine.__exit__(*exc_info)

    def run(self, work: Work, source: Source) -> Items:
        """See :meth:`Backend.run`. An engine that ends by itself must have answered all tasks."""
        asked = _Asked(source)
        with closing(self._engine.run(work, asked)) as items:
            for item in items:
                if isinstance(item, Outcome):
                    self._killer.look(item)
                    asked.owed.discard(item.task)
                yield item
        assert not asked.owed, f"the engine ended, and did not answer {len(asked.owed)} tasks"


class _Asked(Source):
    """A source that keeps which of its tasks are not answered."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.owed: set[int] = set()

    def take(self, node: str | None = None) -> Task | Pause:
        """See :class:`cluster.backends.base.Source`."""
        task = self._source.take(node)
        if isinstance(task, Task):
            self.owed.add(task.id)
        return task

    def work_of(self, run: str) -> Work | None:
        """See :class:`cluster.backends.base.Source`."""
        return self._source.work_of(run)

    def revoked(self) -> Collection[int]:
        """See :class:`cluster.backends.base.Source`."""
        return self._source.revoked()

    def avoided(self) -> Collection[str]:
        """See :class:`cluster.backends.base.Source`."""
        return self._source.avoided()


def _command(pid: int) -> bytes:
    """What a process was started with, less the numbers, in which workers may differ."""
    try:
        return re.sub(rb"[0-9]+", b"", Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return b""
