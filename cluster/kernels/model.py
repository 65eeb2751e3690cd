"""What a kernel is: the decorator that describes one, its frozen source, and it, loaded."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypeVar, overload

from cluster.canonical import sha256
from cluster.errors import KernelError, did_you_mean
from cluster.streams import Stream
from cluster.tally import Tally

DEFAULT_BLOCK = 65_536
FORMS = ("rng", "stream")

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
        TypeError: an unknown word.
        ValueError: a block that is not a positive integer.
    """
    described = Traits(**traits)
    if isinstance(described.block, bool) or not isinstance(described.block, int):
        raise ValueError(f"block must be an integer, got {described.block!r}")
    if described.block < 1:
        raise ValueError(f"block must be at least 1, got {described.block}")

    def mark(function: F) -> F:
        function.__cluster__ = described  # type: ignore[attr-defined]
        return function

    return mark if function is None else mark(function)


@dataclass(frozen=True)
class Source:
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
            if path.is_absolute() or ".." in path.parts or name not in self.files:
                raise KernelError(f"{name} is not a file below the kernel's folder")
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

    source: Source
    call: Callable[..., Tally]
    form: str
    defaults: Mapping[str, object]
    traits: Traits

    def draw(self, stream: Stream, samples: int, params: Mapping[str, object]) -> Tally:
        """Draw one block; whatever the function returned, unchecked."""
        first = stream.generator() if self.form == "rng" else stream
        return self.call(first, samples, **params)

    def scale(self, params: Mapping[str, object]) -> tuple[float, float]:
        """``(scale, offset)`` for these parameters."""
        return float(_of(self.traits.scale, params)), float(_of(self.traits.offset, params))

    def reference(self, params: Mapping[str, object]) -> float | tuple[float, ...] | None:
        """The exact value for these parameters, in the scaled unit, or None."""
        value = _of(self.traits.reference, params)
        if value is None:
            return None
        return tuple(map(float, value)) if isinstance(value, Iterable) else float(value)

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
        if faults:
            raise ParamError(faults)
        filled = {**self.defaults, **params}
        return {name: _like(self.defaults[name], filled[name]) for name in sorted(filled)}


class ParamFault(NamedTuple):
    """A parameter that does not fit the kernel: its name, what is wrong, and the fix."""

    name: str | None
    message: str
    fix: str | None


class ParamError(ValueError):
    """Every parameter that does not fit the kernel."""

    def __init__(self, faults: Iterable[ParamFault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(fault.message for fault in self.faults))


def not_a_kernel(name: str, parameters: list[str]) -> KernelError:
    """The error of a function whose parameters are not a kernel's."""
    return KernelError(
        f"{name} is not a kernel: its parameters are ({', '.join(parameters)})",
        fix="a kernel is f(rng, samples, ...) with a numpy Generator, or f(stream, samples, ...)",
    )


def _of(trait: Any, params: Mapping[str, object]) -> Any:
    if not callable(trait):
        return trait
    wanted = inspect.signature(trait).parameters
    return trait(**{name: params[name] for name in wanted})


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
