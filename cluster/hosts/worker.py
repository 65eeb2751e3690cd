"""The worker process: reads works and their tasks as JSON lines, answers one outcome a task.

It speaks over the two descriptors that it is started with (its standard input and output); what
the kernel prints goes to standard error, so it can never be taken for an outcome.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import mmap
import os
import re
import resource
import select
import signal
import sys
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any

from cluster.common.errors import KernelError
from cluster.hosts.process_tree import catch, die_with_parent, leash_children, memory_text
from cluster.sampling.kernels import KernelSource, load
from cluster.sampling.task import Outcome, Task, Work, perform

_CHUNK = 1 << 16


def main() -> None:
    """Serve until the input ends. Started by a backend, never by hand."""
    parent = os.getppid()
    die_with_parent()
    leash_children()
    if os.getppid() != parent:
        os._exit(1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        catch(number, leave_it)
    marker, memory = Marker(int(sys.argv[1])), int(sys.argv[2])
    limit_memory(memory)
    lines = PipeLines(*take_descriptors())
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        # So that a line is heard of before the outcome of its block.
        stream.reconfigure(line_buffering=True, errors="replace")  # type: ignore[union-attr]
    sources: dict[str, KernelSource] = {}
    work = Work.from_json(lines.read(), sources)
    try:
        load(work.source)
    except KernelError as error:
        lines.write({"refused": with_limit(str(error), memory)})
        return
    lines.write({"ready": os.getpid()})
    _serve(work, sources, lines, marker, memory)


def _serve(
    first: Work, sources: dict[str, KernelSource], lines: PipeLines, marker: Marker, memory: int
) -> None:
    # A task that names no run is of the first work, any other one of the work before it: so this
    # process keeps one work, however many runs there are.
    latest = first
    queue: deque[tuple[Work, Task]] = deque()
    while True:
        for message in lines.arrived(wait=not queue):
            if isinstance(message, dict):
                latest = Work.from_json(message, sources)
            else:
                task = Task(*message)
                queue.append((latest if task.run else first, task))
        if lines.ended:
            return
        if queue:
            work, task = queue.popleft()
            # At once: nobody can know how long the next task takes, or whether it ends.
            lines.write(draw(work, task, marker, memory))


def draw(work: Work, task: Task, marker: Marker, memory: int) -> Outcome:
    """Perform a task under a limit of memory, which a kernel's lack of it is told with."""
    outcome = perform(work, task, begin=partial(marker.set, task.id))
    with suppress(Exception):  # a kernel may have put anything in its place, or closed it
        sys.stdout.flush()
    fault = outcome.fault
    if fault is None or not fault.type.endswith("MemoryError"):
        return outcome
    words = with_limit(f"MemoryError: {fault.message}", memory).removeprefix("MemoryError: ")
    return outcome._replace(fault=fault._replace(message=words))


def limit_memory(size: int) -> None:
    """Have this process, and each of its children, find no more memory than that; 0: no limit.

    What is reserved and not to be written, as JIT compilers and shared libraries do, is free.
    """
    if size:
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def with_limit(words: str, size: int) -> str:
    """An error's words, with the limit that it may be for where they tell of memory."""
    if not size or not re.search("memory|bad_alloc", words, re.IGNORECASE):
        return words
    return f"{words} (retry.memory allows a slot {memory_text(size)})"


class Marker:
    """Two numbers in memory that the dispatcher shares: the task and the block being drawn.

    They outlive the process, so that the block which ended it is known, whatever it did.
    """

    SIZE = 16
    # The number of no task: those of probes are negative, too.
    _NONE = -(1 << 63)

    def __init__(self, descriptor: int) -> None:
        self._memory = mmap.mmap(descriptor, self.SIZE)
        self._task = ctypes.c_int64.from_buffer(self._memory)
        self._block = ctypes.c_int64.from_buffer(self._memory, 8)

    @classmethod
    def create(cls) -> tuple[int, Marker]:
        """A fresh one, and the descriptor that shares it."""
        descriptor = os.memfd_create("cluster-marker")
        os.ftruncate(descriptor, cls.SIZE)
        marker = cls(descriptor)
        marker.set(cls._NONE, cls._NONE)
        return descriptor, marker

    def set(self, task: int, block: int) -> None:
        """This block of this task begins."""
        # Between the two no task is named: a block must not be taken for another task's.
        self._task.value = self._NONE
        self._block.value = block
        self._task.value = task

    @property
    def task(self) -> int | None:
        """The task whose block began last; None: not known."""
        task: int = self._task.value
        return None if task == self._NONE else task

    @property
    def block(self) -> int | None:
        """The block that began last; None: none ever did."""
        block: int = self._block.value
        return None if block == self._NONE else block


class PipeLines:
    """JSON lines over two file descriptors."""

    def __init__(self, source: int, sink: int) -> None:
        self.ended = False
        self._source, self._sink = source, sink
        self._rest = b""

    def arrived(self, *, wait: bool) -> list[Any]:
        """What has come since the last call; with ``wait``, at least one message or the end."""
        messages: list[Any] = []
        while not self.ended and ((wait and not messages) or self._readable()):
            data = os.read(self._source, _CHUNK)
            self.ended = not data
            *whole, self._rest = (self._rest + data).split(b"\n")
            messages += map(json.loads, whole)
        return messages

    def read(self) -> Any:
        """One message; ends the process where none will come."""
        message = next(iter(self.arrived(wait=True)), None)
        if message is None:
            sys.exit(0)
        return message

    def write(self, message: Any) -> None:
        """Send one message."""
        data = memoryview(json.dumps(message, separators=(",", ":")).encode() + b"\n")
        while data:
            data = data[os.write(self._sink, data) :]

    def _readable(self) -> bool:
        return bool(select.select([self._source], [], [], 0)[0])


def take_descriptors() -> tuple[int, int]:
    """Move the two streams out of the way of the kernel's own prints and reads."""
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    return source, sink


def leave_it(_number: int, _frame: object) -> None:
    """What a keyboard, Slurm or systemd sends to every process of a job is for the dispatcher.

    It drains, and ends its workers in its own way. Ignoring would be inherited by every program
    that a kernel starts; a handler is not.
    """
