"""Slurm on a lab's hosts: the real daemons, a controller on the first host and a node on each.

All of them are processes of hosts, so they end with these, and nothing of the machine's own is
touched: configuration, key, state and logs are on the hosts' own disks.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from scripts.lab_base import Lab, LabError, keeper, say, stat, wait, which, within

TOOLS = {
    "slurmctld": "slurm-wlm",
    "slurmd": "slurm-wlm",
    "sbatch": "slurm-wlm",
    "munged": "munge",
    "munge": "munge",
}
# Slurm's plugin for Open MPI loads it at run time; Debian has that name in the -dev package.
PMIX, PMIX_PACKAGE = "*/pmix2/lib/libpmix.so", "libpmix-dev"
CPUS = 2  # of each node, whatever the machine has
DAEMONS = ("munged", "slurmctld", "slurmd")  # in the order in which they are started
READY_SECONDS = 30.0
FOLDERS = (
    ("etc/munge", 0o700),
    ("etc/slurm", 0o755),
    ("run/munge", 0o755),
    ("var/lib/munge", 0o711),
    ("var/log/munge", 0o700),
    ("var/spool/slurmctld", 0o700),
    ("var/spool/slurmd", 0o755),
)

# Limits are as short as they may be: a requeued job otherwise waits two minutes.
CONFIG = """\
ClusterName=lab
SlurmctldHost={head}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire={expire}
CredType=cred/munge
StateSaveLocation=/var/spool/slurmctld
SlurmdSpoolDir=/var/spool/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/var/log/slurmctld.log
SlurmdLogFile=/var/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=2
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=30
KillWait=5
MailProg=/bin/true
NodeName={nodes} CPUs={cpus} RealMemory=1000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

Enter = Callable[..., str]


def missing() -> list[str]:
    """The packages that Slurm needs and that are not installed."""
    found = {package for tool, package in TOOLS.items() if not which(tool)}
    return sorted(found | (set() if any(Path("/usr/lib").glob(PMIX)) else {PMIX_PACKAGE}))


def config(hosts: Sequence[str], expire: int = 5) -> str:
    """The text of slurm.conf.

    Args:
        hosts: the lab's; the first one has the controller.
        expire: seconds that a requeued job waits before it may start again.
    """
    return CONFIG.format(head=hosts[0], nodes=",".join(hosts), cpus=CPUS, expire=expire)


def running(lab: Lab, host: str) -> set[str]:
    """Which of the daemons a host has."""
    names = {stat(pid)[0] for pid in within(keeper(lab, host)) if stat(pid)[1] != "Z"}
    return {daemon for daemon in DAEMONS if daemon[:15] in names}


def up(lab: Lab, hosts: Sequence[str], enter: Enter) -> None:
    """Start what does not run, and wait until every node has registered.

    Args:
        lab: which one.
        hosts: those of it that stand.
        enter: runs a command on a host; see scripts/lab.

    Raises:
        LabError: Slurm is not installed; no host stands; a node does not come up.
    """
    if absent := missing():
        raise LabError(f"not installed: {', '.join(absent)}", "scripts/lab install", 69)
    if not hosts:
        raise LabError(f"lab {lab.name} does not stand", "scripts/lab up 3")
    for host in hosts:
        configure(lab, host, config(hosts))
    for daemon in DAEMONS:
        for host in hosts[:1] if daemon == "slurmctld" else hosts:
            if daemon not in running(lab, host):
                enter(lab, host, daemon, keeps_lock=False)
    wait("Slurm's nodes", partial(registered, lab, hosts, enter), READY_SECONDS)
    say(f"lab {lab.name}: Slurm has {len(hosts)} nodes; scripts/lab exec {hosts[0]} sinfo")


def down(lab: Lab, hosts: Sequence[str]) -> None:
    """End the daemons, and all that runs in jobs. Their state stays as long as the hosts."""
    for host in hosts:
        for pid in within(keeper(lab, host)):
            if stat(pid)[0] in (*DAEMONS, "slurmstepd") or of_job(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    wait("Slurm to end", lambda: not any(running(lab, host) for host in hosts))


def of_job(pid: int) -> bool:
    """Whether a process was started in a job."""
    with suppress(OSError):
        return b"\0SLURM_JOB_ID=" in b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
    return False


def registered(lab: Lab, hosts: Sequence[str], enter: Enter) -> bool:
    """Whether the controller has heard of every node, and can use it."""
    try:
        states = enter(lab, hosts[0], "timeout", "5", "sinfo", "-N", "-h", "-o", "%T").split()
    except LabError:
        return False  # the controller does not answer yet
    return len(states) == len(hosts) and set(states) <= {"idle", "mixed", "allocated"}


def configure(lab: Lab, host: str, text: str) -> None:
    """Write what the daemons of a host need: folders, Slurm's configuration, munge's key."""
    root = Path(f"/proc/{keeper(lab, host)}/root")
    for name, mode in FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name).chmod(mode)
    (root / "etc/slurm/slurm.conf").write_text(text)
    key = root / "etc/munge/munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secret(lab))


def secret(lab: Lab) -> bytes:
    """What the hosts share, made once; munge lets in who has it."""
    file = lab.folder / "munge.key"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_bytes(os.urandom(128))
    return file.read_bytes()
