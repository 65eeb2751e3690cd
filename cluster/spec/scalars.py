"""Plain scalars by the core schema of YAML 1.2 (section 10.3.2), with ``_`` between digits.

``no`` and ``on`` are text, ``22:30`` and dates are text, ``1e9`` and ``1_000_000`` are numbers.
``010`` is an error: it is octal in YAML 1.1 and decimal in YAML 1.2, and either may be meant.
"""

from __future__ import annotations

import math
import re

# No number of a spec needs more digits, and converting a long one takes quadratic time.
_MAX_DIGITS = 100

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLS = {
    word: value
    for value, words in ((True, "true True TRUE"), (False, "false False FALSE"))
    for word in words.split()
}
_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_INT = re.compile(rf"[-+]?{_DIGITS}")
_FLOAT = re.compile(rf"[-+]?(?:{_DIGITS}\.?(?:{_DIGITS})?|\.{_DIGITS})(?:[eE][-+]?[0-9]+)?")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_OCTAL = re.compile(r"0o[0-7]+")
_OLD_OCTAL = re.compile(r"[-+]?0[0-9_]+")
_SPECIAL = re.compile(r"([-+]?)\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")

Scalar = None | bool | int | float | str


class ScalarError(ValueError):
    """A scalar without a valid meaning.

    Attributes:
        message: what is wrong.
        fix: how to fix it.
    """

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.message, self.fix = message, fix


def resolve(text: str) -> Scalar:
    """The value of a plain (unquoted) scalar.

    Raises:
        ScalarError: an ambiguous number such as ``010``, or one that is too long or too large.
    """
    if text in _NULLS:
        return None
    if text in _BOOLS:
        return _BOOLS[text]
    # Most scalars are words; the first character tells without a regular expression.
    return _number(text) if text[0] in "+-.0123456789" else text


def _number(text: str) -> Scalar:
    patterns = (_INT, _FLOAT, _HEX, _OCTAL)
    if not any(pattern.fullmatch(text) for pattern in patterns):
        return _special(text)
    if len(text) > _MAX_DIGITS:
        message = f"a number of {len(text):,} characters"
        raise ScalarError(message, f"at most {_MAX_DIGITS}; quote it if it is text")
    if _OLD_OCTAL.fullmatch(text):
        decimal = text.lstrip("+-0_") or "0"
        fix = f"write {decimal}, 0o{decimal} for octal, or {text!r} in quotes for text"
        raise ScalarError(f"{text} could be decimal or octal", fix)
    if _INT.fullmatch(text):
        return int(text)
    return int(text, 0) if _HEX.fullmatch(text) or _OCTAL.fullmatch(text) else _float(text)


def _special(text: str) -> Scalar:
    found = _SPECIAL.fullmatch(text)
    if not found:
        return text
    if "n" in text.lower().partition("i")[0]:
        return math.nan
    return -math.inf if found[1] == "-" else math.inf


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ScalarError(f"{text} is too large for a number", "at most 1.7e308")
    return value
