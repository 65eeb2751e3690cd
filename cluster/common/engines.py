"""The registry of engines: a description of each, read from its file without importing it.

An engine's file holds a literal ``ENTRY = Entry(...)`` in which nothing is computed. The built-in
engines are the files and packages of ``cluster/backends`` that have one. Other distributions
register theirs through the entry point group ``cluster.backends``: ``NAME = module:Engine``.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from cluster.common.errors import EngineError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "cluster.backends"
# Where kernels run: in the dispatcher, in processes of this machine, or on the spec's hosts.
Kind = Literal["in_process", "local", "hosted"]
# The type of an option's value; cluster.spec.engine_options validates each.
OptionKind = Literal["text", "whole", "number", "time", "flag", "choice", "file", "secret"]
_KINDS = get_args(Kind)
_FOLDER = Path(__file__).parents[1] / "backends"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class Option(NamedTuple):
    """An option of an engine: a key in the spec's section named after the engine.

    Attributes:
        name: the key.
        kind: the type of its value; the engine gets a ``time`` in seconds, a ``file`` as an
            absolute path, a ``secret`` as a :class:`cluster.common.secret.Secret`.
        description: a sentence for the reference of the spec.
        default: the value if the spec does not set it.
        choices: the values that a ``choice`` accepts.
    """

    name: str
    kind: OptionKind
    description: str
    default: Any = None
    choices: tuple[str, ...] = ()


class Entry(NamedTuple):
    """The description of an engine.

    Attributes:
        name: the value of ``backend`` in a spec that selects it.
        summary: one line.
        needs: modules that it imports, here and, if ``hosted``, on each host.
        install: the command that installs them; None if it needs nothing.
        kind: ``in_process``: kernels run in the dispatcher, so a kernel can end or hang it;
            ``local``: in processes of this machine; ``hosted``: on the hosts of the spec.
        routes: connections that it makes besides ssh: ``from`` the hosts to this machine, ``to``
            the hosts, ``between`` them.
        exact: whether it refuses a host on which a needed module has another version than here.
        attach: it accepts nodes with ``attach`` if one of these options is set; each is an
            option's name, or ``name=value``. Empty: it accepts none.
        node: the ``module:class`` that ``cluster node`` starts for it; empty: it has none.
        about: what its options are for; empty if it has none.
        options: its options in a spec.
        target: ``module:class``; set by the registry, like the fields below.
        package: the distribution that registers it; empty for built-in engines.
        trouble: why it cannot be used although it is registered; empty if it can.
        note: a harmless problem with its registration; empty if there is none.
    """

    name: str
    summary: str
    needs: tuple[str, ...] = ()
    install: str | None = None
    kind: Kind = "local"
    routes: tuple[str, ...] = ()
    exact: bool = False
    attach: tuple[str, ...] = ()
    node: str = ""
    about: str = ""
    options: tuple[Option, ...] = ()
    target: str = ""
    package: str = ""
    trouble: str = ""
    note: str = ""

    @property
    def usable(self) -> bool:
        """Whether its registration is valid and every module that it needs is installed here."""
        return not self.trouble and all(map(_is_installed, self.needs))

    @property
    def hosted(self) -> bool:
        """Whether its workers run on the hosts of the spec."""
        return self.kind == "hosted"

    def attaches(self, own: Mapping[str, Any]) -> bool:
        """Whether it accepts nodes with ``attach``, given its options as the spec sets them."""
        for condition in self.attach:
            name, equals, value = condition.partition("=")
            if own[name] == value if equals else own[name] is not None:
                return True
        return False


def that_attach() -> tuple[Entry, ...]:
    """The engines that accept nodes with ``attach``."""
    return tuple(entry for entry in entries() if entry.attach)


def names() -> tuple[str, ...]:
    """The names of all engines: built-in ones first, then those of other distributions."""
    return tuple(entry.name for entry in entries())


def entries() -> tuple[Entry, ...]:
    """All engines, usable or not: built-in ones first, then those of other distributions."""
    ours = tuple(_with_note(entry) for entry in built_in())
    return ours + tuple(other for name, other in others().items() if name not in _built_in())


def entry(name: str) -> Entry | None:
    """The engine of that name, or None."""
    # In this order, so that a built-in name never pays for reading the entry points.
    return _built_in().get(name) or others().get(name)


@cache
def built_in() -> tuple[Entry, ...]:
    """The built-in engines, sorted by kind, then those without requirements first, then by name."""
    found = []
    for path in (*_FOLDER.glob("*.py"), *_FOLDER.glob("*/__init__.py")):
        if (made := read(path.read_text(encoding="utf-8"))) is not None:
            module = path.stem if path.parent == _FOLDER else path.parent.name
            found.append(made._replace(target=f"{GROUP}.{module}:Engine"))
    return tuple(sorted(found, key=lambda e: (_KINDS.index(e.kind), bool(e.needs), e.name)))


@cache
def _built_in() -> Mapping[str, Entry]:
    return {entry.name: entry for entry in built_in()}


@cache
def others() -> Mapping[str, Entry]:
    """The engines that other distributions register, by name."""
    # Imported late: it is slower than everything else here, and most runs use a built-in engine.
    from importlib.metadata import entry_points

    points: dict[str, list[EntryPoint]] = defaultdict(list)
    for point in entry_points(group=GROUP):
        points[point.name].append(point)
    return {name: _other(name, found) for name, found in sorted(points.items())}


def read(text: str) -> Entry | None:
    """The entry in the text of a Python file, or None if it has none.

    Raises:
        ValueError: something in the entry is computed.
        SyntaxError: the file is not Python.
        TypeError: the entry has an unknown field.
    """
    if "ENTRY = " not in text:  # spares parsing the many files without one
        return None
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == ["ENTRY"]:
            made = _literal(node.value)
            return made if isinstance(made, Entry) else None
    return None


def imported(found: Entry) -> Any:
    """Import the object that an entry's ``target`` names.

    Raises:
        EngineError: an engine of another distribution cannot be imported; errors of a built-in
            one pass unchanged.
    """
    module, _, name = found.target.partition(":")
    try:
        with redirect_stdout(sys.stderr):  # stdout is reserved for the command's own output
            return getattr(import_module(module), name)
    except (Exception, SystemExit) as error:
        if not found.package:
            raise
        reason = f"{found.target} cannot be imported: {type(error).__name__}: {error}"
        raise EngineError(_of(found, reason), fix=cure(found)) from error


def described(module: str) -> Entry:
    """The ``ENTRY`` of an engine's module, which is imported for it.

    Raises:
        EngineError: it has none.
    """
    return _checked(module, getattr(import_module(module), "ENTRY", None))


def cure(found: Entry) -> str | None:
    """How to fix an engine of another distribution that does not work; None for built-in ones."""
    return f"fix or remove it: pip uninstall {found.package}" if found.package else None


def _literal(node: ast.expr) -> Any:
    """``ast.literal_eval``, extended by calls of ``Entry`` and ``Option``."""
    if isinstance(node, ast.Call):
        made = {"Entry": Entry, "Option": Option}.get(ast.unparse(node.func))
        if made is None or any(keyword.arg is None for keyword in node.keywords):
            raise ValueError(f"not a literal: {ast.unparse(node)}")
        keywords = {str(keyword.arg): _literal(keyword.value) for keyword in node.keywords}
        return made(*map(_literal, node.args), **keywords)
    if isinstance(node, ast.Tuple):
        return tuple(map(_literal, node.elts))
    return ast.literal_eval(node)


def _other(name: str, points: Sequence[EntryPoint]) -> Entry:
    """The entry that other distributions register by a name; what is wrong is its ``trouble``."""
    packages = sorted({point.dist.name if point.dist else "?" for point in points})
    blank = Entry(name, "", target=points[0].value.strip(), package=" ".join(packages))
    if len({point.value for point in points}) > 1:
        reason = f"{' and '.join(packages)} both register an engine of this name"
        return blank._replace(trouble=reason)
    if not _NAME.fullmatch(name) or not _TARGET.fullmatch(blank.target):
        reason = f"{name!r} = {blank.target!r} is not of the form NAME = module:Engine"
        return blank._replace(trouble=_of(blank, reason))
    try:
        declared = _declared(blank)
    except EngineError as error:
        return blank._replace(trouble=error.message)
    if declared.name != name:
        reason = f"it is registered as {name!r}, but its ENTRY says {declared.name!r}"
        return blank._replace(trouble=_of(blank, reason))
    return declared._replace(target=blank.target, package=blank.package)


def _declared(blank: Entry) -> Entry:
    """The ENTRY of an engine's module: read from its text if it is a literal, else imported."""
    module = blank.target.partition(":")[0]
    made = _read_unimported(module)
    if made is None:
        imported(blank)
        made = getattr(sys.modules[module], "ENTRY", None)
    try:
        return _checked(module, made)
    except EngineError as error:
        raise EngineError(_of(blank, error.message)) from None


def _checked(module: str, made: object) -> Entry:
    if isinstance(made, Entry) and made.kind in _KINDS:
        return made
    raise EngineError(f"{module} has no ENTRY = Entry(...) that describes the engine")


def _read_unimported(module: str) -> Entry | None:
    try:
        found = find_spec(module)
        if found is None or found.origin is None:
            return None
        return read(Path(found.origin).read_text(encoding="utf-8"))
    except Exception:  # the import that follows reports it better
        return None


def _of(found: Entry, reason: str) -> str:
    return f"the backend {found.name} of {found.package}: {reason}"


def _with_note(ours: Entry) -> Entry:
    other = others().get(ours.name)
    if other is None:
        return ours
    return ours._replace(
        note=f"{other.package} also registers the backend {ours.name}; the built-in one is used"
    )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # its parent package is missing or broken
        return False


def options(names: Iterable[str]) -> Mapping[str, Entry]:
    """The engines among these names that have options."""
    found = {name: entry(name) for name in names}
    return {name: each for name, each in found.items() if each is not None and each.options}
