"""What is installed on the hosts: one environment without the project, and the project's wheel.

Both are kept in .venv-lab of the checkout, each in a folder that is named by all that it depends
on and never changed. A host sees the second laid over the first (see lab_host.environment).
"""

from __future__ import annotations

import configparser
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from scripts.lab_base import PYTHON, ROOT, LabError, all_keepers, say

STORE = ROOT / ".venv-lab"
SOURCES = ("cluster", "cluster_command.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
NOT_ON_HOSTS = {"all", "dev", "mpich"}  # of two MPIs in one environment the last one wins
MAY_BE_MISSING = "numba"
VERSION = "{}.{}".format(*sys.version_info[:2])

Fill = Callable[[Path], None]


def interpreter() -> Path:
    """The Python behind the environment that this runs in; the hosts get the same one."""
    return Path(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))


def requirements() -> list[str]:
    """All that the project and its engines need to run."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    extras = parser["options.extras_require"]
    lines = parser["options"]["install_requires"].splitlines()
    for extra in extras.keys() - NOT_ON_HOSTS:
        lines += extras[extra].splitlines()
    return sorted({line.strip() for line in lines} - {""})


def digest(parts: Iterable[bytes]) -> str:
    """A short name for what something depends on."""
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part).digest())
    return total.hexdigest()[:12]


def source_files() -> list[Path]:
    """Every file that the wheel is made of."""
    found = [ROOT / name for name in SOURCES if (ROOT / name).is_file()]
    found += [path for path in (ROOT / "cluster").rglob("*") if path.is_file()]
    return sorted(path for path in found if "__pycache__" not in path.parts)


def once(name: str, what: str, fill: Fill) -> Path:
    """The folder of that name in the store; filled first, whole or not at all, if it is new.

    Whoever calls this holds the lock of the store.
    """
    folder = STORE / name
    if folder.is_dir():
        return folder
    say(f"installing {what} for the hosts, once")
    sweep()
    with tempfile.TemporaryDirectory(prefix="new-", dir=STORE) as made:
        fill(Path(made) / name)
        prune(name.partition("-")[0])
        Path(made, name).rename(folder)
    return folder


def prune(kind: str) -> None:
    """Remove what was made for earlier states of the checkout, unless a host may be using it."""
    if not list(all_keepers()):
        for old in STORE.glob(f"{kind}-*"):
            shutil.rmtree(old, ignore_errors=True)


def sweep() -> None:
    """Remove what an installation left that was killed."""
    for left in STORE.glob("new-*"):
        shutil.rmtree(left, ignore_errors=True)


def pip(folder: Path, *words: str | Path) -> None:
    """Run the environment's pip."""
    command = [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", *words]
    # Pip's own settings (index, proxy) are the person's; a PYTHONPATH is not meant for it.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, check=False, env=ours, capture_output=True, text=True)
    if done.returncode:
        lines = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        fix = "see pip's lines; a proxy or another index is set in pip's own configuration"
        raise LabError(f"pip could not install for the hosts:\n{lines}", fix, 69)


def install_requirements(folder: Path) -> None:
    """A new environment with all requirements, without the project."""
    subprocess.run([interpreter(), "-m", "venv", folder], check=True)
    wanted = [*requirements(), "setuptools>=77"]
    words = ("install", "--quiet", "--only-binary", "numba,llvmlite")
    try:
        pip(folder, *words, *wanted)
    except LabError:
        # As scripts/_env does: without numba kernels run as numpy, with the same tallies.
        pip(folder, *words, *(line for line in wanted if not line.startswith(MAY_BE_MISSING)))
        say("numba could not be installed: kernels run as numpy on the hosts")
    rename_interpreter(folder, folder)


def install_project(environment: Path, folder: Path) -> None:
    """The project's wheel alone, from a copy, so that the checkout stays clean."""
    with tempfile.TemporaryDirectory() as made:
        for path in source_files():
            target = Path(made, path.relative_to(ROOT))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        words = ("install", "--quiet", "--no-deps", "--no-build-isolation", "--ignore-installed")
        pip(environment, *words, "--prefix", folder, made)
    rename_interpreter(folder, environment)


def rename_interpreter(folder: Path, environment: Path) -> None:
    """In the scripts' first lines, write the interpreter's place as it is on the hosts."""
    here, there = bytes(environment / "bin"), bytes(PYTHON.parent)
    for script in (folder / "bin").iterdir():
        if script.is_file() and not script.is_symlink() and here in script.read_bytes()[:4096]:
            script.write_bytes(script.read_bytes().replace(here, there))


def environment() -> Path:
    """The folder of the environment without the project."""
    needs = [str(interpreter()), sys.version, *requirements()]
    name = f"python{VERSION}-{digest(map(str.encode, needs))}"
    return once(name, "Python packages", install_requirements)


def project(environment: Path) -> Path:
    """The folder with the project as it is installed into that environment, to be laid over it."""
    parts = [environment.name.encode()]
    parts += [part for path in source_files() for part in (bytes(path), path.read_bytes())]
    fill: Fill = lambda folder: install_project(environment, folder)  # noqa: E731
    return once(f"project{VERSION}-{digest(parts)}", "the project", fill)
