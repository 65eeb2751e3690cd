"""What is out, and what is known of the nodes that it is out to."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.sampling.task import Task

# A slot is given tasks ahead of its need for so many seconds of work, and never more than so many.
_AHEAD = 0.15
_MOST_AHEAD = 128


@dataclass(slots=True)
class Flight:
    """A task that is out, to whom, and what is expected of it (seconds; 0: not known)."""

    task: Task
    node: str
    state: NodeState
    sent: float
    expected: float
    deadline: float


@dataclass(slots=True)
class Pace:
    """How fast a node draws the blocks of a run.

    Attributes:
        seconds: that one slot takes for a block; None: not seen yet.
        seen: blocks of the longest task that it has finished.
    """

    seconds: float | None = None
    seen: int = 1

    def learn(self, blocks: int, wall: float) -> None:
        """Take in the speed of a task; an old speed that is far off is forgotten at once."""
        fresh = wall / blocks
        known = self.seconds
        near = known is not None and known / 4 < fresh < known * 4
        self.seconds = (known + fresh) / 2 if known is not None and near else fresh
        self.seen = max(self.seen, blocks)


@dataclass(slots=True)
class NodeState:
    """What is known of a node, whichever run its tasks are of.

    Attributes:
        slots: how many can work now.
        flying, blind: tasks that are out there, and those of them of unknown length.
        load: seconds of work that are out there, as far as known.
        tasks, samples, busy: what it has done, busy in seconds.
    """

    slots: int = 0
    flying: int = 0
    blind: int = 0
    load: float = 0.0
    tasks: int = 0
    samples: int = 0
    busy: float = 0.0
    failures: int = 0
    strikes: int = 0
    aside: bool = False
    losses: int = 0
    rests_until: float = 0.0

    def send(self, expected: float) -> None:
        """A task goes out."""
        self.flying += 1
        self.blind += not expected
        self.load += expected

    def land(self, expected: float) -> None:
        """A task is not out any more."""
        self.flying -= 1
        self.blind -= not expected
        self.load = self.load - expected if self.flying else 0.0

    def forget_faults(self) -> None:
        """The person had it drained: if it comes again, it begins anew."""
        self.strikes, self.aside, self.losses, self.rests_until = 0, False, 0, 0.0

    def is_fit(self, now: float) -> bool:
        """Whether it has slots, is not set aside, and does not rest after its losses."""
        return bool(self.slots) and not self.aside and now >= self.rests_until

    def has_room(self) -> bool:
        """Whether a slot is free, or will be before the engine asks again."""
        if self.flying < self.slots:
            return True
        short = not self.blind and self.load < _AHEAD * self.slots
        return short and self.flying < _MOST_AHEAD * self.slots


@dataclass
class Suspect:
    """Blocks that lost their worker, to be tried alone; until then not on the node they failed."""

    first: int
    stop: int
    attempt: int
    failed_on: str = ""
    until: float = 0.0
