"""Defaults of a kernel's parameters as JSON values, as a run records and sends them."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from dataclasses import is_dataclass
from enum import Enum
from typing import Any

from cluster.common.canonical import canonical

REPRESENTABLE = "use numbers, text, true, false, None, lists or mappings with text keys"

# What to write in place of a value, by the name of its type or of a base class.
_INSTEAD = {
    "PurePath": "text, and Path({name}) in the kernel",
    "datetime": "text, and datetime.fromisoformat({name}) in the kernel",
    "date": "text, and date.fromisoformat({name}) in the kernel",
    "time": "text, and time.fromisoformat({name}) in the kernel",
    "timedelta": "a number of seconds",
    "Decimal": "a number, or text and Decimal({name}) in the kernel",
    "Fraction": "text, and Fraction({name}) in the kernel",
    "ndarray": "a list, and np.asarray({name}) in the kernel",
    "set": "a list, and set({name}) in the kernel",
    "frozenset": "a list, and frozenset({name}) in the kernel",
    "range": "a list, or range(*{name}) in the kernel with a list of its ends",
    "bytes": "text, and {name}.encode() in the kernel",
    "bytearray": "text, and {name}.encode() in the kernel",
    "complex": "a list of two numbers, and complex(*{name}) in the kernel",
    "complexfloating": "a list of two numbers, and complex(*{name}) in the kernel",
    "Generator": "nothing: draw from the rng that the kernel is given",
}


class Unrepresentable(ValueError):
    """A value that JSON cannot represent.

    Attributes:
        what: what is wrong with it, as a verb phrase.
        value: the offending part, or None.
    """

    def __init__(self, what: str, value: object = None) -> None:
        super().__init__(what)
        self.what, self.value = what, value


def plain_value(value: object) -> object:
    """The equal value of plain JSON types, which the kernel is given on every host.

    numpy's scalars and subclasses of Python's own types are converted, since they stay equal. A
    path, a date or an array is rejected: a kernel tested with one of these would silently get
    text or a list in a run.

    Raises:
        Unrepresentable: there is no such value.
    """
    try:
        plain = _plain(value, "is")
        # What is recorded and sent must be encodable as UTF-8 and survive a round trip.
        json.loads(json.dumps(plain))
        canonical(plain)
    except UnicodeEncodeError:
        raise Unrepresentable("contains a lone surrogate, which is not valid text") from None
    except RecursionError:
        raise Unrepresentable("is nested too deeply, or contains itself") from None
    except Unrepresentable:
        raise
    except Exception as error:  # a user-defined type may raise anything
        digits = isinstance(error, ValueError) and "digits" in str(error)
        what = "an integer of more than 4,300 digits" if digits else "a value that cannot be read"
        raise Unrepresentable(f"contains {what}") from None
    return plain


def suggestion(name: str, value: object) -> str | None:
    """What to use in place of such a value as the default of a parameter, or None."""
    if isinstance(value, Enum):
        return f"its value, {type(value).__name__}.{value.name}.value"
    for kind in type(value).__mro__:
        if kind.__name__ in _INSTEAD:
            return _INSTEAD[kind.__name__].format(name=name)
    if is_dataclass(value):
        return f"a mapping, and {type(value).__name__}(**{name}) in the kernel"
    return "text that names it, and look it up in the kernel" if callable(value) else None


def _plain(value: Any, verb: str) -> object:
    match value:
        case Mapping():
            return {_key(key): _plain(item, "contains") for key, item in value.items()}
        case list() | tuple():
            return [_plain(item, "contains") for item in value]
    return value if value is None or isinstance(value, bool) else _scalar(value, verb)


def _scalar(value: Any, verb: str) -> int | float | str:
    match value:
        case int():
            return operator.index(value)
        case float():
            return float(value)
        case str():
            return str.__str__(value)
    number = _number(value)
    if number is None:
        what = f"{verb} {_a_kind(value)}, which a spec cannot express"
        raise Unrepresentable(what, value)
    return number


def _a_kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name.startswith((*'AEIOaeio', 'nd')) else 'a'} {name}"


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise Unrepresentable(f"contains a mapping with a key that is {_a_kind(key)}, not text")
    return str.__str__(key)


def _number(value: Any) -> bool | int | float | None:
    """A numpy scalar as the equal Python number; None if there is none."""
    import numpy as np

    if not isinstance(value, np.generic) or value.dtype.kind not in "biuf":
        return None
    plain = value.item()  # of a long double this is itself, since a float may not hold it
    return plain if isinstance(plain, bool | int | float) else None
