"""Proof that a message is of this run, by this sender, and was not seen before.

SCOOP unpickles whatever reaches its ports. Here every message to the broker is stamped with a key
that only the run's own processes have, and nothing of a message is read before its stamp is.
"""

from __future__ import annotations

import hashlib
import hmac
import pickle
import secrets
import struct
from collections.abc import Sequence

_TAG = hashlib.sha256().digest_size
_COUNT = struct.Struct(">Q")


class Forged(Exception):
    """A message that none of the run's processes has sent, or that was sent before."""


def fresh_key() -> str:
    """For one broker and its workers."""
    return secrets.token_hex(32)


class SealedPickle:
    """Stands in for the module ``pickle`` in SCOOP's modules: what it loads is the run's own."""

    HIGHEST_PROTOCOL = pickle.HIGHEST_PROTOCOL
    PickleError = pickle.PickleError
    PicklingError = pickle.PicklingError

    def __init__(self, key: str) -> None:
        self._key = key.encode() + b"pickle"

    def dumps(self, thing: object, protocol: int = pickle.HIGHEST_PROTOCOL) -> bytes:
        """As ``pickle.dumps``, with proof in front."""
        data = pickle.dumps(thing, protocol)
        return hmac.digest(self._key, data, "sha256") + data

    def loads(self, data: bytes) -> object:
        """As ``pickle.loads``.

        Raises:
            PickleError: it is not the run's own.
        """
        tag, rest = data[:_TAG], data[_TAG:]
        if not hmac.compare_digest(tag, hmac.digest(self._key, rest, "sha256")):
            raise pickle.PickleError("not of this run")
        return pickle.loads(rest)


class Stamps:
    """What is put on messages to the broker and looked for by it: sender, number, frames."""

    def __init__(self, key: str) -> None:
        self._key = key.encode() + b"stamp"
        self._sent = 0
        self._seen: dict[bytes, int] = {}

    def stamp(self, sender: bytes, frames: Sequence[bytes]) -> bytes:
        """The stamp of the next message of a sender."""
        self._sent += 1
        return self._make(sender, _COUNT.pack(self._sent), frames)

    def open(self, message: Sequence[bytes]) -> list[bytes]:
        """The sender and the frames of a stamped message.

        Raises:
            Forged: it is malformed, not stamped by the run, or was here before.
        """
        if len(message) < 3:
            raise Forged("too short")
        sender, *frames, stamp = message
        wanted = self._make(sender, stamp[: _COUNT.size], frames)
        if not hmac.compare_digest(stamp, wanted):
            raise Forged("not of this run")
        (number,) = _COUNT.unpack(stamp[: _COUNT.size])
        if number <= self._seen.get(sender, 0):
            raise Forged("seen before")
        self._seen[sender] = number
        return [sender, *frames]

    def _make(self, sender: bytes, count: bytes, frames: Sequence[bytes]) -> bytes:
        digest = hmac.new(self._key, count, "sha256")
        for part in (sender, *frames):
            digest.update(_COUNT.pack(len(part)) + part)
        return count + digest.digest()
