"""Loading a frozen kernel: its text becomes a module, in this process."""

from __future__ import annotations

import importlib.util
import os
import sys
from functools import lru_cache
from importlib.machinery import FileFinder, PathFinder, SourceFileLoader
from inspect import Parameter
from pathlib import Path, PurePosixPath
from types import CodeType, ModuleType
from typing import Any

from cluster.common.errors import KernelError, StopNow
from cluster.sampling.kernels.cache import ROOT, module_name, modules_folder, unpack
from cluster.sampling.kernels.callables import layers, oddity, parameters_of, place_of
from cluster.sampling.kernels.importing import GUARD, AtImport, ImportTimeout, importing
from cluster.sampling.kernels.model import (
    FORMS,
    Kernel,
    KernelSource,
    Traits,
    describe,
    not_a_kernel,
)


@lru_cache(maxsize=64)
def load(source: KernelSource) -> Kernel:
    """Import a frozen kernel from a private folder named by its hash.

    The folder outlives the process, so that compilers can keep their caches beside the file.

    Raises:
        KernelError: the file does not import, or the function is no kernel.
    """
    module = _import(source, unpack(source))
    call = getattr(module, source.function, None)
    if not callable(call):
        raise KernelError(f"{source.entry} defines no function {source.function!r}")
    try:
        return _described(source, call)
    except KernelError:
        raise
    except Exception as error:  # an object of the person's own may raise anything
        message = f"{source.name} cannot be looked at as a function: {describe(error)}"
        raise KernelError(message, fix="write a function: def f(rng, samples)") from error


def _described(source: KernelSource, call: Any) -> Kernel:
    if odd := oddity(call):
        raise KernelError(f"{source.function!r} {odd[0]}", where=place_of(call), fix=odd[1])
    names, defaults = _parameters(source, call)
    return Kernel(source, call, names[0], defaults, _traits(call))


def _parameters(source: KernelSource, call: Any) -> tuple[list[str], dict[str, object]]:
    """The names of all parameters, and the defaults of those beyond the first two."""
    try:
        parameters = parameters_of(call)
    except (ValueError, TypeError) as error:
        raise KernelError(
            f"the parameters of {source.name} cannot be found out: {error}",
            where=place_of(call),
            fix="write a function that calls it: def f(rng, samples): ...",
        ) from None
    names = [parameter.name for parameter in parameters]
    by_place = [p.name for p in parameters if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
    if (
        by_place[:2] != names[:2]
        or len(names) < 2
        or names[0] not in FORMS
        or names[1] != "samples"
    ):
        raise not_a_kernel(source.name, names, place_of(call))
    for parameter in parameters[2:]:
        _judge(source, call, parameter)
    return names, {parameter.name: parameter.default for parameter in parameters[2:]}


def _judge(source: KernelSource, call: Any, parameter: Parameter) -> None:
    """Refuse a parameter that cannot be given by its name."""
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        message = (
            f"{source.name} must name its parameters, not take {str(parameter).partition(':')[0]}"
        )
        raise KernelError(message, where=place_of(call), fix="name each, with a default")
    if parameter.kind is parameter.POSITIONAL_ONLY:
        message = f"{source.name} takes {parameter.name!r} by its place, and params give it by name"
        raise KernelError(message, where=place_of(call), fix="put the / before it, or leave it out")


def _traits(call: Any) -> Traits:
    """What a decorator says of a callable, or of what that calls."""
    told = (getattr(layer, "__cluster__", None) for layer in layers(call))
    return next((traits for traits in told if isinstance(traits, Traits)), Traits())


def _import(source: KernelSource, folder: Path) -> ModuleType:
    """Run the file as a module of its own; its listed neighbours import by their plain names."""
    _forget_neighbours(source)
    _make_findable(source, folder)
    try:
        with importing(source.entry):
            return run_as(module_name(source), folder, source.entry)
    except BaseException as error:
        if isinstance(error, StopNow | KeyboardInterrupt):
            raise
        raise _not_imported(error, source.entry, folder) from error


def run_as(name: str, folder: Path, entry: str) -> ModuleType:
    """Run the file of an unpacked kernel as the module of that name, here or in a child of it.

    Raises:
        Exception, SystemExit: what the file raises.
    """
    if not entry.endswith(".py"):
        raise KernelError(f"{entry} is not a Python file")
    # Its neighbours are to be found by the path, and loaded likewise.
    sys.path_importer_cache[str(folder)] = FileFinder(str(folder), (Loader, [".py"]))
    loader = Loader(name, str(folder / entry))
    spec = importlib.util.spec_from_file_location(name, folder / entry, loader=loader)
    if spec is None or spec.loader is None:
        raise KernelError(f"{entry} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


class Loader(SourceFileLoader):
    """Python's own, but for sets that are written out in the source.

    Where hashes collide, the order of a set is also that in which it was filled; and that of a
    constant one goes by what else this process has compiled, or by who wrote the bytecode.
    """

    def get_code(self, fullname: str) -> CodeType | None:
        """The module's code, whose constant sets were filled in one order."""
        code = super().get_code(fullname)
        return None if code is None else _ordered(code)


def _ordered(constant: Any) -> Any:
    if isinstance(constant, CodeType):
        return constant.replace(co_consts=tuple(map(_ordered, constant.co_consts)))
    return frozenset(sorted(constant, key=repr)) if isinstance(constant, frozenset) else constant


_beside: set[str] = set()


def _make_findable(source: KernelSource, folder: Path) -> None:
    """Have this process, and every Python that a kernel starts from it, find the modules.

    multiprocessing and loky give their children the path that this process has.
    """
    os.environ[ROOT] = str(Path(__file__).parents[2])
    modules = str(modules_folder(folder))
    if modules not in sys.path:
        sys.path.append(modules)
    for path in _beside.intersection(sys.path):
        sys.path.remove(path)
    _beside.clear()
    if len(source.files) > 1:
        _beside.add(str(folder))
        # A kernel that is named as an installed module must not hide it.
        hides = _is_installed(source.entry.removesuffix(".py"))
        sys.path.insert(len(sys.path) if hides else 0, str(folder))


def _is_installed(name: str) -> bool:
    return name in sys.stdlib_module_names or PathFinder.find_spec(name) is not None


def _not_imported(error: BaseException, entry: str, folder: Path) -> KernelError:
    """What ended an import, at its line of the file, and the cure where there is one."""
    where = _line_of(error, folder / entry, entry)
    if isinstance(error, AtImport):
        return KernelError(error.message, where=where, fix=error.fix)
    # The folder is one of ours, of which nobody has heard.
    what = describe(error).replace(f"{folder}{os.sep}", "")
    fix = GUARD if isinstance(error, SystemExit | EOFError | ImportTimeout) else None
    return KernelError(f"{entry} does not import: {what}", where=where, fix=fix)


def _forget_neighbours(source: KernelSource) -> None:
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
