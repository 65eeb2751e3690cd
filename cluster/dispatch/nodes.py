"""The nodes of an engine: one book of them, whatever number of runs their slots work for."""

from __future__ import annotations

from collections.abc import Collection

from cluster.backends.base import NodeEvent
from cluster.dispatch.events import NodeProgress
from cluster.dispatch.failures import rest_after
from cluster.dispatch.in_flight import NodeState

# Clocks that nobody looked at for so long stood still, with the whole machine: a closed lid.
_ASLEEP = 10.0


class NodeStates(dict[str, NodeState]):
    """Every node that was heard of, by name.

    Args:
        now: the steady clock.

    Attributes:
        pool: all nodes as one, for an engine that chooses by itself.
        rest: seconds of work that are owed by all runs together; 0 where there is but one.
    """

    def __init__(self, now: float) -> None:
        super().__init__()
        self.pool = NodeState()
        self.rest = 0.0
        self._looked = self._without = now

    def named(self, node: str) -> NodeState:
        """The state of a node, from its first mention on."""
        return self.setdefault(node, NodeState())

    def place(self, node: str | None, now: float) -> NodeState:
        """Where a task would go: to a node, or to any."""
        if node is not None:
            return self.named(node)
        fit = sum(state.slots for state in self.values() if state.is_fit(now))
        self.pool.slots = fit or self.slots
        return self.pool

    def takes(self, state: NodeState, now: float) -> bool:
        """Whether it gets tasks: a node set aside, or at rest, does only where no other can."""
        if not state.has_room():
            return False
        if state is self.pool or state.is_fit(now):
            return True
        return not any(other.is_fit(now) for other in self.values())

    def others(self, node: str | None, now: float) -> bool:
        """Whether a node other than this one could work now."""
        return any(name != node and state.is_fit(now) for name, state in self.items())

    def avoided(self, now: float, suspected: Collection[str] = ()) -> Collection[str]:
        """Those with slots that are to get no task while others can work.

        Args:
            now: on the steady clock.
            suspected: those that have failed what is tried anew; one of the others must be left.
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
        """Take in a node's number of usable slots; what there is to say of it beside that.

        A node that is lost again and again rests longer and longer when it is back.
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
        """The engine is gone."""
        for state in self.values():
            state.slots = 0

    def look(self, now: float) -> float:
        """Look at the clock; seconds in which the whole machine slept, which are nobody's delay."""
        gap, self._looked = now - self._looked, now
        slept = gap if gap >= _ASLEEP else 0.0
        self._without = now if self.slots else self._without + slept
        return slept

    def starved(self, now: float, patience: float) -> bool:
        """Whether there was no usable slot for longer than that."""
        return not self.slots and now - self._without > patience

    def progress(self) -> tuple[NodeProgress, ...]:
        """Each node so far."""
        return tuple(
            NodeProgress(name, s.slots, s.tasks, s.samples, s.busy, s.failures)
            for name, s in self.items()
        )
