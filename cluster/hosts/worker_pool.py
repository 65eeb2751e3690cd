"""The slots of this machine: worker processes that draw tasks.

Each slot is one process in a session of its own. Its owner exchanges JSON lines with it, and can
kill it with everything that it forked. When a process dies, its unanswered tasks are lost and its
slot gets a new process.
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

# A slot is given up after this many workers in a row died before their first block.
_FALSE_STARTS = 3
# Seconds for idle processes to end by themselves.
_GRACE = 0.5
# Errors for lack of descriptors, processes or memory, which may pass.
_SCARCE = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)
# The longest pause between two attempts to start a process, in seconds.
_LONGEST = 15.0
# Open files that a slot takes: three pipes, a pidfd, and the shared memory.
FILES = 5
# Seconds between two checks of the memory that all processes of a slot use together. The limit of
# each single process is enforced by the operating system.
_MEMORY_POLL_S = 0.25

# -P keeps the current folder off the path: it may contain a random.py. The package is imported from
# where this process has it, and that folder is then removed from the path as well.
_BOOTSTRAP = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import cluster; del sys.path[0]; "
    "from {module} import main; main()"
)


def python_command(python: str, module: str, *arguments: str) -> list[str]:
    """The command that runs ``main`` of a module on this machine.

    Args:
        python: the interpreter.
        module: a module of this package, or one that is installed for that interpreter.
        arguments: those of the module, ``sys.argv[1:]``.
    """
    root = str(Path(__file__).parents[2])
    return [python, "-P", "-c", _BOOTSTRAP.format(module=module), root, *arguments]


# Each slot draws one kernel at a time; thread pools of libraries would oversubscribe the cores.
POOLS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


# The order of a set of strings depends on their hashes, which must be the same in every worker.
HASHES = {"PYTHONHASHSEED": "0"}


def slot_environment(node: Node) -> dict[str, str]:
    """A worker's environment: this process's, single-threaded pools, and the node's variables."""
    return {**os.environ, **dict.fromkeys(POOLS, "1"), **dict(node.env), **HASHES}


