"""A queue between threads that can wake a poller."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class Mailbox(Generic[Thing]):
    """A queue between threads, with a descriptor for the poller that reads it.

    Attributes:
        bell: a descriptor that is readable while something may be in the queue.
    """

    def __init__(self) -> None:
        self._queue: SimpleQueue[Thing] = SimpleQueue()
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def put(self, thing: Thing) -> None:
        """Add something, and wake the poller."""
        self._queue.put(thing)
        self.ring()

    def ring(self) -> None:
        """Wake the poller without adding anything."""
        os.eventfd_write(self.bell, 1)

    def take(self) -> Iterator[Thing]:
        """Remove and yield everything in the queue; whatever is not iterated over stays in it."""
        # The bell first: an addition after this line rings again, and cannot be missed.
        with suppress(BlockingIOError):
            os.eventfd_read(self.bell)
        with suppress(Empty):
            while True:
                yield self._queue.get_nowait()
