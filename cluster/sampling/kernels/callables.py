"""What may stand as a kernel at a module's level: functions, and objects that can be called."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any


def layers(call: Any) -> Iterator[Any]:
    """A callable, and what it calls in turn: wrapped, partial, or the ``__call__`` of its type."""
    seen: list[Any] = []
    while call is not None and not any(call is other for other in seen):
        seen.append(call)
        yield call
        call = _next(call)


def _next(call: Any) -> Any:
    if isinstance(call, functools.partial):
        return call.func
    if inspect.isfunction(call) or inspect.ismethod(call):
        return vars(call).get("__wrapped__") if inspect.isfunction(call) else call.__func__
    # A compiled function hides its parameters; every wrapper of note keeps the one it wraps.
    wrapped = getattr(call, "__wrapped__", None)
    if callable(wrapped):
        return wrapped
    methods = (vars(kind).get("__call__") for kind in type(call).__mro__)
    return next((method for method in methods if inspect.isfunction(method)), None)


def parameters_of(call: Any) -> list[inspect.Parameter]:
    """The parameters of a callable, as whoever calls it has to give them.

    Raises:
        ValueError, TypeError: it has none that can be found out, as one of C has not.
    """
    if isinstance(call, functools.partial):
        # Its own __wrapped__, which update_wrapper sets, has what the partial has given already.
        inner = inspect.unwrap(call.func)
        call = functools.partial(inner, *call.args, **call.keywords)
        return list(inspect.signature(call, follow_wrapped=False).parameters.values())
    return list(inspect.signature(inspect.unwrap(call)).parameters.values())


def place_of(call: Any) -> str | None:
    """``file.py:line`` of the function below a callable, or None."""
    codes = (getattr(layer, "__code__", None) for layer in layers(call))
    found = [code for code in codes if inspect.iscode(code)]
    return f"{PurePath(found[-1].co_filename).name}:{found[-1].co_firstlineno}" if found else None


def oddity(call: Any) -> tuple[str, str] | None:
    """What a callable is where it cannot be a kernel, and what to write instead."""
    if inspect.isclass(call):
        return CLASS
    for layer in layers(call):
        if inspect.iscoroutinefunction(layer) or inspect.isasyncgenfunction(layer):
            return ASYNC
        if inspect.isgeneratorfunction(layer):
            return "is a generator: it has a yield", "return one tally of all the samples"
    return None


CLASS = "is a class", "write a function; an object of it with __call__(self, rng, samples) will do"
ASYNC = "is an async function, and nothing awaits a kernel", "write def without async"
