"""A private key and its certificate, derived from a secret with only the standard library.

The same secret gives the same key and certificate everywhere, so both ends of a connection can
present one certificate and accept no other. The arithmetic below, the reference algorithm of
RFC 8032, is not constant-time. It only signs the certificate, whose text is constant; in the
connections the key is used by OpenSSL alone.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import NamedTuple


class Identity(NamedTuple):
    """A private key (PKCS 8) and its self-signed certificate (X.509), as PEM."""

    key: str
    certificate: str


def derived(secret: str, purpose: str) -> bytes:
    """32 bytes derived from a secret, different for each purpose.

    Args:
        secret: random, with at least 128 bits: this derivation is fast, and so would be guessing.
        purpose: what the bytes are for; no two uses may share one.
    """
    return hmac.digest(secret.encode(), f"cluster {purpose}".encode(), "sha256")


def identity(seed: bytes) -> Identity:
    """The Ed25519 key of a seed of 32 bytes, and its certificate.

    The certificate is valid from 1970, with the end date that means "no expiry" (RFC 5280,
    4.1.2.5), so that it works on hosts whose clocks are wrong by years.
    """
    public = public_key(seed)
    name = _sequence(_der(0x31, _sequence(b"\x06\x03\x55\x04\x03", _der(0x0C, b"cluster"))))
    always = _sequence(_der(0x17, b"700102000000Z"), _der(0x18, b"99991231000000Z"))
    authority = _sequence(b"\x01\x01\xff", b"\x02\x01\x00")
    constraint = _sequence(b"\x06\x03\x55\x1d\x13", b"\x01\x01\xff", _der(0x04, authority))
    body = _sequence(
        *(_der(0xA0, b"\x02\x01\x02"), b"\x02\x01\x01", _ED25519, name, always, name),
        _sequence(_ED25519, _der(0x03, b"\0" + public)),
        _der(0xA3, _sequence(constraint)),
    )
    certificate = _sequence(body, _ED25519, _der(0x03, b"\0" + signature(seed, public, body)))
    private = _sequence(b"\x02\x01\x00", _ED25519, _der(0x04, _der(0x04, seed)))
    return Identity(_pem("PRIVATE KEY", private), _pem("CERTIFICATE", certificate))


# -- DER (X.690) -----------------------------------------------------------------------------------


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _sequence(*parts: bytes) -> bytes:
    return _der(0x30, b"".join(parts))


_ED25519 = _sequence(b"\x06\x03\x2b\x65\x70")


def _pem(label: str, data: bytes) -> str:
    text = base64.encodebytes(data).decode().replace("\n", "")
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


# -- Ed25519 (RFC 8032, 5.1) -----------------------------------------------------------------------

_Point = tuple[int, int, int, int]

_P = 2**255 - 19
_ORDER = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_BASE_X = 15112221349535400772501151409588531511454012693041857206046113283949847762202
_BASE_Y = 4 * pow(5, -1, _P) % _P
_BASE: _Point = (_BASE_X, _BASE_Y, 1, _BASE_X * _BASE_Y % _P)


def _add(one: _Point, other: _Point) -> _Point:
    """Add two points in extended homogeneous coordinates (5.1.4)."""
    a = (one[1] - one[0]) * (other[1] - other[0]) % _P
    b = (one[1] + one[0]) * (other[1] + other[0]) % _P
    c = 2 * one[3] * other[3] * _D % _P
    d = 2 * one[2] * other[2] % _P
    e, f, g, h = b - a, d - c, d + c, b + a
    return (e * f % _P, g * h % _P, f * g % _P, e * h % _P)


def _times(number: int, point: _Point) -> _Point:
    total = (0, 1, 1, 0)
    while number:
        if number & 1:
            total = _add(total, point)
        point = _add(point, point)
        number >>= 1
    return total


def _compressed(point: _Point) -> bytes:
    inverse = pow(point[2], -1, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _expanded(seed: bytes) -> tuple[int, bytes]:
    digest = hashlib.sha512(seed).digest()
    scalar = int.from_bytes(digest[:32], "little")
    return scalar & ((1 << 254) - 8) | (1 << 254), digest[32:]


def public_key(seed: bytes) -> bytes:
    """The public key of a private key, which is a seed of 32 bytes (5.1.5)."""
    return _compressed(_times(_expanded(seed)[0], _BASE))


def signature(seed: bytes, public: bytes, message: bytes) -> bytes:
    """The signature of a message (5.1.6).

    Args:
        seed: the private key, 32 bytes.
        public: its public key, 32 bytes.
        message: of any length.

    Returns:
        64 bytes.
    """
    scalar, prefix = _expanded(seed)
    nonce = int.from_bytes(hashlib.sha512(prefix + message).digest(), "little") % _ORDER
    point = _compressed(_times(nonce, _BASE))
    challenge = int.from_bytes(hashlib.sha512(point + public + message).digest(), "little")
    answer = (nonce + challenge * scalar) % _ORDER
    return point + answer.to_bytes(32, "little")
