"""The commands that are told can be typed as they stand."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.cli import group
from cluster.common.commands import VERBS, command


def test_a_told_command_runs_as_it_stands(tmp_path: Path) -> None:
    """In the same folder and shell, also where no program named cluster is found."""
    told = command("ls", store=tmp_path / "no store")
    done = subprocess.run(shlex.split(told), capture_output=True, text=True)
    assert done.returncode == 74, done.stderr
    assert "there is no store" in done.stderr


def test_it_is_short_where_the_shell_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the environment's programs on the PATH, it is cluster."""
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    assert command("show", "pi-1") == "cluster show pi-1"
    assert command("show", "pi-1", store="my runs") == "cluster show pi-1 --store 'my runs'"


def test_it_names_the_interpreter_where_it_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From the folder that holds the environment its path is short."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert command("ls") == f"{sys.executable} -P -m cluster ls"
    monkeypatch.chdir(Path(sys.executable).parents[2])
    assert command("ls") == f"{'/'.join(Path(sys.executable).parts[-3:])} -P -m cluster ls"


@pytest.mark.parametrize("verb", VERBS)
def test_help_begins_with_the_line_of_the_table(verb: str) -> None:
    """As it stands there, proper names included: Slurm, JSON Schema, Ctrl-C."""
    line = VERBS[verb]
    assert group.commands[verb].help == f"{line[0].upper()}{line[1:]}."
