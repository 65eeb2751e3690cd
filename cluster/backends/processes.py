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
    """One worker process for each slot of the first node."""

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
        """See :meth:`Backend.run`; raises EngineError when every slot has been given up."""
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
            # Also if something happened: with a worker that prints without end, the tick would
            # otherwise never come.
            yield None

    def _tend(self, slots: Slots) -> Iterator[Outcome | NodeEvent | PrintedLines]:
        """Yield what the processes have sent, and an event if the number of usable ones changed."""
        yield from slots.tend()
        if slots.usable != self._usable:
            self._usable = slots.usable
            yield NodeEvent(self.nodes[0].host, self._usable, slots.reason)
        if slots.broken:
            raise EngineError(f"no worker process is left: {slots.reason}")

    def _feed(self, slots: Slots, source: Source) -> bool:
        """Give tasks to the least busy slots until the source pauses; True at its end."""
        answer: Task | Pause = Pause.NOW
        while slots.usable and isinstance(answer := source.take(self.nodes[0].host), Task):
            slots.give(answer, source.work_of(answer.run))
        slots.send()
        return answer is Pause.END
