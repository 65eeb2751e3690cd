"""The nodes of an engine, shared by all runs that it computes."""

from __future__ import annotations

from collections.abc import Collection

from cluster.backends.base import NodeEvent
from cluster.dispatch.events import NodeProgress
from cluster.dispatch.failures import rest_after
from cluster.dispatch.in_flight import NodeState

# The loop looks several times a second; a longer gap means that the whole machine was suspended.
_ASLEEP = 10.0


class NodeStates(dict[str, NodeState]):
    """The state of every node that was ever mentioned, by name.

    Args:
        now: on the steady clock.

    Attributes:
        pool: all nodes as one, for an engine that chooses the node itself.
        rest: seconds of work that all runs together still owe.
    """

    def __init__(self, now: float) -> None:
        super().__init__()
        self.pool = NodeState()
        self.rest = 0.0
        self._looked = self._without = now

    def named(self, node: str) -> NodeState:
        """The state of a node, created at its first mention."""
        return self.setdefault(node, NodeState())

    def place(self, node: str | None, now: float) -> NodeState:
        """The state that a task for a node counts for; None: for the pool of all nodes.

        Args:
            node: its name, or None if the engine chooses.
            now: on the steady clock.
        """
        if node is not None:
            return self.named(node)
        fit = sum(state.slots for state in self.values() if state.is_fit(now))
        self.pool.slots = fit or self.slots
        return self.pool

    def accepts(self, state: NodeState, now: float) -> bool:
        """Whether it gets tasks now; a node set aside or resting does only if no other can.

        Args:
            state: from :meth:`place`.
            now: on the steady clock.
        """
        if not state.has_room():
            return False
        if state is self.pool or state.is_fit(now):
            return True
        return not any(other.is_fit(now) for other in self.values())

    def others(self, node: str | None, now: float) -> bool:
        """Whether a node other than this one could work now."""
        return any(name != node and state.is_fit(now) for name, state in self.items())

    def avoided(self, now: float, suspected: Collection[str] = ()) -> Collection[str]:
        """Nodes with slots that should get no task while others can work.

        Args:
            now: on the steady clock.
            suspected: nodes that failed blocks which are being retried; they are avoided too, if
                another fit node is left.
        """
        fit = {name for name, state in self.items() if state.is_fit(now)}
        if not fit:
            return ()
        unfit = {name for name, state in self.items() if state.slots and name not in fit}
        return unfit | (fit.intersection(suspected) if fit.difference(suspected) else set())

    @property
    def slots(self) -> int:
        """Slots of all nodes that can work now."""
        return sum(state.slots for state in self.values())

    def change(self, event: NodeEvent, now: float) -> str | None:
        """Take in a node's number of usable slots.

        A node that is lost repeatedly rests longer each time.

        Args:
            event: of the node.
            now: on the steady clock.

        Returns:
            A message if the node has to rest, else None.
        """
        state = self.named(event.node)
        lost, state.slots = state.slots and not event.slots, event.slots
        if self.slots:
            self._without = now
        if event.asked:
            state.forget_faults()
            return None
        if not lost:
            return None
        state.losses += 1
        rest = rest_after(state.losses)
        state.rests_until = now + rest if rest else state.rests_until
        return f"lost {state.losses} times: it gets no task for {rest:g} s" if rest else None

    def lose_all(self) -> None:
        """The engine is gone: no node has a slot until it reports again."""
        for state in self.values():
            state.slots = 0

    def look(self, now: float) -> float:
        """Take note of the time; returns for how many seconds the whole machine was suspended.

        These count as no task's delay.
        """
        gap, self._looked = now - self._looked, now
        slept = gap if gap >= _ASLEEP else 0.0
        self._without = now if self.slots else self._without + slept
        return slept

    def starved(self, now: float, limit: float) -> bool:
        """Whether there was no usable slot for more than ``limit`` seconds."""
        return not self.slots and now - self._without > limit

    def progress(self) -> tuple[NodeProgress, ...]:
        """The work of each node so far."""
        return tuple(
            NodeProgress(name, s.slots, s.tasks, s.samples, s.busy, s.failures)
            for name, s in self.items()
        )
