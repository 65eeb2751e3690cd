"""The launcher: which mpirun there is, and the words that make it start a world of ours."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from cluster.common.errors import EngineError
from cluster.hosts.worker_pool import python_command

_OVERRIDE = "CLUSTER_MPIRUN"
_MODULE = "cluster.backends.mpi.rank"
# What a launcher told its processes is not for another one that is started inside of them. And an
# mpirun that sees a job of Slurm starts its daemons by srun, past our shell.
_INHERITED = re.compile(r"(OMPI|PMIX|PRTE|OPAL|PMI|HYD|HYDRA|MPIEXEC|SLURM)_|MPI_LOCAL")
# The interpreter differs from host to host: the agent there has put it into the environment.
_THERE = ("/bin/sh", "-c", f'exec "$CLUSTER_PYTHON" -P -m {_MODULE}')


class Launcher(NamedTuple):
    """An mpirun: where it is, and whose; ``flavour`` is ``openmpi`` or ``mpich``."""

    path: str
    flavour: str
    version: tuple[int, int]


def find(environ: Mapping[str, str]) -> Launcher:
    """The launcher that ``CLUSTER_MPIRUN`` names, else the one beside Python, else that of PATH.

    Raises:
        EngineError: there is none, or it is of no MPI that we know.
    """
    beside = Path(sys.executable).parent / "mpirun"
    path = environ.get(_OVERRIDE) or (str(beside) if beside.exists() else shutil.which("mpirun"))
    if path is None:
        fix = f"pip install 'cluster-montecarlo[mpi]', or name one: export {_OVERRIDE}=/path/mpirun"
        raise EngineError("there is no mpirun here", fix=fix)
    try:
        done = subprocess.run(
            [path, "--version"],
            check=False,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=20,
            env=_least() | scrubbed(environ),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{path} does not say its version: {error}") from None
    if done.returncode:
        said = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[0]
        raise EngineError(f"{path} does not say its version: {said}")
    return Launcher(path, *flavour_of(path, done.stdout))


def flavour_of(path: str, text: str) -> tuple[str, tuple[int, int]]:
    """The MPI and its version, from what ``mpirun --version`` prints.

    Raises:
        EngineError: neither Open MPI nor MPICH.
    """
    for flavour, pattern in (
        ("openmpi", r"\(Open MPI\) (\d+)\.(\d+)"),
        ("mpich", r"HYDRA build details:\s+Version:\s+(\d+)\.(\d+)"),
    ):
        if found := re.search(pattern, text):
            return flavour, (int(found[1]), int(found[2]))
    raise EngineError(
        f"{path} is neither Open MPI's nor MPICH's",
        fix=f"name one that is: export {_OVERRIDE}=/path/mpirun",
    )


def command(launcher: Launcher, shell: str, here: int, there: Sequence[str], own: str) -> list[str]:
    """The arguments that start a world.

    Args:
        launcher: what to start it with.
        shell: the program that runs a command on a host, in the place of ssh.
        here: ranks on this machine; the first one coordinates.
        there: the addresses of further hosts, a rank each.
        own: the address at which they reach this machine; empty where that is not known.
    """
    local = python_command(sys.executable, _MODULE)
    if launcher.flavour == "mpich":
        return _mpich(launcher, shell, here, there, own, local)
    words = [launcher.path, "--bind-to", "none", *_daemons(launcher, shell)]
    words += ["-n", str(here), "--host", f"localhost:{here}", *local]
    if there:
        hosts = ",".join(f"{address}:1" for address in there)
        words += [":", "-n", str(len(there)), "--host", hosts, *_THERE]
    return words


def _daemons(launcher: Launcher, shell: str) -> list[str]:
    if launcher.version >= (5, 0):
        # The name of the shell is in the environment: as an argument the daemons would get it too.
        return ["--leave-session-attached"]
    return [
        "--leave-session-attached",
        "--mca",
        "plm_rsh_agent",
        shell,
        "--mca",
        "plm_rsh_no_tree_spawn",
        "1",
    ]


def _mpich(
    launcher: Launcher, shell: str, here: int, there: Sequence[str], own: str, local: Sequence[str]
) -> list[str]:
    # Our environment is not for other hosts: there it is the agent's that counts.
    words = [launcher.path, "-bind-to", "none", "-launcher", "ssh", "-launcher-exec", shell]
    hosts = [f"localhost:{here}", *(f"{address}:1" for address in there)]
    words += ["-genvnone", "-hosts", ",".join(hosts)]
    words += ["-localhost", own] if own else []
    words += ["-n", str(here), *local]
    # Our folder may not be there, and no rank cares in which one it is.
    return [*words, ":", "-n", str(len(there)), "-wdir", "/", *_THERE] if there else words


def environment(launcher: Launcher, environ: Mapping[str, str], shell: str) -> dict[str, str]:
    """The environment of a launcher: ours, without what another launcher left in it."""
    more = {}
    if launcher.flavour == "openmpi":
        more = {"PRTE_MCA_plm_ssh_agent": shell, "PRTE_MCA_plm_ssh_no_tree_spawn": "1"}
        if os.geteuid() == 0:
            # Kernels run as this user with every other backend, too.
            more |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {**_least(), **scrubbed(environ), **more}


def scrubbed(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment without the variables of launchers and their MPI."""
    return {name: value for name, value in environ.items() if not _INHERITED.match(name)}


def _least() -> dict[str, str]:
    """What Open MPI does not start without; a user may have no entry to ask for a home."""
    home = os.path.expanduser("~")
    return {"HOME": home if os.path.isabs(home) else "/", "PATH": os.defpath}


def moved(text: str, launcher: Launcher, prefix: str) -> str:
    """What the launcher wants to run on a host, for the place where its MPI is there.

    Its command names its own folder. Where that is the environment of our Python, the host has
    the same in the environment of its own. Its command also has what our launcher was told of
    itself, the shell and the interface, which are nothing to a daemon there.

    Args:
        text: for the host's shell.
        launcher: who wants it.
        prefix: of the Python there.
    """
    own = str(Path(launcher.path).parents[1])
    text = re.sub(r" --prtemca (plm_ssh_agent|prte_if_include) \"[^\"]*\"", "", text)
    return text.replace(own, prefix) if own == sys.prefix else text
