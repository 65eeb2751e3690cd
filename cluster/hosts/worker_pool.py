"""The slots of this machine: worker processes that draw tasks.

Each slot is one process in a session of its own, which its owner talks to in JSON lines and can
kill with all that it forked. A process that dies costs what it had not answered, and its slot gets
another one.
"""

from __future__ import annotations

import errno
import os
import selectors
import sys
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from cluster.common.backoff import backoff
from cluster.common.descriptors import left, raised
from cluster.hosts.child_process import Child
from cluster.hosts.nodes import Node
from cluster.hosts.prints import PrintedLines
from cluster.hosts.process_tree import memory_of, memory_text
from cluster.hosts.worker import Marker, with_limit
from cluster.sampling.task import Outcome, Task, Work

# A worker that dies before its first block so many times in a row is not started again.
_FALSE_STARTS = 3
_GRACE = 0.5
# What a machine may have too little of for a while: descriptors, processes, memory.
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
_LONGEST = 15.0
# Open files that a slot takes: three pipes, its process, the memory that is shared with it.
FILES = 5
# Between two looks at what the processes of a slot use together. Each alone cannot exceed the
# limit: the kernel sees to that.
_LOOK = 0.25

# -P keeps the current folder, where a random.py may lie, off the path. The package is found where
# this process has it, and that place leaves the path once it is imported.
_BOOTSTRAP = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import cluster; del sys.path[0]; "
    "from {module} import main; main()"
)


def python_command(python: str, module: str, *arguments: str) -> list[str]:
    """The arguments that run ``main`` of a module of this package on this machine."""
    root = str(Path(__file__).parents[2])
    return [python, "-P", "-c", _BOOTSTRAP.format(module=module), root, *arguments]


# One kernel to a slot: a library that starts a thread pool in every slot only gets in the way.
POOLS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


# The order of a set of strings is that of their hashes: it must be the same in every worker.
HASHES = {"PYTHONHASHSEED": "0"}


def slot_environment(node: Node) -> dict[str, str]:
    """The environment of a worker: ours, thread pools held to one thread, the node's on top."""
    return {**os.environ, **dict.fromkeys(POOLS, "1"), **dict(node.env), **HASHES}


