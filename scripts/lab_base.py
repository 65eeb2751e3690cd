"""What the parts of scripts/lab share: names and places, the lock, commands, and finding a lab.

A lab has no state of its own beside a folder of keys. What stands is read from the kernel: each
host is held by one process, its keeper, which is PID 1 of the host's namespaces, and everything on
the host ends with it. So whatever was interrupted half way, ``down`` finds all that is there.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LABS = Path("/run/cluster-lab")
PYTHON = Path("/opt/cluster/venv/bin/python")  # on every host
SHARED = Path("/srv/shared")  # on every host, the same folder
MOST = 20  # hosts of one lab; all of them have a name and an address from the start
PORTS = (22, 2222)
KEEPER, BRAKE = "scripts.lab_host", "scripts.lab_pace"  # the modules that stay and run
SWITCH = "switch"  # the keeper of the network between the hosts
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What the names of labs begin with that end with the process that made them: no person's do.
_OF_PROCESS = "zz"
_NAME = re.compile(r"[a-z][a-z0-9]{0,10}")  # with `lab-` before it the name of an interface: 15
_locks: list[int] = []


class LabError(Exception):
    """What went wrong, and how to mend it.

    Attributes:
        fix: what to do about it.
        code: exit status of the script.
    """

    def __init__(self, message: str, fix: str, code: int = 1) -> None:
        super().__init__(message)
        self.fix, self.code = fix, code


@dataclass(frozen=True, slots=True)
class Lab:
    """A name, and what follows from it."""

    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            fix = "take up to 11 small letters and digits, a letter first"
            raise LabError(f"a lab cannot be named {self.name!r}", fix, 2)

    @property
    def folder(self) -> Path:
        """Keys, ssh's configuration, and places to mount on."""
        return LABS / self.name

    @property
    def link(self) -> str:
        """The dispatcher's interface on the hosts' network."""
        return f"lab-{self.name}"

    @property
    def subnet(self) -> str:
        """The first three numbers of all addresses, as in ``10.83.0``."""
        return (self.folder / "subnet").read_text()


def number(host: str) -> int:
    """Of h3: 3, which is the last number of its address, too.

    Raises:
        LabError: no such name.
    """
    match = re.fullmatch(r"h([1-9]\d?)", host)
    if match and int(match[1]) <= MOST:
        return int(match[1])
    raise LabError(f"a host cannot be named {host!r}", f"they are h1, h2, ... up to h{MOST}", 2)


def own_name(kind: str) -> str:
    """The name of a lab that is this process's own; the kind is a letter, where it has several."""
    return f"{_OF_PROCESS}{kind}{os.getpid()}"


def is_abandoned(name: str) -> bool:
    """Whether a lab is one of a process that has ended, and could not take it down."""
    match = re.fullmatch(rf"{_OF_PROCESS}[a-z](\d+)", name)
    return match is not None and not Path("/proc", match[1]).exists()


# -- commands --------------------------------------------------------------------------------------


def say(line: str) -> None:
    """For the person; stdout is for data."""
    print(line, file=sys.stderr, flush=True)


def which(tool: str) -> str | None:
    """Where a tool is. An environment may be empty, and a person's PATH be without sbin."""
    return shutil.which(tool, path=f"{os.environ.get('PATH', '')}:{PATH}")


def run(*command: str | Path, given: str = "", keeps_lock: bool = True) -> str:
    """The output of a command that must succeed.

    The command holds the lock of this process as well, so that nobody begins to take a lab down
    while a command of a killed ``up`` is still at it.

    Raises:
        LabError: with what it printed, if it failed.
    """
    done = subprocess.run(
        command,
        check=False,
        input=given,
        capture_output=True,
        text=True,
        pass_fds=_locks if keeps_lock else (),
    )
    if done.returncode:
        words = " ".join(map(str, command))
        raise LabError(
            f"`{words}` failed: {done.stderr.strip()}", "scripts/lab down, then up again"
        )
    return done.stdout


def wait(what: str, true: Callable[[], object], seconds: float = 10.0) -> None:
    """Return as soon as the condition holds.

    Raises:
        LabError: it did not come to hold in time.
    """
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise LabError(f"waited {seconds:g} s for {what}", "scripts/lab down, then up again")
        time.sleep(0.01)


@contextmanager
def lock(folder: Path = LABS.parent, seconds: float = 120.0) -> Iterator[None]:
    """One `up` or `down` at a time on this machine, from whichever checkout."""
    # The folder itself is locked, so that no file is left behind.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        wait("another lab to be brought up or down", lambda: _locked(descriptor), seconds)
        _locks.append(descriptor)
        yield
    finally:
        _locks[:] = [each for each in _locks if each != descriptor]
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


# -- what stands -----------------------------------------------------------------------------------


def processes() -> Iterator[Path]:
    """The folders in /proc of all processes."""
    return (folder for folder in Path("/proc").iterdir() if folder.name.isdigit())


def marked(*modules: str) -> Iterator[tuple[str, str, int]]:
    """Lab, host and process id of every process that runs one of the modules.

    A module's command line ends with the lab and the host. For keepers, that is also what holds
    one, and what is about to become one.
    """
    for process in processes():
        try:
            words = (process / "cmdline").read_text().split("\0")[:-1]
            # Whoever else calls a process so is not entered: only root makes labs.
            owned = process.stat().st_uid == 0
        except (OSError, UnicodeDecodeError):
            continue  # it ended meanwhile, or is none of ours
        if owned and words[-4:-3] == ["-m"] and words[-3] in modules:
            yield words[-2], words[-1], int(process.name)


def all_keepers() -> Iterator[tuple[str, str, int]]:
    """Lab, host and process id of every keeper on this machine."""
    for name, host, pid in marked(KEEPER):
        with suppress(OSError):
            if "unshare" not in os.readlink(f"/proc/{pid}/exe"):
                yield name, host, pid


def keepers(lab: Lab) -> dict[str, int]:
    """The keepers of one lab: process ids by host, in the hosts' order."""
    found = {host: pid for name, host, pid in all_keepers() if name == lab.name}
    return {host: found[host] for host in sorted(found, key=lambda host: (len(host), host))}


def keeper(lab: Lab, host: str) -> int:
    """The process id of a host's keeper.

    Raises:
        LabError: the host does not stand.
    """
    standing = keepers(lab)
    if host in standing:
        return standing[host]
    there = ", ".join(host for host in standing if host != SWITCH) or "none"
    raise LabError(f"{host} is no host of lab {lab.name}; there: {there}", "scripts/lab list")


def within(pid: int) -> list[int]:
    """The processes in the PID namespace of a host, less its keeper."""
    inside = os.readlink(f"/proc/{pid}/ns/pid")
    found = []
    for process in processes():
        try:
            if os.readlink(process / "ns" / "pid") == inside:
                found.append(int(process.name))
        except OSError:
            continue
    return [each for each in found if each != pid]


def stat(pid: int) -> tuple[str, str]:
    """Name and state of a process; the state is R, S, D, T for stopped or Z for ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return "", "Z"
    name, _, rest = text.partition("(")[2].rpartition(")")
    return name, rest.split()[0]
