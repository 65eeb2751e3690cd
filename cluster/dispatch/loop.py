"""The main loop: feeds the scheduler with an engine's items and with the passing of time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from cluster.backends.base import Backend
from cluster.common.errors import EngineError, NodesMissing, StopNow
from cluster.dispatch.many import MultiScheduler
from cluster.dispatch.membership import Membership
from cluster.hosts.prints import PrintedLines
from cluster.sampling.task import Outcome

# Seconds between checks of the clocks, and between records of the progress.
_LOOK_EVERY = 0.2
_RECORD_EVERY = 1.0
# A failed engine is restarted; the run gives up after this many starts without an outcome.
_ENGINE_STARTS = 3


@dataclass
class Stop:
    """Set from outside, as by a signal handler: drain for this reason; None: go on."""

    reason: str | None = None


class Loop:
    """Drives a scheduler with an engine's items, and restarts the engine if it fails.

    Args:
        core: the scheduler.
        stop: set by the user to stop.
        max_time: seconds after which it drains; None: unlimited.
        closes: the end of the window, in seconds since the epoch, when it drains too; or None.
        roster: the hosts, if they may change while it runs.

    Attributes:
        reason: the engine's last error, or empty.
    """

    def __init__(
        self,
        core: MultiScheduler,
        stop: Stop,
        max_time: float | None,
        closes: float | None = None,
        roster: Membership | None = None,
    ) -> None:
        self._core, self._stop, self._max_time, self._closes = core, stop, max_time, closes
        self._backend: Backend | None = None
        self._roster = roster
        self._started = self._looked = self._recorded = core.clock.steady()
        self.reason = ""

    @property
    def wall(self) -> float:
        """Seconds since the start."""
        return self._core.clock.steady() - self._started

    def run(self, engine: Callable[[], Backend]) -> None:
        """Run until nothing is left to wait for.

        Args:
            engine: starts an engine; called again when one fails.

        Raises:
            NodesMissing: too few hosts came up.
            EngineError: no engine could be started, so there was not a single outcome.
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
                raise EngineError(self.reason or "the engine ended without an error message")
            core.drain("nodes")

    def _turn(self, backend: Backend) -> None:
        core, self._backend = self._core, backend
        with closing(backend.run(core.work, core)) as items:
            for item in items:
                if isinstance(item, Outcome):
                    core.on_outcome(item)
                elif isinstance(item, PrintedLines):
                    core.on_printed(item)
                elif item is not None:
                    core.on_node(item)
                self._look()
                if core.over:
                    return

    def _look(self, *, force: bool = False) -> None:
        """Check what no item reports: a requested stop, and the clocks."""
        core, now = self._core, self._core.clock.steady()
        if self._stop.reason:
            core.drain(self._stop.reason)
        if now - self._looked < _LOOK_EVERY and not force:
            return
        self._looked = now
        if self._max_time is not None and now - self._started >= self._max_time:
            core.drain("max_time")
        if self._closes is not None and core.clock.now() >= self._closes:
            core.drain("window")
        core.on_tick()
        progress = core.progress(now - self._started)
        core.observe(progress)
        if now - self._recorded >= _RECORD_EVERY:
            self._recorded = now
            core.record(progress)
            if self._backend is not None and self._roster is not None:
                self._roster.look(core, self._backend)

    def _on_engine_error(self, error: EngineError) -> None:
        self.reason = str(error)
        self._core.alarm(self.reason)
