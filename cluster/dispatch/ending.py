"""How a start of a run ended, from what its core decided and counted."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.common.states import State
from cluster.dispatch.scheduler import RunScheduler
from cluster.sampling.progress import Count

_MOST_SPELLED = 20


@dataclass(frozen=True)
class Ending:
    """How a start of a run ended.

    Attributes:
        state: done, failed, partial or interrupted.
        stopped_by: samples, target, max_time, window, max_samples, failure, nodes, or a signal's
            name.
        drained: every block that was started is counted.
        wall: seconds.
    """

    state: State
    stopped_by: str
    drained: bool
    wall: float

    @classmethod
    def of_finished(cls, count: Count) -> Ending:
        """The ending of a run that was found to have all it was asked for."""
        state, stopped_by = _goal_reached(count)
        return cls(state, stopped_by, True, 0.0)


def ending_of(core: RunScheduler, wall: float) -> Ending:
    """How a core's run ended; what was started and not finished is told and recorded."""
    state, stopped_by = _verdict_on_run(core)
    undone = [] if core.count.finished else core.undone
    if undone:
        core.alarm(f"started and not finished: {_spelled(undone)}")
    return Ending(state, stopped_by, not undone, wall)


def _verdict_on_run(core: RunScheduler) -> tuple[State, str]:
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
