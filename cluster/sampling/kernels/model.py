"""What a kernel is: the decorator that describes one, its frozen source, and it, loaded."""

from __future__ import annotations

import hashlib
import inspect
import math
import operator
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypeVar, overload

from cluster.common.canonical import sha256
from cluster.common.errors import KernelError, did_you_mean
from cluster.sampling.kernels.callables import place_of
from cluster.sampling.kernels.defaults import SAYABLE, Unsayable, instead, stated
from cluster.sampling.streams import Stream
from cluster.sampling.tally import Tally

DEFAULT_BLOCK = 65_536
FORMS = ("rng", "stream")
_LARGEST_BLOCK = 2**63 - 1

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Modules that a file of ``include`` must not stand in for.
_TAKEN = sys.stdlib_module_names | {"cluster", "numba", "numpy"}

F = TypeVar("F", bound=Callable[..., Any])
Number = float | Callable[..., float]
Reference = None | float | list[float] | Callable[..., Any]


class Traits(NamedTuple):
    """What the decorator says of a kernel; the estimate is ``offset + scale * x``."""

    scale: Number = 1
    offset: Number = 0
    reference: Reference = None
    block: int = DEFAULT_BLOCK
    variant: str = "python"


@overload
def kernel(function: F) -> F: ...
@overload
def kernel(
    *,
    scale: Number = 1,
    offset: Number = 0,
    reference: Reference = None,
    block: int = DEFAULT_BLOCK,
    variant: str = "python",
) -> Callable[[F], F]: ...
def kernel(function: Any = None, **traits: Any) -> Any:  # noqa: D417 - they are named below
    """Describe a kernel; an undecorated function is one too, with the defaults below.

    Args:
        function: ``f(rng, samples, ...)`` with a numpy Generator, or ``f(stream, samples, ...)``
            with a :class:`cluster.Stream`; further parameters come from the spec's ``params``.
        scale, offset: the estimate is ``offset + scale * (hit fraction | mean | bins)``; a number,
            or a function of some of the kernel's own parameters.
        reference: the exact value, where it is known; a number, a list for a histogram's bins, or
            a function of some of the kernel's own parameters.
        block: samples in a block, the unit of randomness, where the spec says ``block: auto``.
        variant: which of several equal implementations this one is (``numba``, ``numpy``, ...);
            recorded with every outcome.

    Raises:
        TypeError: an unknown word, or one of the wrong type.
        ValueError: a block below 1.
    """
    if function is not None and not callable(function):
        raise TypeError(f"@kernel takes its words by name, as in {_EXAMPLE}, got {function!r}")
    if unknown := [word for word in traits if word not in Traits._fields]:
        cure = did_you_mean(unknown[0], Traits._fields) or f"it has {', '.join(Traits._fields)}"
        raise TypeError(f"@kernel has no word {unknown[0]!r}; {cure}")
    described = Traits(**traits)
    described = described._replace(block=_block(described.block))
    if not isinstance(described.variant, str):
        raise TypeError(f"variant must be text, got {described.variant!r}")

    def mark(function: F) -> F:
        function.__cluster__ = described  # type: ignore[attr-defined]
        return function

    return mark if function is None else mark(function)


_EXAMPLE = "@kernel(block=100_000)"


def _block(value: Any) -> int:
    """The block of a decorator; numpy's integers are integers."""
    try:
        block = operator.index(value)
    except TypeError:
        block = None
    if block is None or isinstance(value, bool):
        raise ValueError(f"block must be an integer, got {value!r}")
    if not 1 <= block <= _LARGEST_BLOCK:
        raise ValueError(f"block must be at least 1 and below 2**63, got {block}")
    return block


@dataclass(frozen=True)
class KernelSource:
    """The frozen text of a kernel.

    Attributes:
        entry: name of the file that holds the function.
        function: the function's name.
        files: text by name, the entry and what the spec's ``include`` lists.
    """

    entry: str
    function: str
    files: Mapping[str, str] = field(hash=False)

    def __post_init__(self) -> None:
        for name in {self.entry, *self.files}:
            path = PurePosixPath(name)
            below = path.parts and not path.is_absolute() and ".." not in path.parts
            if not below or name not in self.files or _CONTROL.search(name):
                raise KernelError(f"{name!r} is not a file below the kernel's folder")
            module = path.parts[0].removesuffix(".py")
            if name != self.entry and path.suffix == ".py" and module in _TAKEN:
                raise KernelError(f"{name} would hide the module {module!r}", fix="rename it")

    @cached_property
    def sha(self) -> str:
        """Hex sha256 over the files' texts and the function; the entry's own name is not in it."""
        named = {"" if name == self.entry else name: text for name, text in self.files.items()}
        texts = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in named.items()}
        return sha256({"files": texts, "function": self.function})

    @property
    def name(self) -> str:
        """``file.py:function``, for people."""
        return f"{self.entry}:{self.function}"

    def to_json(self) -> dict[str, Any]:
        """A JSON-safe mapping; ``Source(**data)`` reads it."""
        return {"entry": self.entry, "function": self.function, "files": dict(self.files)}


