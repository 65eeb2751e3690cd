"""The loop: reads an engine, turns the core's clocks, and says how the run ended."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol

from cluster.backends.base import Backend, NodeEvent, Source
from cluster.common.errors import EngineError, NodesMissing, StopNow
from cluster.common.states import State
from cluster.dispatch.clock import Clock
from cluster.dispatch.events import Observer, Progress
from cluster.dispatch.membership import Roster, Told
from cluster.dispatch.scheduler import Core
from cluster.hosts.prints import Printed
from cluster.sampling.progress import Count
from cluster.sampling.task import Outcome, Work

_LOOK_EVERY = 0.2
_RECORD_EVERY = 1.0
_MOST_SPELLED = 20
# Fresh starts of an engine that fails without a single outcome between them.
_ENGINE_STARTS = 3


@dataclass(frozen=True)
class Ending:
    """How a start of a run ended.

    Attributes:
        state: done, failed, partial or interrupted.
        stopped_by: samples, target, max_time, window, max_samples, failure, nodes, or a signal's
            name.
        drained: every block that was started is counted.
        wall: seconds.
        reason: the engine's own words, where the nodes were the cause.
    """

    state: State
    stopped_by: str
    drained: bool
    wall: float
    reason: str = ""

    @classmethod
    def of_finished(cls, count: Count) -> Ending:
        """The ending of a run that was found to have all it was asked for."""
        state, stopped_by = _goal_reached(count)
        return cls(state, stopped_by, True, 0.0)

    @classmethod
    def of_closed(cls) -> Ending:
        """The ending of a start outside of its window."""
        return cls(State.PARTIAL, "window", True, 0.0)


@dataclass
class Stop:
    """Set from outside (a signal handler): drain, for this reason."""

    reason: str | None = None


class Decider(Source, Told, Protocol):
    """What the loop turns: the core of one run, or those of many."""

    @property
    def clock(self) -> Clock:
        """Time."""

    @property
    def observe(self) -> Observer:
        """Who is told."""

    @property
    def outcomes(self) -> int:
        """How many came so far."""

    @property
    def work(self) -> Work:
        """What the engine's workers load first."""

    @property
    def over(self) -> bool:
        """Nothing is left to wait for."""

    def drain(self, reason: str) -> None:
        """Give out no more tasks; the first reason stays."""

    def on_outcome(self, outcome: Outcome) -> None:
        """An outcome came."""

    def on_node(self, event: NodeEvent) -> None:
        """A node has another number of usable slots."""

    def on_printed(self, printed: Printed) -> None:
        """A kernel printed something."""

    def on_tick(self) -> None:
        """Look at the clocks."""

    def forget_flights(self) -> None:
        """The engine is gone, with all that was out."""

    def progress(self, elapsed: float) -> Progress:
        """Where it stands."""

    def record(self, progress: Progress) -> None:
        """Keep where it stands, for readers."""


