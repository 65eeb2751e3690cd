"""What engines are is read from their own files, and other distributions may bring some."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest

from cluster.backends.base import Options, create, kind, proven
from cluster.backends.kit.calls import installation
from cluster.common import engines
from cluster.common.engines import built_in, entries, entry
from cluster.common.errors import EngineError, SpecError
from cluster.common.secret import Secret
from cluster.hosts.nodes import Node
from cluster.sampling.plan import Goal
from cluster.spec import Spec, parse
from cluster.testing import drive, work_of
from scripts.bench import PARTS
from tests.backends.packages import engine, install

ROOT = Path(__file__).parents[2]
HERE = (Node("localhost", slots=1),)
SPEC = "kernel: k.py:f\nsamples: 1e3\n"
PI = ["submit", "configs/pi.yaml", "--json", "--quiet", "--set", "samples=1e5", "--set", "seed=7"]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that Python looks through, where distributions can be put."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    engines.others.cache_clear()
    yield folder
    engines.others.cache_clear()


def ended(*words: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command line, with a folder where other distributions are installed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(path or ""), str(ROOT)])}
    return subprocess.run(
        [sys.executable, "-P", "-m", "cluster", *words],
        cwd=ROOT,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def document(*words: str, path: Path | None = None) -> Any:
    """What the command line prints with ``--json``."""
    return json.loads(ended(*words, "--json", path=path).stdout)


def test_a_host_without_an_engine_gets_the_command_that_installs_it(site: Path) -> None:
    """An engine's own package, where another distribution brings it; else what it needs."""
    install(site, "theirs", engine("theirs"), "theirs = theirs:Engine", package="their_package")
    assert installation("theirs") == "there: pip install their_package"
    assert installation("cluster.backends.zeromq") == (
        "there: pip install 'cluster-montecarlo[zeromq]'"
    )
    assert installation("cluster.backends.tcp") == "install there what it needs"
    assert installation("unknown") == "install there what it needs"


# -- the engines of this package ------------------------------------------------------------------


def test_every_engine_is_named_as_its_file() -> None:
    """The name in the entry is that of the file or package, which has the class."""
    for each in built_in():
        assert each.target == f"cluster.backends.{each.name}:Engine"
        assert kind(each.name).__name__ == "Engine"


def test_every_file_with_an_engine_has_an_entry() -> None:
    """One that was forgotten would be no backend, without a word."""
    folder = ROOT / "cluster/backends"
    found = set()
    for path in (*folder.glob("*.py"), *folder.glob("*/__init__.py")):
        text = path.read_text()
        if re.search(r"^class Engine\b|^__all__ = \[\"Engine\"\]", text, re.MULTILINE):
            found.add(path.stem if path.parent == folder else path.parent.name)
    assert found == {each.name for each in built_in()}


def test_reading_all_entries_imports_no_engine() -> None:
    """Nor numpy, nor anything else that takes time."""
    code = """
import sys
from cluster.common.engines import entries
entries()
print([name for name in sys.modules if name.startswith(("cluster.backends.", "numpy", "pydantic"))])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert done.stdout == "[]\n"


def test_what_an_engine_needs_is_an_extra_of_this_package() -> None:
    """The install line of an entry works, and ``all`` has it."""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    for each in built_in():
        if each.needs:
            assert each.install == f"pip install 'cluster-montecarlo[{each.name}]'"
            assert extras[each.name].split()
            assert f"cluster-montecarlo[{each.name}]" in extras["all"].split()
        else:
            assert each.install is None


def test_the_table_of_the_docs_has_every_engine_in_the_words_of_its_entry() -> None:
    """In the order of ``cluster backends``."""
    text = (ROOT / "docs/backends.md").read_text()
    table = text.partition("| backend | what it is |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", table, re.MULTILINE)
    assert rows == [(each.name, each.summary) for each in built_in()]


def test_every_engine_of_several_hosts_is_measured() -> None:
    """``scripts/bench`` has a part for each."""
    assert {each.name for each in built_in() if each.hosted} <= set(PARTS)


@pytest.mark.parametrize(
    "text",
    ["ENTRY = Entry('x', f'{1}')", "ENTRY = Entry(**x)", "ENTRY = Entry(name())"],
)
def test_an_entry_that_is_computed_is_refused(text: str) -> None:
    """It could not be read without running the file."""
    with pytest.raises(ValueError, match=r"malformed|literal"):
        engines.read(text)


# -- those of other distributions -----------------------------------------------------------------


@pytest.mark.slow
def test_an_installed_package_brings_a_backend(tmp_path: Path) -> None:
    """Built and installed by pip: it is listed, it is in the schema, and gives serial's digest."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "theirs.py").write_text(engine("theirs", of="processes", kind="local"))
    (source / "pyproject.toml").write_text(
        "[build-system]\nrequires = ['setuptools']\nbuild-backend = 'setuptools.build_meta'\n"
        "[project]\nname = 'cluster-theirs'\nversion = '1.0'\n"
        "[project.entry-points.'cluster.backends']\ntheirs = 'theirs:Engine'\n"
        "[tool.setuptools]\npy-modules = ['theirs']\n"
    )
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    words = ["--no-build-isolation", "--disable-pip-version-check", "--target"]
    subprocess.run([*pip, *words, str(target), str(source)], check=True, timeout=120)
    rows = {row["backend"]: row for row in document("backends", path=target)}
    assert (rows["theirs"]["usable"], rows["theirs"]["package"]) == (True, "cluster-theirs")
    assert (
        "theirs" in json.loads(ended("schema", path=target).stdout)["properties"]["backend"]["enum"]
    )
    results = [
        document(*PI, "--set", f"backend={name}", "--store", str(tmp_path / name), path=target)
        for name in ("serial", "theirs")
    ]
    assert [result["state"] for result in results] == ["done", "done"]
    assert results[0]["digest"] == results[1]["digest"]


