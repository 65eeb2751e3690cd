"""What is out, and what is known of the nodes that it is out to."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.work import Task

# A slot is given tasks ahead of its need for so many seconds of work, and never more than so many.
_AHEAD = 0.15
_MOST_AHEAD = 128


@dataclass(slots=True)
class Flight:
    """A task that is out, to whom, and what is expected of it (seconds)."""

    task: Task
    node: str
    state: NodeState
    sent: float
    expected: float
    deadline: float


@dataclass
class NodeState:
    """What the core knows of a node; ``pace`` is a slot's seconds for a block."""

    slots: int = 0
    pace: float | None = None
    seen: int = 1
    load: float = 0.0
    flying: int = 0
    tasks: int = 0
    blocks: int = 0
    busy: float = 0.0
    failures: int = 0
    strikes: int = 0
    aside: bool = False
    losses: int = 0
    rests_until: float = 0.0

    def learn(self, blocks: int, wall: float) -> None:
        """Take in the speed of a task; an old speed that is far off is forgotten at once."""
        fresh = wall / blocks
        known = self.pace
        near = known is not None and known / 4 < fresh < known * 4
        self.pace = (known + fresh) / 2 if known is not None and near else fresh
        self.seen = max(self.seen, blocks)
        self.tasks += 1
        self.blocks += blocks
        self.busy += wall

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
        short = self.pace is not None and self.load < _AHEAD * self.slots
        return short and self.flying < _MOST_AHEAD * self.slots


@dataclass
class Suspect:
    """Blocks that lost their worker, to be tried alone; until then not on the node they failed."""

    first: int
    stop: int
    attempt: int
    failed_on: str = ""
    until: float = 0.0
