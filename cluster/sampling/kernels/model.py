"""The decorator of kernels, a kernel's frozen source, and a loaded kernel."""

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
from cluster.sampling.kernels.defaults import (
    REPRESENTABLE,
    Unrepresentable,
    plain_value,
    suggestion,
)
from cluster.sampling.streams import Stream
from cluster.sampling.tally import Tally

DEFAULT_BLOCK = 65_536
FORMS = ("rng", "stream")
_LARGEST_BLOCK = 2**63 - 1

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Modules that a file of ``include`` must not shadow.
_TAKEN = sys.stdlib_module_names | {"cluster", "numba", "numpy"}

F = TypeVar("F", bound=Callable[..., Any])
Number = float | Callable[..., float]
Reference = None | float | list[float] | Callable[..., Any]


class Traits(NamedTuple):
    """The arguments of :func:`kernel`."""

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
    """Describe a kernel. An undecorated function is a kernel too, with the defaults below.

    Args:
        function: ``f(rng, samples, ...)`` with a numpy Generator, or ``f(stream, samples, ...)``
            with a :class:`cluster.Stream`; further parameters come from the spec's ``params``.
        scale, offset: the estimate is ``offset + scale * (hit fraction | mean | bins)``; each is a
            number, or a function of some of the kernel's own parameters.
        reference: the exact value of the scaled estimate, if it is known: a number, a list with
            one element per bin of a histogram, or a function of some of the kernel's parameters.
        block: samples per block, the unit of randomness, if the spec says ``block: auto``.
        variant: which of several equivalent implementations this is (``numba``, ``numpy``, ...);
            recorded with every outcome.

    Raises:
        TypeError: an unknown argument, or one of the wrong type.
        ValueError: the block is not an integer from 1 to 2**63 - 1.
    """
    if function is not None and not callable(function):
        raise TypeError(f"@kernel takes keyword arguments, as in {_EXAMPLE}, got {function!r}")
    if unknown := [name for name in traits if name not in Traits._fields]:
        cure = did_you_mean(unknown[0], Traits._fields) or f"it has {', '.join(Traits._fields)}"
        raise TypeError(f"@kernel has no argument {unknown[0]!r}; {cure}")
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
    """The validated argument ``block``; numpy's integers are accepted."""
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
        files: text by name: the entry, and the files of the spec's ``include``.
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
        """Hex sha256 of the texts and the function's name; the entry's name is left out."""
        named = {"" if name == self.entry else name: text for name, text in self.files.items()}
        texts = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in named.items()}
        return sha256({"files": texts, "function": self.function})

    @property
    def name(self) -> str:
        """``file.py:function``, for messages."""
        return f"{self.entry}:{self.function}"

    def to_json(self) -> dict[str, Any]:
        """A JSON-safe mapping; ``KernelSource(**data)`` restores an equal source from it."""
        return {"entry": self.entry, "function": self.function, "files": dict(self.files)}


