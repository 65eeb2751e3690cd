"""What kernels print: the first lines of each process, and a count of the others.

A kernel that prints without end costs only the reading of a pipe: the rest is counted and dropped.
"""

from __future__ import annotations

import io
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple, TextIO

MOST_LINES = 20
LONGEST_LINE = 500
# Seconds between two reports of how many lines were dropped.
_PAUSE = 5.0
# The start of faulthandler's output. That describes how the process ended, and is reported there.
_FATAL = "Fatal Python error: "


class PrintedLines(NamedTuple):
    """Some lines that a kernel printed, warnings included.

    Attributes:
        task: the task that was being drawn when the lines were read, or None.
        block: the block of it, or None.
        lines: the lines, without control characters.
        dropped: how many lines of this process have been dropped so far.
        node: the host, filled in by the engine.
        slot: the slot, filled in by the engine.
    """

    task: int | None
    block: int | None
    lines: tuple[str, ...]
    dropped: int
    node: str = ""
    slot: int = 0

    @classmethod
    def from_json(cls, data: Any) -> PrintedLines:
        """Parse one that a host sent; lines beyond the limits are cut.

        Raises:
            ValueError: a field is missing or has the wrong type.
            TypeError: likewise.
        """
        task, block, lines, dropped, _node, slot = data
        numbers = (task or 0, block or 0, dropped, slot)
        if not all(isinstance(number, int) for number in numbers):
            raise ValueError("not printed lines: a field of the wrong type")
        return cls(task, block, tuple(map(cleaned, lines[:MOST_LINES])), dropped, slot=slot)


class Prints:
    """Splits the output of one process into lines, and keeps the first of them."""

    def __init__(self) -> None:
        self._left, self._rest = MOST_LINES, b""
        self._fresh: list[str] = []
        self._dropped = self._reported = 0
        self._due = 0.0
        self._dying = False

    def add(self, data: bytes) -> None:
        """Add the next bytes of its output."""
        *lines, rest = (self._rest + data).split(b"\n", self._left) if self._left else (data,)
        self._left -= len(lines)
        for line in lines:
            text = cleaned(line.decode(errors="replace"))
            self._dying = self._dying or text.startswith(_FATAL)
            if not self._dying:
                self._fresh.append(text)
        if self._left:
            self._rest = rest[: 4 * LONGEST_LINE]
        else:
            self._rest = b""
            self._dropped += 0 if self._dying else rest.count(b"\n")

    def take(self, *, ended: bool = False) -> tuple[tuple[str, ...], int] | None:
        """The lines since the last call, and how many were dropped in all; None if nothing is new.

        Args:
            ended: the process has ended, so its last line may lack a newline.
        """
        if ended and self._rest:
            self.add(b"\n")
        now = time.monotonic()
        more = self._dropped > self._reported and (ended or now >= self._due)
        if not self._fresh and not more:
            return None
        lines, self._fresh = tuple(self._fresh), []
        self._reported = self._dropped
        if self._dropped:
            self._due = now + _PAUSE
        return lines, self._dropped


def cleaned(line: object) -> str:
    """A line that is safe to print on a terminal: cut, and without control characters."""
    text = str(line)[:LONGEST_LINE].rstrip("\r")
    return "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


class PrintCapture:
    """Captures what kernels print in this process through ``sys.stdout`` and ``sys.stderr``.

    Writes to a file descriptor are not captured: they cannot be told from this process's own.
    """

    def __init__(self) -> None:
        self._prints, self._lock = Prints(), threading.Lock()
        self._drawn = threading.local()
        #: Printed lines that nobody has taken yet.
        self.captured: deque[PrintedLines] = deque()
        self._pid = os.getpid()

    def begin(self, task: int, block: int) -> None:
        """Note that this thread begins to draw a block."""
        self._drawn.now = task, block

    def end(self) -> None:
        """Note that this thread has stopped drawing."""
        self._drawn.now = None

    def add(self, text: str) -> bool:
        """Capture text if a kernel prints it; False if this thread is not drawing.

        A process that a kernel forked is not captured either: nobody would read it there.
        """
        now = getattr(self._drawn, "now", None)
        if now is None or os.getpid() != self._pid:
            return False
        with self._lock:
            self._prints.add(text.encode(errors="replace"))
            if (news := self._prints.take()) is not None:
                task, block = now
                self.captured.append(PrintedLines(task, block, *news))
        return True

    def take(self, node: str) -> Iterator[PrintedLines]:
        """What was captured since the last call, with the name of the node filled in."""
        while self.captured:
            yield self.captured.popleft()._replace(node=node)


class CapturedStream(io.TextIOBase):
    """A text stream whose text goes to a :class:`PrintCapture`, or else to another stream."""

    encoding = "utf-8"

    def __init__(self, capture: PrintCapture, other: TextIO) -> None:
        self._capture, self._other = capture, other

    def write(self, text: str) -> int:
        """Write text, unless it is captured."""
        return len(text) if self._capture.add(text) else self._other.write(text)

    def flush(self) -> None:
        """Flush the other stream; captured text is not buffered."""
        self._other.flush()

    def fileno(self) -> int:
        """The descriptor of the other stream."""
        return self._other.fileno()

    @property
    def buffer(self) -> Any:
        """The binary stream of the other stream; bytes are not captured."""
        return self._other.buffer
