"""The worker process: reads works and tasks as JSON lines, and sends one outcome for each task.

It does so over the standard input and output that it was started with. Kernels print to standard
error, so their output can never be taken for an outcome.
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
import sys
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any

from cluster.common.errors import KernelError
from cluster.hosts.process_tree import die_with_parent, leash_children, leave_signals, memory_text
from cluster.sampling.kernels import KernelSource, load
from cluster.sampling.task import Outcome, Task, Work, perform

_CHUNK = 1 << 16


def main() -> None:
    """Serve until the input ends. Only the owner of the slots starts it."""
    parent = os.getppid()
    die_with_parent()
    leash_children()
    if os.getppid() != parent:
        os._exit(1)
    leave_signals()
    marker, memory = Marker(int(sys.argv[1])), int(sys.argv[2])
    limit_memory(memory)
    lines = PipeLines(*take_descriptors())
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        # Line buffering: a line arrives before the outcome of its block.
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
    # A task without a run belongs to the first work, any other to the work sent last. So only these
    # two are kept, beside those of queued tasks, however many runs a sweep has.
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
            # Sent at once, because the next task may take long or never end.
            lines.write(draw(work, task, marker, memory))


def draw(work: Work, task: Task, marker: Marker, memory: int) -> Outcome:
    """Perform a task; if the kernel runs out of memory, add the limit to the error.

    Args:
        work: the work of the task.
        task: what is drawn.
        marker: records the block being drawn.
        memory: the limit that :func:`limit_memory` has set, in bytes; 0: none.
    """
    outcome = perform(work, task, begin=partial(marker.set, task.id))
    with suppress(Exception):  # a kernel may have replaced or closed it
        sys.stdout.flush()
    fault = outcome.fault
    if fault is None or not fault.type.endswith("MemoryError"):
        return outcome
    words = with_limit(f"MemoryError: {fault.message}", memory).removeprefix("MemoryError: ")
    return outcome._replace(fault=fault._replace(message=words))


def limit_memory(size: int) -> None:
    """Limit the memory of this process, and of each of its children, in bytes; 0: no limit.

    RLIMIT_DATA does not count address space that is only reserved, as by JIT compilers and shared
    libraries.
    """
    if size:
        resource.setrlimit(resource.RLIMIT_DATA, (size, size))


def with_limit(words: str, size: int) -> str:
    """An error message; if it mentions memory, with the limit that may have caused it."""
    if not size or not re.search("memory|bad_alloc", words, re.IGNORECASE):
        return words
    return f"{words} (retry.memory allows a slot {memory_text(size)})"


class Marker:
    """The task and the block being drawn, in memory shared with the owner of the worker.

    It outlives the worker, so the block that ended the process is known.

    Args:
        descriptor: of the shared memory.
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
        """The descriptor of new shared memory, and the marker in it."""
        descriptor = os.memfd_create("cluster-marker")
        os.ftruncate(descriptor, cls.SIZE)
        marker = cls(descriptor)
        marker.set(cls._NONE, cls._NONE)
        return descriptor, marker

    def set(self, task: int, block: int) -> None:
        """Record that a block of a task begins."""
        # The task is cleared in between, so that the block is never read with another task's id.
        self._task.value = self._NONE
        self._block.value = block
        self._task.value = task

    @property
    def task(self) -> int | None:
        """The task whose block began last; None if there is none, or it is being set."""
        task: int = self._task.value
        return None if task == self._NONE else task

    @property
    def block(self) -> int | None:
        """The block that began last; None if there is none."""
        block: int = self._block.value
        return None if block == self._NONE else block


class PipeLines:
    """JSON lines over two file descriptors, with blocking reads and writes.

    Args:
        source: the descriptor to read from.
        sink: the descriptor to write to.

    Attributes:
        ended: the source has ended.
    """

    def __init__(self, source: int, sink: int) -> None:
        self.ended = False
        self._source, self._sink = source, sink
        self._rest = b""

    def arrived(self, *, wait: bool) -> list[Any]:
        """The messages that can be read now; with ``wait``, wait for one, or for the end."""
        messages: list[Any] = []
        while not self.ended and ((wait and not messages) or self._readable()):
            data = os.read(self._source, _CHUNK)
            self.ended = not data
            *whole, self._rest = (self._rest + data).split(b"\n")
            messages += map(json.loads, whole)
        return messages

    def read(self) -> Any:
        """Wait for one message; ends the process if the source ends first."""
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
    """Move standard input and output to new descriptors, out of reach of a kernel.

    A kernel then reads nothing, and prints to standard error.

    Returns:
        The descriptors of the former standard input and output.
    """
    source, sink = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    return source, sink
