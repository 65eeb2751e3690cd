"""A room imports only from the rooms before it, and start-up loads nothing heavy."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]

# Data flows one way: down this list. A new file finds its place here first. Inside a room whose
# files are listed, they keep that order too; in the others they may import each other.
ROOMS: dict[str, tuple[str, ...]] = {
    "common": (
        "version",
        "errors",
        "engines",
        "commands",
        "secret",
        "states",
        "canonical",
        "files",
        "descriptors",
        "backoff",
    ),
    "sampling": ("quantiles", "tally", "streams", "kernels", "task", "plan", "progress"),
    "hosts": (
        *("scratch", "process_tree", "worker", "prints", "jsonlines", "agent_client"),
        *("child_process", "nodes", "worker_pool", "fingerprint", "agent", "connect"),
    ),
    "spec": (),
    "ledger": (),
    "backends": (),
    "dispatch": (),
    "report": (),
    "lifecycle": (
        *("print_log", "notify", "job", "entering", "session", "life", "trial", "forecast"),
        *("shards", "verify", "prune"),
    ),
    "api": (),
    "unattended": ("crontab", "slurm", "detached", "schedule"),
    "doctor": (),
    "cli": (),
}
ORDER = tuple(ROOMS)
# The public names, the entry and the public test tools stand above all rooms.
ABOVE = ("__init__", "__main__", "testing")

# What engines share: the contract, and how several hosts are kept and spoken to.
SHARED = tuple(f"cluster.backends.{name}" for name in ("base", "driver", "hosted", "kit", "order"))

# Who may import what has one owner, or few.
OWNERS = {
    "yaml": {"spec"},
    "sqlite3": {"ledger"},
    "click": {"cli", "console"},
    "rich": {"cli", "events", "report"},
}
ENGINES = {
    *("Pyro5", "asyncoro", "boto3", "celery", "dask", "dispy", "distributed", "eventlet", "gevent"),
    *("greenlet", "kombu", "mpi4py", "pika", "pp", "pycos", "ray", "rpyc", "scoop", "zmq"),
}
KERNELS_MAY_IMPORT = {"cluster", "numba", "numpy", *sys.stdlib_module_names}

HEAVY = {"click", "numba", "numpy", "pydantic", "pydantic_core", "rich", "yaml", *ENGINES}


class Import(NamedTuple):
    """One import: of `name` from the module `source`, or of the module itself where name is ""."""

    line: int
    source: str
    name: str = ""

    @property
    def target(self) -> str:
        """The dotted name: `from cluster import ledger` means the room as `import` does."""
        return f"{self.source}.{self.name}" if self.name else self.source


def imports(path: Path, module: str) -> Iterator[Import]:
    """Every import of a file, at any depth of its text."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = absolute(node, module)
            yield from (Import(node.lineno, source, alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and is_import_call(node.func):
            texts = (arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant))
            yield from (Import(node.lineno, text) for text in texts if isinstance(text, str))


def absolute(node: ast.ImportFrom, module: str) -> str:
    """The source of `from ... import`, its leading dots resolved from where it stands."""
    if not node.level:
        return node.module or ""
    package = module.split(".")[: -node.level]
    return ".".join([*package, *filter(None, [node.module])])


def is_import_call(function: ast.expr) -> bool:
    """Whether the call is `import_module(...)` or `__import__(...)`, however it is reached."""
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in {"import_module", "__import__"}


def room_of(name: str) -> str | None:
    """The room of a dotted name inside `cluster`; None for the package's own public names."""
    parts = name.split(".")
    known = len(parts) > 1 and (parts[1] in ROOMS or parts[1] in ABOVE)
    return parts[1] if known else None


def may_import(module: str, name: str) -> bool:
    """Whether the file `module` of the package may import `name`."""
    own, top = room_of(module), name.partition(".")[0]
    if own == "testing":
        return True
    if top in ENGINES:
        return own == "backends"
    if top != "cluster":
        return own in OWNERS.get(top, {own})
    if own in ABOVE:
        return True
    return may_import_room(module, name)


def may_import_room(module: str, name: str) -> bool:
    """Whether a file in one of the rooms may import `name`, which is in the package too."""
    own, theirs = room_of(module), room_of(name)
    if own is None or theirs is None or theirs in ABOVE:
        return False
    if own != theirs:
        return ORDER.index(theirs) < ORDER.index(own)
    if listed := ROOMS[own]:
        return may_import_file(listed, module, name)
    # Inside a room files may share; but an engine knows no other engine, only what all share.
    registry = module == "cluster.backends.__init__"
    engine = ".".join(module.split(".")[:3])
    return own != "backends" or registry or any(within(name, known) for known in (engine, *SHARED))


def may_import_file(listed: tuple[str, ...], module: str, name: str) -> bool:
    """Whether a file may import another one of its own room, whose files have an order."""
    own, theirs = (".".join(dotted.split(".")[2:3]) for dotted in (module, name))
    if theirs not in listed or own == theirs:
        return own == theirs
    return own in listed and listed.index(theirs) < listed.index(own)


def within(name: str, module: str) -> bool:
    """Whether the dotted name is the module, or something in it."""
    return f"{name}.".startswith(f"{module}.")


def violations(root: Path) -> list[str]:
    """One line for each import below `root` that the rules of the rooms forbid."""
    return [*package_violations(root), *kernel_violations(root)]


def package_violations(root: Path) -> Iterator[str]:
    """The forbidden imports of `cluster/`, and its files that are in no room."""
    for path, module in modules(root, "cluster"):
        if not has_place(module):
            yield f"{module}: in no room; give it its place in ROOMS"
        for found in imports(path, module):
            if not may_import(module, found.target):
                yield f"{module}:{found.line}: may not import {found.target}"


def has_place(module: str) -> bool:
    """Whether a file is in a room, and listed there where its files have an order."""
    room, file = room_of(module), module.split(".")[2:3]
    listed = ROOMS.get(room or "", ())
    return room is not None and (not listed or not file or file[0] in {*listed, "__init__"})


def kernel_violations(root: Path) -> Iterator[str]:
    """The forbidden imports of `jobs/`: of the package, kernels see the public names only."""
    for path, module in modules(root, "jobs"):
        for found in imports(path, module):
            top = found.source.partition(".")[0]
            if top not in KERNELS_MAY_IMPORT or found.source.startswith("cluster."):
                yield f"{module}:{found.line}: may not import {found.target}"


def modules(root: Path, folder: str) -> Iterator[tuple[Path, str]]:
    """Every Python file of the folder, with its dotted name."""
    for path in sorted(root.glob(f"{folder}/**/*.py")):
        yield path, ".".join(path.relative_to(root).with_suffix("").parts)


def loaded_by(*arguments: str) -> set[str]:
    """The top names of all modules that `python ARGUMENTS` loads on its way."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def test_every_room_imports_only_from_rooms_before_it() -> None:
    """The project's own files keep the order of the rooms."""
    assert violations(ROOT) == []


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("cluster/common/errors.py", "import cluster.sampling.tally"),
        ("cluster/sampling/tally.py", "from cluster.ledger import Ledger"),
        ("cluster/sampling/tally.py", "from cluster import dispatch"),
        ("cluster/sampling/tally.py", "from .. import dispatch"),
        ("cluster/sampling/tally.py", "from ..dispatch import loop"),
        ("cluster/sampling/tally.py", "from cluster import submit"),
        ("cluster/sampling/tally.py", "import cluster"),
        ("cluster/sampling/tally.py", "from cluster import __version__"),
        ("cluster/sampling/tally.py", "def late():\n    from cluster.sampling.plan import Plan"),
        (
            "cluster/sampling/tally.py",
            "if TYPE_CHECKING:\n    from cluster.sampling.plan import Plan",
        ),
        ("cluster/sampling/tally.py", "importlib.import_module('cluster.sampling.plan')"),
        ("cluster/sampling/tally.py", "from cluster.testing import FakeClock"),
        ("cluster/sampling/plan.py", "import yaml"),
        ("cluster/sampling/plan.py", "from sqlite3 import connect"),
        ("cluster/report/text.py", "import click"),
        ("cluster/sampling/plan.py", "from rich.text import Text"),
        ("cluster/dispatch/loop.py", "import mpi4py.MPI"),
        ("cluster/lifecycle/life.py", "__import__('dispy')"),
        ("cluster/backends/serial.py", "from cluster.backends.threads import run"),
        ("cluster/backends/serial.py", "from .threads import run"),
        ("cluster/backends/serial.py", "from . import threads"),
        ("cluster/backends/serial.py", "import cluster.dispatch.events"),
        ("cluster/drawer.py", ""),
        ("cluster/sampling/drawer.py", ""),
        ("cluster/sampling/tally.py", "from cluster.sampling import plan"),
        ("jobs/pi.py", "import scipy"),
        ("jobs/pi.py", "from cluster.sampling.tally import Hits"),
        ("jobs/pi.py", "import cluster.sampling.tally"),
        ("jobs/pi.py", "from jobs.other import helper"),
    ],
)
def test_a_planted_violation_is_found(tmp_path: Path, path: str, text: str) -> None:
    """Each way to import against the order is seen, wherever in the file it stands."""
    plant(tmp_path, path, text)
    assert len(violations(tmp_path)) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (
            "cluster/sampling/tally.py",
            "import math, numpy\nfrom cluster.common.errors import Problem",
        ),
        (
            "cluster/ledger/store.py",
            "import sqlite3\nfrom ..common import errors\nfrom ..sampling.tally import Hits",
        ),
        ("cluster/spec.py", "import yaml"),
        ("cluster/ledger.py", "from cluster.common.version import __version__"),
        ("cluster/report/text.py", "import rich.text\nfrom cluster.report.number import rounded"),
        ("cluster/backends/mpi.py", "from mpi4py import MPI\nfrom .base import Backend"),
        ("cluster/backends/mpi.py", "from cluster.backends import base"),
        ("cluster/backends/__init__.py", "from . import serial"),
        ("cluster/__init__.py", "def load():\n    from cluster.api import load"),
        ("cluster/__main__.py", "from cluster.cli import main"),
        (
            "cluster/testing/checks.py",
            "import sqlite3\nfrom cluster.backends import serial",
        ),
        ("jobs/pi.py", "import math, numpy, numba\nfrom cluster import Hits, kernel"),
    ],
)
def test_an_allowed_import_is_not_called_a_violation(tmp_path: Path, path: str, text: str) -> None:
    """The rules do not refuse what the rooms need."""
    plant(tmp_path, path, text)
    assert violations(tmp_path) == []


