"""Names and texts that are not UTF-8: of files, arguments, variables, mounts, other programs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.backends.mpi.launcher import find
from cluster.hosts.scratch import hostname
from cluster.unattended.schedule.slurm import Order, text
from tests.cli.shell import COMMAND, PATIENCE, ROOT, ask, cluster, environment, spec
from tests.conftest import need
from tests.unattended.test_crontab_bytes import job

CAFE = os.fsdecode(b"caf\xe9")


def test_the_spec_the_kernel_the_store_and_the_folder_may_have_any_name(tmp_path: Path) -> None:
    """Bytes that are no UTF-8 are part of a path as others are; variables keep theirs."""
    folder = tmp_path / CAFE
    folder.mkdir()
    path = spec(folder, nodes="localhost:1", samples=1000).rename(folder / f"{CAFE}.yaml")
    env = environment(PYTHONPATH=str(ROOT), NAME=CAFE, HOME=str(folder), XDG_CACHE_HOME=None)
    words = ["submit", path.name, "--store", CAFE, "--json", "-q"]
    done = cluster(*words, cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    shown = cluster("ls", "--store", CAFE, cwd=folder, env=env)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "done" in shown.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["show", CAFE],
        ["compare", CAFE, "x"],
        ["stop", f"{CAFE}/0"],
        ["submit", "quarter.yaml", "--set", f"name={CAFE}"],
        ["submit", f"{CAFE}.yaml"],
    ],
    ids=["show", "compare", "stop", "set", "submit"],
)
def test_an_argument_that_is_not_utf8_is_told_as_such(words: list[str], tmp_path: Path) -> None:
    """As one that names nothing."""
    path = spec(tmp_path, backend="serial", samples=1000)
    if words[0] in ("show", "compare", "stop"):
        ask("submit", path, cwd=tmp_path)
    done = cluster(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "fault of cluster" not in done.stderr
    assert "surrogate" not in done.stderr


def test_a_mount_point_of_any_name_disturbs_no_store(tmp_path: Path) -> None:
    """Every process reads the table of all mounts, whoever made them."""
    need(os.geteuid() == 0, "root: only root can mount")
    (tmp_path / CAFE).mkdir()
    path = spec(tmp_path, backend="serial", samples=1000)
    line = f'mount -t tmpfs none "$1" && exec {" ".join(COMMAND)} submit "$2" --json'
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", line, "sh", CAFE, path],
        cwd=tmp_path,
        env=environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr


def test_a_host_may_have_any_name(tmp_path: Path) -> None:
    """The system takes every byte in it; locks, the ledger and messages have it as text."""
    need(os.geteuid() == 0, "root: only root can have a host's name of its own")
    path = spec(tmp_path, samples=2000, nodes="localhost:1", backend="ssh")
    code = (
        "import os, socket, sys; socket.sethostname(b'caf\\xe9');"
        " os.execv(sys.argv[1], sys.argv[1:])"
    )
    named = ["unshare", "--uts", sys.executable, "-P", "-c", code]
    for words in (["submit", path, "--json"], ["ls", "--json"]):
        done = subprocess.run(
            [*named, *COMMAND, *words],
            cwd=tmp_path,
            env=environment(PYTHONPATH=str(ROOT)),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, done.stderr
    assert hostname() == socket.gethostname()


def program(folder: Path, name: str, line: str) -> Path:
    """A program that prints a line, given for printf, in an encoding of its own."""
    path = folder / name
    path.write_text(f"#!/bin/sh\nprintf '{line}'\n")
    path.chmod(0o755)
    return path


def test_what_other_programs_print_may_be_in_any_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version of mpirun and the configuration of Slurm are read all the same."""
    mpirun = program(tmp_path, "mpirun", "caf\\351\\nmpirun (Open MPI) 5.0.11\\n")
    assert find({"CLUSTER_MPIRUN": str(mpirun)}).version == (5, 0)
    program(tmp_path, "scontrol", "ClusterName = caf\\351\\nMaxArraySize = 40\\n")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "--array=1-39" in text(job(tmp_path), Order(parts=39)).files[0][1]


def test_a_locale_of_ascii_takes_texts_of_any(tmp_path: Path) -> None:
    """What is read and written has an encoding of its own, whatever the locale says."""
    path = spec(tmp_path, backend="serial", samples=1000, description="Grüße ✓")
    env = environment(PYTHONPATH=str(ROOT), PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", LC_ALL="C")
    for words in (["submit", path], ["schedule", path, "--slurm"], ["schedule", path, "--remove"]):
        done = cluster(*words, cwd=tmp_path, env=env)
        assert done.returncode == 0, done.stderr
        assert done.stdout.isascii()


def test_a_script_of_slurm_is_utf8_in_any_locale(tmp_path: Path) -> None:
    """Its folder's name and a comment may need more than ASCII."""
    code = (
        "import sys; from pathlib import Path; from cluster.unattended.schedule.slurm import *;"
        " from cluster.unattended.schedule.job import ScheduledJob; p = Path(sys.argv[1]);"
        " job = ScheduledJob('n', p / 'n.yaml', p, p);"
        " install(job, Order(options=('comment=Gr\\u00fc\\u00dfe',)))"
    )
    env = environment(PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", LC_ALL="C", PYTHONPATH=str(ROOT))
    subprocess.run([sys.executable, "-c", code, tmp_path], env=env, check=True, timeout=PATIENCE)
    assert "--comment=Grüße" in (tmp_path / "n.sbatch").read_text("utf-8").replace("'", "")
