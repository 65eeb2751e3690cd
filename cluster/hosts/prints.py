"""What kernels print: the first lines of each process, and how many more there were.

Whoever prints without end costs no more than the reading of a pipe: nothing of it is kept.
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
# Seconds between two words on how many lines were not kept.
_PAUSE = 5.0
# With this Python's faulthandler begins: it is how the process ended, and told as that.
_FATAL = "Fatal Python error: "


class PrintedLines(NamedTuple):
    """Some lines that a kernel printed, its warnings included.

    Attributes:
        task, block: what was being drawn when they came; None: nothing was.
        lines: for people, without control characters.
        dropped: how many lines of this process were not kept so far.
        node, slot: where; stamped as on outcomes.
    """

    task: int | None
    block: int | None
    lines: tuple[str, ...]
    dropped: int
    node: str = ""
    slot: int = 0

    @classmethod
    def from_json(cls, data: Any) -> PrintedLines:
        """Read one that came from a host; what no worker of ours says is cut.

        Raises:
            ValueError, TypeError: it has not that form.
        """
        task, block, lines, dropped, _node, slot = data
        numbers = (task or 0, block or 0, dropped, slot)
        if not all(isinstance(number, int) for number in numbers):
            raise ValueError("not printed lines: a field of the wrong type")
        return cls(task, block, tuple(map(cleaned, lines[:MOST_LINES])), dropped, slot=slot)


class Prints:
    """Takes in what one process prints."""

    def __init__(self) -> None:
        self._left, self._rest = MOST_LINES, b""
        self._fresh: list[str] = []
        self._dropped = self._told = 0
        self._due = 0.0
        self._dying = False

    def add(self, data: bytes) -> None:
        """The next bytes."""
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
        """The lines since the last call, and how many were not kept; None: there is no news.

        Args:
            ended: the process prints no more: its last line need not have an end.
        """
        if ended and self._rest:
            self.add(b"\n")
        now = time.monotonic()
        more = self._dropped > self._told and (ended or now >= self._due)
        if not self._fresh and not more:
            return None
        lines, self._fresh = tuple(self._fresh), []
        self._told = self._dropped
        if self._dropped:
            self._due = now + _PAUSE
        return lines, self._dropped


def cleaned(line: object) -> str:
    """One line for people, that can do nothing to a terminal."""
    text = str(line)[:LONGEST_LINE].rstrip("\r")
    return "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


class Hearing:
    """What kernels print through Python's own streams in this process.

    What goes to a descriptor directly cannot be told from what this process says itself.
    """

    def __init__(self) -> None:
        self._prints, self._lock = Prints(), threading.Lock()
        self._drawn = threading.local()
        #: Printed lines that nobody has taken yet.
        self.heard: deque[PrintedLines] = deque()
        self._pid = os.getpid()

    def begin(self, task: int, block: int) -> None:
        """From here on this thread draws a block."""
        self._drawn.now = task, block

    def end(self) -> None:
        """From here on this thread draws nothing."""
        self._drawn.now = None

    def hear(self, text: str) -> bool:
        """Take in what a kernel prints; False where it is not one that does."""
        now = getattr(self._drawn, "now", None)
        if now is None or os.getpid() != self._pid:
            return False
        with self._lock:
            self._prints.add(text.encode(errors="replace"))
            if (news := self._prints.take()) is not None:
                task, block = now
                self.heard.append(PrintedLines(task, block, *news))
        return True

    def taken(self, node: str) -> Iterator[PrintedLines]:
        """What was heard since the last call."""
        while self.heard:
            yield self.heard.popleft()._replace(node=node)


class Overheard(io.TextIOBase):
    """A stream of Python's that a hearing listens to; what that does not take goes to another."""

    encoding = "utf-8"

    def __init__(self, hearing: Hearing, beside: TextIO) -> None:
        self._hearing, self._beside = hearing, beside

    def write(self, text: str) -> int:
        """See :meth:`io.TextIOBase.write`."""
        return len(text) if self._hearing.hear(text) else self._beside.write(text)

    def flush(self) -> None:
        """See :meth:`io.TextIOBase.flush`."""
        self._beside.flush()

    def fileno(self) -> int:
        """See :meth:`io.TextIOBase.fileno`."""
        return self._beside.fileno()

    @property
    def buffer(self) -> Any:
        """For bytes, which are not heard."""
        return self._beside.buffer
