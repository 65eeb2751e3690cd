"""Threads of the dispatcher's own process: for kernels that release the GIL."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
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
from cluster.sampling.task import Outcome, Task, Work, perform

ENTRY = Entry(
    "threads",
    "threads of the dispatcher's own process: for kernels that release the GIL",
    kind="in_process",
)

# Seconds for threads to end once no more tasks are wanted.
_GRACE = 0.5


class Engine(Backend):
    """One thread for each slot of the first node, fed by a queue of tasks."""

    in_process = True

    def run(self, work: Work, source: Source) -> Items:
        """See :meth:`Backend.run`; a kernel that never returns blocks its thread for ever."""
        node = self.nodes[0]
        for each in (work, *self.options.kernels):
            check_against_worker(each, self.options.ready)
        slots = node.slots or 1
        tasks: queue.SimpleQueue[tuple[Work, Task] | None] = queue.SimpleQueue()
        outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        capture = PrintCapture()
        # Daemons: a kernel that hangs must not keep a stopped dispatcher alive.
        workers = [
            threading.Thread(target=_serve, args=(tasks, outcomes, slot, capture), daemon=True)
            for slot in range(slots)
        ]
        for worker in workers:
            worker.start()
        with kernels_at_home(capture):
            try:
                yield NodeEvent(node.host, slots, in_process_reason(self.options))
                for item in self._turn(work, source, tasks, outcomes):
                    yield from capture.take(node.host)
                    yield item
            finally:
                _drop(tasks)
                for _ in range(slots):
                    tasks.put(None)
                _leave(workers)

    def _turn(
        self,
        work: Work,
        source: Source,
        tasks: queue.SimpleQueue[tuple[Work, Task] | None],
        outcomes: queue.SimpleQueue[Outcome],
    ) -> Iterator[Outcome | None]:
        node, taken = self.nodes[0].host, 0
        while True:
            while isinstance(task := source.take(node), Task):
                tasks.put((source.work_of(task.run) or work, task))
                taken += 1
            if task is Pause.END and not taken:
                return
            try:
                outcome = outcomes.get(timeout=self.options.tick)
            except queue.Empty:
                yield None
                continue
            taken -= 1
            yield outcome._replace(node=node)


def _serve(
    tasks: queue.SimpleQueue[tuple[Work, Task] | None],
    outcomes: queue.SimpleQueue[Outcome],
    slot: int,
    capture: PrintCapture,
) -> None:
    while (found := tasks.get()) is not None:
        begin = partial(capture.begin, found[1].id)
        outcome = perform(*found, time.thread_time, begin)
        capture.end()
        outcomes.put(outcome._replace(slot=slot))


def _drop(tasks: queue.SimpleQueue[tuple[Work, Task] | None]) -> None:
    try:
        while True:
            tasks.get_nowait()
    except queue.Empty:
        pass


def _leave(workers: list[threading.Thread]) -> None:
    """Wait a moment for the threads: one may still draw a revoked copy of a task, and print."""
    deadline = time.monotonic() + _GRACE
    for worker in workers:
        worker.join(max(0.0, deadline - time.monotonic()))
