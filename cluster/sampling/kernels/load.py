"""Loading a frozen kernel: importing its text as a module of this process."""

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
    except Exception as error:  # a user-defined object may raise anything
        message = f"{source.name} cannot be inspected as a function: {describe(error)}"
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
            f"the parameters of {source.name} cannot be determined: {error}",
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
    """Reject a parameter that cannot be passed by name."""
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        message = (
            f"{source.name} must name its parameters, not take {str(parameter).partition(':')[0]}"
        )
        raise KernelError(message, where=place_of(call), fix="name each, with a default")
    if parameter.kind is parameter.POSITIONAL_ONLY:
        message = f"{source.name} takes {parameter.name!r} by position, but params pass it by name"
        raise KernelError(message, where=place_of(call), fix="move the / before it, or remove it")


def _traits(call: Any) -> Traits:
    """What ``@kernel`` says about a callable or the function that it wraps."""
    found = (getattr(layer, "__cluster__", None) for layer in layers(call))
    return next((traits for traits in found if isinstance(traits, Traits)), Traits())


def _import(source: KernelSource, folder: Path) -> ModuleType:
    """Run the file as a module; it can import its ``include`` files by their plain names."""
    _forget_included(source)
    _make_findable(source, folder)
    try:
        with importing(source.entry):
            return run_as(module_name(source), folder, source.entry)
    except BaseException as error:
        if isinstance(error, StopNow | KeyboardInterrupt):
            raise
        raise _not_imported(error, source.entry, folder) from error


def run_as(name: str, folder: Path, entry: str) -> ModuleType:
    """Run the file of an unpacked kernel as a module, in a worker or in a child of one.

    Args:
        name: of the module.
        folder: where the kernel is unpacked.
        entry: the file's name.

    Raises:
        KernelError: it is not a Python file.
        Exception, SystemExit: what the file raises.
    """
    if not entry.endswith(".py"):
        raise KernelError(f"{entry} is not a Python file")
    # The files that it imports have to be loaded by our Loader as well.
    sys.path_importer_cache[str(folder)] = FileFinder(str(folder), (Loader, [".py"]))
    loader = Loader(name, str(folder / entry))
    spec = importlib.util.spec_from_file_location(name, folder / entry, loader=loader)
    if spec is None or spec.loader is None:
        raise KernelError(f"{entry} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    # Before it runs: dataclasses and pickle look their module up there.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return module


class Loader(SourceFileLoader):
    """Python's loader, with a fixed iteration order for constant sets.

    If hashes collide, the iteration order of a set depends on the order of insertion. For a set
    literal that the compiler folds into a constant, that order depends on what else the process
    has compiled, or on the process that wrote the bytecode; a kernel that iterates over such a
    set would draw differently on two hosts.
    """

    def get_code(self, fullname: str) -> CodeType | None:
        """The module's code, with constant sets built in sorted order."""
        code = super().get_code(fullname)
        return None if code is None else _ordered(code)


def _ordered(constant: Any) -> Any:
    if isinstance(constant, CodeType):
        return constant.replace(co_consts=tuple(map(_ordered, constant.co_consts)))
    return frozenset(sorted(constant, key=repr)) if isinstance(constant, frozenset) else constant


# The folder of the kernel loaded last, if it is on sys.path for its include files.
_beside: set[str] = set()


def _make_findable(source: KernelSource, folder: Path) -> None:
    """Put the kernel's modules on the path of this process and of Pythons that the kernel starts.

    multiprocessing and loky pass ``sys.path`` on to their children.
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
        # A kernel that has the name of an installed module must not hide it.
        hides = _is_installed(source.entry.removesuffix(".py"))
        sys.path.insert(len(sys.path) if hides else 0, str(folder))


def _is_installed(name: str) -> bool:
    return name in sys.stdlib_module_names or PathFinder.find_spec(name) is not None


def _not_imported(error: BaseException, entry: str, folder: Path) -> KernelError:
    """The error for a failed import, at the line of the kernel's file."""
    where = _line_of(error, folder / entry, entry)
    if isinstance(error, AtImport):
        return KernelError(error.message, where=where, fix=error.fix)
    # The path of our cache would only confuse: the user knows the file by its name.
    what = describe(error).replace(f"{folder}{os.sep}", "")
    fix = GUARD if isinstance(error, SystemExit | EOFError | ImportTimeout) else None
    return KernelError(f"{entry} does not import: {what}", where=where, fix=fix)


def _forget_included(source: KernelSource) -> None:
    """Unload ``include`` modules: two kernels may each have one of the same name."""
    for file in source.files:
        name = PurePosixPath(file).parts[0].removesuffix(".py")
        if file != source.entry:
            sys.modules.pop(name, None)


def _line_of(error: BaseException, path: Path, shown: str) -> str:
    """``file:line`` of the innermost frame in the kernel's file, or the file alone."""
    trace = error.__traceback__
    line = None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f"{shown}:{line}" if line else shown
