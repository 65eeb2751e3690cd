"""How a host of the lab is made slow.

Where the kernel can limit the CPU time of a control group, it does so, and the processes do not
notice. Elsewhere (in most containers) a process of its own stops and continues them by turns;
that interrupts system calls, which a slow CPU does not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from scripts.lab_base import BRAKE, PATH, ROOT, Lab, keepers, marked, stat, wait, within

PERIOD = 100_000  # microseconds, in each of which a slowed host has its part


def controller() -> Path | None:
    """The top of the hierarchy of control groups that has the cpu controller; None: no such."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, options, *_ = line.split()
        first = kind == "cgroup" and "cpu" in options.split(",")
        names = Path(place, "cgroup.controllers")
        if first or (kind == "cgroup2" and "cpu" in names.read_text().split()):
            return Path(place)
    return None


def group(lab: Lab, host: str) -> Path | None:
    """The control group of a host's processes; None if it has none."""
    top = controller()
    folder = top and top / f"cluster-lab-{lab.name}" / host
    return folder if folder and folder.is_dir() else None


def prepare(lab: Lab, host: str) -> None:
    """Make a host's control group, where that can be done."""
    top = controller()
    if top is None:
        return
    parent = top / f"cluster-lab-{lab.name}"
    with suppress(OSError):
        (parent / host).mkdir(parents=True, exist_ok=True)
        for folder in (top, parent):
            # Version 2 asks for the controller to be handed down; version 1 has no such file.
            if (folder / "cgroup.subtree_control").exists():
                (folder / "cgroup.subtree_control").write_text("+cpu")


def forget(lab: Lab) -> None:
    """Remove the control groups of a lab, in which no process may be left for long."""
    top = controller()
    parent = top and top / f"cluster-lab-{lab.name}"
    if parent and parent.is_dir():
        wait(f"{parent} to be empty", lambda: _removed(parent), 20)


def _removed(parent: Path) -> bool:
    with suppress(OSError):
        for folder in (*parent.glob("*/"), parent):
            folder.rmdir()
    return not parent.exists()


def joining(lab: Lab, host: str) -> list[str]:
    """The words before a command that put it into the host's control group."""
    folder = group(lab, host)
    return ["sh", "-c", 'echo 0 >"$0" && exec "$@"', f"{folder}/cgroup.procs"] if folder else []


def slow(lab: Lab, host: str, factor: float, cores: int) -> None:
    """Give a host the factor's part of some cores from here on; 1 is no limit.

    Args:
        lab: where the host is.
        host: its name.
        factor: by how much a busy process is to be slower.
        cores: how many processes are busy at a time.
    """
    release(lab, host)
    folder = group(lab, host)
    if folder and limit(folder, None if factor == 1 else round(PERIOD * cores / factor)):
        return
    if factor > 1:
        start_brake(lab, host, factor)


def limit(folder: Path, quota: int | None) -> bool:
    """Limit a control group to so many microseconds a period; whether that could be done."""
    with suppress(OSError):
        if (folder / "cpu.max").exists():
            (folder / "cpu.max").write_text(f"{quota or 'max'} {PERIOD}")
            return True
        (folder / "cpu.cfs_period_us").write_text(str(PERIOD))
        (folder / "cpu.cfs_quota_us").write_text(str(quota or -1))
        return True
    return False


def is_slow(lab: Lab, host: str) -> bool:
    """Whether a host is slowed, either way."""
    folder, quota = group(lab, host), "max"
    for name in ("cpu.max", "cpu.cfs_quota_us"):
        if folder and (folder / name).exists():
            quota = (folder / name).read_text().split()[0]
    return quota not in ("max", "-1") or bool(brakes(lab, host))


# -- without control groups ------------------------------------------------------------------------


def brakes(lab: Lab, host: str) -> list[int]:
    """The processes that slow a host by stopping it."""
    return [pid for name, each, pid in marked(BRAKE) if (name, each) == (lab.name, host)]


def start_brake(lab: Lab, host: str, factor: float) -> None:
    """Start one, which ends with the host."""
    subprocess.Popen(
        [sys.executable, "-P", "-S", "-m", BRAKE, lab.name, host],
        cwd="/",
        env={"PATH": PATH, "PYTHONPATH": str(ROOT), "LAB_FACTOR": str(factor)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def release(lab: Lab, host: str) -> None:
    """End it, and let the host's processes go on."""
    for pid in brakes(lab, host):
        os.kill(pid, signal.SIGKILL)
        wait("the brake to go", lambda: not brakes(lab, host))
        send(keepers(lab)[host], signal.SIGCONT)


def brake(lab: Lab, host: str, factor: float) -> None:
    """Stop and continue a host's processes by turns, until it is gone."""
    seconds = PERIOD / 1e6
    while pid := keepers(lab).get(host):
        send(pid, signal.SIGSTOP)
        time.sleep(seconds * (1 - 1 / factor))
        send(pid, signal.SIGCONT)
        time.sleep(seconds / factor)


def send(keeper: int, number: int) -> None:
    """Signal every process of a host but sshd's, which do not bear being stopped at log-in."""
    for pid in within(keeper):
        with suppress(OSError):
            if not stat(pid)[0].startswith("sshd"):
                os.kill(pid, number)


if __name__ == "__main__":
    brake(Lab(sys.argv[-2]), sys.argv[-1], float(os.environ["LAB_FACTOR"]))
