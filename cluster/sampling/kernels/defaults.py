"""The default of a kernel's parameter as a spec would write it: what a run records and sends."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from dataclasses import is_dataclass
from enum import Enum
from typing import Any

from cluster.common.canonical import canonical

SAYABLE = "use numbers, text, true, false, None, lists or mappings with text for keys"

# By the name of the type, or of one that it derives from: what to write in its place.
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


class Unsayable(ValueError):
    """A value that no spec can say: ``what`` it is, and the ``value`` itself."""

    def __init__(self, what: str, value: object = None) -> None:
        super().__init__(what)
        self.what, self.value = what, value


def stated(value: object) -> object:
    """The value in the kinds of JSON: the same number, text, list or mapping, of a plain type.

    Only what stays equal is taken: numpy's numbers, and subclasses of Python's own types, which
    the kernel is given as the plain value everywhere. What would change its kind (a path, a date,
    an array) is refused, since a kernel that was tried with the one would be run with the other.

    Raises:
        Unsayable: it has no such form.
    """
    try:
        plain = _plain(value, "is")
        # What is recorded and sent must be text that UTF-8 has, and that can be read again.
        json.loads(json.dumps(plain))
        canonical(plain)
    except UnicodeEncodeError:
        raise Unsayable("holds half a surrogate pair, which is no text") from None
    except RecursionError:
        raise Unsayable("is nested too deeply, or holds itself") from None
    except Unsayable:
        raise
    except Exception as error:  # a type of the person's own may raise anything
        digits = isinstance(error, ValueError) and "digits" in str(error)
        what = "an integer of more than 4,300 digits" if digits else "what cannot be read"
        raise Unsayable(f"holds {what}") from None
    return plain


def instead(name: str, value: object) -> str | None:
    """What a parameter's default could be in place of such a value, or None."""
    if isinstance(value, Enum):
        return f"its value, {type(value).__name__}.{value.name}.value"
    for kind in type(value).__mro__:
        if kind.__name__ in _INSTEAD:
            return _INSTEAD[kind.__name__].format(name=name)
    if is_dataclass(value):
        return f"a mapping, and {type(value).__name__}(**{name}) in the kernel"
    return "text that names it, chosen by in the kernel" if callable(value) else None


def _plain(value: Any, verb: str) -> object:
    match value:
        case Mapping():
            return {_key(key): _plain(item, "holds") for key, item in value.items()}
        case list() | tuple():
            return [_plain(item, "holds") for item in value]
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
        raise Unsayable(f"{verb} {_a_kind(value)}, which a spec cannot say", value)
    return number


def _a_kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name.startswith((*'AEIOaeio', 'nd')) else 'a'} {name}"


def _key(key: object) -> str:
    if not isinstance(key, str):
        raise Unsayable(f"holds a mapping with a key that is {_a_kind(key)}, not text")
    return str.__str__(key)


def _number(value: Any) -> bool | int | float | None:
    """A number of numpy's as the equal one of Python's; None where there is none."""
    import numpy as np

    if not isinstance(value, np.generic) or value.dtype.kind not in "biuf":
        return None
    plain = value.item()  # a long double stays one: it may be no double
    return plain if isinstance(plain, bool | int | float) else None
