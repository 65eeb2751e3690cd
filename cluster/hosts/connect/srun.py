"""Starts agents on hosts of the Slurm job that contains this process, as steps of the job.

Many clusters forbid ssh, or put its sessions outside of the job's limits. A step is inside them,
and Slurm ends it with the job.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from functools import lru_cache

from cluster.hosts.connect.ssh import AGENT, is_here
from cluster.hosts.nodes import Node, expand


def reaches(node: Node, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a node is another host of this job, and is to be reached by srun.

    A node with a user or a port of its own is reached by ssh; one with ``attach`` runs already.
    """
    job, hosts = environ.get("SLURM_JOB_ID"), environ.get("SLURM_JOB_NODELIST")
    others = (node.user, node.port, node.attach)
    if not job or not hosts or any(each is not None for each in others) or is_here(node):
        return False
    return node.host in _names(hosts) and shutil.which("srun", path=environ.get("PATH")) is not None


@lru_cache(maxsize=8)
def _names(hosts: str) -> frozenset[str]:
    return frozenset(node.host for node in expand(hosts))


def agent_command(node: Node, environ: Mapping[str, str] = os.environ) -> list[str]:
    """The arguments that start the agent of a node; its input and output are those of srun.

    The step's resources are given in full, because srun takes missing ones from the job's
    environment. The step shares everything that the job has on that host (without ``--overlap`` it
    would wait for other steps to end), and is not bound to one core.
    """
    words = ["srun", f"--jobid={environ['SLURM_JOB_ID']}", f"--nodelist={node.host}"]
    words += ["--nodes=1", "--ntasks=1", "--ntasks-per-node=1", "--overlap", "--cpu-bind=none"]
    words += ["--mpi=none", "--input=all", "--unbuffered", "--quiet", "--job-name=cluster-agent"]
    return [*words, node.python or sys.executable, "-P", "-m", AGENT]
