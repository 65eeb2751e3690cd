"""The registry of engines: what each one is, read from its own file without importing it.

The file of an engine holds a literal ``ENTRY = Entry(...)``, with nothing computed in it. Engines
of this package are the files and packages of ``cluster/backends`` that have one. Those of other
distributions are named by the entry point group ``cluster.backends``: ``NAME = module:Engine``.
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
# What an option takes; cluster.spec.engine_options has the rule for each.
OptionKind = Literal["text", "whole", "number", "time", "flag", "choice", "file", "secret"]
_KINDS = get_args(Kind)
_FOLDER = Path(__file__).parents[1] / "backends"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class Option(NamedTuple):
    """A key that a spec may give an engine, under the engine's own name.

    Attributes:
        name: the key.
        kind: what it takes; ``time`` arrives as seconds, ``file`` as an absolute path, ``secret``
            as a :class:`cluster.common.secret.Secret`.
        description: a sentence for the reference of the spec.
        default: its value where the spec does not give it.
        choices: the texts that a ``choice`` takes.
    """

    name: str
    kind: OptionKind
    description: str
    default: Any = None
    choices: tuple[str, ...] = ()


class Entry(NamedTuple):
    """What an engine is.

    Attributes:
        name: as a spec's ``backend`` names it.
        summary: what it is, in a line.
        needs: modules that it imports, here and, where it is hosted, on each host.
        install: the command that installs them; None where it needs nothing.
        kind: ``in_process``: kernels run in the dispatcher, which they can therefore end or hang;
            ``local``: in processes of this machine; ``hosted``: on the hosts of the spec.
        routes: connections that it makes beside ssh: ``from`` the hosts to this machine, ``to``
            the hosts, ``between`` them.
        exact: it refuses a host whose version of a needed module is another one than here.
        attach: it takes nodes with ``attach`` where one of these options is given; each is an
            option's name, or ``name=value``. Empty: it takes none.
        node: ``module:class`` of such a node, for ``cluster node``; empty: it has none of its own.
        about: what its options are for; empty where it has none.
        options: keys that a spec may give it under its own name.
        target: ``module:class``; filled in by the registry, as are those below.
        package: the distribution that brings it; empty for those of this package.
        trouble: why it cannot be used, though it is registered.
        note: what is wrong about its registration, and does not hinder it.
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
        """Whether it is registered well, and everything that it needs is installed here."""
        return not self.trouble and all(map(_is_installed, self.needs))

    @property
    def hosted(self) -> bool:
        """Whether it works on the hosts of the spec."""
        return self.kind == "hosted"

    def attaches(self, own: Mapping[str, Any]) -> bool:
        """Whether it can work on nodes with ``attach``, by these options of it."""
        for word in self.attach:
            name, equals, value = word.partition("=")
            if own[name] == value if equals else own[name] is not None:
                return True
        return False


def that_attach() -> tuple[Entry, ...]:
    """The engines that take nodes with ``attach``."""
    return tuple(entry for entry in entries() if entry.attach)


def names() -> tuple[str, ...]:
    """The names of all engines: ours, then those of other distributions."""
    return tuple(entry.name for entry in entries())


def entries() -> tuple[Entry, ...]:
    """All engines: ours, then those of other distributions, usable or not."""
    ours = tuple(_with_note(entry) for entry in built_in())
    return ours + tuple(other for name, other in others().items() if name not in _built_in())


def entry(name: str) -> Entry | None:
    """The engine of that name; others' registrations are looked through only where it is theirs."""
    return _built_in().get(name) or others().get(name)


@cache
def built_in() -> tuple[Entry, ...]:
    """The engines of this package: by kind, first those that need nothing, then by name."""
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
    # Its import takes longer than all the rest here, and most runs name an engine of ours.
    from importlib.metadata import entry_points

    points: dict[str, list[EntryPoint]] = defaultdict(list)
    for point in entry_points(group=GROUP):
        points[point.name].append(point)
    return {name: _other(name, found) for name, found in sorted(points.items())}


