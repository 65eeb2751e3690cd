"""What the threads of a driver tell each other by."""

from __future__ import annotations

import os
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

    def take(self) -> list[Thing]:
        """All that is there."""
        try:
            os.eventfd_read(self.bell)
        except BlockingIOError:
            return []
        things = []
        while True:
            try:
                things.append(self._queue.get_nowait())
            except Empty:
                return things