def test_a_missing_package_is_answered_with_its_install_line(site: Path) -> None:
    """The engine is not imported; the person is told how to get it."""
    more = ", needs=('no_such_package',), install='pip install grid'"
    install(
        site, "grid", "import no_such_package\n" + engine("grid", more=more), "grid = grid:Engine"
    )
    found = entry("grid")
    assert found is not None
    assert not found.usable
    with pytest.raises(EngineError, match="not installed") as caught:
        create("grid", HERE)
    assert caught.value.fix == "pip install grid"
    assert "grid" not in sys.modules


BROKEN = {
    "raises at its import": ("raise OSError('no licence')", "OSError: no licence"),
    "ends at its import": ("raise SystemExit(3)", "SystemExit: 3"),
    "is no Python": ("def", "SyntaxError"),
    "is not there": (None, "ModuleNotFoundError"),
    "has no class": ("ENTRY = 1", "no attribute 'Engine'"),
    "has no entry": ("class Engine: pass", "no ENTRY = Entry(...)"),
    "is another name": (engine("other"), "its ENTRY says 'other'"),
    "is no engine": (engine("bad0").replace("class Engine(Ours)", "class Engine"), "inherits from"),
    "has no run": (
        engine("bad0")
        .replace("class Engine(Ours)", "class Engine(Backend)")
        .replace("import Entry", "import Backend, Entry"),
        "no method run",
    ),
    "is of another kind": (engine("bad0", kind="local"), "kind='local'"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_engine_is_told_in_words_and_hurts_no_other(what: str, site: Path) -> None:
    """Naming its package and what to do; all others are listed, and run."""
    text, said = BROKEN[what]
    number = list(BROKEN).index(what)
    name = module = f"bad{number}"
    text = None if text is None else text.replace("bad0", name)
    install(site, module, text, f"{name} = {module}:Engine")
    install(site, f"good{number}", engine(f"good{number}"), f"good{number} = good{number}:Engine")
    rows = {each.name: each for each in map(proven, entries())}
    assert not rows[name].usable
    assert said in rows[name].trouble
    assert name in rows[name].trouble
    assert all(rows[each.name].usable == each.usable for each in built_in())
    assert rows[f"good{number}"].usable
    with pytest.raises(EngineError) as caught:
        create(name, HERE)
    assert said in caught.value.message
    assert caught.value.fix == f"fix or remove it: pip uninstall {module}"
    assert parse(f"{SPEC}backend: good{number}\n", "s.yaml", site).backend == f"good{number}"


def test_a_name_that_is_ours_stays_ours(site: Path) -> None:
    """It is told beside it, and our engine runs."""
    install(site, "mine", engine("threads"), "threads = mine:Engine")
    row = {each.name: each for each in entries()}["threads"]
    assert row.usable
    assert row.note == "mine also registers the backend threads; the built-in one is used"
    assert kind("threads").__module__ == "cluster.backends.threads"


def test_a_name_that_two_packages_register_is_neither(site: Path) -> None:
    """Which of them is meant, nobody can know."""
    install(site, "one_twin", engine("twin"), "twin = one_twin:Engine")
    install(site, "two_twin", engine("twin"), "twin = two_twin:Engine")
    with pytest.raises(EngineError, match="one_twin and two_twin both register") as caught:
        create("twin", HERE)
    assert caught.value.fix


def test_the_command_line_tells_of_a_broken_engine(tmp_path: Path) -> None:
    """``backends`` and ``doctor`` in a line, a run in its error; what it prints is kept out."""
    install(tmp_path, "loud", "print('hello')\nraise OSError('no licence')", "loud = loud:Engine")
    row = next(row for row in document("backends", path=tmp_path) if row["backend"] == "loud")
    assert (row["usable"], row["package"]) == (False, "loud")
    assert "no licence" in row["problem"]
    assert "no licence" in ended("backends", path=tmp_path).stdout
    error = document(*PI, "--set", "backend=loud", "--store", str(tmp_path / "s"), path=tmp_path)
    assert error["error"]["code"] == 69
    assert "no licence" in error["error"]["message"]
    found = document("doctor", "--store", str(tmp_path / "s"), path=tmp_path)["findings"]
    assert [each["status"] for each in found if each["check"] == "backends"] == ["warn"]


def test_hosts_do_not_need_the_package_of_an_engine(site: Path) -> None:
    """It is on the way of this process only, not on that of the agent and its workers."""
    install(site, "far", engine("far", of="ssh", kind="hosted"), "far = far:Engine")
    driven = drive(lambda: create("far", HERE), work_of(), Goal(8))
    assert driven.ending.state.value == "done"
    assert kind("far").__module__ == "far"


# -- options --------------------------------------------------------------------------------------

MORE = """, about="How it goes.", options=(
    Option("pace", "time", "How fast.", 2.0), Option("mode", "choice", "How.", "a", ("a", "b")),
    Option("key", "secret", "The key."), Option("loud", "flag", "Aloud.", False),
    Option("at", "file", "A file."), Option("n", "whole", "How many.", 3),
    Option("word", "text", "A word."), Option("part", "number", "How much."),
)"""
DEFAULTS = {
    "pace": 2.0,
    "mode": "a",
    "key": None,
    "loud": False,
    "at": None,
    "n": 3,
    "word": None,
    "part": None,
}


def test_an_engine_gets_its_own_options(site: Path) -> None:
    """Under its own name in the spec; each is of the kind that its entry says."""
    install(site, "own", engine("own", more=MORE), "own = own:Engine")
    assert Options.of(parse(f"{SPEC}backend: own\n", "s.yaml", site)).own == DEFAULTS
    given = (
        "own: {pace: 1m, mode: b, key: {file: k}, loud: true, at: x/y, n: 4, word: w, part: 0.5}"
    )
    spec = parse(f"{SPEC}backend: own\n{given}\n", "s.yaml", site)
    assert Options.of(spec).own == {
        "pace": 60.0,
        "mode": "b",
        "key": Secret(file=str(site / "k")),
        "loud": True,
        "at": str(site / "x/y"),
        "n": 4,
        "word": "w",
        "part": 0.5,
    }
    assert Options.of(spec.revised(["own.n=5"])).own["n"] == 5
    again = Spec.from_json(json.loads(json.dumps(spec.to_json())))
    assert again == spec
    assert Options.of(again).own == Options.of(spec).own


def test_an_engine_of_a_sweep_over_backends_gets_its_own_options(site: Path) -> None:
    """Not those of the spec's own backend."""
    install(site, "swept", engine("swept", more=MORE), "swept = swept:Engine")
    spec = parse(f"{SPEC}swept: {{n: 4}}\ndispy: {{network: trusted}}\n", "s.yaml", site)
    assert Options.of(spec).own == {}
    assert Options.of(spec, "swept").own["n"] == 4
    assert Options.of(spec, "dispy").attaches
    assert not Options.of(spec, "swept").attaches


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{pace: x}", "3:14: mine.pace: must be a time"),
        ("{mode: c}", "3:14: mine.mode: unknown mode 'c'; it has a, b"),
        ("{loud: 1}", "3:14: mine.loud: must be true or false, got 1"),
        ("{moed: a}", "3:8: mine.moed: unknown key; did you mean 'mode'?"),
        ("{pace:}", "3:13: mine.pace: a value is missing"),
        ("3", "3:7: mine: must be a mapping"),
        ("{key: {}}", "3:13: mine.key: must name one place"),
    ],
)
def test_a_wrong_option_is_told_at_its_place(given: str, said: str, site: Path) -> None:
    """As any other key of the spec, together with what else is wrong."""
    install(site, "mine_too", engine("mine", more=MORE), "mine = mine_too:Engine")
    with pytest.raises(SpecError) as caught:
        parse(f"kernel: k.py:f\nsamples: 0\nmine: {given}\n", "s.yaml", site)
    assert str(caught.value).startswith("s.yaml:2:10: samples: ")
    assert said in str(caught.value)


