"""One slot, in the dispatcher's own process and thread: the plain baseline."""

from __future__ import annotations

import time
from functools import partial

from cluster.backends.base import (
    Backend,
    Items,
    NodeEvent,
    Pause,
    Source,
    kernels_at_home,
    ready_at_home,
)
from cluster.backends.order import hold_to_workers
from cluster.common.engines import Entry
from cluster.hosts.prints import Hearing
from cluster.sampling.task import Work, perform

ENTRY = Entry(
    "serial",
    "one slot, in the dispatcher's own process: the plain baseline",
    kind="in_process",
)


class Engine(Backend):
    """Draws block after block; of several nodes or slots it uses one slot of the first node."""

    in_process = True

    def run(self, work: Work, source: Source) -> Items:
        """See :meth:`Backend.run`. A kernel that never returns is never left."""
        node = self.nodes[0].host
        for each in (work, *self.options.kernels):
            hold_to_workers(each, self.options.ready)
        yield NodeEvent(node, 1, ready_at_home(self.options))
        hearing = Hearing()
        with kernels_at_home(hearing):
            while (task := source.take(node)) is not Pause.END:
                if isinstance(task, Pause):
                    time.sleep(min(self.options.tick, 0.05))
                    yield None
                else:
                    of = source.work_of(task.run) or work if task.run else work
                    begin = partial(hearing.begin, task.id)
                    try:
                        outcome = perform(of, task, time.thread_time, begin)
                    finally:
                        hearing.end()
                    if hearing.heard:
                        yield from hearing.taken(node)
                    yield outcome._replace(node=node)
