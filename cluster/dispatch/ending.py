"""How a start of a run ended, derived from its scheduler."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.common.states import State
from cluster.dispatch.scheduler import RunScheduler
from cluster.sampling.progress import Count

_MAX_LISTED = 20


@dataclass(frozen=True)
class Ending:
    """How a start of a run ended.

    Attributes:
        state: done, failed, partial or interrupted.
        stopped_by: samples, target, max_time, window, max_samples, failure, nodes, or the name of
            a signal.
        drained: whether every block that was started is counted.
        wall: seconds from the first task to the end.
    """

    state: State
    stopped_by: str
    drained: bool
    wall: float

    @classmethod
    def of_finished(cls, count: Count) -> Ending:
        """The ending of a run that turns out to be complete before anything is started."""
        state, stopped_by = _goal_reached(count)
        return cls(state, stopped_by, True, 0.0)


def ending_of(core: RunScheduler, wall: float) -> Ending:
    """How a run ended. Blocks that were started and not finished are reported and recorded.

    Args:
        core: the run's scheduler.
        wall: seconds from the first task to the end.
    """
    state, stopped_by = _verdict_on_run(core)
    undone = [] if core.count.finished else core.undone
    if undone:
        core.alarm(f"started and not finished: {_listed(undone)}")
    return Ending(state, stopped_by, not undone, wall)


def _verdict_on_run(core: RunScheduler) -> tuple[State, str]:
    """State and cause; if several apply, a reached goal precedes failure, and that a limit."""
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


def _listed(spans: list[tuple[int, int]]) -> str:
    """``block 3, blocks 7 to 9``; only the first 20 spans."""
    words = [f"block {a}" if b - a == 1 else f"blocks {a} to {b - 1}" for a, b in spans]
    more = f" and {len(words) - _MAX_LISTED} more" if len(words) > _MAX_LISTED else ""
    return ", ".join(words[:_MAX_LISTED]) + more
