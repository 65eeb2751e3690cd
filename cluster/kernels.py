"""Kernels: the decorator that describes one, and the frozen source that a run is made of.

A kernel is a pure function of a stream and a number of samples that returns a tally. A run does
not refer to its file: the text is frozen at submit, and every worker, now or at a resume years
later, compiles that text from a private folder named by its hash.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath
from types import ModuleType
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


def freeze(reference: str, base: Path, include: Iterable[str] = ()) -> Source:
    """Read a kernel's text: ``file.py:function`` relative to ``base``, or ``module:function``.

    A module is looked up as a file, in the current folder and then along ``sys.path``; nothing is
    imported or run here.

    Raises:
        KernelError: no such file or function, not a kernel by its first parameter, or a sibling
            file that is imported but not listed in ``include``.
    """
    place, _, function = reference.rpartition(":")
    path = _find(place, base)
    names = [path.name, *include]
    files = {name: _read(path.parent / name, name) for name in names}
    source = Source(path.name, function, files)
    _check_function(source)
    _check_siblings(source, path.parent)
    return source


def form_of(function: ast.FunctionDef) -> str | None:
    """``rng`` or ``stream`` where a function has a kernel's parameters, else None."""
    first = [*function.args.posonlyargs, *function.args.args][:2]
    if len(first) == 2 and first[0].arg in FORMS and first[1].arg == "samples":
        return first[0].arg
    return None


def functions(text: str, file: str) -> dict[str, ast.FunctionDef]:
    """The top-level functions of a kernel file, by name, found without running it.

    Raises:
        KernelError: the text is not Python.
    """
    return {node.name: node for node in _top_level(_parse(text, file))}


