"""``cluster node``: an attached node, which accepts dispatchers that know its secret.

It takes the place of sshd. For one dispatcher at a time it starts an agent, which manages the
workers and starts the run's own dispynode, on the next port. When the connection ends, the agent
ends with all its descendants; the node itself keeps running.
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
    """Where a node listens: for dispatchers, and the port that a run's dispynode will have."""

    address: str
    port: int
    dispynode: int


class AttachedNode:
    """A node that waits for dispatchers.

    Args:
        address: the only one to listen at; None: the one that this host's name resolves to.
        port: 0: any free one.
        secret: the one that a dispatcher must know.
        slots: the most workers; None: as many as the dispatcher requests.
        tell: called with messages for people.

    Attributes:
        listening: where it listens.

    Raises:
        UsageError: it cannot listen there.
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
        """Start to accept dispatchers."""
        self._gate.open(self._let_in)

    def close(self) -> None:
        """Disconnect the present dispatcher, and wait for its agent to end."""
        if self._connection is not None:
            with suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)
            self._lock.acquire(timeout=DYING + 1)

    def _let_in(self, connection: socket.socket) -> None:
        """Serve a dispatcher, in the connection's thread; refuse it if there is another one."""
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
        # Read until the dispatcher closes: closing with unread data would reset the connection, and
        # the answer could be lost.
        while connection.recv(1 << 16):
            pass


def own_address() -> str:
    """The address that this host's name resolves to.

    Raises:
        UsageError: there is none, or none that other hosts can reach.
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
