"""What proves that two processes belong together: one secret, and all that both derive from it.

dispy's own secret proves nothing to a listener: it travels as a hash that can be sent again, and
what arrives is unpickled before it is looked at. So every connection is mutual TLS. Both ends
derive the same key and the same certificate from the secret, present it, and accept no other;
who does not know the secret gets no further than the handshake.
"""

from __future__ import annotations

import hashlib
import secrets
import socket
import ssl

from cluster.backends.kit.door import context

_SALT = b"cluster dispy 1"


class Seal:
    """Both ends' proof, made from the secret that they share.

    Args:
        secret: at least 16 characters.

    Attributes:
        token: what dispy itself is given as its secret.
        server: for the side that is connected to.
    """

    def __init__(self, secret: str) -> None:
        # Guessing is made slow: the certificate is shown to whoever connects.
        derived = hashlib.scrypt(secret.encode(), salt=_SALT, n=1 << 14, r=8, p=1, dklen=64)
        self.token = derived[32:].hex()
        self.server = context(ssl.PROTOCOL_TLS_SERVER, derived[:32])
        self._client = context(ssl.PROTOCOL_TLS_CLIENT, derived[:32])

    def client(self, connection: socket.socket, *, handshake: bool = True) -> ssl.SSLSocket:
        """The side that connects."""
        # Small messages leave at once: dispy writes each in two parts, then waits.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._client.wrap_socket(connection, do_handshake_on_connect=handshake)


def fresh_secret() -> str:
    """A secret for one run."""
    return secrets.token_hex(32)
