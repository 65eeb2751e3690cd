"""One port at one address, which only who proves the run's secret gets through.

Every connection is TLS 1.3 in both directions: each end presents the certificate that it derives
from the secret, and accepts no other. An engine gets connected sockets and needs no security of its
own; whatever comes over them was sent by a process of the run.
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

HANDSHAKE = 10.0
_CALLERS = 128
# What this process, or the machine, may have too little of for a while.
_SCARCE, _PAUSE = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM), 0.1
# A peer that vanished without a word is noticed within about this many seconds.
_VANISHED = 20


class Door:
    """A listening socket whose callers are let in once they have shaken hands.

    Each does so in a thread of its own: one that is slow, or says nothing, keeps out nobody.

    Args:
        address, port: the only place to listen at; port 0 is any that is free.
        sealed: for the handshake; None lets in everybody.
        most: callers that may be shaking hands at a time. A further one takes the place of the
            oldest, which an honest one, done within milliseconds, hardly ever is.

    Attributes:
        port: where it listens.

    Raises:
        OSError: nothing can listen there.
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
        """As :meth:`serve`, in a thread."""
        threading.Thread(target=self.serve, args=(use,), daemon=True).start()

    def serve(self, use: Use) -> NoReturn:
        """Have callers let in for ever; each is ``use``'s to close, unless that raises OSError."""
        while True:
            try:
                plain, _ = self._entrance.accept()
            except OSError as error:
                if error.errno in _SCARCE:
                    time.sleep(_PAUSE)
                continue
            with suppress(OSError):  # it has hung up already
                self._greet(plain, use)
            if len(self._callers) > self._most:
                _hang_up(self._callers.popleft())

    def _greet(self, plain: socket.socket, use: Use) -> None:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        caller = plain
        if self._sealed is not None:
            caller = self._sealed.wrap_socket(
                plain, server_side=True, do_handshake_on_connect=False
            )
        self._callers.append(caller)
        threading.Thread(target=self._admit, args=(caller, use), daemon=True).start()

    def _admit(self, caller: socket.socket, use: Use) -> None:
        try:
            try:
                if isinstance(caller, ssl.SSLSocket):
                    caller.settimeout(HANDSHAKE)
                    caller.do_handshake()
            finally:
                with suppress(ValueError):  # it was the oldest
                    self._callers.remove(caller)
            caller.settimeout(None)
            use(caller)
        except OSError:
            caller.close()


def listen(
    first: Mapping[str, Any], use: Use, announce: Callable[[Mapping[str, Any]], object]
) -> NoReturn:
    """Have connections used, each in a thread of its own, for ever.

    Args:
        first: ``address``, the only one to listen at, and ``secret``.
        use: is given each connection whose other end has proved the secret.
        announce: is told the ``port``.

    Raises:
        OSError: nothing can listen at that address.
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
        where: its ``address``, ``port`` and ``secret``; ``patience``: seconds for connecting and,
            later, for each wait.

    Raises:
        OSError: nobody answers there in time, or nobody who knows the secret.
    """
    plain = socket.create_connection((where["address"], where["port"]), where["patience"])
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    _watch(plain)
    return _context(ssl.PROTOCOL_TLS_CLIENT, where["secret"]).wrap_socket(plain)


def _hang_up(caller: socket.socket) -> None:
    """End a connection that another thread is at; that thread closes it."""
    with suppress(OSError):
        socket.socket.shutdown(caller, socket.SHUT_RDWR)


def _watch(connection: socket.socket) -> None:
    """Have a dead peer noticed."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _VANISHED // 2)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _VANISHED // 4)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _VANISHED * 1000)


def server_context(secret: str) -> ssl.SSLContext:
    """For the side that :func:`connect` connects to."""
    return _context(ssl.PROTOCOL_TLS_SERVER, secret)


@lru_cache(maxsize=2)
def _context(side: int, secret: str) -> ssl.SSLContext:
    return context(side, derived(secret, "door"))


def context(side: int, seed: bytes) -> ssl.SSLContext:
    """One that presents the certificate of a seed and accepts that alone.

    Args:
        side: ``ssl.PROTOCOL_TLS_SERVER`` or ``ssl.PROTOCOL_TLS_CLIENT``.
        seed: 32 bytes that both ends derive from their secret.
    """
    ours, made = identity(seed), ssl.SSLContext(side)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(cadata=ours.certificate)
    # OpenSSL reads a key from a path only; this one is in memory, so that no disk ever has it.
    descriptor = os.memfd_create("cluster-identity")
    with open(descriptor, "w") as memory:
        memory.write(ours.key + ours.certificate)
        memory.flush()
        made.load_cert_chain(f"/proc/self/fd/{descriptor}")
    if side == ssl.PROTOCOL_TLS_SERVER:
        # No session is resumed, and what nobody reads resets a connection that is closed.
        made.num_tickets = 0
    return made
