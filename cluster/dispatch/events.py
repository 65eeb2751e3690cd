"""The events that a dispatcher reports to its observers; all are immutable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from cluster.sampling.tally import Estimate
from cluster.sampling.task import Fault


@dataclass(frozen=True)
class NodeProgress:
    """The work of one node in this start of the run.

    Attributes:
        node: its name.
        slots: usable now.
        tasks, samples: how many it has computed.
        busy_s: seconds that its slots spent on them, added up.
        failures: attempts that failed on it.
    """

    node: str
    slots: int
    tasks: int
    samples: int
    busy_s: float
    failures: int


@dataclass(frozen=True)
class Started:
    """A run or a sweep starts, or continues, on an engine.

    Attributes:
        run: its id.
        blocks_done, blocks: of a single run: how many blocks are counted, and the maximum (None:
            unlimited).
        block: of a single run: samples per block.
        backend: the engine.
        points: of a sweep: the number of its points; None for a single run.
        owed: of a sweep: how many points remain to be computed on this engine.
    """

    run: str
    blocks_done: int
    blocks: int | None
    block: int
    backend: str
    points: int | None = None
    owed: int = 0


class PointProgress(NamedTuple):
    """The progress of a point of a sweep that is being computed.

    Attributes:
        point: its name, for display.
        blocks, goal_blocks: how many blocks are counted, and the maximum (None: unlimited).
        estimate, std_error: a number, a tuple with one per bin, or None before the first block.
    """

    point: str
    blocks: int
    goal_blocks: int | None
    estimate: Any
    std_error: Any


@dataclass(frozen=True)
class Progress:
    """The progress of a run, or of a sweep as a whole.

    Attributes:
        elapsed_s: seconds since this start.
        blocks_done, blocks: how many blocks are counted, and the maximum (None: unlimited).
        samples: how many are counted.
        samples_per_s: the speed in this start.
        estimate: of a single run; None before the first block.
        nodes: each node in this start.
        points_done, points: of a sweep: how many points have ended, of how many.
        running: of a sweep: the first few of the points that are being computed.
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
    """A node joined, was lost, or changed its number of usable slots."""

    node: str
    slots: int
    reason: str


@dataclass(frozen=True)
class HostsChanged:
    """Hosts are added and drained while the run continues, by a user or a changed host file."""

    added: tuple[str, ...]
    drained: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class AttemptFailed:
    """An attempt at a task failed; ``final`` if its block has no attempts left."""

    node: str
    attempt: int
    fault: Fault
    final: bool


@dataclass(frozen=True)
class Alarm:
    """Something that should not happen: a copy that differs, a damaged row, an engine error."""

    message: str
    node: str | None = None


@dataclass(frozen=True)
class Draining:
    """No more tasks are given out; those that were started are awaited."""

    reason: str


@dataclass(frozen=True)
class Closed:
    """A start outside its window: nothing is computed; ``opens`` is the next opening as text."""

    window: str
    opens: str


@dataclass(frozen=True)
class Noted:
    """A note in the ledger about a node, or about the run, as it appears."""

    text: str
    node: str | None = None


@dataclass(frozen=True)
class Printed:
    """A kernel printed or warned.

    Attributes:
        run: the run's id.
        node, slot: where.
        block: the block being drawn, or None if unknown.
        lines: the first lines of a process, without control characters.
        dropped: number of lines of that process that were not kept so far.
        log: the file where the lines are kept, or empty.
    """

    run: str
    node: str
    slot: int
    block: int | None
    lines: tuple[str, ...]
    dropped: int
    log: str = ""

    def described(self) -> list[str]:
        """Each line with its origin; a last one says how many lines were not kept."""
        block = "" if self.block is None else f", block {self.block}"
        place = f"{self.node} slot {self.slot}{block}"
        lines = [f"{place}: {line}" for line in self.lines]
        more = f"{place}: {self.dropped:,} more lines so far, which are not kept"
        return [*lines, more] if self.dropped else lines


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
