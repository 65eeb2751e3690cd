"""The doors for people and CI: the scripts, the settings, and what an installation holds."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

import cluster
from tests.conftest import need

ROOT = Path(__file__).parents[1]
DOORS = [
    "scripts/submit",
    "scripts/test",
    "scripts/check",
    "scripts/pythons",
    "scripts/lab",
    ".ci/run",
]
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


def bash(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a few lines of bash that may use scripts/_env, with an environment of its own."""
    lines = f"set -euo pipefail\nsource '{ROOT}/scripts/_env'\n{script}"
    command = ["bash", "-c", lines, "the-script"]
    clean = {"PATH": SYSTEM_PATH, **env}
    return subprocess.run(command, env=clean, capture_output=True, text=True, timeout=60)


def fake_python(folder: Path, name: str, text: str) -> None:
    """Put a command into the folder that looks like a Python, and does what the text says."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)


def settings() -> configparser.ConfigParser:
    """The settings of the project, as setup.cfg has them."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


@pytest.mark.parametrize("door", [*DOORS, "scripts/_env"])
def test_a_script_is_valid_bash_that_says_what_it_does(door: str) -> None:
    """Every script parses, and begins with a sentence about itself."""
    parsed = subprocess.run(["bash", "-n", ROOT / door], capture_output=True, text=True)
    assert parsed.stderr == ""
    first = (ROOT / door).read_text().removeprefix("#!/usr/bin/env bash\n").partition("\n")[0]
    assert re.fullmatch(r"# [A-Z].+\.", first)


@pytest.mark.parametrize("door", DOORS)
def test_a_script_can_be_run_and_stops_at_the_first_error(door: str) -> None:
    """A script is executable, and is strict about failures and unset variables."""
    assert os.access(ROOT / door, os.X_OK)
    assert "\nset -euo pipefail\n" in (ROOT / door).read_text()


def test_an_interpreter_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    """A shim that refuses its version, and one that is too old, are not taken for a Python."""
    fake_python(
        tmp_path / "bin", "python3.13", "echo 'python3.13: command not found' >&2; exit 127"
    )
    fake_python(tmp_path / "bin", "python3.12", "exit 1")
    fake_python(tmp_path / "bin", "python3.11", f"exec '{sys.executable}' \"$@\"")
    found = bash("find_python", PATH=f"{tmp_path}/bin:{SYSTEM_PATH}")
    assert found.stdout == f"{tmp_path}/bin/python3.11\n"


def test_a_version_that_pyenv_has_is_found_behind_its_shim(tmp_path: Path) -> None:
    """Where the command on PATH does not run, pyenv's own folder of versions is looked into."""
    version = "{}.{}".format(*sys.version_info[:2])
    fake_python(tmp_path / "bin", f"python{version}", "exit 127")
    behind = tmp_path / "pyenv" / "versions" / f"{version}.99" / "bin"
    fake_python(behind, "python", f"exec '{sys.executable}' \"$@\"")
    found = bash(
        f'type() {{ printf "%s\\n" "{tmp_path}/bin/python{version}"; }}; find_python {version}',
        PYENV_ROOT=f"{tmp_path}/pyenv",
    )
    assert found.stdout == f"{behind}/python\n"


def test_no_usable_python_ends_with_the_fix() -> None:
    """Without any Python the person is told what to install, or how to name one."""
    found = bash("type() { return 1; }; choose_python", PYENV_ROOT="/nonexistent")
    assert found.returncode == 69
    assert "error: no Python 3.11 or later" in found.stderr
    assert "fix: install one" in found.stderr


def test_a_python_without_venv_is_named_with_the_package_to_install(tmp_path: Path) -> None:
    """Debian's Python without its venv package is told from no Python at all."""
    fake_python(tmp_path, "python3.13", 'case "$*" in *ensurepip*) exit 1;; esac; exit 0')
    found = bash(
        f'type() {{ printf "%s\\n" "{tmp_path}/python3.13"; }}; choose_python',
        PYENV_ROOT="/nonexistent",
    )
    assert found.returncode == 69
    assert f"{tmp_path}/python3.13 has no venv module" in found.stderr
    assert "apt install python3-venv" in found.stderr


def test_a_python_named_by_the_person_is_used_or_refused() -> None:
    """$PYTHON is never replaced by another one in silence."""
    assert bash("choose_python", PYTHON=sys.executable).stdout == f"{sys.executable}\n"
    refused = bash("choose_python", PYTHON="/nonexistent/python3")
    assert refused.returncode == 69
    assert "PYTHON=/nonexistent/python3 does not run" in refused.stderr


