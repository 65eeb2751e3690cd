"""The engine ``tcp``: plain sockets, and nothing to install.

A host's server listens on one port, at the address by which the host is reached. Every connection
uses mutual TLS 1.3 (:mod:`cluster.backends.kit.door`). Each text is sent after its length.
"""

from __future__ import annotations

import socket
from typing import NoReturn

from cluster.backends.kit.calls import Announce, Call, CallEngine, Where
from cluster.backends.kit.door import connect, listen
from cluster.common.engines import Entry

ENTRY = Entry(
    "tcp", "plain sockets to several hosts, over mutual TLS", kind="hosted", routes=("to",)
)
_LENGTH = 4  # bytes of a length on the wire


class Engine(CallEngine):
    """A server for plain sockets on every host."""

    module = __name__


def serve(draw: Call, first: Where, announce: Announce) -> NoReturn:
    """On a host: answer the texts of every connection; see :mod:`cluster.backends.kit.calls`.

    Args:
        draw: turns the text of a call into that of its answer.
        first: ``address`` to listen at, and ``secret``.
        announce: called with the ``port``.
    """

    def answer(connection: socket.socket) -> None:
        while True:
            _send(connection, draw(_receive(connection)))

    listen(first, answer, announce)


def dial(where: Where) -> Call:
    """In the driver: connect to a host's server; see :mod:`cluster.backends.kit.calls`.

    Args:
        where: ``address``, ``port``, ``secret``, and ``patience`` in seconds.

    Raises:
        OSError: nothing answers there in time, or it does not know the secret.
    """
    connection = connect(where)

    def call(text: str) -> str:
        _send(connection, text)
        return _receive(connection)

    return call


def _send(connection: socket.socket, text: str) -> None:
    data = text.encode()
    connection.sendall(len(data).to_bytes(_LENGTH, "big") + data)


def _receive(connection: socket.socket) -> str:
    """The next text; ConnectionError if the other end has closed the connection."""
    length = int.from_bytes(_exactly(connection, _LENGTH), "big")
    return _exactly(connection, length).decode()


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise ConnectionResetError("the other end has closed the connection")
        data += chunk
    return bytes(data)