def test_a_recorded_run_of_an_engine_that_is_gone_is_read(site: Path) -> None:
    """It is shown as it was, and resumed elsewhere."""
    install(site, "gone", engine("gone", more=MORE), "gone = gone:Engine")
    data = parse(f"{SPEC}backend: gone\ngone: {{n: 4}}\n", "s.yaml", site).to_json()
    (site / "gone-1.0.dist-info/entry_points.txt").unlink()
    engines.others.cache_clear()
    spec = Spec.from_json(data)
    assert (spec.backend, spec.to_json()) == ("gone", data)
    assert spec.revised(["backend=serial"]).backend == "serial"
    with pytest.raises(SpecError, match="unknown backend 'gone'"):
        parse(f"{SPEC}backend: gone\n", "s.yaml", site)


def test_the_points_of_a_sweep_have_the_options_of_their_spec(site: Path) -> None:
    """Nodes that stand are met as the whole spec says."""
    nodes = "nodes: [{host: a, attach: 97}]\ndispy: {network: trusted}\nbackend: dispy\n"
    spec = parse(f"{SPEC}{nodes}sweep: {{matrix: {{seed: [1, 2]}}}}\n", "s.yaml", site)
    assert Options.of(spec.varied({"seed": 1})).own["network"] == "trusted"