@dataclass(frozen=True)
class Kernel:
    """A loaded kernel, ready to draw.

    Attributes:
        source: the text it was made from.
        call: the function.
        form: ``rng`` or ``stream``, the name of its first parameter.
        defaults: the parameters beyond the first two; ``inspect.Parameter.empty`` where none.
        traits: what its decorator says.
    """

    source: KernelSource
    call: Callable[..., Tally]
    form: str
    defaults: Mapping[str, object]
    traits: Traits

    def draw(self, stream: Stream, samples: int, params: Mapping[str, object]) -> Tally:
        """Draw one block; whatever the function returned, unchecked."""
        first = stream.generator() if self.form == "rng" else stream
        return self.call(first, samples, **params)

    def scale(self, params: Mapping[str, object]) -> tuple[float, float]:
        """``(scale, offset)`` for these parameters.

        Raises:
            ParamError: one of them is no finite number.
        """
        return self._finite("scale", params), self._finite("offset", params)

    def reference(self, params: Mapping[str, object]) -> float | tuple[float, ...] | None:
        """The exact value for these parameters, in the scaled unit, or None.

        Raises:
            ParamError: it is neither a number, nor a list of numbers, nor None.
        """
        value = self._trait("reference", params)
        if value is None:
            return None
        # An array without dimensions is a number, though it is of a type that can be iterated.
        several = isinstance(value, Iterable) and getattr(value, "ndim", 1) != 0
        listed = several and not isinstance(value, str | bytes | Mapping)
        try:
            values = [_real(each) for each in (value if listed else [value])]
        except Exception:  # an object of the person's own may raise anything
            values = []
        known = tuple(each for each in values if each is not None and not math.isnan(each))
        if not values or len(known) < len(values):
            fix = "make it a number, a list of numbers, or None where it is not known"
            raise self._odd("reference", value, fix, params)
        return known if listed else known[0]

    def _finite(self, name: str, params: Mapping[str, object]) -> float:
        value = self._trait(name, params)
        number = _real(value)
        if number is None or not math.isfinite(number):
            fix = "make it a finite number, or a function of parameters that returns one"
            raise self._odd(name, value, fix, params)
        return number

    def _trait(self, name: str, params: Mapping[str, object]) -> Any:
        """What the decorator says, or what its function returns for these parameters."""
        trait = getattr(self.traits, name)
        if not callable(trait):
            return trait
        try:
            return trait(**self._asked(trait, params))
        except (Exception, SystemExit) as error:
            fix = "mend the parameter, or what the kernel's decorator says"
            raise self._wrong(name, f"fails: {describe(error)}", fix, params) from error

    def _asked(self, trait: Any, params: Mapping[str, object]) -> dict[str, object]:
        """The parameters that a function of the decorator takes; its own defaults are its own."""
        wanted = inspect.signature(trait).parameters.values()
        asked = [p.name for p in wanted if p.name in params or p.default is p.empty]
        if strange := [name for name in asked if name not in params]:
            raise LookupError(f"the kernel has no parameter {strange[0]!r}")
        return {name: params[name] for name in asked}

    def _odd(self, name: str, value: object, fix: str, params: Mapping[str, object]) -> ParamError:
        kind = "" if isinstance(value, int | float) else f"the {type(value).__name__} "
        return self._wrong(name, f"is {kind}{_shown(value)}", fix, params)

    def _wrong(self, name: str, what: str, fix: str, params: Mapping[str, object]) -> ParamError:
        """A word of the decorator that comes to nothing, at the parameter that may have done it."""
        trait = getattr(self.traits, name)
        place = (place_of(trait) if callable(trait) else None) or self.where
        used = _names_of(trait)
        given = {key: value for key, value in params.items() if key in used}
        odd = [key for key, value in given.items() if not _alike(self.defaults[key], value)]
        suspects = odd or [key for key in given if given[key] != _plainly(self.defaults[key])]
        words = ", ".join(f"{key}={_shown(value)}" for key, value in given.items())
        message = f"the kernel's {name} {what}{f', for {words}' if words else ''} (at {place})"
        suspect = suspects[0] if suspects else None
        return ParamError([ParamFault(suspect, message, fix, of_kernel=suspect is None)])

    def resolve(self, params: Mapping[str, object]) -> dict[str, object]:
        """The canonical parameters: defaults filled in, 3 and 3.0 as the default writes them.

        Raises:
            ParamError: every unknown parameter, and those that are missing.
        """
        faults = [_unknown(name, self) for name in params if name not in self.defaults]
        missing = [
            name
            for name, default in self.defaults.items()
            if default is inspect.Parameter.empty and name not in params
        ]
        if missing:
            faults.append(ParamFault(None, f"{self.source.name} needs {', '.join(missing)}", None))
        filled = {**params, **self._stated(params, faults)}
        if faults:
            raise ParamError(faults)
        return {name: _like(self.defaults[name], filled[name]) for name in sorted(filled)}

    @property
    def where(self) -> str:
        """``file.py:line`` of the function that draws."""
        return place_of(self.call) or self.source.entry

    def _stated(
        self, params: Mapping[str, object], faults: list[ParamFault]
    ) -> Mapping[str, object]:
        """The defaults that are used, as a spec would write them; faults are added."""
        values: dict[str, object] = {}
        for name, default in self.defaults.items():
            if name in params or default is inspect.Parameter.empty:
                continue
            try:
                values[name] = stated(default)
            except Unsayable as error:
                message = f"the default of {name!r} {error.what} (at {self.where})"
                cure = instead(name, error.value)
                fix = f"{SAYABLE}; here {cure}" if cure else SAYABLE
                faults.append(ParamFault(name, message, fix, of_kernel=True))
        return values


