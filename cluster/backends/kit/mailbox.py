"""What the threads of a driver tell each other by."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class Mailbox(Generic[Thing]):
    """A queue between threads, with a bell that a poller hears.

    Attributes:
        bell: a descriptor that can be read when something is there.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[Thing] = SimpleQueue()
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def put(self, thing: Thing) -> None:
        """Add something, and ring."""
        self._queue.put(thing)
        self.ring()

    def ring(self) -> None:
        """Have whoever polls look again."""
        os.eventfd_write(self.bell, 1)

    def take(self) -> Iterator[Thing]:
        """All that is there; what is not iterated over stays there."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.bell)
        with suppress(Empty):
            while True:
                yield self._queue.get_nowait()
