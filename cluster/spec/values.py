"""The types of values in a spec: one rule each, with its check, its messages and its schema.

The rules replace pydantic's own types, so that messages tell the user what to fix and nothing is
converted silently: the text '1000' is not a number here.
"""

from __future__ import annotations

import keyword
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from cluster.common.errors import did_you_mean
from cluster.hosts.process_tree import memory_text
from cluster.spec.scalars import ScalarError, resolve

# The type of the errors that rules raise; cluster.spec.messages translates pydantic's own ones.
OURS = "cluster"
LARGEST = 2**63 - 1
_MAX_SECONDS = 10 * 366 * 86_400
_MAX_SHOWN = 60


def fault(
    message: str, fix: str | None = None, *, column: int | None = None, at_key: bool = False
) -> PydanticCustomError:
    """An error of a rule.

    Args:
        message: what is wrong.
        fix: how to fix it, or None.
        column: 0-based offset inside a text, or None.
        at_key: whether the key is wrong and not its value.
    """
    context = {"message": printable(message), "fix": fix, "column": column, "at_key": at_key}
    return PydanticCustomError(OURS, "{message}", context)


def faults(details: Iterable[tuple[tuple[str | int, ...], PydanticCustomError]]) -> ValidationError:
    """Several errors as one, each with its path below the value that is being checked."""
    lines: list[InitErrorDetails] = [
        {"type": error, "loc": path, "input": None} for path, error in details
    ]
    return ValidationError.from_exception_data("spec", lines)


def show(value: object) -> str:
    """A short description of a value, for ``got ...`` in messages."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {clip(value)}"
    if isinstance(value, int | float):
        return number(value)
    return "a mapping" if isinstance(value, Mapping) else "a list"


def printable(text: str) -> str:
    """The text with unprintable characters escaped, which could control a terminal."""
    if text.isprintable():
        return text
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)


def clip(text: str) -> str:
    """A text in quotes, on one line, cut if it is long."""
    return repr(text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}...")


def number(value: float) -> str:
    """A number as YAML would write it."""
    if value != value:  # noqa: PLR0124 - math.isnan overflows for a large int
        return ".nan"
    special = {math.inf: ".inf", -math.inf: "-.inf"}
    return special.get(value) or str(value)


class ReadOnly(dict[str, Any]):
    """An immutable mapping; a dict, so that json and copy work with it."""

    def _refuse(self, *_args: object, **_keys: object) -> NoReturn:
        raise TypeError("a spec's mapping is read-only")

    __setitem__ = __delitem__ = __ior__ = clear = _refuse
    pop = popitem = setdefault = update = _refuse

    def __reduce__(self) -> tuple[type[ReadOnly], tuple[dict[str, Any]]]:
        # copy and pickle would otherwise fill an empty one through __setitem__.
        return ReadOnly, (dict(self),)


class Rule:
    """A type of value; used in an ``Annotated`` type of a pydantic model."""

    def check(self, value: Any) -> Any:
        """The validated value.

        Raises:
            PydanticCustomError, ValidationError: it is not valid.
        """
        raise NotImplementedError

    def schema(self) -> dict[str, Any]:
        """The JSON Schema (draft-07) of valid values."""
        raise NotImplementedError

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return self.schema()


@dataclass(frozen=True)
class Whole(Rule):
    """A whole number in [low, high]; a float such as ``1e9`` is accepted if it is whole."""

    low: int = 1
    high: int = LARGEST

    def check(self, value: Any) -> int:
        whole = self._whole(value)
        if whole < self.low:
            raise fault(f"must be at least {self.low}, got {number(value)}")
        if whole > self.high:
            raise fault(f"must be at most {self.high}, got {number(value)}")
        return whole

    def _whole(self, value: Any) -> int:
        if isinstance(value, float) and math.isinf(value):
            raise fault(f"must be finite, got {number(value)}")
        # Such a float may have been rounded from another whole number than the one written.
        if isinstance(value, float) and value.is_integer():
            if abs(value) > 2**63 and self.low <= value <= self.high:
                raise fault("is too large for an exponent", "write all of its digits")
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise fault(f"must be a whole number, got {show(value)}", _unquote(value))

    def schema(self) -> dict[str, Any]:
        return {"type": "integer", "minimum": self.low, "maximum": self.high}


def _unquote(value: object) -> str | None:
    """The fix for a number in quotes; None for any other value."""
    try:
        meant = resolve(value) if isinstance(value, str) else None
    except ScalarError:
        meant = None
    # Not isinstance: a bool is an int.
    return "write it without quotes" if type(meant) in (int, float) else None


@dataclass(frozen=True)
class Block(Rule):
    """``auto`` or a whole number."""

    def check(self, value: Any) -> int | str:
        if value == "auto":
            return "auto"
        if isinstance(value, str):
            raise fault(f"must be auto or a whole number, got {show(value)}")
        return Whole().check(value)

    def schema(self) -> dict[str, Any]:
        return {"anyOf": [{"const": "auto"}, Whole().schema()]}


@dataclass(frozen=True)
class Flag(Rule):
    """``true`` or ``false``."""

    def check(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise fault(f"must be true or false, got {show(value)}")
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Number(Rule):
    """A finite number above 0, and below `below` if that is given."""

    below: float | None = None

    def check(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise fault(f"must be a number, got {show(value)}", _unquote(value))
        result = _float(value)
        if not math.isfinite(result):
            raise fault(f"must be finite, got {number(value)}")
        if result <= 0:
            raise fault(f"must be above 0, got {number(value)}")
        if self.below is not None and result >= self.below:
            raise fault(f"must be below {self.below:g}, got {number(value)}")
        return result

    def schema(self) -> dict[str, Any]:
        limit = {} if self.below is None else {"exclusiveMaximum": self.below}
        return {"type": "number", "exclusiveMinimum": 0, **limit}


@dataclass(frozen=True)
class Confidence(Number):
    """A confidence level: a number between 0 and 1 for which the interval is finite."""

    below: float | None = 1

    def check(self, value: Any) -> float:
        result = super().check(value)
        # The quantile is taken at (1 + confidence) / 2, which must not round to 1.
        if (1 + result) / 2 == 1:
            raise fault(f"must be below 1 by at least 3e-16, got {number(value)}")
        return result


def _float(value: float) -> float:
    """The number as a float; infinite for an int beyond the range of doubles."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


