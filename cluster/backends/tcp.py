"""The engine ``tcp``: plain sockets, and nothing to install.

A host's server listens on one port, at the address by which the host is reached. Every connection
is mutual TLS 1.3 (see :mod:`cluster.backends.kit.door`); over it go texts, each with its length in
front.
"""

from __future__ import annotations

import socket
from typing import NoReturn

from cluster.backends.kit.calls import Announce, Call, CallEngine, Where
from cluster.backends.kit.door import connect, listen
from cluster.common.engines import Entry

ENTRY = Entry(
    "tcp",
    "plain sockets to several hosts, over mutual TLS",
    kind="hosted",
    routes=("to",),
)
_LENGTH = 4


class Engine(CallEngine):
    """A server of plain sockets on every host."""

    module = __name__


def serve(draw: Call, first: Where, announce: Announce) -> NoReturn:
    """See :mod:`cluster.backends.kit.calls`."""

    def answer(connection: socket.socket) -> None:
        while True:
            _send(connection, draw(_receive(connection)))

    listen(first, answer, announce)


def dial(where: Where) -> Call:
    """See :mod:`cluster.backends.kit.calls`."""
    connection = connect(where)

    def call(text: str) -> str:
        _send(connection, text)
        return _receive(connection)

    return call


def _send(connection: socket.socket, text: str) -> None:
    data = text.encode()
    connection.sendall(len(data).to_bytes(_LENGTH, "big") + data)


def _receive(connection: socket.socket) -> str:
    """The next text; ConnectionError where none will come."""
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
