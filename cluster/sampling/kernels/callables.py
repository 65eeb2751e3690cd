"""Inspection of the callables that may be kernels: functions, and objects with ``__call__``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any


def layers(call: Any) -> Iterator[Any]:
    """A callable and, in turn, what it wraps: by ``__wrapped__``, partial or ``__call__``."""
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
    # A compiled function has no signature of its own; numba and others keep the Python function
    # in __wrapped__.
    wrapped = getattr(call, "__wrapped__", None)
    if callable(wrapped):
        return wrapped
    methods = (vars(kind).get("__call__") for kind in type(call).__mro__)
    return next((method for method in methods if inspect.isfunction(method)), None)


def parameters_of(call: Any) -> list[inspect.Parameter]:
    """The parameters that a caller has to pass to a callable.

    Raises:
        ValueError, TypeError: it has no signature, as some functions written in C.
    """
    if isinstance(call, functools.partial):
        # update_wrapper gives a partial a __wrapped__ whose signature still has the parameters
        # that the partial has bound.
        inner = inspect.unwrap(call.func)
        call = functools.partial(inner, *call.args, **call.keywords)
        return list(inspect.signature(call, follow_wrapped=False).parameters.values())
    return list(inspect.signature(inspect.unwrap(call)).parameters.values())


def place_of(call: Any) -> str | None:
    """``file.py:line`` of the innermost function of a callable, or None."""
    codes = (getattr(layer, "__code__", None) for layer in layers(call))
    found = [code for code in codes if inspect.iscode(code)]
    return f"{PurePath(found[-1].co_filename).name}:{found[-1].co_firstlineno}" if found else None


def oddity(call: Any) -> tuple[str, str] | None:
    """Why a callable cannot be a kernel, and what to write instead; None if it can."""
    if inspect.isclass(call):
        return CLASS
    for layer in layers(call):
        if inspect.iscoroutinefunction(layer) or inspect.isasyncgenfunction(layer):
            return ASYNC
        if inspect.isgeneratorfunction(layer):
            return "is a generator: it has a yield", "return one tally of all the samples"
    return None


CLASS = "is a class", "write a function, or use an instance with __call__(self, rng, samples)"
ASYNC = "is an async function, and nothing awaits a kernel", "write def without async"
