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
    in_process_reason,
    kernels_at_home,
)
from cluster.backends.order import check_against_worker
from cluster.common.engines import Entry
from cluster.hosts.prints import PrintCapture
from cluster.sampling.task import Work, perform

ENTRY = Entry(
    "serial",
    "one slot, in the dispatcher's own process: the plain baseline",
    kind="in_process",
)


class Engine(Backend):
    """Draws one task at a time; of several nodes or slots, it uses one slot of the first node."""

    in_process = True

    def run(self, work: Work, source: Source) -> Items:
        """See :meth:`Backend.run`; a kernel that never returns blocks it for ever."""
        node = self.nodes[0].host
        for each in (work, *self.options.kernels):
            check_against_worker(each, self.options.ready)
        yield NodeEvent(node, 1, in_process_reason(self.options))
        capture = PrintCapture()
        with kernels_at_home(capture):
            while (task := source.take(node)) is not Pause.END:
                if isinstance(task, Pause):
                    time.sleep(min(self.options.tick, 0.05))
                    yield None
                else:
                    of = source.work_of(task.run) or work if task.run else work
                    begin = partial(capture.begin, task.id)
                    try:
                        outcome = perform(of, task, time.thread_time, begin)
                    finally:
                        capture.end()
                    if capture.captured:
                        yield from capture.take(node)
                    yield outcome._replace(node=node)