@dataclass(frozen=True)
class Kernel:
    """A loaded kernel, ready to draw.

    Attributes:
        source: its frozen text.
        call: the function.
        form: ``rng`` or ``stream``, the name of its first parameter.
        defaults: the parameters after the first two, by name, with their defaults;
            ``inspect.Parameter.empty`` for those without one.
        traits: the arguments of its decorator.
    """

    source: KernelSource
    call: Callable[..., Tally]
    form: str
    defaults: Mapping[str, object]
    traits: Traits

    def draw(self, stream: Stream, samples: int, params: Mapping[str, object]) -> Tally:
        """Draw one block.

        Args:
            stream: of the block.
            samples: how many to draw.
            params: the further arguments, as :meth:`resolve` returns them.

        Returns:
            Whatever the function returned, unchecked.
        """
        first = stream.generator() if self.form == "rng" else stream
        return self.call(first, samples, **params)

    def scale(self, params: Mapping[str, object]) -> tuple[float, float]:
        """``(scale, offset)`` for these parameters.

        Raises:
            ParamError: one of them is not a finite number, or its function fails.
        """
        return self._finite("scale", params), self._finite("offset", params)

    def reference(self, params: Mapping[str, object]) -> float | tuple[float, ...] | None:
        """The exact value of the scaled estimate for these parameters, or None.

        Raises:
            ParamError: it is not a number, a list of numbers or None, or its function fails.
        """
        value = self._trait("reference", params)
        if value is None:
            return None
        # A zero-dimensional numpy array is a number, although its type is iterable.
        several = isinstance(value, Iterable) and getattr(value, "ndim", 1) != 0
        listed = several and not isinstance(value, str | bytes | Mapping)
        try:
            values = [_real(each) for each in (value if listed else [value])]
        except Exception:  # a user-defined object may raise anything
            values = []
        known = tuple(each for each in values if each is not None and not math.isnan(each))
        if not values or len(known) < len(values):
            fix = "make it a number, a list of numbers, or None if it is not known"
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
        """An argument of the decorator; of a function, its value for these parameters."""
        trait = getattr(self.traits, name)
        if not callable(trait):
            return trait
        try:
            return trait(**self._arguments(trait, params))
        except (Exception, SystemExit) as error:
            fix = "fix the parameter, or the kernel's decorator"
            raise self._wrong(name, f"fails: {describe(error)}", fix, params) from error

    def _arguments(self, trait: Any, params: Mapping[str, object]) -> dict[str, object]:
        """The kernel's parameters that a function of the decorator takes.

        A name with a default of its own need not be a parameter of the kernel.
        """
        wanted = inspect.signature(trait).parameters.values()
        names = [p.name for p in wanted if p.name in params or p.default is p.empty]
        if unknown := [name for name in names if name not in params]:
            raise LookupError(f"the kernel has no parameter {unknown[0]!r}")
        return {name: params[name] for name in names}

    def _odd(self, name: str, value: object, fix: str, params: Mapping[str, object]) -> ParamError:
        kind = "" if isinstance(value, int | float) else f"the {type(value).__name__} "
        return self._wrong(name, f"is {kind}{_shown(value)}", fix, params)

    def _wrong(self, name: str, what: str, fix: str, params: Mapping[str, object]) -> ParamError:
        """The error for a bad argument of the decorator, at the parameter that may have caused it.

        That is the first one of another type than its default, else the first one that differs
        from its default; without one, the kernel itself is at fault.
        """
        trait = getattr(self.traits, name)
        place = (place_of(trait) if callable(trait) else None) or self.where
        used = _names_of(trait)
        given = {key: value for key, value in params.items() if key in used}
        odd = [key for key, value in given.items() if not _alike(self.defaults[key], value)]
        suspects = odd or [key for key in given if given[key] != _recorded(self.defaults[key])]
        shown = ", ".join(f"{key}={_shown(value)}" for key, value in given.items())
        message = f"the kernel's {name} {what}{f', for {shown}' if shown else ''} (at {place})"
        suspect = suspects[0] if suspects else None
        return ParamError([ParamFault(suspect, message, fix, of_kernel=suspect is None)])

    def resolve(self, params: Mapping[str, object]) -> dict[str, object]:
        """The canonical parameters: defaults filled in, and numbers in the type of the default.

        So ``3`` and ``3.0`` in a spec give the same run.

        Raises:
            ParamError: parameters are unknown or missing, or a default that is used cannot be
                represented; all of them at once.
        """
        faults = [_unknown(name, self) for name in params if name not in self.defaults]
        missing = [
            name
            for name, default in self.defaults.items()
            if default is inspect.Parameter.empty and name not in params
        ]
        if missing:
            faults.append(ParamFault(None, f"{self.source.name} needs {', '.join(missing)}", None))
        filled = {**params, **self._used_defaults(params, faults)}
        if faults:
            raise ParamError(faults)
        return {name: _like(self.defaults[name], filled[name]) for name in sorted(filled)}

    @property
    def where(self) -> str:
        """``file.py:line`` of the function that draws."""
        return place_of(self.call) or self.source.entry

    def _used_defaults(
        self, params: Mapping[str, object], faults: list[ParamFault]
    ) -> Mapping[str, object]:
        """The defaults of parameters that are not given, as JSON values; appends to ``faults``."""
        values: dict[str, object] = {}
        for name, default in self.defaults.items():
            if name in params or default is inspect.Parameter.empty:
                continue
            try:
                values[name] = plain_value(default)
            except Unrepresentable as error:
                message = f"the default of {name!r} {error.what} (at {self.where})"
                cure = suggestion(name, error.value)
                fix = f"{REPRESENTABLE}; here {cure}" if cure else REPRESENTABLE
                faults.append(ParamFault(name, message, fix, of_kernel=True))
        return values


