"""The cores of this machine, and the hosts that a scheduler has allocated to this job."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from cluster.hosts.nodes.hostfile import read_hostfile
from cluster.hosts.nodes.hostlist import expand, parse_number, parse_slots
from cluster.hosts.nodes.node import MAX_NODES, Node, NodeError

_DIGITS = re.compile(r"[0-9]+")
_LOOPBACK = re.compile(r"127(\.[0-9]{1,3}){3}")
NO_ALLOCATION = "auto means the hosts of a job, and this process is in no job of Slurm or PBS"
ALLOCATE = (
    "start it from a job: 'cluster schedule SPEC --slurm' writes the script;"
    " or leave nodes out to use this machine"
)
_SLURM_HOSTS = ("SLURM_JOB_NODELIST", "SLURM_NODELIST")
_SLURM_COUNT = re.compile(r"([0-9]+)(?:\(x([0-9]+)\))?")


def local() -> Node:
    """This machine, with as many slots as this process has usable cores."""
    return Node("localhost", slots=usable_cores())


def is_local(host: str) -> bool:
    """Whether a host is this machine, by its name alone: no name is resolved."""
    wanted, own = host.lower(), socket.gethostname().lower()
    if wanted in {"localhost", "::1", own} or _LOOPBACK.fullmatch(wanted):
        return True
    # A scheduler may use the short name of a machine whose own name is qualified, or vice versa.
    bare = "." not in wanted or "." not in own
    return bare and wanted.partition(".")[0] == own.partition(".")[0]


def has_allocation(environ: Mapping[str, str]) -> bool:
    """Whether this process is in a job of Slurm or PBS."""
    return any(environ.get(name) for name in (*_SLURM_HOSTS, "PBS_NODEFILE"))


def allocated(environ: Mapping[str, str], base_dir: Path) -> tuple[Node, ...]:
    """The hosts that Slurm or PBS has allocated to this job.

    Args:
        environ: environment variables.
        base_dir: the folder that the path of PBS's node file is relative to.

    Raises:
        NodeError: this process is in no job, or the scheduler's variables contradict each other.
    """
    for name in _SLURM_HOSTS:
        if slurm := environ.get(name):
            return _slurm(slurm, environ)
    if file := environ.get("PBS_NODEFILE"):
        return read_hostfile(base_dir / file, bare=1)
    raise NodeError(NO_ALLOCATION, fix=ALLOCATE)


def _slurm(hosts: str, environ: Mapping[str, str]) -> tuple[Node, ...]:
    """One slot for each CPU of each task; if the job's tasks are unknown, one for each CPU."""
    nodes = expand(hosts)
    tasks, cpus = "SLURM_TASKS_PER_NODE", "SLURM_JOB_CPUS_PER_NODE"
    # Inside a step, the variable of the tasks is that of the step, which may have fewer hosts.
    step = environ.get("SLURM_STEP_ID") and environ.get(cpus)
    if environ.get(tasks) and not step:
        each = int(environ.get("SLURM_CPUS_PER_TASK") or "1")
        slots = [count * each for count in _counts(tasks, hosts, len(nodes), environ)]
    elif environ.get(cpus):
        slots = _counts(cpus, hosts, len(nodes), environ)
    else:
        return nodes
    return tuple(replace(node, slots=count) for node, count in zip(nodes, slots, strict=True))


def _counts(name: str, hosts: str, length: int, environ: Mapping[str, str]) -> list[int]:
    """The number for each host in a variable such as ``2(x3),1``."""
    text = environ[name]
    counts = [pair for part in text.split(",") for pair in _slurm_count(name, part)]
    if sum(times for _, times in counts) != length:
        raise NodeError(f"{name}={text} does not match the {length} hosts of {hosts}")
    return list(chain.from_iterable([count] * times for count, times in counts))


def _slurm_count(name: str, part: str) -> Iterator[tuple[int, int]]:
    found = _SLURM_COUNT.fullmatch(part.strip())
    times = parse_number(found[2] or "1") if found else 0
    if not found or not 1 <= times <= MAX_NODES:
        raise NodeError(f"{name} contains {part!r}, which is not of the form 4 or 4(x3)")
    yield parse_slots(found[1]), times


def usable_cores(root: Path = Path("/")) -> int:
    """The number of cores that this process may use, by its affinity and its cgroups' CPU quota.

    A quota of 2.5 cores counts as 2: with three workers, all would be throttled.

    Args:
        root: the folder that contains /proc and /sys; another one in tests.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        cores = os.cpu_count() or 1
    quotas = [int(quota) for quota in _quotas(root)]
    return max(1, min([cores, *quotas]))


def _quotas(root: Path) -> Iterator[float]:
    """The CPU quotas, in cores, of all cgroups around this process, of version 1 and 2."""
    groups = dict(_own_groups(root))
    for mount, version in _cgroup_mounts(root):
        path = groups.get(version, "/").strip("/")
        # In a container, the path may be that on the host and not exist here. The search then
        # reaches the mount point itself, which is the container's own cgroup.
        for folder in (mount / path, *(mount / path).parents):
            if folder.is_relative_to(mount):
                yield from _quota(folder, version)


def _own_groups(root: Path) -> Iterator[tuple[int, str]]:
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            yield 2, path
        elif "cpu" in controllers.split(","):
            yield 1, path


def _cgroup_mounts(root: Path) -> Iterator[tuple[Path, int]]:
    for line in _lines(root / "proc/self/mountinfo"):
        left, _, right = line.partition(" - ")
        place, kind = [*left.split(), *[""] * 5][4], [*right.split(), "", "", ""]
        if kind[0] == "cgroup2":
            yield root / place.lstrip("/"), 2
        elif kind[0] == "cgroup" and "cpu" in kind[2].split(","):
            yield root / place.lstrip("/"), 1


def _quota(folder: Path, version: int) -> Iterator[float]:
    if version == 2:
        words = " ".join(_lines(folder / "cpu.max")).split()
    else:
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")
        words = [word for name in names for word in _lines(folder / name)]
    # "max" and -1 mean that there is no quota.
    if len(words) == 2 and all(map(_DIGITS.fullmatch, words)) and int(words[1]):
        yield int(words[0]) / int(words[1])


def _lines(path: Path) -> Sequence[str]:
    try:
        # The names of mount points and cgroups may be in any encoding.
        return path.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ()
