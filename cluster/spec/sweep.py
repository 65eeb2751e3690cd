"""The key ``sweep``: which keys vary over which values. ``cluster.spec.points`` expands it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Annotated, Any

from pydantic import Field
from pydantic_core import PydanticCustomError

from cluster.common.errors import did_you_mean
from cluster.spec.hosts import Frozen
from cluster.spec.source import split
from cluster.spec.values import Choice, Duration, ReadOnly, Rule, clip, fault, faults, show

# The limit of an axis: ``range(0, 1e12, 1)`` must not fill the memory.
LONGEST_AXIS = 1_000_000
# Keys that a sweep may vary themselves, and mappings whose keys it may vary.
PLAIN = ("seed", "samples", "block", "kernel", "backend")
BELOW = ("params", "until")
# logspace is rounded to this many digits: pow() may differ in its last bits between machines, and
# parameters are part of a run's identity.
_DIGITS = 12
_LARGEST_EXPONENT = 300
_CALL = re.compile(r"(range|logspace)\(([^()]*)\)")
_CALL_BEGINS = re.compile(r"\s*(range|logspace)\([^)]*$")
_CALL_LIKE = re.compile(r"\w+\(.*\)")
_FORMS = "write [1, 2, 3], range(0, 10, 2) or logspace(1e-3, 1, 4)"


def may_vary(key: str) -> bool:
    """Whether a sweep may vary a key, dotted as in ``params.d``."""
    path = split(key)
    if path is None or not all(isinstance(step, str) for step in path):
        return False
    # Parameters may be nested mappings; until has only one level.
    wanted = 2 if path[0] == "until" else len(path)
    return key in PLAIN or (path[0] in BELOW and len(path) == max(2, wanted))


def is_rule(text: str) -> bool:
    """Whether a text gives the values of an axis as ``range(...)`` or ``logspace(...)``."""
    return bool(_CALL.fullmatch(text.strip()))


def values_of(value: Any) -> tuple[Any, ...]:
    """The values of one axis: those of a list, ``range(...)`` or ``logspace(...)``.

    Raises:
        PydanticCustomError: it is none of these, is empty or too long, or has wrong arguments.
    """
    if isinstance(value, list | tuple):
        if not value:
            raise fault("must have at least one value, got an empty list")
        # YAML reads [range(1, 5, 1)] as a list of three texts.
        if any(isinstance(one, str) and _CALL_BEGINS.match(one) for one in value):
            raise fault("range(...) and logspace(...) cannot be part of a list", _FORMS)
        return tuple(value)
    found = _CALL.fullmatch(value.strip()) if isinstance(value, str) else None
    if not found:
        call = isinstance(value, str) and _CALL_LIKE.fullmatch(value)
        if call:
            raise fault(f"has an unknown function {clip(value)}", _FORMS)
        raise fault(f"must be a list of values, got {show(value)}", _FORMS)
    return _FUNCTIONS[found[1]](*_numbers(value, found[2]))


def _numbers(text: str, inner: str) -> tuple[Decimal, Decimal, Decimal]:
    parts = [part.strip() for part in inner.split(",")]
    if len(parts) != 3:
        raise fault(f"takes three numbers, got {len(parts)} in {clip(text)}", _FORMS)
    try:
        first, second, third = (Decimal(part) for part in parts)
    except InvalidOperation:
        raise fault(f"takes three numbers, got {clip(text)}", _FORMS) from None
    for each in (first, second, third):
        # Exact fractions of numbers such as 1e-999999 would fill the memory.
        if not each.is_finite() or (each and abs(each.adjusted()) > _LARGEST_EXPONENT):
            raise fault(f"takes numbers in the range of a double, got {clip(text)}")
    return first, second, third


def _range(start: Decimal, stop: Decimal, step: Decimal) -> tuple[float, ...]:
    """From `start` to before `stop`; integers if all three are written as integers."""
    if step == 0:
        raise fault("the step of a range must not be 0")
    count = math.ceil((Fraction(stop) - Fraction(start)) / Fraction(step))
    _judge_length(count)
    whole = all(each.as_tuple().exponent == 0 for each in (start, stop, step))
    # In decimals, so that range(0, 1, 0.1) has 0.3 and not 0.30000000000000004.
    return tuple((int if whole else float)(start + at * step) for at in range(count))


def _logspace(start: Decimal, stop: Decimal, count: Decimal) -> tuple[float, ...]:
    """`count` values in geometric progression from `start` to `stop`, both included."""
    if count != int(count) or count < 2:
        raise fault(f"logspace needs a whole number of at least 2 values, got {count}")
    if start <= 0 or stop <= 0:
        raise fault("logspace needs a start and an end above 0")
    _judge_length(int(count))
    low, factor, steps = float(start), float(stop / start), int(count) - 1
    if 0 < factor < math.inf:
        inner = [low * factor ** (at / steps) for at in range(1, steps)]
    else:  # the ratio of the ends overflows a double, although the values between them do not
        ends = start.log10(), stop.log10()
        inner = [_between(*ends, at, steps) for at in range(1, steps)]
    return (low, *(float(f"{value:.{_DIGITS}g}") for value in inner), float(stop))


def _between(low: Decimal, high: Decimal, at: int, steps: int) -> float:
    """The at-th of `steps` log-spaced values between 10**low and 10**high."""
    return float(Decimal(10) ** (low + (high - low) * at / steps))


def _judge_length(count: int) -> None:
    if count < 1:
        raise fault("has no value: the end is before the start")
    if count > LONGEST_AXIS:
        raise fault(f"has {count:,} values, more than {LONGEST_AXIS:,}")


_FUNCTIONS: Mapping[str, Callable[[Decimal, Decimal, Decimal], tuple[float, ...]]] = {
    "range": _range,
    "logspace": _logspace,
}


def _key_fault(key: str) -> tuple[str, str | None] | None:
    if may_vary(key):
        return None
    fix = did_you_mean(key, PLAIN) or f"it may vary {', '.join(PLAIN)}, params.* and until.*"
    return f"a sweep cannot vary {clip(key)}", fix


@dataclass(frozen=True)
class Axes(Rule):
    """A mapping of keys to their values along an axis.

    Attributes:
        zipped: whether the axes go in step, so that all need the same number of values.
    """

    zipped: bool = False

    def check(self, value: Any) -> Mapping[str, tuple[Any, ...]]:
        axes = ReadOnly(_each(value, values_of))
        lengths = {len(values) for values in axes.values()}
        if self.zipped and len(lengths) > 1:
            counts = ", ".join(f"{key} has {len(values)}" for key, values in axes.items())
            raise fault(f"all keys must have the same number of values: {counts}")
        return axes

    def schema(self) -> dict[str, Any]:
        call = {"type": "string", "pattern": _CALL.pattern, "$comment": "`range(a, b, step)`"}
        axis = {"anyOf": [{"type": "array", "minItems": 1}, call]}
        return {"type": "object", "minProperties": 1, "additionalProperties": axis}


@dataclass(frozen=True)
class Assignment(Rule):
    """A mapping of keys to one value each."""

    def check(self, value: Any) -> Mapping[str, Any]:
        return ReadOnly(_each(value, lambda one: one))

    def schema(self) -> dict[str, Any]:
        return {"type": "object", "minProperties": 1}


def _each(value: Any, make: Callable[[Any], Any]) -> dict[str, Any]:
    """The mapping with `make` applied to each value; all errors are raised at once."""
    if isinstance(value, Mapping) and not value:
        raise fault("must have at least one key, got none", "write it as params.d: [1, 2]")
    if not isinstance(value, Mapping):
        raise fault(f"must be a mapping of keys, got {show(value)}", "write it as params.d: [1, 2]")
    made: dict[str, Any] = {}
    found: list[tuple[tuple[str | int, ...], PydanticCustomError]] = []
    for key, inner in value.items():
        if wrong := _key_fault(key):
            found.append(((key,), fault(*wrong, at_key=True)))
            continue
        try:
            made[key] = make(inner)
        except PydanticCustomError as error:
            found.append(((key,), error))
    if found:
        raise faults(found)
    return made


@dataclass(frozen=True)
class SweepFlag(Rule):
    """``true`` or ``false``."""

    def check(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise fault(f"must be true or false, got {show(value)}")
        return value

    def schema(self) -> dict[str, Any]:
        return {"type": "boolean", "$comment": "`true` or `false`"}


class Sweep(Frozen):
    """Many runs of one spec: every combination of `matrix`, each with every step of `zip`."""

    matrix: Annotated[Mapping[str, tuple[Any, ...]], Axes()] | None = Field(
        default=None,
        description="Keys and their values, in every combination: a list, range(a, b, step) "
        "without b, or logspace(a, b, n) with both ends.",
    )
    zip: Annotated[Mapping[str, tuple[Any, ...]], Axes(zipped=True)] | None = Field(
        default=None, description="Keys whose values go in step; combined with the matrix."
    )
    include: tuple[Annotated[Mapping[str, Any], Assignment()], ...] = Field(
        default=(), description="Further points, each given by the keys that it changes."
    )
    exclude: tuple[Annotated[Mapping[str, Any], Assignment()], ...] = Field(
        default=(), description="Combinations to leave out: those with all of these values."
    )
    order: Annotated[str, Choice(names=("breadth", "depth"), what="order")] = Field(
        default="breadth",
        description="breadth: every point gets a first estimate early; depth: one after the other.",
    )
    streams: Annotated[str, Choice(names=("own", "common"), what="kind of streams")] = Field(
        default="own",
        description="common: all points draw the same random numbers; own: independent ones.",
    )
    max_time: Annotated[float, Duration()] | None = Field(
        default=None,
        description="Start no block of any point after this time; until.max_time limits each "
        "point by itself, from its first block.",
    )
    keep_going: Annotated[bool, SweepFlag()] = Field(
        default=True, description="Whether the other points continue when one has failed."
    )

    @property
    def keys(self) -> frozenset[str]:
        """Every key that it varies."""
        parts = (self.matrix or {}, self.zip or {}, *self.include)
        return frozenset(key for part in parts for key in part)
