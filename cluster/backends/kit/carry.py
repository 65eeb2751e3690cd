"""The main function of every engine's driver; engines differ in their :class:`Carrier`.

The driver connects to the dispatcher that started it, sends a heartbeat each second, and ends when
the connection ends or carries anything malformed. The other side, with the protocol, is
:mod:`cluster.backends.driver`.
"""

from __future__ import annotations

import os
import selectors
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from cluster.backends.driver import connect
from cluster.common.errors import EngineError
from cluster.hosts.jsonlines import Connection
from cluster.hosts.process_tree import die_with_parent

_BEAT = 1.0


class Carrier(Protocol):
    """How an engine carries tasks to hosts and outcomes back.

    No method may block: the driver's heartbeat comes from the same thread.
    """

    #: A descriptor that is readable when :meth:`tend` has something to do.
    wake: int

    def join(self, host: Mapping[str, Any]) -> None:
        """Use a host from now on, replacing any of the same name.

        Args:
            host: what the engine's ``_join`` sends; its keys differ between engines.
        """

    def leave(self, name: str, reason: str) -> None:
        """Forget a host, and report its tasks as lost.

        Args:
            name: of the host.
            reason: why it left; it becomes the reason of the losses.
        """

    def send(self, task: Sequence[Any], name: str | None) -> None:
        """Have a task drawn.

        Args:
            task: the fields of :class:`cluster.sampling.task.Task`, the id first.
            name: of the host that is to draw it; None: the engine chooses.
        """

    def revoke(self, ids: Sequence[int]) -> None:
        """Drop those of these tasks that were not sent yet, and report them as lost.

        Optional: whatever has reached a host is also revoked by its agent.
        """
        return

    def tend(self) -> Iterable[Mapping[str, Any]]:
        """The messages for the dispatcher: ``outcome``, ``lost``, ``up`` and ``down``.

        Called whenever ``wake`` is readable, and about once a second.
        """


def carry(
    make: Callable[[Mapping[str, Any]], Carrier],
    waiting: selectors.BaseSelector | None = None,
    close: Callable[[], None] = lambda: None,
) -> None:
    """Run a driver until the dispatcher ends it; then end this process, whatever its threads do.

    Args:
        make: creates the carrier from the engine's setup, the first message.
        waiting: the selector to wait with, for an engine that no descriptor can wake (MPI).
        close: called at the end; the dispatcher kills a driver that takes too long.
    """
    die_with_parent()
    with waiting or selectors.DefaultSelector() as selector:
        wire = connect(selector)
        try:
            _serve(make, wire, selector)
        except EngineError as error:
            wire.queue({"wrong": error.message, "fix": error.fix})
        except Exception:
            # At once: exit handlers of engines might never return.
            traceback.print_exc()
            os._exit(1)
        wire.send()
        close()
    # No exit handlers: those of engines wait for their threads and jobs, some without a timeout.
    os._exit(0)


def _serve(
    make: Callable[[Mapping[str, Any]], Carrier], wire: Connection, selector: selectors.BaseSelector
) -> None:
    carrier: Carrier | None = None
    beat = 0.0
    while not wire.ended and not wire.wrong:
        for message in wire.messages():
            if carrier is None:
                carrier = make(message["setup"])
                # The carrier itself resets its descriptor, in `tend`; this only ends the wait.
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