_UNITS = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
# Each unit is optional, but the order is fixed.
_PART = r"(?:([0-9]+(?:\.[0-9]+)?) ?{unit} ?)?"
_DURATION = re.compile("".join(_PART.format(unit=unit) for unit in _UNITS))


@dataclass(frozen=True)
class Duration(Rule):
    """A duration in seconds, or as ``90m``, ``8h``, ``1h30m``, ``45s``, ``2d``.

    Attributes:
        zero: whether 0 is allowed.
    """

    zero: bool = False

    def check(self, value: Any) -> float:
        seconds = self._seconds(value)
        if self.zero and seconds == 0:
            return 0.0
        if not 0 < seconds <= _MAX_SECONDS:
            low = "at least 0" if self.zero else "above 0"
            raise fault(f"must be a time {low} and at most ten years, got {show(value)}")
        return seconds

    def _seconds(self, value: Any) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return _float(value)
        found = _DURATION.fullmatch(value) if isinstance(value, str) and len(value) < 60 else None
        if not found or not any(found.groups()):
            fix = "90m, 8h, 1h30m, 45s, 2d, or a number of seconds"
            raise fault(f"must be a time, got {show(value)}", fix)
        parts = zip(found.groups(), _UNITS.values(), strict=True)
        return sum(float(count) * unit for count, unit in parts if count)

    def schema(self) -> dict[str, Any]:
        low = {"minimum": 0} if self.zero else {"exclusiveMinimum": 0}
        form = {"pattern": f"^(?=[0-9]){_DURATION.pattern}$", "$comment": "time (`90m`, `1h30m`)"}
        text = {"type": "string", **form}
        return {"anyOf": [{"type": "number", **low}, text]}


_BYTES = {
    "K": 1000,
    "M": 1000**2,
    "G": 1000**3,
    "T": 1000**4,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]i?)B")


@dataclass(frozen=True)
class Size(Rule):
    """An amount of memory of at least `low` bytes: in bytes, or as ``500MB``, ``2GiB``."""

    low: int

    def check(self, value: Any) -> int:
        size = self._bytes(value)
        if not self.low <= size <= LARGEST:
            raise fault(f"must be at least {memory_text(self.low)}, got {show(value)}")
        return size

    def _bytes(self, value: Any) -> int:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return Whole(low=-LARGEST).check(value)
        found = _SIZE.fullmatch(value) if isinstance(value, str) and len(value) < 60 else None
        if not found:
            raise fault(f"must be a size, got {show(value)}", "500MB, 2GiB, or a number of bytes")
        return int(float(found[1]) * _BYTES[found[2]])

    def schema(self) -> dict[str, Any]:
        form = {"pattern": f"^{_SIZE.pattern}$", "$comment": "size (`500MB`, `2GiB`)"}
        number = {"type": "integer", "minimum": self.low}
        return {"anyOf": [number, {"type": "string", **form}]}


@dataclass(frozen=True)
class Text(Rule):
    """A text that is not empty.

    Attributes:
        pattern: a regular expression that the whole text must match, or None.
        form: what the pattern describes, for messages.
        lines: whether it may have several lines.
        cure: how to fix a text that does not match the pattern, or None.
    """

    pattern: str | None = None
    form: str = ""
    lines: bool = False
    cure: str | None = None

    def check(self, value: Any) -> str:
        if not isinstance(value, str):
            fix = None if value is None or isinstance(value, list | dict) else "quote it"
            raise fault(f"must be text, got {show(value)}", fix)
        if not value or not (self.lines or value.isprintable()):
            raise fault(f"must be one line of text that is not empty, got {clip(value)}")
        if self.pattern and not re.fullmatch(self.pattern, value):
            raise fault(f"must be {self.form}, got {clip(value)}", self.cure)
        self.judge(value)
        return value

    def judge(self, value: str) -> None:
        """Further checks of a text that matches the pattern.

        Raises:
            PydanticCustomError: it is not valid.
        """

    def schema(self) -> dict[str, Any]:
        pattern = {"pattern": f"^{self.pattern}$"} if self.pattern else {}
        comment = {"$comment": self.form} if self.form else {}
        return {"type": "string", "minLength": 1, **pattern, **comment}