def _top_level(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Functions of the module, also below an ``if`` or ``try``; none that a scope hides."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield node
        elif not isinstance(node, ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield from _top_level(node)


@lru_cache(maxsize=64)
def load(source: Source) -> Kernel:
    """Import a frozen kernel from a private folder named by its hash.

    The folder outlives the process, so that compilers can keep their caches beside the file.

    Raises:
        KernelError: the file does not import, or the function is no kernel.
    """
    module = _import(source, _materialise(source))
    call = getattr(module, source.function, None)
    if not callable(call):
        raise KernelError(f"{source.entry} defines no function {source.function!r}")
    # A compiled function hides its parameters; every wrapper of note keeps the one it wraps.
    parameters = list(inspect.signature(inspect.unwrap(call)).parameters.values())
    names = [parameter.name for parameter in parameters]
    if len(names) < 2 or names[0] not in FORMS or names[1] != "samples":
        raise _not_a_kernel(source.name, names)
    loose = [p.name for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if loose:
        raise KernelError(f"{source.name} must name its parameters, not take *{loose[0]}")
    defaults = {parameter.name: parameter.default for parameter in parameters[2:]}
    traits = getattr(call, "__cluster__", Traits())
    return Kernel(source, call, names[0], defaults, traits)


def _find(place: str, base: Path) -> Path:
    if place.endswith(".py"):
        path = base / place
        if path.is_file():
            return path
        raise KernelError(f"no file {path}", fix=_nearest(path.name, path.parent))
    parts = place.split(".")
    for folder in (Path.cwd(), *map(Path, sys.path)):
        path = folder.joinpath(*parts).with_suffix(".py")
        if path.is_file():
            return path
    raise KernelError(
        f"no module {place!r} in the current folder or on the Python path",
        fix="name the file instead: path/to/file.py:function, relative to the spec",
    )


def _nearest(name: str, folder: Path) -> str | None:
    try:
        return did_you_mean(name, (path.name for path in folder.glob("*.py")))
    except OSError:
        return None


def _read(path: Path, name: str) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise KernelError(f"cannot read {name}: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError as error:
        raise KernelError(f"{name} is not UTF-8 at byte {error.start}", where=str(path)) from None


def _parse(text: str, file: str) -> ast.Module:
    try:
        # Python takes a byte order mark in a file, though not in a string.
        return ast.parse(text.removeprefix("\ufeff"), file)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None)
        raise KernelError(
            f"not Python: {error}", where=f"{file}:{line}" if line else file
        ) from None


def _check_function(source: Source) -> None:
    known = functions(source.files[source.entry], source.entry)
    found = known.get(source.function)
    if found is None:
        kernels = [name for name, node in known.items() if form_of(node)]
        raise KernelError(
            f"{source.entry} defines no function {source.function!r}",
            fix=did_you_mean(source.function, known)
            or (f"its kernels: {', '.join(kernels)}" if kernels else None),
        )
    if not form_of(found):
        names = [a.arg for a in (*found.args.posonlyargs, *found.args.args)]
        raise _not_a_kernel(source.name, names)


def _not_a_kernel(name: str, parameters: list[str]) -> KernelError:
    return KernelError(
        f"{name} is not a kernel: its parameters are ({', '.join(parameters)})",
        fix="a kernel is f(rng, samples, ...) with a numpy Generator, or f(stream, samples, ...)",
    )


def _check_siblings(source: Source, folder: Path) -> None:
    """Refuse an import that works beside the kernel's file but not on a worker."""
    for file, text in source.files.items():
        if not file.endswith(".py"):
            continue
        for name in _imported(_parse(text, file)):
            listed = {PurePosixPath(name).parts[0] for name in source.files}
            if f"{name}.py" in listed or name in listed or name in sys.stdlib_module_names:
                continue
            if name != "cluster" and _stands_in(folder, name):
                raise KernelError(
                    f"{file} imports its neighbour {name!r}, which would be missing on a node",
                    fix=f"add it to the spec: include: [{name}.py]",
                )


def _stands_in(folder: Path, name: str) -> bool:
    package = folder / name
    return (folder / f"{name}.py").is_file() or (
        package.is_dir() and next(package.glob("*.py"), None) is not None
    )


def _imported(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise KernelError(
                    f"a relative import (line {node.lineno}): a frozen kernel has no package",
                    fix="import the neighbour by its plain name, and list it in include",
                )
            names.add((node.module or "").partition(".")[0])
    return names


def cache_folder() -> Path:
    """Where kernels are unpacked: below CLUSTER_CACHE, XDG_CACHE_HOME or ~/.cache."""
    named = os.environ.get("CLUSTER_CACHE")
    if named:
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "cluster"


def _materialise(source: Source) -> Path:
    """Write the files once, whole or not at all; what is there is believed only if it is equal."""
    try:
        root = cache_folder() / "kernels"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = root / source.sha
        if root.stat().st_uid != os.getuid():
            raise PermissionError
        if not _holds(folder, source):
            _replace(folder, source)
        return folder
    except (OSError, RuntimeError):
        # No home, a full or a read-only disk: the kernel still runs, only its cache is lost.
        folder = Path(_scratch().name) / source.sha
        _write(folder, source)
        return folder


def _holds(folder: Path, source: Source) -> bool:
    try:
        return all(
            (folder / name).read_bytes() == text.encode() for name, text in source.files.items()
        )
    except OSError:
        return False


def _replace(folder: Path, source: Source) -> None:
    fresh = Path(tempfile.mkdtemp(prefix=f".{source.sha[:8]}-", dir=folder.parent))
    _write(fresh, source)
    try:
        fresh.rename(folder)
    except OSError:
        # Another worker came first, or something else stands there: heal it file by file.
        _write(folder, source)
        shutil.rmtree(fresh, ignore_errors=True)


def _write(folder: Path, source: Source) -> None:
    for name, text in source.files.items():
        target = folder / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not target.is_file() or target.read_bytes() != text.encode():
            scratch = target.with_name(f".{target.name}.{os.getpid()}")
            scratch.write_bytes(text.encode())
            # Compilers key their caches by time and size: the same text keeps the same stamp.
            os.utime(scratch, (0, 0))
            scratch.replace(target)


@lru_cache(maxsize=1)
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="cluster-kernel-")


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


def listing(places: Iterable[Path]) -> list[dict[str, Any]]:
    """The kernels in files and folders, found without running them.

    Returns:
        One mapping a kernel: ``kernel`` (file:function), ``form``, ``params`` (name: default as
        written, or None), ``block`` (as the decorator writes it, or the default), ``doc``.

    Raises:
        KernelError: a place that does not exist, or a file that is not Python.
    """
    rows = []
    for path in _kernel_files(places):
        for name, node in functions(_read(path, str(path)), str(path)).items():
            if form_of(node) and not name.startswith("_"):
                rows.append(_described(f"{path}:{name}", node))
    return rows


def _kernel_files(places: Iterable[Path]) -> Iterable[Path]:
    for place in places:
        if place.is_dir():
            yield from sorted(place.glob("*.py"))
        elif place.is_file():
            yield place
        else:
            raise KernelError(f"no file or folder {place}", fix=_nearest(place.name, place.parent))


def _described(kernel: str, node: ast.FunctionDef) -> dict[str, Any]:
    arguments = node.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    positional = [None] * (len(names) - len(arguments.defaults) - len(arguments.kwonlyargs))
    defaults = [*positional, *arguments.defaults, *arguments.kw_defaults]
    written = [ast.unparse(default) if default is not None else None for default in defaults]
    doc = ast.get_docstring(node) or ""
    return {
        "kernel": kernel,
        "form": names[0],
        "params": dict(list(zip(names, written, strict=True))[2:]),
        "block": _declared_block(node),
        "doc": doc.partition("\n")[0],
    }


def _declared_block(node: ast.FunctionDef) -> str:
    for decorator in node.decorator_list:
        for keyword in decorator.keywords if isinstance(decorator, ast.Call) else ():
            if keyword.arg == "block":
                return ast.unparse(keyword.value)
    return str(DEFAULT_BLOCK)
