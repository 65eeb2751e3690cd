"""Tasks in flight, and the state of the nodes that have them."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.sampling.task import Task

# Tasks are sent ahead to hide the latency of the network: up to this many seconds of work and this
# many tasks per slot.
_AHEAD = 0.15
_MAX_AHEAD = 128


@dataclass(slots=True)
class Flight:
    """A task in flight.

    Attributes:
        task: the task.
        node: that has it; empty if the engine chooses.
        state: of that node.
        sent: on the steady clock.
        expected: seconds that it should take; 0: unknown.
        deadline: on the steady clock; after it the task is revoked.
    """

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
        seconds: per block on one slot; None: not measured yet.
        seen: blocks of the longest task that it has finished.
    """

    seconds: float | None = None
    seen: int = 1

    def learn(self, blocks: int, wall: float) -> None:
        """Update the pace with a finished task.

        Averaged with the old pace, unless they differ by more than a factor of 4: then the node
        has changed, and the old pace is dropped.

        Args:
            blocks: of the task.
            wall: seconds that it took.
        """
        fresh = wall / blocks
        known = self.seconds
        near = known is not None and known / 4 < fresh < known * 4
        self.seconds = (known + fresh) / 2 if known is not None and near else fresh
        self.seen = max(self.seen, blocks)


@dataclass(slots=True)
class NodeState:
    """The state of a node, over all runs that it works for.

    Attributes:
        slots: usable now.
        flying: its tasks in flight.
        blind: those of them whose length is unknown.
        load: expected seconds of the others.
        tasks, samples: how many it has done.
        busy: seconds that its slots spent on them.
        failures: attempts that failed on it.
        strikes: tasks that it failed and others then did.
        aside: whether it was set aside for its strikes.
        losses: how often it was lost.
        rests_until: on the steady clock; it should get no task before.
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
        """Record that a task was sent; ``expected`` seconds, 0 if unknown."""
        self.flying += 1
        self.blind += not expected
        self.load += expected

    def land(self, expected: float) -> None:
        """Record that a task is no longer in flight."""
        self.flying -= 1
        self.blind -= not expected
        # Exactly 0 with nothing in flight: rounding errors must not add up over a million tasks.
        self.load = self.load - expected if self.flying else 0.0

    def forget_faults(self) -> None:
        """Forget its faults, since a user drained it: if it is added again, it starts fresh."""
        self.strikes, self.aside, self.losses, self.rests_until = 0, False, 0, 0.0

    def is_fit(self, now: float) -> bool:
        """Whether it has slots, is not set aside and is not resting."""
        return bool(self.slots) and not self.aside and now >= self.rests_until

    def has_room(self) -> bool:
        """Whether a slot is free, or the queue ahead is so short that one soon will be."""
        if self.flying < self.slots:
            return True
        short = not self.blind and self.load < _AHEAD * self.slots
        return short and self.flying < _MAX_AHEAD * self.slots


@dataclass
class Attempt:
    """Blocks [first, stop) that are to become a task.

    Attributes:
        attempt: its number, from 1.
        failed_on: the node that failed them; empty for a first attempt.
        until: on the steady clock: before, they are kept for other nodes.
    """

    first: int
    stop: int
    attempt: int
    failed_on: str = ""
    until: float = 0.0