@dataclass(frozen=True)
class Name(Text):
    """The name of a run; it becomes part of file names."""

    pattern: str | None = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
    form: str = "1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit"


_IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_]*"


@dataclass(frozen=True)
class KernelName(Text):
    """``module:function`` or ``file.py:function``; whether it exists is checked on freezing."""

    form: str = "module:function or file.py:function"
    pattern: str | None = rf"(?:[^:\\]*[^:\\/]\.py|{_IDENTIFIER}(?:\.{_IDENTIFIER})*):{_IDENTIFIER}"


@dataclass(frozen=True)
class FileName(Text):
    """A file below the kernel's folder."""

    form: str = "a file below the kernel's folder, such as helper.py"
    pattern: str | None = r"[^/\\:*?\[\]]+(?:/[^/\\:*?\[\]]+)*"

    def judge(self, value: str) -> None:
        if {".", ".."} & set(value.split("/")):
            raise fault(f"must stay below the kernel's folder, got {clip(value)}")

    def schema(self) -> dict[str, Any]:
        return {**super().schema(), "not": {"pattern": r"(^|/)\.\.?(/|$)"}}


@dataclass(frozen=True)
class Folder(Text):
    """A folder; ``~`` and ``$`` are refused, since no shell expands them here."""

    form: str = "a folder, without $ and ~"
    pattern: str | None = r"[^~$][^$]*"


@dataclass(frozen=True)
class Choice(Text):
    """One of several names; `what` they are is used in messages."""

    names: tuple[str, ...] = ()
    what: str = "name"

    def judge(self, value: str) -> None:
        if value in self.names:
            return
        have = f"it has {', '.join(self.names)}"
        raise fault(f"unknown {self.what} {clip(value)}; {have}", did_you_mean(value, self.names))

    def schema(self) -> dict[str, Any]:
        return {"enum": list(self.names)}


Path = tuple[str | int, ...]
_Found = list[tuple[Path, PydanticCustomError]]


@dataclass(frozen=True)
class Params(Rule):
    """The kernel's parameters: a mapping of names to JSON values."""

    def check(self, value: Any) -> Mapping[str, Any]:
        found: _Found = []
        frozen = _named(value, _parameter_fault, found)
        if found:
            raise faults(found)
        return frozen

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "propertyNames": {"pattern": r"^[^\W\d]\w*$"}}


@dataclass(frozen=True)
class Environment(Rule):
    """Environment variables: a mapping of names to texts."""

    def check(self, value: Any) -> Mapping[str, str]:
        found: _Found = []
        _named(value, _variable_fault, found)
        for name, text in value.items():
            if not isinstance(text, str):
                found.append(((name,), fault(f"must be text, got {show(text)}", "quote it")))
        if found:
            raise faults(found)
        return ReadOnly(dict(value))

    def schema(self) -> dict[str, Any]:
        text = {"type": "string"}
        names = {"pattern": f"^{_IDENTIFIER}$"}
        return {"type": "object", "propertyNames": names, "additionalProperties": text}


def _named(value: Any, judge: Callable[[str], str | None], found: _Found) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise fault(f"must be a mapping, got {show(value)}", "write it as name: value")
    for name in value:
        if reason := judge(name):
            found.append(((name,), fault(reason, at_key=True)))
    return _frozen_mapping(value, (), found)


def _parameter_fault(name: str) -> str | None:
    if keyword.iskeyword(name):
        return f"{name!r} is a keyword of Python, so it cannot name a parameter"
    # Python normalizes identifiers to NFKC, but a mapping does not normalize its keys.
    fine = name.isidentifier() and unicodedata.normalize("NFKC", name) == name
    return None if fine else f"{clip(name)} is not the name of a parameter"


def _variable_fault(name: str) -> str | None:
    fine = re.fullmatch(_IDENTIFIER, name)
    return None if fine else f"{clip(name)} is not the name of an environment variable"


def _frozen_mapping(value: Mapping[str, Any], path: Path, found: _Found) -> Mapping[str, Any]:
    return ReadOnly({k: _frozen(v, (*path, k), found) for k, v in value.items()})


def _frozen(value: Any, path: Path, found: _Found) -> Any:
    """The value made immutable, with tuples for lists; appends non-finite numbers to `found`."""
    if isinstance(value, Mapping):
        return _frozen_mapping(value, path, found)
    if isinstance(value, list | tuple):
        return tuple(_frozen(item, (*path, index), found) for index, item in enumerate(value))
    if isinstance(value, float) and not math.isfinite(value):
        found.append((path, fault(f"must be finite, got {number(value)}")))
    return value
