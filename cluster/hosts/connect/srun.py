"""How an agent is started on a host of the Slurm job that this process is in: by a step of the job.

Many clusters let nobody in by ssh, or only those who have a job there and then outside of its
limits. A step is inside of them, and Slurm ends it with the job.
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
    """Whether a node is another host of this job.

    With a user or a port of its own it is ssh's, and with ``attach`` it stands already.
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
    """The arguments that start the agent of a node, whose input and output are those of srun.

    What the step may use is said in full, for srun would take what is left out from the job's
    environment. It shares all that the job has on that host (without ``--overlap`` it would wait
    for other steps to end), and is not tied to one core.
    """
    words = ["srun", f"--jobid={environ['SLURM_JOB_ID']}", f"--nodelist={node.host}"]
    words += ["--nodes=1", "--ntasks=1", "--ntasks-per-node=1", "--overlap", "--cpu-bind=none"]
    words += ["--mpi=none", "--input=all", "--unbuffered", "--quiet", "--job-name=cluster-agent"]
    return [*words, node.python or sys.executable, "-P", "-m", AGENT]
