"""Files of a person's own that are named as this package, or as what it needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster.common import commands
from tests.cli.shell import COMMAND, PATIENCE, ROOT, ask, environment, only_document, spec
from tests.conftest import need

TRAP = "raise SystemExit('imported from the working folder')\n"
INSTALLED = [str(Path(sys.executable).parent / "cluster")]


def submitted(command: Sequence[str], path: Path, **env: str | None) -> None:
    """Run a spec by a command, in its folder."""
    done = subprocess.run(
        [*command, "submit", path.name, "--json"],
        cwd=path.parent,
        env=environment(**env),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert only_document(done.stdout, "submit")["state"] == "done"


def made(folder: Path, what: str) -> None:
    """A file or a folder called cluster."""
    if what == "cluster.py":
        (folder / what).write_text(TRAP)
        return
    (folder / "cluster").mkdir()
    if what == "a package":
        (folder / "cluster" / "__init__.py").write_text("")
        (folder / "cluster" / "tally.py").write_text(TRAP)


@pytest.mark.fault(104)
@pytest.mark.parametrize("what", ["cluster.py", "a folder", "a package"])
@pytest.mark.parametrize("place", [".", ""], ids=["dot", "empty"])
def test_pythonpath_hides_nothing_from_the_command(what: str, place: str, tmp_path: Path) -> None:
    """It looks beside itself first; and so do the workers that it starts."""
    need(Path(INSTALLED[0]).exists(), "the command is not installed: pip install -e .")
    path = spec(tmp_path, samples=2000)
    made(tmp_path, what)
    submitted(INSTALLED, path, PYTHONPATH=f"{place}:{ROOT}", PYTHONSAFEPATH=None)


@pytest.mark.fault(104)
@pytest.mark.parametrize("what", ["a folder", "a package"])
def test_our_own_package_takes_its_place_again(what: str, tmp_path: Path) -> None:
    """Where Python found somebody's folder first, but ran the right ``__main__``."""
    path = spec(tmp_path, samples=2000)
    made(tmp_path, what)
    line = (
        "import runpy, sys; sys.path.insert(0, '.'); import cluster; del sys.path[0];"
        f" sys.argv[0] = 'cluster'; runpy.run_path({str(ROOT / 'cluster' / '__main__.py')!r},"
        " run_name='__main__')"
    )
    submitted([sys.executable, "-P", "-c", line], path, PYTHONPATH=None)


@pytest.mark.fault(104)
@pytest.mark.parametrize("name", ["cluster", "types", "typing", "random", "numpy", "__main__"])
def test_a_kernel_s_file_may_be_named_as_any_module(name: str, tmp_path: Path) -> None:
    """It is imported by a name of its own; nothing else finds it, in no process of ours."""
    path = spec(tmp_path, samples=2000)
    (tmp_path / "kernels.py").rename(tmp_path / f"{name}.py")
    path.write_text(path.read_text().replace("kernels.py", f"{name}.py"))
    submitted([COMMAND[0], "-P", *COMMAND[1:]], path, PYTHONPATH=str(ROOT))


def test_every_command_that_is_printed_is_of_the_safe_form(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The installed command, or Python with -P: what lies in a folder is not run in its place."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert " -P -m cluster show x" in commands.command("show", "x")
    path = spec(tmp_path)
    for words in (["--slurm"], ["--cron", "@daily"], ["--systemd", "--at", "daily"]):
        shown = ask("schedule", path, *words, "--print", cwd=tmp_path)
        texts = [file["text"] for file in shown["files"]]
        assert any("-P -m cluster" in text for text in texts)
        assert all(text.count("-m cluster") == text.count("-P -m cluster") for text in texts)
