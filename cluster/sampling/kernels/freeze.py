"""Freezing a kernel: recording its text and that of its ``include`` files as they are now."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from cluster.common.errors import KernelError, did_you_mean
from cluster.sampling.kernels.missing import cure_of, files_of
from cluster.sampling.kernels.missing import include as include_line
from cluster.sampling.kernels.model import KernelSource, not_a_kernel
from cluster.sampling.kernels.text import (
    form_of,
    functions,
    nearest,
    other_definition,
    parameters,
    parse,
    read,
)


def freeze(reference: str, base: Path, include: Iterable[str] = ()) -> KernelSource:
    """Read a kernel's text. Nothing is imported or run.

    Args:
        reference: ``file.py:function``, or ``module:function``; a module is searched for as a
            file in the current folder and then along ``sys.path``.
        base: the folder that a file is relative to.
        include: other files to freeze, relative to the kernel's folder.

    Raises:
        KernelError: a file or the function is missing, its first two parameters are not those of
            a kernel, or it imports a file beside it that ``include`` does not list.
    """
    place, _, function = reference.rpartition(":")
    path = _find(place, base)
    names = [path.name, *include]
    files = {name: read(path.parent / name, name) for name in names}
    source = KernelSource(path.name, function, files)
    _check_function(source)
    _check_siblings(source, path.parent)
    return source


def unfound(error: KernelError, reference: str, base: Path) -> str | None:
    """How to supply a file or module that was missing when a kernel was imported, or None.

    Args:
        error: of :func:`load`.
        reference: as for :func:`freeze`.
        base: likewise.
    """
    if error.__cause__ is None:
        return None
    return cure_of(error.__cause__, _find(reference.rpartition(":")[0], base).parent)


def differing(source: KernelSource, reference: str, base: Path) -> list[str]:
    """The files of a frozen kernel whose text is different now; files that are gone are ignored.

    Args:
        source: the frozen kernel.
        reference: as for :func:`freeze`.
        base: likewise.
    """
    try:
        path = _find(reference.rpartition(":")[0], base)
    except KernelError:
        return []
    places = {name: path if name == source.entry else path.parent / name for name in source.files}
    changed = []
    for name, place in places.items():
        with suppress(OSError):
            if place.read_bytes() != source.files[name].encode():
                changed.append(name)
    return changed


def _find(place: str, base: Path) -> Path:
    if place.endswith(".py"):
        path = base / place
        if _is_there(path):
            return path
        with suppress(OSError):  # the name may be too long for the file system
            if path.is_dir():
                raise KernelError(f"{path} is a folder", fix="name a file in it: file.py:function")
            if path.is_symlink() or path.exists():
                message = f"{path} is a broken link, or not a regular file"
                raise KernelError(message, fix="name a file")
        raise KernelError(f"no file {path}", fix=nearest(path.name, path.parent))
    parts = place.split(".")
    for folder in (Path.cwd(), *map(Path, sys.path)):
        path = folder.joinpath(*parts).with_suffix(".py")
        if _is_there(path):
            return path
    raise KernelError(
        f"no module {place!r} in the current folder or on the Python path",
        fix="name the file instead: path/to/file.py:function, relative to the spec",
    )


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # the name may be too long for the file system
        return False


def _check_function(source: KernelSource) -> None:
    text = source.files[source.entry]
    known = functions(text, source.entry)
    found = known.get(source.function)
    if found is not None:
        if not form_of(found):
            raise not_a_kernel(source.name, parameters(found), f"{source.entry}:{found.lineno}")
        return
    defined = other_definition(parse(text, source.entry), source.function)
    if defined is None:
        kernels = [name for name, node in known.items() if form_of(node)]
        raise KernelError(
            f"{source.entry} defines no function {source.function!r}",
            fix=did_you_mean(source.function, known)
            or (f"its kernels: {', '.join(kernels)}" if kernels else None),
        )
    # Otherwise it may be a callable object, which only loading can tell.
    if defined.what is not None:
        raise KernelError(
            f"{source.function!r} {defined.what}",
            where=f"{source.entry}:{defined.line}",
            fix=defined.fix,
        )


def _check_siblings(source: KernelSource, folder: Path) -> None:
    """Reject imports that work in the kernel's folder but not on a worker."""
    for file, text in source.files.items():
        if not file.endswith(".py"):
            continue
        for name in _imported(parse(text, file)):
            listed = {PurePosixPath(name).parts[0] for name in source.files}
            if f"{name}.py" in listed or name in listed or name in sys.stdlib_module_names:
                continue
            if name != "cluster" and _stands_in(folder, name):
                listed_files = files_of(folder / name) or [f"{name}.py"]
                raise KernelError(
                    f"{file} imports {name!r} beside it, which would be missing on a node",
                    fix=f"add it to the spec: {include_line(listed_files)}",
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
                    fix="import the file by its plain name, and list it in include",
                )
            names.add((node.module or "").partition(".")[0])
    return names
