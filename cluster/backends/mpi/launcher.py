"""The launcher: how mpirun is found, and the arguments that make it start a world of ours."""

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
# Variables that a launcher must not inherit: those by which another launcher configured its
# processes, and Slurm's, because an mpirun in a Slurm job starts its daemons with srun, not with
# our remote shell.
_INHERITED = re.compile(r"(OMPI|PMIX|PRTE|OPAL|PMI|HYD|HYDRA|MPIEXEC|SLURM)_|MPI_LOCAL")
# Each host may have another interpreter; the agent there puts it into the environment.
_THERE = ("/bin/sh", "-c", f'exec "$CLUSTER_PYTHON" -P -m {_MODULE}')


class Launcher(NamedTuple):
    """An mpirun: its path, its MPI (``flavour``: ``openmpi`` or ``mpich``), and the version."""

    path: str
    flavour: str
    version: tuple[int, int]


def find(environ: Mapping[str, str]) -> Launcher:
    """The launcher named by ``CLUSTER_MPIRUN``, else the one beside Python, else that in PATH.

    Raises:
        EngineError: there is none, it does not run, or it is of neither MPI that we know.
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
    """The MPI and its version, as printed by ``mpirun --version``.

    Raises:
        EngineError: it is neither Open MPI nor MPICH.
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
        launcher: the mpirun to use.
        shell: the path of the remote shell that replaces ssh.
        here: the number of ranks on this machine; the first one coordinates.
        there: the addresses of the other hosts; each gets one rank.
        own: the address at which they reach this machine; empty if it is not known.
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
        # The remote shell is named in the environment: an argument would be passed on to the
        # daemons, whose hosts do not have that file.
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
    # -genvnone: hydra would forward our environment, over the one that the agent has prepared.
    words = [launcher.path, "-bind-to", "none", "-launcher", "ssh", "-launcher-exec", shell]
    hosts = [f"localhost:{here}", *(f"{address}:1" for address in there)]
    words += ["-genvnone", "-hosts", ",".join(hosts)]
    # Else the proxies are told this machine's bare host name, which they may be unable to resolve.
    words += ["-localhost", own] if own else []
    words += ["-n", str(here), *local]
    # Our working directory may not exist there, and a rank does not need it.
    return [*words, ":", "-n", str(len(there)), "-wdir", "/", *_THERE] if there else words


def environment(launcher: Launcher, environ: Mapping[str, str], shell: str) -> dict[str, str]:
    """The environment of a launcher: ours, without the variables of other launchers.

    Args:
        launcher: the mpirun to use.
        environ: our own.
        shell: the path of the remote shell that replaces ssh.
    """
    more = {}
    if launcher.flavour == "openmpi":
        more = {"PRTE_MCA_plm_ssh_agent": shell, "PRTE_MCA_plm_ssh_no_tree_spawn": "1"}
        if os.geteuid() == 0:
            # Open MPI refuses to run as root, unless both are set. Every other backend runs
            # kernels as this user, too.
            more |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return {**_least(), **scrubbed(environ), **more}


def scrubbed(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment without the variables of launchers and their MPI."""
    return {name: value for name, value in environ.items() if not _INHERITED.match(name)}


def _least() -> dict[str, str]:
    """Variables without which Open MPI does not start; the user may lack an entry in passwd."""
    home = os.path.expanduser("~")
    return {"HOME": home if os.path.isabs(home) else "/", "PATH": os.defpath}


def moved(text: str, launcher: Launcher, prefix: str) -> str:
    """Adapt a launcher's command to the host that is to run it.

    The command contains the launcher's own path. If that is in the environment of our Python, the
    host has the MPI in its own environment, which may be elsewhere. The command also repeats
    settings for this machine, the remote shell and the interface, which must not reach a daemon.

    Args:
        text: the command, for the host's shell.
        launcher: the mpirun that gave it.
        prefix: ``sys.prefix`` of the Python there.
    """
    own = str(Path(launcher.path).parents[1])
    text = re.sub(r" --prtemca (plm_ssh_agent|prte_if_include) \"[^\"]*\"", "", text)
    return text.replace(own, prefix) if own == sys.prefix else text
