"""The dispatcher's own probes of a run's kernels, drawn in a worker process like those of hosts."""

from __future__ import annotations

import selectors
from collections import deque
from collections.abc import Sequence

from cluster.common.backoff import ListeningClock
from cluster.hosts.connect.host import Patience
from cluster.hosts.connect.judge import Judge
from cluster.hosts.fingerprint import failed, is_lost, probe, probed
from cluster.hosts.nodes import Node
from cluster.hosts.worker_pool import Slots
from cluster.sampling.task import Outcome

# Seconds for a worker to end by itself, which removes the files that it has unpacked.
_LEAVING = 5.0
_NAME = "here"


class Own:
    """Draws the probes while the hosts are being reached; no method blocks.

    Args:
        judge: has the kernels, and the jury that gets the results, or that there are none.
        nodes: the hosts; the worker gets the environment variables that all of them have.
        selector: watches the worker.
        patience: timeouts.
    """

    def __init__(
        self,
        judge: Judge,
        nodes: Sequence[Node],
        selector: selectors.BaseSelector,
        patience: Patience,
    ) -> None:
        self._works, self._jury, self._patience = judge.works, judge.jury, patience
        self._owed = deque(n for n in range(len(self._works)) if not self._jury.is_known(n))
        self._attention = ListeningClock()
        self._since, self._given, self._lost = self._attention.now, False, 0
        self._slots: Slots | None = None
        # The deadline for the worker to end by itself; 0: it still has probes to draw.
        self._leaving = 0.0
        if self._owed:
            node = Node(_NAME, slots=1, env=_common(nodes))
            self._slots = Slots(node, self._works[0], selector, patience.others)

    @property
    def settled(self) -> bool:
        """Whether every probe is drawn or given up."""
        return not self._owed

    def tend(self) -> None:
        """Do the periodic work: give the next probe, take results, end the worker."""
        now = self._attention.look()
        if self._slots is None:
            return
        if not self._owed:
            self._leave(self._slots, now)
            return
        for outcome in self._slots.tend():
            if isinstance(outcome, Outcome):  # drop what the probe prints: a task prints it again
                self._on_outcome(outcome)
        self._draw(self._slots, now)

    def _draw(self, slots: Slots, now: float) -> None:
        """Give the worker the next probe; give up all of them if one does not come in time."""
        if self._owed and slots.usable and not self._given:
            few, task = probe(self._works[self._owed[0]], self._owed[0])
            slots.give(task, few)
            self._given, self._since = True, now
        slots.send()
        if self._owed and slots.broken:
            self._give_up(slots.reason)
        elif now - self._since > (self._patience.probe if self._given else self._patience.others):
            what = "probe did not come back" if self._given else "worker was not ready"
            self._give_up(f"its {what} within {now - self._since:.0f} s")

    def _leave(self, slots: Slots, now: float) -> None:
        """Let the worker end by itself, which removes its files; after a while use force."""
        if not self._leaving:
            slots.close_input()
            self._leaving = now + _LEAVING
        if slots.ended or now > self._leaving:
            slots.close(grace=0.0)
            self._slots = None

    def close(self) -> None:
        """End the worker, by force if it does not end by itself."""
        if self._slots is not None:
            self._slots.close()
            self._slots = None

    def _on_outcome(self, outcome: Outcome) -> None:
        self._given = False
        if is_lost(outcome, self._lost):
            self._lost += 1
            return
        self._lost = 0
        self._jury.own[self._owed.popleft()] = probed(outcome)

    def _give_up(self, why: str) -> None:
        while self._owed:
            self._jury.own[self._owed.popleft()] = failed(why)


def _common(nodes: Sequence[Node]) -> tuple[tuple[str, str], ...]:
    """The environment variables that all hosts are given with the same values."""
    kept = [set(dict(node.env).items()) for node in nodes]
    return tuple(sorted(set.intersection(*kept))) if kept else ()