class ParamFault(NamedTuple):
    """A parameter that does not fit: its name, what is wrong, the fix, and whose fault it is.

    ``of_kernel``: the kernel's file is to be mended, not the spec's ``params``.
    """

    name: str | None
    message: str
    fix: str | None
    of_kernel: bool = False


class ParamError(ValueError):
    """Every parameter that does not fit the kernel."""

    def __init__(self, faults: Iterable[ParamFault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(fault.message for fault in self.faults))


def not_a_kernel(name: str, parameters: list[str], where: str | None) -> KernelError:
    """The error of a function whose parameters are not a kernel's."""
    return KernelError(
        f"{name} is not a kernel: its parameters are ({', '.join(parameters)})",
        where=where,
        fix="a kernel is f(rng, samples, ...) with a numpy Generator, or f(stream, samples, ...)",
    )


def describe(error: BaseException) -> str:
    """An error of a person's code on one line, whatever its own text does."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # the user's __str__ may raise anything
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _shown(value: object) -> str:
    try:
        return f"{value!r:.80}"
    except Exception:  # the user's __repr__ may raise anything
        return "that cannot be shown"


def _real(value: Any) -> float | None:
    """A number of Python's or numpy's as a float, or None; text that reads as one is none."""
    if isinstance(value, bool | str | bytes | bytearray):
        return None
    try:
        return float(value)
    except Exception:
        return None


def _names_of(trait: Any) -> frozenset[str]:
    """The parameters that a function of the decorator takes, where that can be found out."""
    try:
        return frozenset(inspect.signature(trait).parameters) if callable(trait) else frozenset()
    except (ValueError, TypeError):
        return frozenset()


def _plainly(default: object) -> object:
    """A default as it is recorded, where it can be."""
    try:
        return stated(default)
    except Unsayable:
        return inspect.Parameter.empty


def _alike(default: object, value: object) -> bool:
    """Whether a parameter is what its default is: a number, or a text."""
    kinds = [
        next((k for k in (int | float, str) if isinstance(v, k)), None) for v in (default, value)
    ]
    return kinds[0] == kinds[1]


def _unknown(name: str, kernel: Kernel) -> ParamFault:
    known = ", ".join(kernel.defaults) or "none"
    message = f"{kernel.source.name} has no parameter {name!r}; it has: {known}"
    return ParamFault(name, message, did_you_mean(name, kernel.defaults))


def _like(default: object, value: object) -> object:
    """A number in the type that the default has, where that loses nothing."""
    if isinstance(value, bool) or isinstance(default, bool):
        return value
    if isinstance(default, float) and isinstance(value, int):
        return float(value) if abs(value) <= 2**53 else value
    if isinstance(default, int) and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, tuple):
        return list(value)
    return value
