"""One port at one address, open only to peers that prove the run's secret.

Every connection is mutual TLS 1.3: each end presents the certificate that it derives from the
secret, and accepts no other. An engine gets connected sockets and needs no security of its own:
whatever arrives on them was sent by a process of the run.
"""

from __future__ import annotations

import errno
import os
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, NoReturn

from cluster.backends.kit.identity import derived, identity

Use = Callable[[socket.socket], object]

# Seconds for a TLS handshake.
HANDSHAKE = 10.0
_CALLERS = 128
# Errors of accept() that pass: descriptors or memory are short. Retrying at once would spin, as
# the connection stays in the backlog.
_SCARCE, _PAUSE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM), 0.1
# Seconds after which the system reports a peer that was cut off or lost power: TCP alone never
# does.
_VANISHED = 20


class Door:
    """A listening socket that hands out connections whose handshake succeeded.

    Each handshake has its own thread. In the accept loop, one silent stranger would lock out
    everybody.

    Args:
        address: the only address to listen at.
        port: 0: any free one.
        sealed: the TLS context; None: plain connections, and everybody is accepted.
        most: the limit of concurrent handshakes. One more closes the oldest, so strangers cannot
            exhaust descriptors; an honest caller is done within milliseconds.

    Attributes:
        port: the port that it listens on.

    Raises:
        OSError: it cannot listen there.
    """

    def __init__(
        self, address: str, port: int, sealed: ssl.SSLContext | None, most: int = _CALLERS
    ) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._entrance = socket.create_server((address, port), family=family, backlog=_CALLERS)
        self.port: int = self._entrance.getsockname()[1]
        self._sealed, self._most = sealed, most
        self._callers: deque[socket.socket] = deque()

    def open(self, use: Use) -> None:
        """Run :meth:`serve` in a thread."""
        threading.Thread(target=self.serve, args=(use,), daemon=True).start()

    def serve(self, use: Use) -> NoReturn:
        """Accept callers for ever.

        Args:
            use: called with each connection, in that connection's thread. It has to close it,
                unless it raises OSError.
        """
        while True:
            try:
                plain, _ = self._entrance.accept()
            except OSError as error:
                if error.errno in _SCARCE:
                    time.sleep(_PAUSE)
                continue
            with suppress(OSError):  # the caller has closed the connection already
                self._greet(plain, use)
            if len(self._callers) > self._most:
                _hang_up(self._callers.popleft())

    def _greet(self, plain: socket.socket, use: Use) -> None:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        caller = plain
        if self._sealed is not None:
            # By default wrap_socket does the handshake, here in the accept loop.
            caller = self._sealed.wrap_socket(
                plain, server_side=True, do_handshake_on_connect=False
            )
        self._callers.append(caller)
        threading.Thread(target=self._admit, args=(caller, use), daemon=True).start()

    def _admit(self, caller: socket.socket, use: Use) -> None:
        try:
            try:
                if isinstance(caller, ssl.SSLSocket):
                    # On the accepted socket: a timeout of the listener does not carry over.
                    caller.settimeout(HANDSHAKE)
                    caller.do_handshake()
            finally:
                with suppress(ValueError):  # it was the oldest, and was closed for another
                    self._callers.remove(caller)
            caller.settimeout(None)
            use(caller)
        except OSError:
            caller.close()


def listen(
    first: Mapping[str, Any], use: Use, announce: Callable[[Mapping[str, Any]], object]
) -> NoReturn:
    """Listen for ever, for an engine's ``serve``.

    Args:
        first: ``address``, the only one to listen at, and the ``secret``.
        use: called with each connection whose peer has proved the secret, in a thread of its own;
            the connection is closed when it returns.
        announce: called with the ``port``.

    Raises:
        OSError: it cannot listen at that address.
    """

    def watched(connection: socket.socket) -> None:
        with connection:
            _watch(connection)
            use(connection)

    door = Door(first["address"], 0, server_context(first["secret"]))
    announce({"port": door.port})
    door.serve(watched)


def connect(where: Mapping[str, Any]) -> ssl.SSLSocket:
    """Connect to a door.

    Args:
        where: its ``address``, ``port`` and ``secret``; ``patience``: the timeout in seconds, of
            connecting and of every later operation.

    Raises:
        OSError: nothing answers in time, or not with proof of the secret (``ssl.SSLError``).
    """
    plain = socket.create_connection((where["address"], where["port"]), where["patience"])
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _watch(plain)
    return _context(ssl.PROTOCOL_TLS_CLIENT, where["secret"]).wrap_socket(plain)


def _hang_up(caller: socket.socket) -> None:
    """Wake the thread that uses a connection with an error; that thread closes it.

    Closing it here could hand the descriptor to another connection under that thread.
    """
    with suppress(OSError):
        # Not SSLSocket.shutdown, which would also drop the TLS state that the thread is using.
        socket.socket.shutdown(caller, socket.SHUT_RDWR)


def _watch(connection: socket.socket) -> None:
    """Have the system detect a dead peer, on an idle connection and with data in transit."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _VANISHED // 2)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _VANISHED // 4)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _VANISHED * 1000)


def server_context(secret: str) -> ssl.SSLContext:
    """The TLS context of the listening side, for peers that use :func:`connect`."""
    return _context(ssl.PROTOCOL_TLS_SERVER, secret)


@lru_cache(maxsize=2)
def _context(side: int, secret: str) -> ssl.SSLContext:
    return context(side, derived(secret, "door"))


def context(side: int, seed: bytes) -> ssl.SSLContext:
    """A TLS context that presents the certificate of a seed, and accepts only the same one.

    Args:
        side: ``ssl.PROTOCOL_TLS_SERVER`` or ``ssl.PROTOCOL_TLS_CLIENT``.
        seed: 32 bytes that both ends derive from their secret.
    """
    ours, made = identity(seed), ssl.SSLContext(side)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    # Who owns the key is the whole proof; hosts are reached by addresses, which vary.
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(cadata=ours.certificate)
    # OpenSSL only reads a key from a path. This file is in memory: the key is never on a disk.
    descriptor = os.memfd_create("cluster-identity")
    with open(descriptor, "w") as memory:
        memory.write(ours.key + ours.certificate)
        memory.flush()
        made.load_cert_chain(f"/proc/self/fd/{descriptor}")
    if side == ssl.PROTOCOL_TLS_SERVER:
        # Nobody resumes sessions. A ticket that the client has not read when it closes would make
        # its system send a reset, which can destroy data that is still on the way.
        made.num_tickets = 0
    return made
