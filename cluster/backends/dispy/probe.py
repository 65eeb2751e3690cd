"""Requests to a dispynode without dispy's client: does it answer, and accept our secret?"""

from __future__ import annotations

import hashlib
import pickle
import re
import socket
import ssl
import struct
from collections.abc import Mapping
from typing import Any

from cluster.backends.dispy.seal import Seal
from cluster.backends.dispy.shim import deserialize
from cluster.common.errors import EngineError

_NOBODY = b"x" * 40
_LONGEST = 1 << 20
_PATIENCE = 3.0
# A dispynode's answer to a request without a valid proof: the salt for making one.
_SIGN = re.compile(rb"[0-9a-f]{40}")


class Unreachable(EngineError):
    """Nothing answers at the address."""


class WrongSecret(EngineError):
    """A node answers, and does not accept our secret."""


class Place:
    """Where a dispynode listens, and how to prove the secret to it.

    Args:
        address: of the node.
        port: of the node.
        seal: None: it is a stock dispynode on a trusted network.
        token: dispy's own secret, if there is no seal.
    """

    def __init__(self, address: str, port: int, seal: Seal | None, token: str = "") -> None:
        self.address, self.port = address, port
        self._seal, self._token = seal, seal.token if seal else token

    def info(self, timeout: float = _PATIENCE) -> dict[str, Any]:
        """The node's description of itself, as dispy's fields.

        Args:
            timeout: seconds for each of two requests.

        Raises:
            Unreachable: it does not answer.
            WrongSecret: it does not accept our secret.
        """
        answer = self._ask(b"NODE_INFO:", self._proof(timeout), timeout)
        try:
            found = deserialize(answer)
        except (pickle.UnpicklingError, EOFError, ValueError, IndexError, KeyError):
            found = None
        if not isinstance(found, dict):
            # It answered as it answers a request without a valid proof.
            raise WrongSecret(f"the node at {self} does not accept our secret")
        return found

    def is_stock(self) -> bool:
        """Whether a stock dispynode answers there, without TLS."""
        try:
            return _SIGN.fullmatch(self._ask(b"NODE_INFO:", _NOBODY, _PATIENCE)) is not None
        except EngineError:
            return False

    def release(self, compute: Mapping[str, Any], timeout: float = _PATIENCE) -> None:
        """Have the node end a computation of ours, so that it can take another client's.

        Args:
            compute: the computation, see :meth:`cluster.backends.dispy.client.Client.held`.
            timeout: seconds for each of two requests.

        Raises:
            Unreachable: it does not answer.
            WrongSecret: it does not accept our secret.
        """
        message = {**compute, "terminate_pending": True, "close": True}
        self._ask(b"CLOSE:" + pickle.dumps(message), self._proof(timeout), timeout)

    def __str__(self) -> str:
        return f"{self.address} port {self.port}"

    def _proof(self, timeout: float) -> bytes:
        sign = self._ask(b"NODE_INFO:", _NOBODY, timeout).decode(errors="replace")
        return hashlib.sha1((self._token + sign).encode()).hexdigest().encode()

    def _ask(self, message: bytes, proof: bytes, timeout: float) -> bytes:
        try:
            with socket.create_connection((self.address, self.port), timeout) as plain:
                connection = self._seal.client(plain) if self._seal else plain
                with connection:
                    connection.settimeout(timeout)
                    connection.sendall(proof + struct.pack(">L", len(message)) + message)
                    return _message(connection)
        except (ssl.SSLError, ConnectionResetError) as error:
            raise WrongSecret(f"the node at {self} does not accept our secret: {error}") from None
        except OSError as error:
            raise Unreachable(f"no node answers at {self}: {error}") from None


def _message(connection: socket.socket) -> bytes:
    (length,) = struct.unpack(">L", _exactly(connection, 4))
    return _exactly(connection, min(length, _LONGEST))


def _exactly(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        chunk = connection.recv(length - len(data))
        if not chunk:
            raise ConnectionResetError("it closed the connection")
        data += chunk
    return data
