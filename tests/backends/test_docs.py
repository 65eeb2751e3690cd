"""The page on writing a backend works when it is typed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.common.engines import read
from tests.backends.packages import install

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/backends.md").read_text().partition("## Writing one")[2]
FILES = dict(re.findall(r"^`([\w.]+)`:\n\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)[-1].splitlines()
# One check of each sort; all of them take most of a minute.
FEW = ["answered_once", "left_behind", "os_exit", "prints", "worker_killed"]


@pytest.fixture
def typed(tmp_path: Path) -> Path:
    """A folder with the files of the page."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def ended(
    folder: Path, *words: str, site: Path | None = None, limit: float = 100.0
) -> subprocess.CompletedProcess[str]:
    """A command of this Python in the folder; packages are also found in a site."""
    places = [str(place) for place in (site, ROOT) if place]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places)}
    return subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        check=False,
        timeout=limit,
        capture_output=True,
        text=True,
    )


def digest(folder: Path, backend: str, *words: str, site: Path | None = None) -> str:
    """Of a small run of the shipped pi.yaml on a backend."""
    spec = ["submit", str(ROOT / "configs/pi.yaml"), "--set", f"backend={backend}", *words]
    small = ["--set", "samples=1e5", "--set", "seed=7", "--store", backend, "--json", "--quiet"]
    done = ended(folder, "-m", "cluster", *spec, *small, site=site)
    assert done.returncode == 0, done.stderr
    return str(json.loads(done.stdout)["digest"])


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of serial."""
    return digest(tmp_path_factory.mktemp("serial"), "serial")


def test_the_page_has_the_files_of_a_package() -> None:
    """Two engines; the package and the tests of one, which are three lines beside the imports."""
    assert set(FILES) == {"mypool.py", "pyproject.toml", "test_mypool.py", "xmlpool.py"}
    for name, kind in (("mypool", "local"), ("xmlpool", "hosted")):
        entry = read(FILES[f"{name}.py"])
        assert entry is not None
        assert (entry.name, entry.kind) == (name, kind)


def test_the_engine_of_the_page_keeps_the_contract(typed: Path) -> None:
    """A check of each sort, by the command that the page names."""
    done = ended(typed, *COMMANDS[0].split()[1:], *FEW)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(FEW)} ok, 0 failed" in done.stdout


def test_the_engine_of_the_page_gives_the_digest_of_serial(typed: Path, expected: str) -> None:
    """Registered by its name, with its option."""
    install(typed, "mypool", None, "mypool = mypool:Engine", package="cluster_mypool")
    assert digest(typed, "mypool", "--set", "mypool.nice=5", site=typed) == expected


def test_the_call_engine_of_the_page_gives_the_digest_of_serial(typed: Path, expected: str) -> None:
    """Two functions over the standard library, registered by their package."""
    install(typed, "xmlpool", None, "xmlpool = xmlpool:Engine", package="cluster_xmlpool")
    assert digest(typed, "xmlpool", site=typed) == expected


@pytest.mark.slow
def test_the_call_engine_of_the_page_keeps_the_contract(typed: Path) -> None:
    """All of it, by the command that the page names, with its module on the path."""
    done = ended(typed, "-P", "-m", "cluster.testing", "xmlpool:Engine", site=typed, limit=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed" in done.stdout


@pytest.mark.slow
def test_every_command_of_the_page_works(typed: Path, tmp_path: Path) -> None:
    """As it stands there; only that pip reaches no network, and installs into a folder."""
    site = tmp_path / "site"
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--quiet", "--target", str(site)]
    for command in COMMANDS:
        words = command.replace("configs/", f"{ROOT}/configs/").split()
        if words[0] == "pip":
            words[2:2] = offline
        words = words[1:] if words[0] == "python" else ["-m", *words]
        done = ended(typed, *words, site=site, limit=250)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        if "backends" in words:
            assert re.search(r"^mypool +yes ", done.stdout, re.MULTILINE)