class Turns:
    """Reads an engine's items and turns the clocks, over as many engines as it takes.

    Args:
        core: decides.
        stop: a person's wish to stop.
        max_time: seconds after which it drains.
        closes: when it drains in any case: the end of its window, in seconds since the epoch.
        roster: the hosts, where they may change.

    Attributes:
        reason: the engine's own words, where it failed.
    """

    def __init__(
        self, core: Decider, stop: Stop, max_time: float | None, closes: float | None = None,
        roster: Roster | None = None,
    ) -> None:  # fmt: skip
        self._core, self._stop, self._max_time, self._closes = core, stop, max_time, closes
        self._backend: Backend | None = None
        self._roster = roster
        self._begun = self._looked = self._recorded = core.clock.steady()
        self.reason = ""

    @property
    def wall(self) -> float:
        """Seconds since the start."""
        return self._core.clock.steady() - self._begun

    def turn(self, engine: Callable[[], Backend]) -> None:
        """Turn until nothing is left to wait for.

        Args:
            engine: makes a fresh engine; called again when one fails.

        Raises:
            EngineError: no engine could be started, and nothing came of it.
            StoreError: the ledger could not be written; what was counted before is safe.
        """
        core, barren = self._core, 0
        self._look(force=True)
        while not core.over and barren < _ENGINE_STARTS:
            before = core.outcomes
            try:
                with engine() as backend:
                    self._turn(backend)
            except NodesMissing:
                raise
            except EngineError as error:
                self._on_engine_error(error)
            except StopNow:
                core.drain(self._stop.reason or "SIGINT")
                return
            barren = 0 if core.outcomes > before else barren + 1
            if not core.over:
                core.forget_flights()
        if not core.over:
            if not core.outcomes:
                raise EngineError(self.reason or "the engine ended without a word")
            core.drain("nodes")

    def _turn(self, backend: Backend) -> None:
        core, self._backend = self._core, backend
        with closing(backend.run(core.work, core)) as items:
            for item in items:
                if isinstance(item, Outcome):
                    core.on_outcome(item)
                elif isinstance(item, Printed):
                    core.on_printed(item)
                elif item is not None:
                    core.on_node(item)
                self._look()
                if core.over:
                    return

    def _look(self, *, force: bool = False) -> None:
        """Look at what no item brings: the person's wish to stop, and the clocks."""
        core, now = self._core, self._core.clock.steady()
        if self._stop.reason:
            core.drain(self._stop.reason)
        if now - self._looked < _LOOK_EVERY and not force:
            return
        self._looked = now
        if self._max_time is not None and now - self._begun >= self._max_time:
            core.drain("max_time")
        if self._closes is not None and core.clock.now() >= self._closes:
            core.drain("window")
        core.on_tick()
        progress = core.progress(now - self._begun)
        core.observe(progress)
        if now - self._recorded >= _RECORD_EVERY:
            self._recorded = now
            core.record(progress)
            if self._backend is not None and self._roster is not None:
                self._roster.look(core, self._backend)

    def _on_engine_error(self, error: EngineError) -> None:
        self.reason = str(error)
        self._core.alarm(self.reason)


class Loop(Turns):
    """The loop of one run."""

    def __init__(
        self, core: Core, stop: Stop, max_time: float | None, closes: float | None = None,
        roster: Roster | None = None,
    ) -> None:  # fmt: skip
        super().__init__(core, stop, max_time, closes, roster)
        self._run = core

    def run(self, engine: Callable[[], Backend]) -> Ending:
        """Run until the goal is met, or something else ends it; see :meth:`turn`."""
        self.turn(engine)
        core, wall = self._run, self.wall
        core.observe(core.progress(wall))
        core.judge_nodes()
        return ending_of(core, wall, self.reason)


def ending_of(core: Core, wall: float, reason: str) -> Ending:
    """How a core's run ended; what was started and not finished is told and recorded."""
    state, stopped_by = _verdict_on_run(core)
    undone = [] if core.count.finished else core.undone
    if undone:
        core.alarm(f"started and not finished: {_spelled(undone)}")
    return Ending(state, stopped_by, not undone, wall, reason)


def _verdict_on_run(core: Core) -> tuple[State, str]:
    """State and cause, the strongest first."""
    if core.count.finished:
        return _goal_reached(core.count)
    if core.failed:
        return State.FAILED, "failure"
    if core.draining in ("max_time", "window", "nodes"):
        return State.PARTIAL, core.draining
    return State.INTERRUPTED, core.draining or "SIGINT"


def _goal_reached(count: Count) -> tuple[State, str]:
    if count.met_at is not None:
        return State.DONE, "target"
    return (State.PARTIAL, "max_samples") if count.goal.target else (State.DONE, "samples")


def _spelled(spans: list[tuple[int, int]]) -> str:
    """``block 3, blocks 7 to 9``, the first few of them."""
    words = [f"block {a}" if b - a == 1 else f"blocks {a} to {b - 1}" for a, b in spans]
    more = f" and {len(words) - _MOST_SPELLED} more" if len(words) > _MOST_SPELLED else ""
    return ", ".join(words[:_MOST_SPELLED]) + more