class Slots:
    """As many worker processes as the node has slots.

    Args:
        node: this machine, under the name that the dispatcher has for it; every outcome gets it.
        work: the work whose kernel the workers load before they are ready.
        selector: watches the processes; each key's data is a handler, called with the event mask.
        ready: seconds within which a process must be ready.
        memory: bytes that a slot may use, including what its kernel forks; 0: no limit.
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
        self._ready_within, self._memory = ready, memory
        self._memory_checked = time.monotonic()
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
        """Start processes, and yield their outcomes, and those of processes that died.

        What a kernel has printed comes before the outcome of its task.
        """
        is_due = bool(self._memory) and time.monotonic() - self._memory_checked > _MEMORY_POLL_S
        if is_due:
            self._memory_checked = time.monotonic()
        for slot in self._slots:
            if is_due:
                slot.check_memory()
            yield from slot.tend(self._ready_within)

    @property
    def usable(self) -> int:
        """The number of slots whose process is ready."""
        return sum(slot.ready for slot in self._slots)

    @property
    def busy(self) -> bool:
        """Whether a task is unanswered."""
        return any(slot.taken for slot in self._slots)

    @property
    def broken(self) -> bool:
        """Whether every slot has been given up."""
        return all(slot.broken for slot in self._slots)

    @property
    def reason(self) -> str:
        """Why a slot is broken or not ready, or there are fewer than asked for; else ``ready``."""
        broken = next((slot.broken for slot in self._slots if slot.broken), "")
        broken = broken or next((slot.held_up for slot in self._slots if slot.held_up), "")
        waiting = len(self._slots) - self.usable
        starting = f"{waiting} of {len(self._slots)} are starting" if waiting else ""
        return broken or starting or self._too_few or "ready"

    def give(self, task: Task, work: Work | None = None) -> None:
        """Queue a task for the least busy slot, one of which must be usable; ``send`` sends it.

        Args:
            task: the task.
            work: its work; None: the first work.
        """
        ready = [slot for slot in self._slots if slot.ready]
        min(ready, key=lambda slot: len(slot.taken)).give(task, work)

    def send(self) -> None:
        """Send the queued tasks."""
        for slot in self._slots:
            slot.send()

    def revoke(self, ids: Collection[int]) -> None:
        """Kill the processes that have a task with one of these ids."""
        for slot in self._slots if ids else ():
            slot.revoke(ids)

    def close_input(self) -> None:
        """Let idle processes end by themselves, so that they remove their private folders."""
        for slot in self._slots:
            slot.close_input()

    @property
    def ended(self) -> bool:
        """Whether all processes have ended."""
        return all(slot.ended for slot in self._slots)

    def close(self, grace: float = _GRACE) -> None:
        """Give idle processes ``grace`` seconds to end by themselves, then kill the rest."""
        for slot in self._slots:
            slot.close_input()
        deadline = time.monotonic() + grace
        for slot in self._slots:
            slot.end(deadline)
        self._slots.clear()


class Slot:
    """One worker process, replaced when it dies.

    Args:
        index: the slot's number.
        node: this machine; see :class:`Slots`.
        work: the work whose kernel the worker loads.
        selector: watches the process.
        memory: bytes that the slot may use; 0: no limit.

    Attributes:
        ready: the process can take tasks.
        broken: why the slot is given up; empty while it is not.
        held_up: why the process could not be started for now; empty if it could.
        taken: the tasks that are not answered.
    """

    def __init__(
        self, index: int, node: Node, work: Work, selector: selectors.BaseSelector, memory: int
    ) -> None:
        self.ready, self._memory = False, memory
        self.broken = self.held_up = ""
        self.taken: deque[Task] = deque()
        self._index, self._node, self._work = index, node, work
        self._selector = selector
        self._child: Child | None = None
        self._marker: Marker  # of the process; set whenever there is one
        self._verdict = "lost"  # the kind of fault if the process dies now
        self._latest = ""  # the run whose work was sent last
        self._sent: set[str] = set()  # digests of the kernels that the process has
        self._false_starts = self._scarce = 0
        self._since = self._due = 0.0
        self._was_ready = False

    def tend(self, ready_within: float) -> Iterator[Outcome | PrintedLines]:
        """Start the process, and yield its outcomes, and those of its tasks once it has died."""
        if self._child is not None:
            yield from self._received(self._child)
            if not self.ready and time.monotonic() - self._since > ready_within:
                self._child.complain(f"not ready within {ready_within:g} s")
            if self._child.gone:
                yield from self._clear(self._child)
        if self._child is None and not self.broken and time.monotonic() >= self._due:
            self._start()

    def give(self, task: Task, work: Work | None) -> None:
        """Queue a task for the process; ``send`` sends it."""
        if self._child is None:
            return
        if work is not None and work.run != self._latest:
            self._latest = work.run
            self._child.queue(work.to_json(self._sent))
        self.taken.append(task)
        self._child.queue(task)

    def send(self) -> None:
        """Send the queued tasks."""
        if self._child is not None:
            self._child.send()

    def revoke(self, ids: Collection[int]) -> None:
        """Kill the process if it has a task with one of these ids; the fault is then a timeout."""
        if self._child is not None and any(task.id in ids for task in self.taken):
            self._verdict = "timeout"
            self._child.kill()

    def check_memory(self) -> None:
        """Kill the process if it and its descendants use more memory than the slot may."""
        if self._child is None or self._child.gone or self._verdict != "lost":
            return
        used = memory_of(self._child.pid, self._memory)
        if used > self._memory:
            self._verdict = "raised"
            limit = memory_text(self._memory)
            reason = f"its processes used {memory_text(used)}; retry.memory allows a slot {limit}"
            self._child.complain(reason)

    def close_input(self) -> None:
        """Let an idle process end by itself."""
        if self._child is not None:
            self._child.close_input()

    @property
    def ended(self) -> bool:
        """Whether its process has ended."""
        return self._child is None or self._child.gone

    def end(self, deadline: float) -> None:
        """Wait for an idle process until the deadline, then kill it and everything it forked."""
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
        self._latest, self._sent = self._work.run, set()
        self._child.queue(self._work.to_json(self._sent))
        self._child.send()

    def _on_no_start(self, error: OSError) -> None:
        """Try again with backoff if a resource is exhausted; otherwise give the slot up.

        A slot that has never been ready is soon given up in either case: the machine may never have
        enough for it.
        """
        reason = f"slot {self._index} could not be started: {error}"
        self._scarce += 1
        if error.errno not in _SCARCE or (self._scarce >= _FALSE_STARTS and not self._was_ready):
            self.broken = reason
            return
        self.held_up = reason
        self._due = time.monotonic() + backoff(self._scarce - 1, 1.0, _LONGEST)

    def _received(self, child: Child) -> Iterator[Outcome | PrintedLines]:
        """What the process printed, then its outcomes."""
        messages = child.messages()
        if messages:
            # What it printed before these outcomes is in the pipe by now; read it first.
            child.listen()
        answered = self.taken[0] if messages and self.taken else None
        yield from self._printed(child, answered)
        yield from self._outcomes(child, messages)

    def _printed(
        self, child: Child, answered: Task | None = None, *, ended: bool = False
    ) -> Iterator[PrintedLines]:
        """The lines that the process printed since the last call.

        Args:
            child: the process.
            answered: the first task whose outcome has arrived with them.
            ended: the process has ended.
        """
        if (news := child.prints.take(ended=ended)) is not None:
            task, block = self._marker.task, self._marker.block
            # By now the process may be at the next task, perhaps of another run.
            if answered is not None and task != answered.id:
                alone = answered.stop - answered.first == 1
                task, block = answered.id, answered.first if alone else None
            yield PrintedLines(task, block, *news, self._node.host, self._index)

    def _outcomes(self, child: Child, messages: Iterable[Any]) -> Iterator[Outcome]:
        """The outcomes among its messages; a process that sends anything invalid is killed."""
        for message in messages:
            try:
                outcome = self._parsed(message, child)
            except (ValueError, KeyError) as error:
                child.complain(f"not a worker's answer: {error}")
                return
            if outcome is not None:
                yield self._stamp(outcome)

    def _parsed(self, message: Any, child: Child) -> Outcome | None:
        """The outcome that a message has; None for the greeting, which is processed."""
        if isinstance(message, dict):
            if self.ready:
                raise ValueError("a greeting out of its turn")
            self.broken = str(message.get("refused", ""))
            self.ready = message.get("ready") == child.pid
            self._was_ready = self._was_ready or self.ready
            return None
        outcome = Outcome.from_json(message)
        if not self.taken or self.taken[0].id != outcome.task:
            raise ValueError(f"an outcome of task {outcome.task} out of its turn")
        self.taken.popleft()
        return outcome

    def _clear(self, child: Child) -> Iterator[Outcome | PrintedLines]:
        """Reap a dead process, and yield the outcomes that it sent and those of its lost tasks."""
        reason = with_limit(child.reap(), self._memory if self._verdict == "lost" else 0)
        yield from self._printed(child, ended=True)
        yield from self._outcomes(child, child.messages())
        self._child, self.ready = None, False
        # A process that dies before its first block would do so at every start.
        self._false_starts = self._false_starts + 1 if self._marker.block is None else 0
        if self._false_starts >= _FALSE_STARTS:
            self.broken = self.broken or f"slot {self._index} does not start: {reason}"
        lost, self.taken = list(self.taken), deque()
        for task in lost:
            yield self._stamp(self._verdict_on(task, reason))

    def _verdict_on(self, task: Task, reason: str) -> Outcome:
        """The outcome of a lost task: only the one that was being drawn, by the marker, failed."""
        block = self._marker.block
        if block is not None and task.id == self._marker.task and task.first <= block < task.stop:
            return Outcome.without_answer(task, self._verdict, reason, block)
        return Outcome.without_answer(task, "returned", reason, None)

    def _stamp(self, outcome: Outcome) -> Outcome:
        return outcome._replace(node=self._node.host, slot=self._index)
