"""Worker processes on this machine: the default.

Each slot is one process in a session of its own, which the dispatcher talks to in JSON lines and
can kill with all that it forked. A process that dies costs what it had not answered.
"""

from __future__ import annotations

import selectors
import sys
import time
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from cluster.backends.base import (
    Backend,
    Items,
    NodeEvent,
    Options,
    Pause,
    Source,
    slot_environment,
)
from cluster.backends.child import Child
from cluster.errors import EngineError
from cluster.nodes import Node
from cluster.work import Outcome, Task, Work
from cluster.worker import Marker

# A worker that dies before its first block so many times in a row is not started again.
_FALSE_STARTS = 3
_GRACE = 0.5

# -P keeps the current folder, where a random.py may lie, off the worker's path. The package is
# found where the dispatcher has it, and that place leaves the path once it is imported.
_BOOTSTRAP = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import cluster; del sys.path[0]; "
    "from cluster.worker import main; main()"
)


class Engine(Backend):
    """As many worker processes as the first node has slots."""

    def __init__(self, nodes: tuple[Node, ...], options: Options) -> None:
        super().__init__(nodes, options)
        self._selector = selectors.DefaultSelector()
        self._slots: list[Slot] = []
        self._usable = 0

    def __exit__(self, *exc_info: object) -> None:
        for slot in self._slots:
            slot.close_input()
        deadline = time.monotonic() + _GRACE
        for slot in self._slots:
            slot.end(deadline)
        self._slots.clear()
        self._selector.close()

    def run(self, work: Work, source: Source) -> Items:
        """See :meth:`Backend.run`."""
        node = self.nodes[0]
        self._slots = [Slot(index, node, work, self._selector) for index in range(node.slots or 1)]
        ended = False
        while True:
            yield from self._tend()
            ended = self._feed(source) or ended
            if ended and not any(slot.taken for slot in self._slots):
                return
            self._end_revoked(source)
            self._wait()
            # Whatever it was that woke us: a worker that prints without end must not stop clocks.
            yield None

    def _tend(self) -> Iterator[Outcome | NodeEvent]:
        """See to every process, and tell when the number of usable ones changes."""
        for slot in self._slots:
            yield from slot.tend(self.options.ready)
        usable = sum(slot.ready for slot in self._slots)
        if usable != self._usable:
            self._usable = usable
            yield NodeEvent(self.nodes[0].host, usable, self._reason())
        if all(slot.broken for slot in self._slots):
            raise EngineError(f"no worker process is left: {self._reason()}")

    def _wait(self) -> None:
        """Until something happens, for a tick at most."""
        for key, mask in self._selector.select(self.options.tick):
            key.data(mask)

    def _reason(self) -> str:
        return next((slot.broken for slot in self._slots if slot.broken), "ready")

    def _feed(self, source: Source) -> bool:
        """Give tasks to the slots that have fewest, until the source pauses; True at its end."""
        slots = [slot for slot in self._slots if slot.ready]
        answer: Task | Pause = Pause.NOW
        while slots and isinstance(answer := source.take(self.nodes[0].host), Task):
            min(slots, key=lambda slot: len(slot.taken)).give(answer)
        for slot in slots:
            slot.send()
        return answer is Pause.END

    def _end_revoked(self, source: Source) -> None:
        revoked = source.revoked()
        for slot in self._slots if revoked else ():
            slot.revoke(revoked)


class Slot:
    """One worker process, and the next one when it dies."""

    def __init__(
        self, index: int, node: Node, work: Work, selector: selectors.BaseSelector
    ) -> None:
        self.ready = False
        self.broken = ""
        self.taken: deque[Task] = deque()
        self._index, self._node, self._work = index, node, work
        self._selector = selector
        self._child: Child | None = None
        self._false_starts = 0

    def tend(self, ready_within: float) -> Iterator[Outcome]:
        """Start the process, pass on what it answers, and answer for it once it is dead."""
        if self._child is not None:
            yield from self._answers(self._child)
            if not self.ready and time.monotonic() - self._since > ready_within:
                self._child.complain(f"not ready within {ready_within:g} s")
            if self._child.gone:
                yield from self._bury(self._child)
        if self._child is None and not self.broken:
            self._start()

    def give(self, task: Task) -> None:
        """Add a task to what the process is to do; ``send`` sends it."""
        if self._child is not None:
            self.taken.append(task)
            self._child.queue(task)

    def send(self) -> None:
        """Send what was given."""
        if self._child is not None:
            self._child.send()

    def revoke(self, ids: Collection[int]) -> None:
        """Kill the process if it has one of these tasks; the outcome says that it was for time."""
        if self._child is not None and any(task.id in ids for task in self.taken):
            self._verdict = "timeout"
            self._child.kill()

    def close_input(self) -> None:
        """Tell an idle worker that there is no more."""
        if self._child is not None:
            self._child.close_input()

    def end(self, deadline: float) -> None:
        """Wait for an idle process until the deadline, then kill it and all that it forked."""
        if self._child is None:
            return
        if not self.taken:
            self._child.wait(deadline)
        self._child.reap()
        self._child = None

    def _start(self) -> None:
        root = str(Path(__file__).parents[2])
        python = self._node.python or sys.executable
        try:
            shared, self._marker = Marker.create()
            with open(shared, "rb", buffering=0):
                self._child = Child(
                    [python, "-P", "-c", _BOOTSTRAP, root, str(shared)], self._selector,
                    environment=slot_environment(self._node), folder=self._node.cwd,
                    descriptors=[shared],
                )  # fmt: skip
        except OSError as error:
            self.broken = f"slot {self._index} could not be started: {error}"
            return
        self._since, self._verdict = time.monotonic(), "lost"
        self._child.queue(self._work.to_json())
        self._child.send()

    def _answers(self, child: Child) -> Iterator[Outcome]:
        for message in child.messages():
            try:
                outcome = self._received(message, child)
            except (ValueError, KeyError) as error:
                child.complain(f"not a worker's answer: {error}")
                return
            if outcome is not None:
                yield self._stamp(outcome)

    def _received(self, message: Any, child: Child) -> Outcome | None:
        if isinstance(message, dict):
            if self.ready:
                raise ValueError("a greeting out of its turn")
            self.broken = str(message.get("refused", ""))
            self.ready = message.get("ready") == child.pid
            return None
        outcome = Outcome.from_json(message)
        if not self.taken or self.taken[0].id != outcome.task:
            raise ValueError(f"an outcome of task {outcome.task}, which is not its turn")
        self.taken.popleft()
        return outcome

    def _bury(self, child: Child) -> Iterator[Outcome]:
        """Answer for a dead process: what it sent counts, what it had taken is lost."""
        reason = child.reap()
        yield from self._answers(child)
        self._child, self.ready = None, False
        # One that dies before its first block would die for ever.
        self._false_starts = self._false_starts + 1 if self._marker.block is None else 0
        if self._false_starts >= _FALSE_STARTS:
            self.broken = self.broken or f"slot {self._index} does not start: {reason}"
        lost, self.taken = list(self.taken), deque()
        for task in lost:
            yield self._stamp(self._verdict_on(task, reason))

    def _verdict_on(self, task: Task, reason: str) -> Outcome:
        """The marker tells the task, and the block of it, that was running; others are innocent."""
        block = self._marker.block
        if block is not None and task.first <= block < task.stop:
            return Outcome.without_answer(task, self._verdict, reason, block)
        return Outcome.without_answer(task, "returned", reason, None)

    def _stamp(self, outcome: Outcome) -> Outcome:
        return outcome._replace(node=self._node.host, slot=self._index)
