"""What proves that two processes belong together: one secret, and all that both derive from it.

dispy's own secret proves nothing to a listener: it travels as a hash that can be sent again, and
what arrives is unpickled before it is looked at. So every connection is mutual TLS. Both ends
derive the same key and the same certificate from the secret, present it, and accept no other;
who does not know the secret gets no further than the handshake.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import secrets
import socket
import ssl
from typing import NamedTuple

_SALT = b"cluster dispy 1"


class Seal:
    """Both ends' proof, made from the secret that they share.

    Args:
        secret: at least 16 characters.

    Attributes:
        token: what dispy itself is given as its secret.
    """

    def __init__(self, secret: str) -> None:
        # Guessing is made slow: the certificate is shown to whoever connects.
        derived = hashlib.scrypt(secret.encode(), salt=_SALT, n=1 << 14, r=8, p=1, dklen=64)
        self.token = derived[32:].hex()
        identity = _identity(derived[:32])
        self._server = _context(ssl.PROTOCOL_TLS_SERVER, identity)
        self._client = _context(ssl.PROTOCOL_TLS_CLIENT, identity)
        # No session is resumed, and what nobody reads resets a connection that is closed.
        self._server.num_tickets = 0

    def server(self, connection: socket.socket) -> ssl.SSLSocket:
        """The side that was connected to."""
        _at_once(connection)
        return self._server.wrap_socket(connection, server_side=True)

    def client(self, connection: socket.socket, *, handshake: bool = True) -> ssl.SSLSocket:
        """The side that connects."""
        _at_once(connection)
        return self._client.wrap_socket(connection, do_handshake_on_connect=handshake)


def _at_once(connection: socket.socket) -> None:
    """Have small messages leave at once: dispy writes each in two parts, then waits."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def fresh_secret() -> str:
    """A secret for one run."""
    return secrets.token_hex(32)


class _Identity(NamedTuple):
    """A private key and its certificate, as PEM."""

    key: bytes
    certificate: bytes


def _identity(seed: bytes) -> _Identity:
    """The same for the same seed: Ed25519 signs without chance, and the dates are fixed."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(seed)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cluster")])
    # Hosts whose clocks are wrong by years still meet.
    since, until = datetime.datetime(1970, 1, 2), datetime.datetime(9999, 12, 31)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, since, until)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, None)
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return _Identity(private, certificate.public_bytes(serialization.Encoding.PEM))


def _context(protocol: int, identity: _Identity) -> ssl.SSLContext:
    """A context of one side that shows this certificate and accepts it alone."""
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=identity.certificate.decode())
    # A key is read from a path only; this one is in memory, so that no disk ever has it.
    descriptor = os.memfd_create("cluster-identity")
    with open(descriptor, "wb", buffering=0) as memory:
        memory.write(identity.key + identity.certificate)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    return context
