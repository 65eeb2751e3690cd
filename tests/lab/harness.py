"""A lab as the tests see it: what its script says and does, and what it may leave behind."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.lab import DEFAULT, SSH_FILE, missing
from scripts.lab_base import is_abandoned, own_name
from scripts.lab_pace import controller
from tests.conftest import need
from tests.ledger.stores import SMALL_DISK

ROOT = Path(__file__).parents[2]
DOOR = ROOT / "scripts" / "lab"
SECONDS = 900.0  # for one call: the first one installs the hosts' environment

Done = subprocess.CompletedProcess[str]


def need_lab() -> None:
    """Skip, or fail in CI, where no hosts can be made."""
    need(os.geteuid() == 0, "root: only root can make hosts (sudo scripts/test tests/lab)")
    need(not missing(), f"{', '.join(missing())}: scripts/lab install")


def wait(what: str, true: Callable[[], object], seconds: float = 20.0) -> None:
    """Return as soon as the condition holds; fail if it does not in time."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.005)


class Lab:
    """The hosts h1, h2, ... of one lab, by way of scripts/lab.

    Attributes:
        name: of the lab; every verb is called for it.
        python: the interpreter on every host, of an environment with the project installed.
        folder: where its keys and its ssh_config are.
        disturbed: whether a host may be cut, lossy, slow, frozen, dead or full.
        before_us: processes of ours here that were there before the test began.
    """

    python = "/opt/cluster/venv/bin/python"

    def __init__(self, name: str, before: Sequence[str] = ()) -> None:
        """Name a lab, which need not stand; ``before``: words before each call of the script."""
        self.name, self.before = name, tuple(before)
        self.folder = Path("/run/cluster-lab", name)
        self.disturbed = False
        self.before_us: set[int] = set()
        self._exports: dict[str, str] = {}

    # -- the script --------------------------------------------------------------------------------

    def start(self, *words: str, **options: str) -> subprocess.Popen[str]:
        """Begin a call of the script, in a session of its own, with pipes."""
        return subprocess.Popen(
            [*self.before, str(DOOR), *words],
            env=os.environ | {"LAB": self.name, "PYTHON": sys.executable} | options,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def ask(self, *words: str, timeout: float = SECONDS) -> Done:
        """Call the script; the caller judges how it ended."""
        with self.start(*words) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                raise
        return Done(words, process.returncode, out, err)

    def do(self, *words: str) -> str:
        """Call the script, which must succeed; its output."""
        done = self.ask(*words)
        assert done.returncode == 0, f"scripts/lab {' '.join(words)}: {done.stderr}"
        return done.stdout

    def up(self, count: int) -> None:
        """Bring hosts up, as far as they do not stand."""
        self.do("up", str(count))
        self._exports = {}

    def down(self) -> None:
        """Take everything away."""
        self.do("down")
        self._exports = {}

    # -- what stands -------------------------------------------------------------------------------

    @property
    def exports(self) -> dict[str, str]:
        """The variables of `env`, less PATH."""
        if not self._exports:
            lines = [shlex.split(line)[1] for line in self.do("env").splitlines()[:-1]]
            self._exports = dict(line.split("=", 1) for line in lines)
        return self._exports

    @property
    def hosts(self) -> dict[str, str]:
        """Addresses by host name."""
        said = self.exports
        return dict(zip(said["LAB_HOSTS"].split(), said["LAB_ADDRESSES"].split(), strict=True))

    @property
    def dispatcher(self) -> str:
        """This machine's address on the hosts' network; there its name is ``dispatcher``."""
        return self.exports["LAB_DISPATCHER"]

    @property
    def environment(self) -> dict[str, str]:
        """An environment for a program here that is to reach the hosts by `ssh`."""
        path = f"{self.folder}/bin:{os.environ.get('PATH', os.defpath)}"
        return os.environ | self.exports | {"PATH": path}

    @property
    def ssh_config(self) -> Path:
        """For ``ssh -F``."""
        return self.folder / "ssh_config"

    def state(self, host: str) -> str:
        """What `list` says of a host."""
        rows = [line.split(maxsplit=3) for line in self.do("list").splitlines()]
        return next(row[3] for row in rows if row[:2] == [self.name, host])

    # -- on a host ---------------------------------------------------------------------------------

    def exec(self, host: str, *command: str) -> str:
        """The output of a command on a host, which must succeed; works on a cut host, too."""
        return self.do("exec", host, *command)

    def ssh(self, host: str, command: str, *options: str, timeout: float = 20.0) -> Done:
        """Run a command by ssh, which never asks; the caller judges how it ended."""
        words = ["ssh", "-F", str(self.ssh_config), "-o", "BatchMode=yes", *options, "--", host]
        return subprocess.run(
            [*words, command], capture_output=True, text=True, timeout=timeout, check=False
        )

    # -- faults ------------------------------------------------------------------------------------

    def cut(self, host: str, way: str = "both") -> None:
        """Lose all packets of a host without a word, or those ``from`` it, or those ``to`` it."""
        self._disturb("cut", host, way)

    def lossy(self, host: str, percent: int, way: str = "both") -> None:
        """Lose a part of a host's packets, at random."""
        self._disturb("lossy", host, str(percent), way)

    def narrow(self, host: str, rate: int) -> None:
        """Limit a host's network to so many kbit/s each way."""
        self._disturb("narrow", host, str(rate))

    def slow(self, host: str, factor: float = 5.0, cores: int = 1) -> None:
        """Make a host slower by a factor, for so many busy processes; 1 undoes it."""
        self._disturb("slow", host, f"{factor:g}", "--cores", str(cores))

    def freeze(self, host: str) -> None:
        """Stop all processes of a host (SIGSTOP)."""
        self._disturb("freeze", host)

    def thaw(self, host: str) -> None:
        """Let them go on."""
        self.do("thaw", host)

    def kill(self, host: str) -> None:
        """Kill all processes of a host (SIGKILL), sshd too."""
        self._disturb("kill", host)

    def fill(self, host: str) -> None:
        """Fill a host's disk."""
        self._disturb("fill", host)

    def free(self, host: str) -> None:
        """Take away what filled it."""
        self.do("free", host)

    def heal(self, *hosts: str) -> None:
        """Undo cut, lossy, narrow, freeze and kill."""
        self.do("heal", *hosts)

    def reset(self) -> None:
        """Undo every fault on every host, and remove what tests put into its /tmp."""
        if self.disturbed:
            self.do("heal", "--all")
        for host in self.hosts:
            self.exec(host, "find", "/tmp", "-mindepth", "1", "-delete")
        self.disturbed = False

    def _disturb(self, *words: str) -> None:
        self.disturbed = True
        self.do(*words)


def own_lab(kind: str) -> Lab:
    """A lab of this session alone, which is to be taken down at its end.

    Args:
        kind: a letter for what it is for: t is the standing lab, s a spare one, u one with Slurm, r
            one of random faults.
    """
    return Lab(own_name(kind))


def take_down_what_died() -> None:
    """End the labs of test sessions and benchmarks that were killed before they could do it."""
    rows = [line.split() for line in Lab(DEFAULT).do("list").splitlines()]
    for name in {row[0] for row in rows}:
        if is_abandoned(name):
            Lab(name).down()


# -- what is left behind ---------------------------------------------------------------------------


def traces(name: str) -> list[str]:
    """All that there is of a lab on this machine; nothing after `down`."""
    sign = re.compile(rf"(lab-|cluster-lab/|scripts\.lab_\w+\0){name}\b")
    found = [f"folder {path}" for path in Path("/run/cluster-lab").glob(name)]
    found += [f"file {SSH_FILE}"] * (name == DEFAULT and SSH_FILE.exists())
    found += [f"link {path.name}" for path in Path("/sys/class/net").glob(f"lab-{name}")]
    top = controller()
    found += [f"cgroup {path}" for path in (top.glob(f"cluster-lab-{name}") if top else ())]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [f"mount {line}" for line in mounts if sign.search(line)]
    for process in _processes():
        text = _text(process / "cmdline") + _text(process / "cgroup") + _text(process / "mounts")
        found += [f"process {process.name}"] * bool(sign.search(text))
    return found


def namespaces(pids: Sequence[int]) -> set[str]:
    """The namespaces that processes are in and this one is not."""
    found = {space for pid in pids for space in _spaces(Path(f"/proc/{pid}"))}
    return found - _spaces(Path("/proc/self"))


def dwellers(spaces: set[str]) -> list[str]:
    """The processes that are in any of these namespaces."""
    return [process.name for process in _processes() if _spaces(process) & spaces]


def machine() -> dict[str, str]:
    """What is to be the same after a lab as before it: names of network spaces, mounts, bridges.

    Less the small disks that other tests mount meanwhile.
    """
    commands = {"netns": "ip netns list", "bridges": "ip -o link show type bridge"}
    said = {
        what: subprocess.run(shlex.split(words), capture_output=True, text=True, check=True).stdout
        for what, words in commands.items()
    }
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return said | {"mounts": "\n".join(row for row in mounts if SMALL_DISK not in row)}


def _processes() -> list[Path]:
    return [folder for folder in Path("/proc").iterdir() if folder.name.isdigit()]


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _spaces(process: Path) -> set[str]:
    try:
        return {os.readlink(file) for file in (process / "ns").iterdir()}
    except OSError:
        return set()
