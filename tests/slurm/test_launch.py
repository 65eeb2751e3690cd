"""Which hosts are reached by a step of the job, and by which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.hosts.agent import _addresses
from cluster.hosts.connect import srun
from cluster.hosts.connect.ssh import trouble
from cluster.hosts.nodes import Node


@pytest.fixture
def job(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on n1, n2 and n3, where srun is installed."""
    (tmp_path / "srun").touch(mode=0o755)
    return {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n[1-3]", "PATH": str(tmp_path)}


def test_the_other_hosts_of_the_job_are_reached_by_srun(job: dict[str, str]) -> None:
    """Whether the spec says auto or names them."""
    assert all(srun.reaches(Node(host), job) for host in ("n1", "n2", "n3"))


@pytest.mark.parametrize(
    "node",
    [
        Node("m1"),
        Node("localhost"),
        Node("n1", user="me"),
        Node("n1", port=22),
        Node("n1", attach=9700),
    ],
)
def test_all_others_are_not(job: dict[str, str], node: Node) -> None:
    """This machine needs neither; a user or a port is for ssh, attach for a node that stands."""
    assert not srun.reaches(node, job)


@pytest.mark.parametrize("name", ["SLURM_JOB_ID", "SLURM_JOB_NODELIST"])
def test_outside_of_a_job_none_is(job: dict[str, str], name: str) -> None:
    """The variables are Slurm's; an empty one is none."""
    assert not srun.reaches(Node("n1"), job | {name: ""})


def test_without_srun_none_is(job: dict[str, str]) -> None:
    """In a container of a job, say: ssh may do."""
    assert not srun.reaches(Node("n1"), job | {"PATH": "/nowhere"})


def test_the_step_is_said_in_full(job: dict[str, str]) -> None:
    """What is left out, srun takes from the job's environment."""
    words = srun.agent_command(Node("n2", python="/opt/py"), job)
    assert words[:3] == ["srun", "--jobid=7", "--nodelist=n2"]
    assert {"--overlap", "--ntasks=1", "--cpu-bind=none", "--mpi=none"} <= set(words)
    assert words[-4:] == ["/opt/py", "-P", "-m", "cluster.hosts.agent"]


def test_a_missing_python_is_told_as_with_ssh() -> None:
    """Slurm says it in its own words."""
    words = "exited with 2; slurmstepd: error: execve(): /opt/py: No such file or directory"
    found = trouble(Node("n2", python="/opt/py"), words, "1")
    assert (found.reason, found.final) == ("there is no Python at /opt/py", True)


def test_the_addresses_are_those_of_the_way() -> None:
    """A job has the variables of the login that it was submitted from; they are not about it."""
    environ = {"SSH_CONNECTION": "9.9.9.9 1 8.8.8.8 22", "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.2"}
    assert _addresses("ssh", environ) == ("9.9.9.9", "8.8.8.8")
    assert _addresses("srun", environ)[0] == "127.0.0.2"
    assert _addresses("srun", environ)[1].startswith("127.")
    assert _addresses("here", environ) == ("127.0.0.1", "127.0.0.1")
