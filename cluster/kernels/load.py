"""Loading a frozen kernel: its text becomes a module, in this process."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from functools import lru_cache
from pathlib import Path, PurePosixPath
from types import ModuleType

from cluster.errors import KernelError
from cluster.kernels.cache import unpack
from cluster.kernels.model import FORMS, Kernel, Source, Traits, not_a_kernel


@lru_cache(maxsize=64)
def load(source: Source) -> Kernel:
    """Import a frozen kernel from a private folder named by its hash.

    The folder outlives the process, so that compilers can keep their caches beside the file.

    Raises:
        KernelError: the file does not import, or the function is no kernel.
    """
    module = _import(source, unpack(source))
    call = getattr(module, source.function, None)
    if not callable(call):
        raise KernelError(f"{source.entry} defines no function {source.function!r}")
    # A compiled function hides its parameters; every wrapper of note keeps the one it wraps.
    parameters = list(inspect.signature(inspect.unwrap(call)).parameters.values())
    names = [parameter.name for parameter in parameters]
    if len(names) < 2 or names[0] not in FORMS or names[1] != "samples":
        raise not_a_kernel(source.name, names)
    loose = [p.name for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if loose:
        raise KernelError(f"{source.name} must name its parameters, not take *{loose[0]}")
    defaults = {parameter.name: parameter.default for parameter in parameters[2:]}
    traits = getattr(call, "__cluster__", Traits())
    return Kernel(source, call, names[0], defaults, traits)


def _import(source: Source, folder: Path) -> ModuleType:
    """Run the file as a module of its own; its listed neighbours import by their plain names."""
    name = f"_cluster_kernel_{source.sha[:16]}"
    spec = importlib.util.spec_from_file_location(name, folder / source.entry)
    if spec is None or spec.loader is None:
        raise KernelError(f"{source.entry} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    _forget_neighbours(source)
    # Only where there are neighbours: a kernel named as an installed module must not hide it.
    paths = [str(folder)] if len(source.files) > 1 else []
    sys.path[:0] = paths
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise KernelError(
            f"{source.entry} does not import: {type(error).__name__}: {error}",
            where=_line_of(error, folder / source.entry, source.entry),
        ) from error
    finally:
        for path in paths:
            sys.path.remove(path)
    return module


def _forget_neighbours(source: Source) -> None:
    """Two kernels may each bring a neighbour of one name: the second must not get the first's."""
    for file in source.files:
        name = PurePosixPath(file).parts[0].removesuffix(".py")
        if file != source.entry:
            sys.modules.pop(name, None)


def _line_of(error: BaseException, path: Path, shown: str) -> str:
    trace = error.__traceback__
    line = None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{shown}:{line}" if line else shown