def read(text: str) -> Entry | None:
    """The entry in the text of a Python file; None where it has none.

    Raises:
        ValueError: something in it is computed, or the file is not Python.
        TypeError: it has a field that no entry has.
    """
    if "ENTRY = " not in text:
        return None
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == ["ENTRY"]:
            made = _literal(node.value)
            return made if isinstance(made, Entry) else None
    return None


def imported(found: Entry) -> Any:
    """The object that an entry's ``target`` names, imported now.

    Raises:
        EngineError: it cannot be imported.
    """
    module, _, name = found.target.partition(":")
    try:
        with redirect_stdout(sys.stderr):  # our output is data
            return getattr(import_module(module), name)
    except (Exception, SystemExit) as error:
        if not found.package:
            raise
        reason = f"{found.target} cannot be imported: {type(error).__name__}: {error}"
        raise EngineError(_of(found, reason), fix=cure(found)) from error


def cure(found: Entry) -> str | None:
    """What to do about an engine of another distribution that does not work."""
    return f"mend or remove it: pip uninstall {found.package}" if found.package else None


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call):
        made = {"Entry": Entry, "Option": Option}.get(ast.unparse(node.func))
        if made is None or any(word.arg is None for word in node.keywords):
            raise ValueError(f"not a literal: {ast.unparse(node)}")
        words = {str(word.arg): _literal(word.value) for word in node.keywords}
        return made(*map(_literal, node.args), **words)
    if isinstance(node, ast.Tuple):
        return tuple(map(_literal, node.elts))
    return ast.literal_eval(node)


def _other(name: str, points: Sequence[EntryPoint]) -> Entry:
    """The entry of a name that other distributions register; what is wrong is its trouble."""
    packages = sorted({point.dist.name if point.dist else "?" for point in points})
    blank = Entry(name, "", target=points[0].value.strip(), package=" ".join(packages))
    if len({point.value for point in points}) > 1:
        reason = f"{' and '.join(packages)} both register an engine of this name"
        return blank._replace(trouble=reason)
    if not _NAME.fullmatch(name) or not _TARGET.fullmatch(blank.target):
        reason = f"{name!r} = {blank.target!r} is not of the form NAME = module:Engine"
        return blank._replace(trouble=_of(blank, reason))
    try:
        said = _said(blank)
    except EngineError as error:
        return blank._replace(trouble=error.message)
    if said.name != name:
        reason = f"it is registered as {name!r}, and its ENTRY says {said.name!r}"
        return blank._replace(trouble=_of(blank, reason))
    return said._replace(target=blank.target, package=blank.package)


def _said(blank: Entry) -> Entry:
    """What the module of an engine says that it is: read from its text, else imported."""
    module = blank.target.partition(":")[0]
    made = _read_unimported(module)
    if made is None:
        imported(blank)
        made = getattr(sys.modules[module], "ENTRY", None)
    if isinstance(made, Entry) and made.kind in _KINDS:
        return made
    reason = f"{module} has no ENTRY = Entry(...) that says what the engine is"
    raise EngineError(_of(blank, reason))


def _read_unimported(module: str) -> Entry | None:
    try:
        found = find_spec(module)
        if found is None or found.origin is None:
            return None
        return read(Path(found.origin).read_text(encoding="utf-8"))
    except Exception:  # whatever it is, the import says it better
        return None


def _of(found: Entry, reason: str) -> str:
    return f"the backend {found.name} of {found.package}: {reason}"


def _with_note(ours: Entry) -> Entry:
    other = others().get(ours.name)
    if other is None:
        return ours
    return ours._replace(
        note=f"{other.package} registers the backend {ours.name} too: ours is used"
    )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):  # the package above it is missing, or broken
        return False


def options(names: Iterable[str]) -> Mapping[str, Entry]:
    """Those of the names that are engines with options of their own."""
    found = {name: entry(name) for name in names}
    return {name: each for name, each in found.items() if each is not None and each.options}
