"""The main of an engine's driver, the same for all: what differs is a :class:`Carrier`.

The driver connects to the dispatcher that started it, beats each second, and ends when that ends,
says so, or says nothing sensible. See :mod:`cluster.backends.driver` for the other side.
"""

from __future__ import annotations

import os
import selectors
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from cluster.backends.driver import connect
from cluster.common.errors import EngineError
from cluster.hosts.jsonlines import Connection
from cluster.hosts.process_tree import die_with_parent

_BEAT = 1.0


class Carrier(Protocol):
    """How an engine's tasks get to hosts and their outcomes back. Nothing here may block."""

    #: A descriptor that can be read when :meth:`tend` has something to do.
    wake: int

    def join(self, host: Mapping[str, Any]) -> None:
        """Use a host, in the place of any of that name; what is in it is the engine's affair."""

    def leave(self, name: str, reason: str) -> None:
        """Have no more to do with a host; the tasks that it has are lost, for this reason."""

    def send(self, task: Sequence[Any], name: str | None) -> None:
        """Have a task drawn by that host (None: by any)."""

    def revoke(self, ids: Sequence[int]) -> None:
        """Drop those of these tasks that no host has yet, each as lost; not every engine can."""
        return

    def tend(self) -> Iterable[Mapping[str, Any]]:
        """What came about, as the dispatcher is told it: ``outcome``, ``lost``, ``up``, ``down``.

        Called at each wake, and about once a second.
        """


def carry(
    make: Callable[[Mapping[str, Any]], Carrier],
    waiting: selectors.BaseSelector | None = None,
    close: Callable[[], None] = lambda: None,
) -> None:
    """Be a driver until the dispatcher ends. The process ends with it, whatever its threads do.

    Args:
        make: makes the carrier of the setup that the engine sends first.
        waiting: what to wait with, where a descriptor cannot tell that there is something to do.
        close: is called at the end; it has what time the dispatcher gives a driver.
    """
    die_with_parent()
    with waiting or selectors.DefaultSelector() as selector:
        wire = connect(selector)
        try:
            _serve(make, wire, selector)
        except EngineError as error:
            wire.queue({"wrong": error.message, "fix": error.fix})
        wire.send()
        close()
    os._exit(0)


@contextmanager
def _ended_at_once() -> Iterator[None]:
    """End where a carrier fails: what an engine leaves for the exit may wait without end."""
    try:
        yield
    except EngineError:
        raise
    except Exception:
        traceback.print_exc()
        os._exit(1)


@_ended_at_once()
def _serve(
    make: Callable[[Mapping[str, Any]], Carrier], wire: Connection, selector: selectors.BaseSelector
) -> None:
    carrier: Carrier | None = None
    beat = 0.0
    while not wire.ended and not wire.wrong:
        for message in wire.messages():
            if carrier is None:
                carrier = make(message["setup"])
                selector.register(carrier.wake, selectors.EVENT_READ, lambda _mask: None)
            else:
                _pass_on(message, carrier)
        for news in carrier.tend() if carrier else ():
            wire.queue(news)
        if time.monotonic() - beat >= _BEAT:
            beat = time.monotonic()
            wire.queue({"beat": beat})
        wire.send()
        for key, mask in selector.select(_BEAT):
            key.data(mask)


def _pass_on(message: Mapping[str, Any], carrier: Carrier) -> None:
    if "task" in message:
        carrier.send(message["task"], message["node"])
    elif "host" in message:
        carrier.join(message["host"])
    elif "gone" in message:
        carrier.leave(message["gone"], message.get("reason", "its host is gone"))
    elif "revoke" in message:
        carrier.revoke(message["revoke"])