class ParamFault(NamedTuple):
    """A problem with a parameter.

    Attributes:
        name: the parameter; None if it is the kernel as a whole.
        message: what is wrong.
        fix: how to fix it, or None.
        of_kernel: whether the kernel's file has to be fixed, and not the spec's ``params``.
    """

    name: str | None
    message: str
    fix: str | None
    of_kernel: bool = False


class ParamError(ValueError):
    """All problems with the parameters of a kernel."""

    def __init__(self, faults: Iterable[ParamFault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(fault.message for fault in self.faults))


def not_a_kernel(name: str, parameters: list[str], where: str | None) -> KernelError:
    """The error for a function whose first parameters are not those of a kernel.

    Args:
        name: of the function.
        parameters: the names of its parameters.
        where: ``file:line``, or None.
    """
    return KernelError(
        f"{name} is not a kernel: its parameters are ({', '.join(parameters)})",
        where=where,
        fix="a kernel is f(rng, samples, ...) with a numpy Generator, or f(stream, samples, ...)",
    )


def describe(error: BaseException) -> str:
    """An exception of user code as one line."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # the user's __str__ may raise anything
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _shown(value: object) -> str:
    try:
        return f"{value!r:.80}"
    except Exception:  # the user's __repr__ may raise anything
        return "a value without a repr"


def _real(value: Any) -> float | None:
    """A number, also of numpy, as a float; None for anything else, even text such as "1"."""
    if isinstance(value, bool | str | bytes | bytearray):
        return None
    try:
        return float(value)
    except Exception:
        return None


def _names_of(trait: Any) -> frozenset[str]:
    """The parameter names of an argument that is a function; empty if they are unknown."""
    try:
        return frozenset(inspect.signature(trait).parameters) if callable(trait) else frozenset()
    except (ValueError, TypeError):
        return frozenset()


def _recorded(default: object) -> object:
    """A default as a run records it; ``Parameter.empty`` if it cannot be recorded."""
    try:
        return plain_value(default)
    except Unrepresentable:
        return inspect.Parameter.empty


def _alike(default: object, value: object) -> bool:
    """Whether a value and a default are both numbers, both text, or both neither."""
    kinds = [
        next((k for k in (int | float, str) if isinstance(v, k)), None) for v in (default, value)
    ]
    return kinds[0] == kinds[1]


def _unknown(name: str, kernel: Kernel) -> ParamFault:
    known = ", ".join(kernel.defaults) or "none"
    message = f"{kernel.source.name} has no parameter {name!r}; it has: {known}"
    return ParamFault(name, message, did_you_mean(name, kernel.defaults))


def _like(default: object, value: object) -> object:
    """A number converted to the type of the default, if that loses nothing; a tuple as a list."""
    if isinstance(value, bool) or isinstance(default, bool):
        return value
    if isinstance(default, float) and isinstance(value, int):
        return float(value) if abs(value) <= 2**53 else value
    if isinstance(default, int) and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, tuple):
        return list(value)
    return value
