"""A short trial of a request on its backend, without a ledger: its speed, and what it predicts."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import dataclass

from cluster.backends.base import Backend, NodeEvent, Pause, Source
from cluster.common.errors import EngineError
from cluster.dispatch import Clock
from cluster.sampling.plan import Checkpoints, Goal, Target, blocks_for
from cluster.sampling.tally import Estimate, Tally, TallyError
from cluster.sampling.task import Outcome, Task, Work, accept
from cluster.spec.request import Request

# Tasks grow to 1/8 of the trial's time, so that it ends close to when it is due.
_SHARE = 8


@dataclass(frozen=True)
class Trial:
    """The outcome of a trial: seconds since the first slot was ready, blocks, and their tally."""

    seconds: float
    blocks: int
    tally: Tally
    slots: int


class _Source(Source):
    """Blocks in order, in tasks that double, until the time is over."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock, self._seconds = clock, seconds
        self.begun: float | None = None
        self.slots: dict[str, int] = {}
        self._out: dict[int, tuple[Task, float]] = {}
        self._next = self._block = 0
        self._length = 1

    def take(self, node: str | None = None) -> Task | Pause:
        """The next task; at most one for each slot is out."""
        if self.begun is None:
            self.begun = self._clock.steady()
        if self._clock.steady() - self.begun >= self._seconds:
            return Pause.END
        if len(self._out) >= sum(self.slots.values()):
            return Pause.NOW
        self._next += 1
        task = Task(self._next, self._block, self._block + self._length, 1, self._clock.now())
        self._block = task.stop
        self._out[task.id] = task, self._clock.steady()
        return task

    def answered(self, number: int) -> Task | None:
        """The task of an outcome; None if it was answered before."""
        task, _ = self._out.pop(number, (None, 0.0))
        return task

    def hanging(self, timeout: float) -> Task | None:
        """A task that has taken ``timeout`` seconds for each of its blocks, if there is any."""
        now, out = self._clock.steady(), self._out.values()
        return next((t for t, since in out if now - since > timeout * (t.stop - t.first)), None)

    def learn(self, wall: float) -> None:
        """Double the length of tasks while they are short compared to the trial."""
        if wall < self._seconds / _SHARE:
            self._length = min(self._length * 2, self._block or 1)


def calibrate(
    backend: Backend, work: Work, clock: Clock, timeout: float, seconds: float = 2.0
) -> Trial:
    """Draw blocks, from the first on, for about ``seconds``.

    Args:
        backend: the engine; it is closed at the end.
        work: what is drawn.
        clock: time.
        timeout: seconds that a block may take.
        seconds: of the trial.

    Raises:
        EngineError: no slot came up, or the kernel failed or hangs.
    """
    source = _Source(clock, seconds)
    total: Tally | None = None
    with backend, closing(backend.run(work, source)) as items:
        for item in items:
            if isinstance(item, NodeEvent):
                source.slots[item.node] = item.slots
            elif isinstance(item, Outcome):
                if (task := source.answered(item.task)) is None:
                    continue
                tally = _accepted(work, task, item)
                total = tally if total is None else total.merge(tally)
                source.learn(item.wall)
            elif (task := source.hanging(timeout)) is not None:
                raise _hung(task, timeout)
    if total is None or source.begun is None:
        raise EngineError("the trial drew no block")
    elapsed = clock.steady() - source.begun
    return Trial(elapsed, total.samples // work.block, total, sum(source.slots.values()))


def blocks_needed(trial: Trial, request: Request) -> int | None:
    """About how many blocks the goal takes; None if no number of blocks would reach it.

    Under a target the error shrinks with the square root of the samples (asymptotically), and the
    run stops at the first checkpoint after that.
    """
    goal = request.goal
    if goal.target is None:
        return goal.blocks
    per_block = trial.tally.samples // trial.blocks
    estimate = trial.tally.estimate(goal.target.confidence, request.scale, request.offset)
    factor = max(_factor(goal.target, estimate), _scarcity(goal.target, trial.tally))
    drawn = trial.tally.samples * factor
    if not math.isfinite(drawn):
        return goal.blocks
    samples = max(math.ceil(drawn), goal.target.min_samples)
    wanted = blocks_for(samples, per_block)
    stop = Checkpoints(Goal(None)).segment(max(0, wanted - 1)).stop
    return stop if goal.blocks is None else min(stop, goal.blocks)


def _factor(target: Target, estimate: Estimate) -> float:
    """How many times the samples of the trial the hardest measure needs."""
    pairs = zip(estimate.measures, target.limits, strict=True)
    ratios = [value / limit for value, limit in pairs if limit is not None]
    return max(ratio * ratio for ratio in ratios)  # infinite beyond the doubles, where ** raises


def _scarcity(target: Target, tally: Tally) -> float:
    scarce = tally.scarce(plain=target.blind)
    if scarce is None:
        return 0.0
    return target.min_hits / scarce if scarce else math.inf


def _accepted(work: Work, task: Task, outcome: Outcome) -> Tally:
    try:
        tally = accept(work, task, outcome)
    except TallyError as error:
        raise EngineError(f"the kernel's outcome was refused: {error}") from error
    if outcome.fault is not None or tally is None:
        fault = outcome.fault
        raise EngineError(
            f"the kernel failed at block {outcome.stop}: {fault and fault.message}",
            fix="'cluster submit' records the failure, with its traceback",
        )
    return tally


def _hung(task: Task, timeout: float) -> EngineError:
    blocks = task.stop - task.first
    which = f"block {task.first}" if blocks == 1 else f"blocks {task.first} to {task.stop - 1}"
    return EngineError(
        f"the kernel hangs: {which} had no answer within retry.timeout, {timeout:g} s a block",
        fix="see what it waits for; a kernel that takes longer needs a longer retry.timeout",
    )
