"""``cluster node``: a node that stands, and lets in dispatchers that know its secret.

It is to a host what sshd is elsewhere: for one dispatcher at a time it starts an agent, which
keeps the workers, and starts the run's own dispynode beside it, one port further. With the
connection the agent ends, and all that came of it; the node stands on.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from cluster.backends.dispy.pipe import DYING, serve_agent
from cluster.backends.dispy.seal import Seal
from cluster.backends.kit.door import HANDSHAKE, Door
from cluster.common.errors import UsageError
from cluster.hosts.scratch import hostname


class Listening(NamedTuple):
    """Where a node listens: for dispatchers, and while one is there for its dispynode."""

    address: str
    port: int
    dispynode: int


class AttachedNode:
    """A node that stands.

    Args:
        address: the only one to listen at; None: the one that this host's name stands for.
        port: there; 0 is any that is free.
        secret: what a dispatcher must know.
        slots: at most so many workers; None: as many as the dispatcher asks for.
        tell: called with what happens, for people.

    Raises:
        UsageError: nothing can listen there.
    """

    def __init__(
        self,
        address: str | None,
        port: int,
        secret: str,
        slots: int | None,
        tell: Callable[[str], None],
    ) -> None:
        self._slots, self._tell = slots, tell
        address = address or own_address()
        try:
            self._gate = Door(address, port, Seal(secret).server)
        except OSError as error:
            reason = f"nothing can listen at {address} port {port}: {error.strerror}"
            raise UsageError(reason, fix=_ADDRESS) from None
        self.listening = Listening(address, self._gate.port, self._gate.port + 1)
        self._lock, self._held = threading.Lock(), ""
        self._connection: ssl.SSLSocket | None = None

    def open(self) -> None:
        """Begin to let in dispatchers."""
        self._gate.open(self._let_in)

    def close(self) -> None:
        """Part with the dispatcher that is there; its agent is given a moment to end."""
        if self._connection is not None:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
            self._lock.acquire(timeout=DYING + 1)

    def _let_in(self, connection: socket.socket) -> None:
        """In a thread of its own."""
        assert isinstance(connection, ssl.SSLSocket)
        address = connection.getpeername()
        connection.settimeout(HANDSHAKE)
        with connection:
            if not self._lock.acquire(blocking=False):
                self._turn_away(connection)
                return
            try:
                clock = time.strftime("%H:%M:%S")
                self._held = f"a dispatcher at {address[0]} since {clock} by its own clock"
                self._connection = connection
                self._tell(f"a dispatcher came from {address[0]}")
                serve_agent(connection, self._slots)
                self._tell(f"the dispatcher from {address[0]} has gone")
            finally:
                self._connection = None
                self._lock.release()

    def _turn_away(self, connection: ssl.SSLSocket) -> None:
        message = {"unfit": f"it is held by {self._held}", "fix": _HELD, "final": False}
        connection.sendall(json.dumps(message).encode() + b"\n")
        # What it says meanwhile is read: an end with something unread would lose our answer.
        while connection.recv(1 << 16):
            pass


def own_address() -> str:
    """The address that this host's name stands for.

    Raises:
        UsageError: it has none that other hosts can reach.
    """
    name = hostname()
    try:
        address = socket.gethostbyname(name)
    except OSError:
        raise UsageError(f"this host's name, {name}, has no address", fix=_ADDRESS) from None
    if address.startswith("127."):
        reason = f"this host's name, {name}, stands for {address}, which no other host reaches"
        raise UsageError(reason, fix=_ADDRESS)
    return address


_ADDRESS = "name an address of this host to listen at: --address A ('hostname -I' lists them)"
_HELD = "wait for that run to end, or stop it; a node works for one at a time"