class Slots:
    """As many worker processes as the node has slots.

    Args:
        node: this machine, as the dispatcher calls it; its name is stamped on every outcome.
        work: what the workers load before they are ready.
        selector: watches the processes; handlers are the keys' data, called with the event mask.
        ready: seconds within which a process must be ready.
        memory: bytes that a slot may use, its kernel's processes included; 0: no limit.
        files: open files that a slot takes in this process.
    """

    def __init__(
        self,
        node: Node,
        work: Work,
        selector: selectors.BaseSelector,
        ready: float,
        memory: int = 0,
        *,
        files: int = FILES,
    ) -> None:
        self._ready_within, self._memory, self._looked = ready, memory, time.monotonic()
        wanted = node.slots or 1
        count = max(1, min(wanted, left() // files))
        self._too_few = ""
        if count < wanted:
            self._too_few = (
                f"{wanted} do not fit: a process may have {raised():,} files open here"
                " (raise 'ulimit -Hn')"
            )
        self._slots = [Slot(index, node, work, selector, memory) for index in range(count)]

    def tend(self) -> Iterator[Outcome | PrintedLines]:
        """See to every process: start it, pass on its answers, answer for it once it is dead.

        What a kernel has printed comes before the outcome of its task.
        """
        look = bool(self._memory) and time.monotonic() - self._looked > _LOOK
        if look:
            self._looked = time.monotonic()
        for slot in self._slots:
            if look:
                slot.look_at_memory()
            yield from slot.tend(self._ready_within)

    @property
    def usable(self) -> int:
        """Slots whose process is ready."""
        return sum(slot.ready for slot in self._slots)

    @property
    def busy(self) -> bool:
        """Whether a task is unanswered."""
        return any(slot.taken for slot in self._slots)

    @property
    def broken(self) -> bool:
        """Whether no slot will ever be ready again."""
        return all(slot.broken for slot in self._slots)

    @property
    def reason(self) -> str:
        """Why a slot is broken, or some are not ready or too many; ``ready`` where all are."""
        broken = next((slot.broken for slot in self._slots if slot.broken), "")
        broken = broken or next((slot.held_up for slot in self._slots if slot.held_up), "")
        waiting = len(self._slots) - self.usable
        starting = f"{waiting} of {len(self._slots)} are starting" if waiting else ""
        return broken or starting or self._too_few or "ready"

    def give(self, task: Task, work: Work | None = None) -> None:
        """Add a task to what the least busy slot is to do; ``send`` sends it.

        Args:
            task: it; some slot must be usable.
            work: what the task is of, where that is not the first work.
        """
        ready = [slot for slot in self._slots if slot.ready]
        min(ready, key=lambda slot: len(slot.taken)).give(task, work)

    def send(self) -> None:
        """Send what was given."""
        for slot in self._slots:
            slot.send()

    def revoke(self, ids: Collection[int]) -> None:
        """Kill the processes that have one of these tasks."""
        for slot in self._slots if ids else ():
            slot.revoke(ids)

    def close_input(self) -> None:
        """Have idle processes end by themselves, which removes their private folders."""
        for slot in self._slots:
            slot.close_input()

    @property
    def ended(self) -> bool:
        """Whether all processes are gone."""
        return all(slot.ended for slot in self._slots)

    def close(self, grace: float = _GRACE) -> None:
        """End all processes: the idle ones by themselves, after a moment by force."""
        for slot in self._slots:
            slot.close_input()
        deadline = time.monotonic() + grace
        for slot in self._slots:
            slot.end(deadline)
        self._slots.clear()


class Slot:
    """One worker process, and the next one when it dies."""

    def __init__(
        self, index: int, node: Node, work: Work, selector: selectors.BaseSelector, memory: int
    ) -> None:
        self.ready, self._memory = False, memory
        self.broken = self.held_up = ""
        self.taken: deque[Task] = deque()
        self._index, self._node, self._work = index, node, work
        self._selector = selector
        self._child: Child | None = None
        self._latest = ""
        self._told: set[str] = set()
        self._false_starts = self._scarce = 0
        self._due, self._was_ready = 0.0, False

    def tend(self, ready_within: float) -> Iterator[Outcome | PrintedLines]:
        """Start the process, pass on what it answers, and answer for it once it is dead."""
        if self._child is not None:
            yield from self._heard(self._child)
            if not self.ready and time.monotonic() - self._since > ready_within:
                self._child.complain(f"not ready within {ready_within:g} s")
            if self._child.gone:
                yield from self._bury(self._child)
        if self._child is None and not self.broken and time.monotonic() >= self._due:
            self._start()

    def give(self, task: Task, work: Work | None) -> None:
        """Add a task to what the process is to do; ``send`` sends it."""
        if self._child is None:
            return
        if work is not None and work.run != self._latest:
            self._latest = work.run
            self._child.queue(work.to_json(self._told))
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

    def look_at_memory(self) -> None:
        """Kill the process where it and its children together use more than they may."""
        if self._child is None or self._child.gone or self._verdict != "lost":
            return
        used = memory_of(self._child.pid, self._memory)
        if used > self._memory:
            self._verdict = "raised"
            limit = memory_text(self._memory)
            words = f"its processes used {memory_text(used)}; retry.memory allows a slot {limit}"
            self._child.complain(words)

    def close_input(self) -> None:
        """Tell an idle worker that there is no more."""
        if self._child is not None:
            self._child.close_input()

    @property
    def ended(self) -> bool:
        """Whether its process is gone."""
        return self._child is None or self._child.gone

    def end(self, deadline: float) -> None:
        """Wait for an idle process until the deadline, then kill it and all that it forked."""
        if self._child is None:
            return
        if not self.taken:
            self._child.wait(deadline)
        self._child.reap()
        self._child = None

    def _start(self) -> None:
        python = self._node.python or sys.executable
        try:
            shared, self._marker = Marker.create()
            with open(shared, "rb", buffering=0):
                self._child = Child(
                    python_command(python, "cluster.hosts.worker", str(shared), str(self._memory)),
                    self._selector,
                    environment=slot_environment(self._node),
                    folder=self._node.cwd,
                    descriptors=[shared],
                )
        except OSError as error:
            self._on_no_start(error)
            return
        self._scarce, self.held_up = 0, ""
        self._since, self._verdict = time.monotonic(), "lost"
        self._latest, self._told = self._work.run, set()
        self._child.queue(self._work.to_json(self._told))
        self._child.send()

    def _on_no_start(self, error: OSError) -> None:
        """Where only something is scarce, it is tried again, after a pause that grows.

        One that never was ready is not tried for long: here there may never be enough.
        """
        words = f"slot {self._index} could not be started: {error}"
        self._scarce += 1
        if error.errno not in _SCARCE or (self._scarce >= _FALSE_STARTS and not self._was_ready):
            self.broken = words
            return
        self.held_up = words
        self._due = time.monotonic() + backoff(self._scarce - 1, 1.0, _LONGEST)

    def _heard(self, child: Child) -> Iterator[Outcome | PrintedLines]:
        """What it printed, and then what it answered after that."""
        messages = child.messages()
        if messages:
            child.listen()
        yield from self._printed(child)
        yield from self._answers(child, messages)

    def _printed(self, child: Child, *, ended: bool = False) -> Iterator[PrintedLines]:
        if (news := child.prints.take(ended=ended)) is not None:
            task, block = self._marker.task, self._marker.block
            yield PrintedLines(task, block, *news, self._node.host, self._index)

    def _answers(self, child: Child, messages: Iterable[Any]) -> Iterator[Outcome]:
        for message in messages:
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
            self._was_ready = self._was_ready or self.ready
            return None
        outcome = Outcome.from_json(message)
        if not self.taken or self.taken[0].id != outcome.task:
            raise ValueError(f"an outcome of task {outcome.task}, which is not its turn")
        self.taken.popleft()
        return outcome

    def _bury(self, child: Child) -> Iterator[Outcome | PrintedLines]:
        """Answer for a dead process: what it sent counts, what it had taken is lost."""
        reason = with_limit(child.reap(), self._memory if self._verdict == "lost" else 0)
        yield from self._printed(child, ended=True)
        yield from self._answers(child, child.messages())
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
        if block is not None and task.id == self._marker.task and task.first <= block < task.stop:
            return Outcome.without_answer(task, self._verdict, reason, block)
        return Outcome.without_answer(task, "returned", reason, None)

    def _stamp(self, outcome: Outcome) -> Outcome:
        return outcome._replace(node=self._node.host, slot=self._index)
