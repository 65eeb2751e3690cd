"""What a dispatcher tells while it runs: frozen events, to any number of observers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from cluster.sampling.tally import Estimate
from cluster.sampling.task import Fault


@dataclass(frozen=True)
class NodeProgress:
    """One node so far, in this start of the run: slots usable now, tasks, samples, busy seconds."""

    node: str
    slots: int
    tasks: int
    samples: int
    busy_s: float
    failures: int


@dataclass(frozen=True)
class Started:
    """A run, or a sweep, starts or goes on on an engine.

    Attributes:
        run: its id.
        blocks_done, blocks, block: of a run alone: ``blocks_done`` of ``blocks`` (None: no such
            limit) are counted, and how many samples a block has.
        backend: the engine.
        points, owed: of a sweep: how many of its points are asked for, and how many are to be
            computed on that engine; None: it is a run alone.
    """

    run: str
    blocks_done: int
    blocks: int | None
    block: int
    backend: str
    points: int | None = None
    owed: int = 0


class PointProgress(NamedTuple):
    """A point of a sweep that is computed now.

    Attributes:
        point: its name, for people.
        blocks, goal_blocks: how many are counted, and of how many; None: no such limit.
        estimate, std_error: a number, one for each bin, or None before the first block.
    """

    point: str
    blocks: int
    goal_blocks: int | None
    estimate: Any
    std_error: Any


@dataclass(frozen=True)
class Progress:
    """Where the run stands; ``samples_per_s`` is that of this start.

    Of a sweep: where all of it stands, how many of its points have ended, and the first few of
    those that are computed now.
    """

    elapsed_s: float
    blocks_done: int
    blocks: int | None
    samples: int
    samples_per_s: float
    estimate: Estimate | None
    nodes: tuple[NodeProgress, ...]
    points_done: int | None = None
    points: int | None = None
    running: tuple[PointProgress, ...] = ()


@dataclass(frozen=True)
class NodeChanged:
    """A node joined, was lost, or has another number of usable slots."""

    node: str
    slots: int
    reason: str


@dataclass(frozen=True)
class HostsChanged:
    """Hosts are to be used from now on, and others no more: a person or a host file says so."""

    added: tuple[str, ...]
    drained: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class AttemptFailed:
    """An attempt at a task failed; ``final`` where its block has no attempts left."""

    node: str
    attempt: int
    fault: Fault
    final: bool


@dataclass(frozen=True)
class Alarm:
    """What must not happen: a late twin that differs, a damaged row, an engine's fault."""

    message: str
    node: str | None = None


@dataclass(frozen=True)
class Draining:
    """No more tasks are given out; what was started is waited for."""

    reason: str


@dataclass(frozen=True)
class Closed:
    """A start outside of its window: nothing is begun; it ``opens`` at a local time, in words."""

    window: str
    opens: str


@dataclass(frozen=True)
class Noted:
    """What the ledger was told of a node, or of the run, while somebody watched."""

    text: str
    node: str | None = None


@dataclass(frozen=True)
class Printed:
    """Kernels printed, or warned.

    Attributes:
        run: the run.
        node, slot, block: where, and while which block was drawn, as far as that is known.
        lines: the first ones of a process, without control characters.
        dropped: how many lines of that process were not kept so far.
        log: where they are kept, or empty.
    """

    run: str
    node: str
    slot: int
    block: int | None
    lines: tuple[str, ...]
    dropped: int
    log: str = ""

    def described(self) -> list[str]:
        """Each line, after where it comes from; the last one says how many were not kept."""
        block = "" if self.block is None else f", block {self.block}"
        place = f"{self.node} slot {self.slot}{block}"
        told = [f"{place}: {line}" for line in self.lines]
        more = f"{place}: {self.dropped:,} more lines so far, which are not kept"
        return [*told, more] if self.dropped else told


Event = (
    Started
    | Progress
    | NodeChanged
    | HostsChanged
    | AttemptFailed
    | Alarm
    | Draining
    | Closed
    | Noted
    | Printed
)
Observer = Callable[[Event], None]
