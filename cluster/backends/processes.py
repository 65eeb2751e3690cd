"""Worker processes on this machine: the default.

Each slot is one process in a session of its own, which the dispatcher talks to in JSON lines and
can kill with all that it forked. A process that dies costs what it had not answered.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, cast

from cluster.backends.base import (
    Backend,
    NodeEvent,
    Options,
    Pause,
    Source,
    slot_environment,
)
from cluster.errors import EngineError
from cluster.nodes import Node
from cluster.work import Outcome, Task, Work
from cluster.worker import Marker

_CHUNK = 1 << 16
_MOST = 1 << 20
_LONGEST_LINE = 16 << 20
_TAIL = 2_000
# A worker that dies before it is ready so many times in a row is not started again.
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

    def run(self, work: Work, source: Source) -> Iterator[Outcome | NodeEvent | None]:
        """See :meth:`Backend.run`."""
        node = self.nodes[0]
        hello = _line(work.to_json())
        self._slots = [Slot(index, node, hello, self._selector) for index in range(node.slots or 1)]
        ended = False
        while True:
            yield from self._tend()
            ended = self._feed(source) or ended
            if ended and not any(slot.taken for slot in self._slots):
                return
            self._end_revoked(source)
            yield from self._wait()

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

    def _wait(self) -> Iterator[Outcome | None]:
        """Until something happens, or a tick; then the outcomes that have come."""
        events = self._selector.select(self.options.tick)
        for key, mask in events:
            key.data(mask)
        if not events:
            yield None
        for slot in self._slots:
            yield from slot.answers()

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
        self, index: int, node: Node, hello: bytes, selector: selectors.BaseSelector
    ) -> None:
        self.ready = False
        self.broken = ""
        self.taken: deque[Task] = deque()
        self._index, self._node, self._hello = index, node, hello
        self._selector = selector
        self._process: subprocess.Popen[bytes] | None = None
        self._false_starts = 0
        self._outcomes: list[Outcome] = []

    def tend(self, ready_within: float) -> Iterator[Outcome]:
        """Start the process, see that it becomes ready, and answer for it once it is dead."""
        if self._process is not None and (self._gone() or self._late(ready_within)):
            yield from self._bury()
        if self._process is None and not self.broken:
            self._start()

    def give(self, task: Task) -> None:
        """Add a task to what the process is to do; ``send`` sends it."""
        self.taken.append(task)
        self._outgoing += _line([task.id, task.first, task.stop, task.attempt, task.created])

    def send(self) -> None:
        """Write what the pipe takes now; the rest follows when it takes more."""
        if self._process is None or not self._outgoing:
            return
        try:
            written = os.write(self._stdin, self._outgoing)
        except BlockingIOError:
            written = 0
        except BrokenPipeError:
            return  # it is dying; its end will be seen
        del self._outgoing[:written]
        self._watch_input(bool(self._outgoing))

    def answers(self) -> list[Outcome]:
        """The outcomes that have come since the last call."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def revoke(self, ids: Collection[int]) -> None:
        """Kill the process if it has one of these tasks; the outcome says that it was for time."""
        if self._process is not None and any(task.id in ids for task in self.taken):
            self._verdict = "timeout"
            self._kill()

    def close_input(self) -> None:
        """Tell an idle worker that there is no more."""
        if self._process is not None:
            self._watch_input(False)
            self._pipes[0].close()

    def end(self, deadline: float) -> None:
        """Wait for the process until the deadline, then kill it and all that it forked."""
        if self._process is None:
            return
        while not self._gone() and not self.taken and time.monotonic() < deadline:
            time.sleep(0.002)
        self._reap()

    # -- the process --------------------------------------------------------------------------

    def _start(self) -> None:
        root = str(Path(__file__).parents[2])
        shared, self._marker = Marker.create()
        python = self._node.python or sys.executable
        try:
            self._process = subprocess.Popen(
                [python, "-P", "-c", _BOOTSTRAP, root, str(shared)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                pass_fds=[shared], start_new_session=True, cwd=self._node.cwd,
                env=slot_environment(self._node),
            )  # fmt: skip
        except OSError as error:
            self.broken = f"slot {self._index} could not be started: {error}"
            return
        finally:
            os.close(shared)
        self._since = time.monotonic()
        self._verdict = "lost"
        self._incoming = b""
        self._outgoing = bytearray(self._hello)
        self._tail = b""
        pipes = (self._process.stdin, self._process.stdout, self._process.stderr)
        self._pipes = [cast("IO[bytes]", pipe) for pipe in pipes]
        self._stdin, self._stdout, self._stderr = (pipe.fileno() for pipe in self._pipes)
        self._writable = False
        for pipe in self._pipes:
            os.set_blocking(pipe.fileno(), False)
        self._pidfd = os.pidfd_open(self._process.pid)
        self._watched = {
            self._stdout: self._read,
            self._stderr: self._read_tail,
            self._pidfd: lambda _mask: None,  # its end wakes the loop, which then buries it
        }
        for descriptor, handler in self._watched.items():
            self._selector.register(descriptor, selectors.EVENT_READ, handler)
        self.send()

    def _unwatch(self, descriptor: int) -> None:
        if self._watched.pop(descriptor, None):
            self._selector.unregister(descriptor)

    def _watch_input(self, wanted: bool) -> None:
        if wanted and not self._writable:
            self._selector.register(self._stdin, selectors.EVENT_WRITE, lambda _mask: self.send())
        elif self._writable and not wanted:
            self._selector.unregister(self._stdin)
        self._writable = wanted

    def _gone(self) -> bool:
        # Seen without reaping: the process group keeps its number until it is killed as a whole.
        assert self._process is not None
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, options) is not None

    def _late(self, ready_within: float) -> bool:
        late = not self.ready and time.monotonic() - self._since > ready_within
        if late:
            self._tail += f"not ready within {ready_within:g} s".encode()
        return late

    def _kill(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)

    def _reap(self) -> int:
        """Kill what is left of the process group, and take the process's exit status."""
        assert self._process is not None
        self._kill()
        status = self._process.wait()
        self._watch_input(False)
        for descriptor in tuple(self._watched):
            self._unwatch(descriptor)
        os.close(self._pidfd)
        for pipe in self._pipes:
            pipe.close()
        self._process, self.ready = None, False
        return status

    def _bury(self) -> Iterator[Outcome]:
        """Answer for a dead process: what it sent counts, what it had taken is lost."""
        self._read(0)
        self._read_tail(0)
        yield from self.answers()
        was_ready = self.ready
        reason = _describe(self._reap(), self._tail)
        self._false_starts = 0 if was_ready else self._false_starts + 1
        if self._false_starts >= _FALSE_STARTS:
            self.broken = f"slot {self._index} does not start: {reason}"
        lost, self.taken = list(self.taken), deque()
        for task in lost:
            yield self._stamp(self._verdict_on(task, reason))

    def _verdict_on(self, task: Task, reason: str) -> Outcome:
        """The marker tells the task, and the block of it, that was running; others are innocent."""
        block = self._marker.block
        if block is not None and task.first <= block < task.stop:
            return Outcome.without_answer(task, self._verdict, reason, block)
        return Outcome.without_answer(task, "returned", reason, None)

    # -- what comes ---------------------------------------------------------------------------

    def _read(self, _mask: int) -> None:
        for line in self._lines():
            try:
                self._receive(json.loads(line))
            except (ValueError, TypeError, KeyError) as error:
                self._tail += f"\nnot a worker's answer: {error}".encode()
                self._kill()
                return

    def _lines(self) -> list[bytes]:
        data = _take(self._stdout)
        if data is None:
            self._unwatch(self._stdout)
            return []
        *lines, self._incoming = (self._incoming + data).split(b"\n")
        if len(self._incoming) > _LONGEST_LINE:
            self._tail += b"\nan answer of more than 16 MiB"
            self._kill()
        return lines

    def _receive(self, message: object) -> None:
        if isinstance(message, dict):
            if "refused" in message:
                self._tail, self._false_starts = message["refused"].encode(), _FALSE_STARTS
            else:
                self.ready = message["ready"] == self._process.pid  # type: ignore[union-attr]
            return
        outcome = Outcome.from_json(message)
        if not self.taken or self.taken[0].id != outcome.task:
            raise ValueError(f"an outcome of task {outcome.task}, which is not its turn")
        self.taken.popleft()
        self._outcomes.append(self._stamp(outcome))

    def _read_tail(self, _mask: int) -> None:
        # Always read, so that a kernel that prints is never blocked; kept only for its last words.
        data = _take(self._stderr)
        if data is None:
            self._unwatch(self._stderr)
            return
        self._tail = (self._tail + data)[-_TAIL:]

    def _stamp(self, outcome: Outcome) -> Outcome:
        return outcome._replace(node=self._node.host, slot=self._index)


def _line(message: object) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def _take(descriptor: int) -> bytes | None:
    """What can be read now, up to a bound that keeps the loop turning; None at the end."""
    data = b""
    while len(data) < _MOST:
        try:
            chunk = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return data
        if not chunk:
            return data or None
        data += chunk
    return data


def _describe(status: int, tail: bytes) -> str:
    words = tail.decode(errors="replace").strip()
    if status >= 0:
        cause = f"its process exited with {status}"
    elif -status == signal.SIGKILL:
        cause = "its process was killed (SIGKILL; by the kernel, if the machine ran out of memory)"
    else:
        cause = f"its process died of {signal.Signals(-status).name}"
    return f"{cause}; its last words: {words}" if words else cause
