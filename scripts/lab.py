"""The verbs of scripts/lab. Each finds what stands by looking, and does one thing to it."""

from __future__ import annotations

import argparse
import os
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from scripts import lab_pace, lab_python, lab_slurm, lab_switch
from scripts.lab_base import (
    BRAKE,
    KEEPER,
    LABS,
    MOST,
    PATH,
    PORTS,
    PYTHON,
    ROOT,
    SWITCH,
    Lab,
    LabError,
    all_keepers,
    keeper,
    keepers,
    lock,
    marked,
    number,
    run,
    say,
    stat,
    wait,
    which,
    within,
)
from scripts.lab_host import hosts_file

TOOLS = {
    "ip": "iproute2",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "pivot_root": "util-linux",
}
# What a command on a host finds in its environment, which is what ssh would give it.
THERE = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "LOGNAME": "root",
    "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
    "SHELL": "/bin/bash",
    "USER": "root",
}
START_SECONDS = 30.0
# Of the lab that nobody named, so that plain `ssh h1` finds it; nothing of ~/.ssh is touched.
DEFAULT = "lab"
SSH_FILE = Path("/etc/ssh/ssh_config.d/cluster-lab.conf")

Verb = Callable[[Lab, argparse.Namespace], object]


def missing() -> list[str]:
    """The packages that must be installed first."""
    return sorted({package for tool, package in TOOLS.items() if not which(tool)})


def check() -> None:
    """Refuse what cannot work.

    Raises:
        LabError: not root, or a tool is missing.
    """
    if os.geteuid() != 0:
        raise LabError("only root can make hosts", "sudo scripts/lab ...", 69)
    if absent := missing():
        raise LabError(f"not installed: {', '.join(absent)}", "scripts/lab install", 69)


# -- keys and configuration ------------------------------------------------------------------------


def make_key(file: Path) -> None:
    """A pair of keys without a passphrase."""
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "cluster lab", "-f", file)


def ssh_config(lab: Lab, hosts: Iterable[str]) -> str:
    """What ssh needs to know of the hosts; nothing of the person's own is looked at."""
    places = {host: f"{lab.subnet}.{number(host)}" for host in hosts}
    single = "".join(f"Host {host}\n  HostName {place}\n" for host, place in places.items())
    lines = [
        f"Host {' '.join(places)} {lab.subnet}.*",
        "User root",
        f"IdentityFile {lab.folder}/key",
        "IdentitiesOnly yes",
        "IdentityAgent none",
        f"UserKnownHostsFile {lab.folder}/known_hosts",
        "GlobalKnownHostsFile /dev/null",
        "StrictHostKeyChecking yes",
    ]
    return single + "\n  ".join(lines) + "\n"


def announce(lab: Lab) -> None:
    """Let every ssh of this machine find the hosts that stand, if they are the default lab's."""
    if lab.name == DEFAULT and SSH_FILE.parent.is_dir():
        mark = "# Written by scripts/lab up, and removed by scripts/lab down."
        SSH_FILE.write_text(f"{mark}\n{ssh_config(lab, hosts(lab))}")


def withdraw(lab: Lab) -> None:
    """Undo :func:`announce`."""
    if lab.name == DEFAULT:
        SSH_FILE.unlink(missing_ok=True)


def sshd() -> str:
    """The server's path; it insists on being called by it."""
    return which("sshd") or "sshd"


def later_options() -> str:
    """Options that only some versions of sshd have."""
    # From 9.8 on, a source of failed logins is shut out for a while; here all come from one.
    option = "PerSourcePenalties no"
    tried = [sshd(), "-T", "-f", "/dev/null", "-o", option]
    answer = subprocess.run(tried, capture_output=True, check=False)
    return "" if b"onfiguration option" in answer.stderr else option


def write_folder(lab: Lab, environment: Path, project: Path) -> None:
    """Keys, and the configuration of ssh, of sshd and of names."""
    for name in ("bin", "shared"):
        (lab.folder / name).mkdir(parents=True)
    lab.folder.chmod(0o700)
    (lab.folder / "subnet").write_text(lab_switch.free_subnet())
    make_key(lab.folder / "key")
    (lab.folder / "known_hosts").touch()
    every = [f"h{each}" for each in range(1, MOST + 1)]
    (lab.folder / "ssh_config").write_text(ssh_config(lab, every))
    (lab.folder / "sshd_more").write_text(later_options())
    machine = f"127.0.1.1 {socket.gethostname()}"
    (lab.folder / "hosts").write_text(hosts_file(lab.subnet, machine))
    wrapper = lab.folder / "bin" / "ssh"
    command = f"{which('ssh')} -F {lab.folder}/ssh_config"
    wrapper.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    wrapper.chmod(0o755)
    (lab.folder / "python").symlink_to(environment)
    (lab.folder / "project").symlink_to(project)


