"""Canonical JSON: one spelling for every value, so that equal values have equal hashes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical(value: object) -> bytes:
    """The canonical JSON of a value: sorted keys, no spaces, UTF-8, floats as ``float.hex()``.

    Ints, floats and bools of equal value stay distinct; a list and a tuple are the same.

    Raises:
        TypeError: the value holds something that is not a JSON type.
    """
    plain = _plain(value)
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256(value: object) -> str:
    """Hex sha256 of the canonical JSON of a value.

    Raises:
        TypeError: the value holds something that is not a JSON type.
    """
    return hashlib.sha256(canonical(value)).hexdigest()


def _plain(value: object) -> Any:
    if isinstance(value, float):
        return value.hex()  # exact, and independent of how a JSON library prints decimals
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {_key(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no canonical form: {value!r}")


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise TypeError(f"a key must be text, got {key!r}")
    return key
