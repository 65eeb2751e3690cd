"""Worker processes on this machine: the default."""

from __future__ import annotations

import selectors
from collections.abc import Iterator, Sequence

from cluster.backends.base import Backend, Items, NodeEvent, Options, Pause, Source
from cluster.common.engines import Entry
from cluster.common.errors import EngineError
from cluster.hosts.nodes import Node
from cluster.hosts.prints import PrintedLines
from cluster.hosts.worker_pool import Slots
from cluster.sampling.task import Outcome, Task, Work

ENTRY = Entry("processes", "worker processes on this machine: the default")


class Engine(Backend):
    """As many worker processes as the first node has slots."""

    def __init__(self, nodes: Sequence[Node], options: Options) -> None:
        super().__init__(nodes, options)
        self._selector = selectors.DefaultSelector()
        self._slots: Slots | None = None
        self._usable = 0

    def __exit__(self, *exc_info: object) -> None:
        if self._slots is not None:
            self._slots.close()
        self._selector.close()

    def run(self, work: Work, source: Source) -> Items:
        """See :meth:`Backend.run`."""
        options = self.options
        slots = Slots(self.nodes[0], work, self._selector, options.ready, options.memory)
        self._slots = slots
        ended = False
        while True:
            yield from self._tend(slots)
            ended = self._feed(slots, source) or ended
            if ended and not slots.busy:
                return
            slots.revoke(source.revoked())
            for key, mask in self._selector.select(self.options.tick):
                key.data(mask)
            # Whatever it was that woke us: a worker that prints without end must not stop clocks.
            yield None

    def _tend(self, slots: Slots) -> Iterator[Outcome | NodeEvent | PrintedLines]:
        """See to every process, and tell when the number of usable ones changes."""
        yield from slots.tend()
        if slots.usable != self._usable:
            self._usable = slots.usable
            yield NodeEvent(self.nodes[0].host, self._usable, slots.reason)
        if slots.broken:
            raise EngineError(f"no worker process is left: {slots.reason}")

    def _feed(self, slots: Slots, source: Source) -> bool:
        """Give tasks to the slots that have fewest, until the source pauses; True at its end."""
        answer: Task | Pause = Pause.NOW
        while slots.usable and isinstance(answer := source.take(self.nodes[0].host), Task):
            slots.give(answer, source.work_of(answer.run))
        slots.send()
        return answer is Pause.END
