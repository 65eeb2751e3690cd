"""Kill -9 of each process that an engine has on this machine, in the middle of a run."""

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
# Kill after this many outcomes: the engine has started, and is not near its end.
_UNDER_WAY = 5


class Found:
    """The processes of an engine, classified by their relation to the worker that draws.

    Args:
        before: our descendants before the engine was started.
        worker: pid of a process that draws.
    """

    def __init__(self, before: set[int], worker: int) -> None:
        self._ours = descendants(os.getpid()) - before
        self._worker = worker if worker in self._ours else None
        below = {pid: descendants(pid) for pid in self._ours}
        self._above = {pid for pid, theirs in below.items() if worker in theirs}
        # Other workers have the same command line; they must not be taken for servers.
        alike = {pid for pid in self._ours if _command(pid) == _command(worker)}
        drawing = alike | below.get(worker, set())
        self._beside = self._ours - self._above - drawing
        self._ours_directly = self._ours - set().union(*below.values())

    def worker(self) -> int | None:
        """The worker, which draws; None if that is the dispatcher itself."""
        return self._worker

    def agent(self) -> int | None:
        """The process that manages the worker, unless that is the dispatcher."""
        return min(self._above & self._ours_directly, default=None)

    def driver(self) -> int | None:
        """A process started by the dispatcher that has no worker below it."""
        return min(self._beside & self._ours_directly, default=None)

    def server(self) -> int | None:
        """A process started by another one than the dispatcher that has no worker below it."""
        return min(self._beside - self._ours_directly, default=None)


KILLS: Mapping[str, Callable[[Found], int | None]] = {
    "worker": Found.worker,
    "agent": Found.agent,
    "driver": Found.driver,
    "server": Found.server,
}


def check_killed(subject: Subject, role: str) -> bool:
    """Kill a process in a given role; the run must end done, with the digest of ``serial``.

    Args:
        subject: the engine under test.
        role: a key of :data:`KILLS`.

    Returns:
        Whether the engine has such a process; if not, only an undisturbed run was checked.

    Raises:
        AssertionError: the run ended otherwise, or processes are left behind.
    """
    killer = _Killer(role)
    # Tasks of one block: most blocks are still to be drawn when the process is killed.
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
    """Kills one process in a role, once."""

    def __init__(self, role: str) -> None:
        self.before = descendants(os.getpid())
        self.victim: int | None = None
        self._find, self._seen = KILLS[role], 0

    def look(self, outcome: Outcome) -> None:
        """Count an outcome; at the fifth, kill the process."""
        self._seen += outcome.fault is None
        if self._seen == _UNDER_WAY and self.victim is None:
            self.victim = self._find(Found(self.before, outcome.pid))
            if self.victim is not None:
                with suppress(ProcessLookupError):
                    os.kill(self.victim, signal.SIGKILL)


class _Watched(Backend):
    """An engine whose outcomes are shown to a killer."""

    def __init__(self, engine: Backend, killer: _Killer) -> None:
        super().__init__(engine.nodes, engine.options)
        self._engine, self._killer = engine, killer

    def __enter__(self) -> Self:
        self._engine.__enter__()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._engine.__exit__(*exc_info)

    def run(self, work: Work, source: Source) -> Items:
        """Run the engine, and check that it answers every task before it ends by itself."""
        tracked = _TrackedSource(source)
        with closing(self._engine.run(work, tracked)) as items:
            for item in items:
                if isinstance(item, Outcome):
                    self._killer.look(item)
                    tracked.owed.discard(item.task)
                yield item
        assert not tracked.owed, f"the engine ended without answering {len(tracked.owed)} tasks"


class _TrackedSource(Source):
    """A source that records which of its tasks are unanswered."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self.owed: set[int] = set()

    def take(self, node: str | None = None) -> Task | Pause:
        """The next task of the source, recorded as owed."""
        task = self._source.take(node)
        if isinstance(task, Task):
            self.owed.add(task.id)
        return task

    def work_of(self, run: str) -> Work | None:
        """The work of a run, from the source."""
        return self._source.work_of(run)

    def revoked(self) -> Collection[int]:
        """Ids of the tasks that the source has revoked."""
        return self._source.revoked()

    def avoided(self) -> Collection[str]:
        """Nodes that the source wants no further tasks on."""
        return self._source.avoided()


def _command(pid: int) -> bytes:
    """The command line of a process without digits, in which workers may differ."""
    try:
        return re.sub(rb"[0-9]+", b"", Path(f"/proc/{pid}/cmdline").read_bytes())
    except OSError:
        return b""