def write_host(lab: Lab, host: str) -> None:
    """A host's key, and the empty places that its keeper mounts on."""
    own = lab.folder / host
    shutil.rmtree(own, ignore_errors=True)
    for name in ("project", "python", "root"):
        (own / name).mkdir(parents=True)
    make_key(own / "host_key")
    names = f"{host},{lab.subnet}.{number(host)}"
    also = ",".join(f"[{name}]:{port}" for name in names.split(",") for port in PORTS[1:])
    known = lab.folder / "known_hosts"
    kept = [line for line in known.read_text().splitlines() if not line.startswith(f"{host},")]
    key = (own / "host_key.pub").read_text().rpartition(" ")[0].rpartition(" ")[0]
    known.write_text("\n".join([*kept, f"{names},{also} {key}"]) + "\n")


# -- up and down -----------------------------------------------------------------------------------


def begin(lab: Lab, host: str) -> subprocess.Popen[str]:
    """Start a keeper in namespaces of its own. It outlives this process."""
    namespaces = ["--net"]
    if host != SWITCH:
        namespaces += ["--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child"]
        lab_pace.prepare(lab, host)
    python = [sys.executable, "-P", "-S", "-m", KEEPER, lab.name, host]
    return subprocess.Popen(
        ["unshare", *namespaces, "--", *python],
        cwd="/",
        env={"PATH": PATH, "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def await_ready(host: str, started: subprocess.Popen[str]) -> None:
    """Wait until a keeper has built its host.

    Raises:
        LabError: it could not; with what it said.
    """
    assert started.stdout is not None
    readable, _, _ = select.select([started.stdout], [], [], START_SECONDS)
    first = started.stdout.readline() if readable else f"nothing in {START_SECONDS:g} s"
    if first != "ready\n":
        rest = started.stdout.read() if readable else ""
        raise LabError(f"{host} could not be built: {first}{rest}".rstrip(), "scripts/lab down")


def start_keepers(lab: Lab, hosts: Iterable[str]) -> None:
    """Build several hosts at the same time."""
    started = {host: begin(lab, host) for host in hosts}
    for host, process in started.items():
        await_ready(host, process)


def start_sshd(lab: Lab, host: str) -> None:
    """Start the ssh server of a host, which must not be there."""
    command = (sshd(), "-f", "/etc/ssh/sshd_config", "-E", "/var/log/sshd.log")
    # A daemon must not inherit the lock.
    enter(lab, host, *command, keeps_lock=False)
    wait(f"sshd on {host}", lambda: listens(lab, host))


def listens(lab: Lab, host: str) -> bool:
    """Whether something listens on port 22 of the host, as the host sees it."""
    lines = Path(f"/proc/{keeper(lab, host)}/net/tcp").read_text().splitlines()[1:]
    words = [line.split() for line in lines]
    return any(each[1].endswith(f":{PORTS[0]:04X}") and each[3] == "0A" for each in words)


def create(lab: Lab, environment: Path, project: Path) -> None:
    """A lab without hosts: keys, the switch, and the dispatcher's interface."""
    write_folder(lab, environment, project)
    start_keepers(lab, [SWITCH])
    lab_switch.plug_dispatcher(lab)
    (lab.folder / "ready").touch()


def add(lab: Lab, hosts: list[str]) -> None:
    """Bring up these hosts, of which nothing may stand."""
    for host in hosts:
        write_host(lab, host)
    start_keepers(lab, hosts)
    for host in hosts:
        lab_switch.plug(lab, host)
        start_sshd(lab, host)
        (lab.folder / host / "ready").touch()


def hosts(lab: Lab) -> list[str]:
    """The hosts that are there."""
    return [host for host in keepers(lab) if host != SWITCH]


def stands(lab: Lab, host: str) -> bool:
    """Whether a host was brought up to the end, and is there."""
    return host in keepers(lab) and (lab.folder / host / "ready").exists()


def up(lab: Lab, wanted: argparse.Namespace) -> None:
    """Bring hosts up, those that do not stand yet."""
    if not 1 <= wanted.count <= MOST:
        raise LabError(f"{wanted.count} hosts", f"ask for 1 to {MOST}", 2)
    lab_python.STORE.mkdir(exist_ok=True)
    # Held until the hosts stand, so that nobody takes for unused what they are about to use.
    with lock(lab_python.STORE, 1200):
        environment = lab_python.environment()
        project = lab_python.project(environment)
        with lock():
            if not ((lab.folder / "ready").exists() and SWITCH in keepers(lab)):
                remove(lab)
                create(lab, environment, project)
            new = add_missing(lab, wanted.count)
            announce(lab)
    if (lab.folder / "project").resolve() != project:
        say("hosts that stood before have an earlier state of the project: scripts/lab down first")
    say(f"lab {lab.name}: {', '.join(new) or 'nothing'} came up; {len(hosts(lab))} stand")


def add_missing(lab: Lab, count: int) -> list[str]:
    """Bring up those of so many hosts that do not stand, or half; which these were."""
    named = [f"h{each}" for each in range(1, count + 1)]
    new = [host for host in named if not stands(lab, host)]
    for host in new:
        end(lab, host)
    add(lab, new)
    return new


def end(lab: Lab, host: str = "") -> None:
    """Kill a host's keeper, or all of them; the kernel ends everything else on the host."""

    def none_left() -> bool:
        found = marked(KEEPER, BRAKE)
        doomed = [pid for name, each, pid in found if name == lab.name and host in ("", each)]
        for pid in doomed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not doomed

    wait("the hosts' processes to end", none_left, 20)


def remove(lab: Lab) -> None:
    """Remove all that there may be of a lab, however far it came."""
    withdraw(lab)
    end(lab)
    lab_switch.unplug_dispatcher(lab)
    lab_pace.forget(lab)
    shutil.rmtree(lab.folder, ignore_errors=True)
    with suppress(OSError):
        LABS.rmdir()


def down(lab: Lab, _: argparse.Namespace) -> None:
    """Take everything away."""
    with lock():
        remove(lab)


# -- on a host -------------------------------------------------------------------------------------


def entering(lab: Lab, host: str) -> list[str]:
    """The words before a command that make it run on a host, as one of its processes."""
    # Left to fork by itself, nsenter stops when the command is stopped, and nobody continues it.
    spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd", "--no-fork"]
    enter = ["nsenter", "-t", str(keeper(lab, host)), *spaces, "--"]
    # More than one command, so that the shell forks, which is what enters the PID namespace.
    return [*lab_pace.joining(lab, host), *enter, "sh", "-c", 'cd && "$@"; exit $?', "sh"]


def enter(lab: Lab, host: str, *command: str, keeps_lock: bool = True) -> str:
    """The output of a command on a host."""
    words = entering(lab, host)
    return run("env", "-i", *pairs(THERE), *words, *command, keeps_lock=keeps_lock)


def pairs(values: dict[str, str]) -> list[str]:
    """Variables as `env` takes them."""
    return [f"{name}={value}" for name, value in values.items()]


def given(wanted: argparse.Namespace) -> list[str]:
    """The command of the command line.

    Raises:
        LabError: there is none.
    """
    words: list[str] = wanted.command[wanted.command[:1] == ["--"] :]
    if not words:
        raise LabError("no command", "write it behind, as in: scripts/lab exec h1 hostname", 2)
    return words


def execute(lab: Lab, wanted: argparse.Namespace) -> NoReturn:
    """Run a command on a host, in root's home; not over the network, so on a cut host too."""
    command = [*entering(lab, wanted.host), *given(wanted)]
    # Not with ours: HOME, PATH or PYTHONPATH would be those of another machine.
    terminal = {"TERM": os.environ["TERM"]} if "TERM" in os.environ else {}
    os.execvpe(command[0], command, THERE | terminal)


def signal_all(lab: Lab, host: str, number: str) -> None:
    """Send a signal to all processes of a host at once."""
    # In a namespace of processes, -1 is all of them less PID 1, and less the one that says it.
    enter(lab, host, "sh", "-c", f"kill -{number} -1 || true")


def states(lab: Lab, host: str) -> set[str]:
    """The letters for what the processes of a host do, less those that ended."""
    return {stat(pid)[1] for pid in within(keeper(lab, host))} - {"Z"}


def slow(lab: Lab, wanted: argparse.Namespace) -> None:
    """Make a host slower by a factor; 1 undoes it."""
    if not 1 <= wanted.factor <= 100 or wanted.cores < 1:
        raise LabError(f"slower by {wanted.factor:g}", "take a factor from 1 to 100", 2)
    keeper(lab, wanted.host)
    lab_pace.slow(lab, wanted.host, wanted.factor, wanted.cores)


def freeze(lab: Lab, wanted: argparse.Namespace) -> None:
    """Stop all processes of a host (SIGSTOP). Its kernel still answers."""
    signal_all(lab, wanted.host, "STOP")
    wait(f"{wanted.host} to stand still", lambda: states(lab, wanted.host) <= {"T"})


def thaw(lab: Lab, wanted: argparse.Namespace) -> None:
    """Let all processes of a host go on (SIGCONT)."""
    signal_all(lab, wanted.host, "CONT")
    wait(f"{wanted.host} to go on", lambda: "T" not in states(lab, wanted.host))


def kill(lab: Lab, wanted: argparse.Namespace) -> None:
    """Kill all processes of a host at once (SIGKILL), its sshd too."""
    signal_all(lab, wanted.host, "KILL")
    wait(f"the processes of {wanted.host} to end", lambda: not states(lab, wanted.host))


def cut(lab: Lab, wanted: argparse.Namespace) -> None:
    """Lose the packets of a host."""
    keeper(lab, wanted.host)
    lab_switch.cut(lab, wanted.host, wanted.way)


def lossy(lab: Lab, wanted: argparse.Namespace) -> None:
    """Lose a part of the packets of a host, at random; 0 undoes it."""
    if not 0 <= wanted.percent <= 99:
        raise LabError(f"a loss of {wanted.percent} %", "take 0 to 99; cut loses all", 2)
    keeper(lab, wanted.host)
    lab_switch.lose(lab, wanted.host, wanted.percent, wanted.way)


def narrow(lab: Lab, wanted: argparse.Namespace) -> None:
    """Limit the network of a host to so many kbit/s each way; 0 undoes it."""
    if wanted.rate != 0 and not 8 <= wanted.rate <= 10_000_000:
        raise LabError(f"a rate of {wanted.rate} kbit/s", "take 8 to 10000000, or 0", 2)
    lab_switch.narrow(lab, wanted.host, wanted.rate)


def heal(lab: Lab, wanted: argparse.Namespace) -> None:
    """Undo cut, lossy, narrow, freeze and kill; with --all, slow and fill as well."""
    for host in wanted.hosts or hosts(lab):
        each = argparse.Namespace(host=host, factor=1.0, cores=1)
        thaw(lab, each)
        lab_switch.heal(lab, host)
        if wanted.all:
            slow(lab, each)
            free(lab, each)
        if not listens(lab, host):
            start_sshd(lab, host)


def fill(lab: Lab, wanted: argparse.Namespace) -> None:
    """Fill the host's disk to the last byte."""
    enter(lab, wanted.host, "sh", "-c", "cat /dev/zero 2>/dev/null >/tmp/.full || true")


def free(lab: Lab, wanted: argparse.Namespace) -> None:
    """Take away what `fill` wrote."""
    enter(lab, wanted.host, "rm", "-f", "/tmp/.full")


def slurm(lab: Lab, wanted: argparse.Namespace) -> None:
    """Have Slurm run on all hosts, the controller on the first one; or end it."""
    with lock():
        if wanted.what == "up":
            lab_slurm.up(lab, hosts(lab), enter)
        else:
            lab_slurm.down(lab, hosts(lab))


# -- for people and programs -----------------------------------------------------------------------


def exports(lab: Lab) -> dict[str, str]:
    """What a program here needs to work with the hosts.

    Raises:
        LabError: no host stands.
    """
    standing = hosts(lab)
    if not standing:
        raise LabError(f"lab {lab.name} does not stand", "scripts/lab up 3")
    return {
        "LAB": lab.name,
        "LAB_HOSTS": " ".join(standing),
        "LAB_ADDRESSES": " ".join(f"{lab.subnet}.{number(host)}" for host in standing),
        "LAB_DISPATCHER": f"{lab.subnet}.254",
        "LAB_PYTHON": str(PYTHON),
        "CLUSTER_SSH_CONFIG": str(lab.folder / "ssh_config"),
    }


def env(lab: Lab, _: argparse.Namespace) -> None:
    """Print the lines that a shell is to evaluate."""
    for name, value in exports(lab).items():
        print(f"export {name}={shlex.quote(value)}")
    print(f'export PATH={lab.folder}/bin:"$PATH"')


def run_here(lab: Lab, wanted: argparse.Namespace) -> NoReturn:
    """Run a command on this machine, as the dispatcher: with the hosts' names and the lab's ssh."""
    bind = 'mount --bind "$0" /etc/hosts && exec "$@"'
    words = ["unshare", "--mount", "sh", "-c", bind, str(lab.folder / "hosts"), *given(wanted)]
    path = f"{lab.folder}/bin:{os.environ.get('PATH', PATH)}"
    os.execvpe("unshare", words, os.environ | exports(lab) | {"PATH": path})


def show(_: Lab, __: argparse.Namespace) -> None:
    """Print every host of every lab on this machine, with its state."""
    with lock():
        show_all()


def show_all() -> None:
    """The lines of `list`, while nothing comes up or goes down."""
    for lab in sorted({Lab(name) for name, _, _ in all_keepers()}, key=lambda lab: lab.name):
        faults = lab_switch.faults(lab)
        for host in hosts(lab):
            state = " ".join(troubles(lab, host, faults)) or "up"
            print(f"{lab.name:<11} {host:<4} {lab.subnet}.{number(host):<4} {state}")


def troubles(lab: Lab, host: str, faults: dict[str, set[str]]) -> list[str]:
    """What is wrong with a host, in words; nothing if it is well."""
    words = {
        "starting": not stands(lab, host),
        **{fault: host in those for fault, those in faults.items()},
        "frozen": states(lab, host) == {"T"},
        "slow": lab_pace.is_slow(lab, host),
        "without sshd": not listens(lab, host),
    }
    return [word for word, true in words.items() if true]


# -- the command line ------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    """Every verb with its arguments."""
    top = argparse.ArgumentParser(prog="scripts/lab", description=__doc__)
    named = os.environ.get("LAB", "lab")
    top.add_argument("--name", default=named, help="which lab, of several at once ($LAB, or lab)")
    verbs = top.add_subparsers(metavar="VERB", required=True)

    def verb(name: str, does: Verb, text: str = "") -> argparse.ArgumentParser:
        said = text or (does.__doc__ or "").partition("\n")[0]
        added = verbs.add_parser(name, help=said, description=said)
        added.set_defaults(does=does)
        return added

    verb("up", up).add_argument("count", type=int, metavar="N")
    verb("down", down)
    verb("list", show)
    verb("env", env)
    on_host = {"exec": execute, "cut": cut, "slow": slow, "freeze": freeze, "thaw": thaw}
    on_host |= {"kill": kill, "fill": fill, "free": free, "lossy": lossy, "narrow": narrow}
    made = {name: verb(name, does) for name, does in on_host.items()}
    for added in made.values():
        added.add_argument("host", metavar="HOST")
    made["run"] = verb("run", run_here)
    for name in ("exec", "run"):
        made[name].add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND...")
    made["lossy"].add_argument("percent", type=int, metavar="PERCENT")
    for name in ("cut", "lossy"):
        made[name].add_argument("way", nargs="?", default="both", choices=lab_switch.WAYS)
    made["narrow"].add_argument("rate", type=int, metavar="KBIT")
    made["slow"].add_argument("factor", nargs="?", type=float, default=5.0, metavar="FACTOR")
    made["slow"].add_argument("--cores", type=int, default=1, help="busy processes that share it")
    verb("slurm", slurm).add_argument("what", choices=("up", "down"))
    healing = verb("heal", heal)
    healing.add_argument("--all", action="store_true", help="undo slow and fill as well")
    healing.add_argument("hosts", nargs="*", metavar="HOST", help="all hosts if none is named")
    return top


def main() -> None:
    """Do what the command line says."""
    wanted = parser().parse_args()
    os.umask(0o022)
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:{PATH}"
    try:
        check()
        wanted.does(Lab(wanted.name), wanted)
    except LabError as problem:
        say(f"error: {problem}\nfix: {problem.fix}")
        sys.exit(problem.code)