def test_no_files_import_each_other_in_a_circle() -> None:
    """Imports that wait until a function runs count too: such a circle hides a missing concept."""
    graph = graphlib.TopologicalSorter(arrows(ROOT))
    graph.prepare()


def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    """Through the door of the package as well as within a room."""
    plant(tmp_path, "cluster/spec/one.py", "def late():\n    from cluster.spec import two")
    (tmp_path / "cluster/spec/two.py").write_text("from cluster.spec.one import late")
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(arrows(tmp_path)).prepare()


def arrows(root: Path) -> dict[str, set[str]]:
    """Which files of the package each of them imports, by their dotted names."""
    files = {name.removesuffix(".__init__"): path for path, name in modules(root, "cluster")}
    graph: dict[str, set[str]] = {}
    for path, module in modules(root, "cluster"):
        found = {
            name
            for each in imports(path, module)
            for name in [each.target if each.target in files else each.source]
        }
        own = module.removesuffix(".__init__")
        graph[own] = (found & files.keys()) - {own}
    return graph


def plant(root: Path, path: str, text: str) -> None:
    """Write one file of a made-up project."""
    file = root / path
    file.parent.mkdir(parents=True)
    file.write_text(text)


def test_help_loads_nothing_heavy() -> None:
    """`--help` answers before numpy, the models, the command line's library or an engine load."""
    assert loaded_by("-m", "cluster", "--help") & HEAVY == set()


@pytest.mark.parametrize("module", ["cluster", "cluster.common.errors"])
def test_importing_the_package_loads_nothing_heavy(module: str) -> None:
    """A worker that needs one room does not pay for the others."""
    assert loaded_by("-c", f"import {module}") & HEAVY == set()


@pytest.mark.parametrize("engine", ["dispy", "scoop"])
def test_an_engine_is_named_in_its_own_files_alone(engine: str) -> None:
    """Options, words and places of an engine come from its ENTRY; no common code knows them."""
    own = ROOT / "cluster" / "backends" / engine
    files = [path for path in (ROOT / "cluster").rglob("*.py") if own not in path.parents]
    assert files
    assert [str(path) for path in files if engine in path.read_text("utf-8").lower()] == []