def test_a_version_asked_for_is_never_answered_with_another(tmp_path: Path) -> None:
    """Neither $PYTHON nor the best Python on PATH stands in for the version that was named."""
    version = "{}.{}".format(*sys.version_info[:2])
    fake_python(tmp_path, f"python{version}", f"exec '{sys.executable}' \"$@\"")
    env = {"PATH": f"{tmp_path}:{SYSTEM_PATH}", "PYTHON": "/nonexistent/python3"}
    assert bash(f"choose_python {version}", **env).stdout == f"{tmp_path}/python{version}\n"
    refused = bash("choose_python 3.99", **env)
    assert refused.returncode == 69
    assert "no Python 3.99 was found" in refused.stderr


def test_an_environment_of_another_version_is_refused(tmp_path: Path) -> None:
    """An environment is used only if its own interpreter says that it is what was asked for."""
    version = "{}.{}".format(*sys.version_info[:2])
    fake_python(tmp_path / "bin", "python", f"exec '{sys.executable}' \"$@\"")
    lines = f"make_venv() {{ :; }}; choose_python() {{ :; }}; ready {tmp_path} 3.99 dev"
    refused = bash(lines)
    assert refused.returncode == 69
    assert "is not the Python that was asked for: 3.99" in refused.stderr
    assert bash(f"runs {tmp_path}/bin/python {version}").returncode == 0


def test_the_shared_file_defines_each_function_once() -> None:
    """A second definition would replace the first in silence."""
    text = (ROOT / "scripts" / "_env").read_text()
    names = re.findall(r"^(\w+)\(\)", text, flags=re.MULTILINE)
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize(
    ("extras", "rest"),
    [("fast", ""), ("dev,fast", "dev"), ("fast,dev", "dev"), ("dev,fast,all", "dev,all")],
)
def test_the_fallback_leaves_out_numba_alone(extras: str, rest: str) -> None:
    """Where numba has no build, everything else is installed still."""
    assert bash(f"without_fast {extras}").stdout == rest


def test_an_environment_is_installed_again_only_when_the_settings_change(tmp_path: Path) -> None:
    """The stamps of both extras must be those of now."""
    lines = f'for now in 1 2; do installed {tmp_path} "$now" dev fast && echo "$now"; done; true'
    (tmp_path / "stamp-dev").write_text("1\n")
    assert bash(lines).stdout == ""
    (tmp_path / "stamp-fast").write_text("1\n")
    assert bash(lines).stdout == "1\n"


def test_the_version_is_the_one_of_the_package() -> None:
    """The version is written once, in the package."""
    assert settings()["metadata"]["version"] == "attr: cluster.common.version.__version__"
    assert re.fullmatch(r"\d+\.\d+\.\d+", cluster.__version__)


def test_the_extra_all_holds_every_extra_for_users() -> None:
    """`all` misses none of the extras that add to what the program can do."""
    extras = settings()["options.extras_require"]
    named = set(re.findall(r"cluster-montecarlo\[([\w-]+)\]", extras["all"]))
    # Of two MPIs in one environment the last one wins.
    assert named == set(extras) - {"all", "dev", "mpich"}


def test_every_requirement_of_the_core_has_a_lower_bound() -> None:
    """A requirement without a bound would take a version that was never tried."""
    requirements = settings()["options"]["install_requires"].split()
    assert [line for line in requirements if ">=" not in line] == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy so that the tree stays clean, and without the network."""
    setuptools = subprocess.run([sys.executable, "-c", "import setuptools, pip"])
    need(setuptools.returncode == 0, "setuptools and pip: scripts/test installs them")
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT / "cluster", folder / "cluster")
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-deps"]
    command = [*pip, "--no-build-isolation", "--no-index", "--wheel-dir", "out", "."]
    built = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=200)
    assert built.returncode == 0, built.stdout + built.stderr
    return zipfile.ZipFile(next((folder / "out").iterdir()))


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_data_file(wheel: zipfile.ZipFile) -> None:
    """What the package has in the tree it has when installed; and nothing else is installed."""
    tree = (path.relative_to(ROOT) for path in (ROOT / "cluster").rglob("*") if path.is_file())
    wanted = {str(path) for path in tree if path.suffix in {".py", ".json"} or path.stem == "py"}
    inside = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert inside == wanted
    assert "cluster/py.typed" in inside


@pytest.mark.slow
def test_the_wheel_says_what_it_is(wheel: zipfile.ZipFile) -> None:
    """Name, version, licence, Python and the command are those of setup.cfg."""
    named = {name.rpartition("/")[2]: name for name in wheel.namelist() if ".dist-info/" in name}
    headers = HeaderParser().parsestr(wheel.read(named["METADATA"]).decode())
    assert headers["Name"] == "cluster-montecarlo"
    assert headers["Version"] == cluster.__version__
    assert headers["License-Expression"] == "MIT"
    assert headers["Requires-Python"] == ">=3.11"
    assert {"fast", "all", "dev"} <= set(headers.get_all("Provides-Extra", []))
    assert b"cluster = cluster_command:main" in wheel.read(named["entry_points.txt"])
