"""Static analysis of kernel files: what they define, found without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cluster.common.errors import KernelError, did_you_mean
from cluster.sampling.kernels.callables import ASYNC, CLASS
from cluster.sampling.kernels.missing import DATA
from cluster.sampling.kernels.model import DEFAULT_BLOCK, FORMS


def form_of(function: ast.FunctionDef) -> str | None:
    """``rng`` or ``stream`` if a function has the first parameters of a kernel, else None."""
    first = [*function.args.posonlyargs, *function.args.args][:2]
    if len(first) == 2 and first[0].arg in FORMS and first[1].arg == "samples":
        return first[0].arg
    return None


def parameters(function: ast.FunctionDef) -> list[str]:
    """A function's parameter names as written, with the ``*`` before keyword-only ones."""
    own = function.args
    placed = [each.arg for each in (*own.posonlyargs, *own.args)]
    rest = [f"*{own.vararg.arg}"] if own.vararg else ["*"] if own.kwonlyargs else []
    named = [each.arg for each in own.kwonlyargs]
    return [*placed, *rest, *named, *([f"**{own.kwarg.arg}"] if own.kwarg else [])]


class Definition(NamedTuple):
    """The definition of a name that is not a module-level function.

    Attributes:
        line: its line.
        what: why it cannot be a kernel; None if only loading it can tell.
        fix: what to write instead, or None.
    """

    line: int
    what: str | None = None
    fix: str | None = None


def other_definition(tree: ast.Module, name: str) -> Definition | None:
    """The definition of a name other than as a module-level function, or None."""
    return _defined_in(tree, name) or _defined_inside(tree, name)


def _defined_in(tree: ast.AST, name: str) -> Definition | None:
    """A class, an async function, an assignment or an import at module level."""
    # The last definition of a name counts, as when the file is run.
    found: Definition | None = None
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.ClassDef(name=defined) if defined == name:
                found = Definition(node.lineno, *CLASS)
            case ast.AsyncFunctionDef(name=defined) if defined == name:
                found = Definition(node.lineno, *ASYNC)
            case (
                ast.Assign(targets=[ast.Name(id=target)])
                | ast.AnnAssign(target=ast.Name(id=target))
            ) if target == name:
                found = _assigned(node.value, node.lineno)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef() | ast.Lambda():
                continue
            case ast.Import() | ast.ImportFrom():
                found = _brought_in(node, name) or found
            case _:
                found = _defined_in(node, name) or found
    return found


def _assigned(value: ast.expr | None, line: int) -> Definition:
    match value:
        case ast.Lambda():
            return Definition(line, "is a lambda", "write it as a function: def f(rng, samples)")
        case ast.Name(id=other):
            return Definition(line, f"is another name of {other!r}", f"name {other} itself")
        case None | ast.Constant() | ast.List() | ast.Dict() | ast.Tuple() | ast.Set():
            return Definition(line, "is not a function", "name a function: def f(rng, samples)")
    return Definition(line)


def _brought_in(node: ast.Import | ast.ImportFrom, name: str) -> Definition | None:
    for alias in node.names:
        if name == (alias.asname or alias.name) and isinstance(node, ast.ImportFrom):
            fix = f"name that module itself, as in {node.module}:{alias.name}"
            return Definition(node.lineno, f"is imported from {node.module!r}", fix)
    return None


def _defined_inside(tree: ast.AST, name: str) -> Definition | None:
    """A function inside another one, or inside a class."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for inner in ast.walk(node):
            if inner is not node and isinstance(inner, _FUNCTION) and inner.name == name:
                kind = (
                    "a method of the class" if isinstance(node, ast.ClassDef) else "defined inside"
                )
                what = f"is {kind} {node.name!r}, where no worker can find it"
                return Definition(inner.lineno, what, "move it to module level")
    return None


_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def functions(text: str, file: str) -> dict[str, ast.FunctionDef]:
    """The top-level functions of a kernel file, by name, found without running it.

    Raises:
        KernelError: the text is not Python.
    """
    return {node.name: node for node in _top_level(parse(text, file))}


def _top_level(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    """Module-level functions, including those inside an ``if`` or ``try``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield node
        elif not isinstance(node, ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            yield from _top_level(node)


def listing(places: Iterable[Path]) -> list[dict[str, Any]]:
    """The kernels in files and folders, found without running them.

    Returns:
        One mapping per kernel: ``kernel`` (file:function), ``form``, ``params`` (name: source
        text of the default, or None), ``block`` (as in the decorator, or the default), ``doc``
        (the first line of the docstring).

    Raises:
        KernelError: a place does not exist, or a file is not Python.
    """
    rows = []
    for path in _kernel_files(places):
        for name, node in functions(read(path, str(path)), str(path)).items():
            if form_of(node) and not name.startswith("_"):
                rows.append(_described(f"{path}:{name}", node))
    return rows


def read(path: Path, name: str) -> str:
    """The text of a UTF-8 file.

    Args:
        path: the file.
        name: what errors call it.

    Raises:
        KernelError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise KernelError(f"cannot read {name}: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError as error:
        fix = "save it as UTF-8" if path.suffix == ".py" else DATA
        message = f"{name} is not UTF-8 at byte {error.start}"
        raise KernelError(message, where=str(path), fix=fix) from None


def parse(text: str, file: str) -> ast.Module:
    """The syntax tree of a file.

    Args:
        text: its text.
        file: what errors call it.

    Raises:
        KernelError: it is not Python; with the line.
    """
    try:
        # Python accepts a byte order mark in a file, but not in a string.
        return ast.parse(text.removeprefix("\ufeff"), file)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        raise KernelError(
            f"not Python: {str(error) or type(error).__name__}",
            where=f"{file}:{line}" if line else file,
        ) from None


def nearest(name: str, folder: Path) -> str | None:
    """``did you mean 'pi.py'?`` for the Python file of the most similar name, or None."""
    try:
        return did_you_mean(name, (path.name for path in folder.glob("*.py")))
    except OSError:
        return None


def _kernel_files(places: Iterable[Path]) -> Iterable[Path]:
    for place in places:
        if place.is_dir():
            yield from sorted(place.glob("*.py"))
        elif place.is_file():
            yield place
        else:
            raise KernelError(f"no file or folder {place}", fix=nearest(place.name, place.parent))


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
