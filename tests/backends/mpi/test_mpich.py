"""MPICH in the place of Open MPI: in an environment of its own, for the two cannot share one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.backends.mpi.test_inside import ROOT, alone, ranks_of, spec, start, told
from tests.conftest import need

BIN = ROOT / ".venv-mpich" / "bin"


@pytest.fixture(autouse=True)
def mpich() -> None:
    """The environment, as scripts/test makes it in CI."""
    need(
        (BIN / "mpirun").exists(),
        "MPICH: python -m venv .venv-mpich && .venv-mpich/bin/pip install -e '.[mpich]'",
    )


def world(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Three ranks that are started by MPICH's launcher."""
    command = [BIN / "mpirun", "-n", "3", BIN / "python", "-m", "cluster", *words]
    return start(folder, [str(word) for word in command], {})


def test_the_library_is_mpich(tmp_path: Path) -> None:
    """Else the other tests would show nothing."""
    text = "from mpi4py import MPI; print(MPI.Get_library_version())"
    out, _ = start(tmp_path, [str(BIN / "python"), "-c", text], {}).communicate(timeout=60)
    assert out.startswith("MPICH Version")


def test_a_world_of_the_users_own_has_the_digest(tmp_path: Path) -> None:
    """Ranks find their roles by the variables of MPICH's launcher."""
    path = spec(tmp_path, 40, 0.01)
    process = world(tmp_path, "submit", str(path), "--json", "--task-blocks", "1")
    result, err = told(process)
    assert (process.returncode, result["state"], result["backend"]) == (0, "done", "mpi"), err
    assert sum(node["slots"] for node in result["nodes"]) == 3
    assert result["digest"] == alone(tmp_path, path)


@pytest.mark.slow
def test_a_lost_rank_costs_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """It ends the world; the same command with --resume ends right."""
    path = spec(tmp_path, 250, 0.05)
    words = ("submit", str(path), "--json", "--task-blocks", "1")
    process = world(tmp_path, *words)
    ranks = ranks_of(process.pid)
    time.sleep(1)
    os.kill(max(ranks), signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode != 0
    result, err = told(world(tmp_path, *words, "--resume"))
    assert (result["state"], result["digest"]) == ("done", alone(tmp_path, path)), err


def test_a_world_that_submit_launches_has_the_digest(tmp_path: Path) -> None:
    """The launcher is the one beside Python; it takes the program that we give it for ssh."""
    path = spec(tmp_path, 40, 0.01)
    words = [str(BIN / "python"), "-m", "cluster", "submit", str(path), "--json"]
    nodes = json.dumps([{"host": "localhost", "slots": 2}])
    words += ["--set", "backend=mpi", "--set", f"nodes={nodes}"]
    result, err = told(start(tmp_path, words, {}))
    assert (result["state"], result["digest"]) == ("done", alone(tmp_path, path)), err
