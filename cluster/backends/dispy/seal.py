"""Mutual authentication of two processes by one secret, from which both derive the same key.

dispy's own use of a secret does not authenticate: its hash can be recorded and replayed, and
messages are unpickled before it is checked. So every connection is mutual TLS. Both ends derive the
same key and certificate from the secret, present it, and accept no other; a peer without the secret
fails in the handshake.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import ssl

from cluster.backends.kit.door import context

_SALT = b"cluster dispy 1"


class Seal:
    """The TLS contexts that both ends derive from their shared secret.

    Args:
        secret: at least 16 characters.

    Attributes:
        token: dispy's own secret, derived as well.
        server: the TLS context of the listening side.
    """

    def __init__(self, secret: str) -> None:
        # Slow on purpose: users choose secrets, and whoever connects sees the certificate, against
        # which guesses can be checked.
        derived = hashlib.scrypt(secret.encode(), salt=_SALT, n=1 << 14, r=8, p=1, dklen=64)
        self.token = derived[32:].hex()
        self.server = context(ssl.PROTOCOL_TLS_SERVER, derived[:32])
        self._client = context(ssl.PROTOCOL_TLS_CLIENT, derived[:32])

    def client(self, connection: socket.socket, *, handshake: bool = True) -> ssl.SSLSocket:
        """Wrap the connecting side of a connection.

        Args:
            connection: a connected socket.
            handshake: do the handshake now, rather than with the first read or write.

        Raises:
            ssl.SSLError: the peer does not prove the secret.
        """
        # dispy writes each message in two parts, then waits: without this, 40 ms for each.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._client.wrap_socket(connection, do_handshake_on_connect=handshake)


def fresh_secret() -> str:
    """A random secret for one run, as hexadecimal digits."""
    return secrets.token_hex(32)
