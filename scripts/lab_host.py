"""What holds a host of the lab: builds its file system, then is its PID 1 as long as it stands.

Runs in namespaces of its own (network, mounts, processes, host name, shared memory), which the
kernel takes away with it. The host's root is a new tmpfs that holds only what is listed here: the
machine's /usr, the interpreter, a virtual environment of its own. Whatever else the machine has,
first of all the checkout, is not hidden there but was never put in.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
import uuid
from contextlib import suppress
from pathlib import Path

from scripts.lab_base import MOST, PORTS, PYTHON, ROOT, SHARED, SWITCH, Lab, number, run

DISK = "256m"  # /tmp, the homes and everything else that is written on a host
USERS = ("root:x:0:0:root:/root:/bin/bash", "lab:x:1000:1000::/home/lab:/bin/bash")
GUEST = "guest:x:1001:1001::/home/guest:/bin/bash"  # has no key: is asked for a password
NOBODY = ("sshd:x:74:74::/var/empty:/bin/false", "nobody:x:65534:65534::/:/bin/false")
ETC = ("alternatives", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "openmpi")
ETC_MORE = ("protocols", "services", "ssl/openssl.cnf")


def hosts_file(subnet: str, own: str = "") -> str:
    """What /etc/hosts of a host says, and of whoever dispatches to them."""
    names = [f"{subnet}.{number} h{number}" for number in range(1, MOST + 1)]
    local = ["127.0.0.1 localhost", "::1 localhost"]
    return "\n".join([*local, f"{subnet}.254 dispatcher", *names, own]).strip() + "\n"


# -- the file system -------------------------------------------------------------------------------


def show(root: Path, place: Path) -> None:
    """Make a folder of the machine seen at the same place of the host, read-only."""
    target = root / place.relative_to("/")
    target.mkdir(parents=True, exist_ok=True)
    run("mount", "--rbind", "-o", "ro", place, target)


def system(root: Path, prefix: Path) -> None:
    """The machine's programs and libraries, and the interpreter where it is not among them."""
    show(root, Path("/usr"))
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        place = Path("/", name)
        if place.is_symlink():
            (root / name).symlink_to(place.readlink())
        elif place.is_dir():
            show(root, place)
    if not prefix.is_relative_to("/usr"):
        show(root, prefix)
    checkout = root / ROOT.relative_to("/")
    if checkout.exists() and not prefix.is_relative_to(ROOT):
        run("mount", "-t", "tmpfs", "-o", "ro", "nothing", checkout)


def devices(root: Path) -> None:
    """A /dev with what programs expect, terminals and shared memory of its own."""
    folder = root / "dev"
    for name, minor in (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)):
        os.mknod(folder / name, 0o020000, os.makedev(1, minor))
        (folder / name).chmod(0o666)
    os.mknod(folder / "tty", 0o020000, os.makedev(5, 0))
    (folder / "tty").chmod(0o666)
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        (folder / name).symlink_to(f"/proc/self/fd{target}")
    (folder / "ptmx").symlink_to("pts/ptmx")
    terminals = "newinstance,ptmxmode=666,mode=620"
    for name, kind, options in (("pts", "devpts", terminals), ("shm", "tmpfs", "mode=1777")):
        (folder / name).mkdir()
        run("mount", "-t", kind, "-o", options, kind, folder / name)


def kernel_views(root: Path) -> None:
    """The host's own /proc and /sys, which show its processes and interfaces."""
    run("mount", "-t", "proc", "proc", root / "proc")
    run("mount", "-t", "sysfs", "sysfs", root / "sys")
    if Path("/sys/fs/cgroup").is_mount():
        run("mount", "--rbind", "/sys/fs/cgroup", root / "sys" / "fs" / "cgroup")


def folders(root: Path) -> None:
    """The empty folders of a system, with their modes."""
    for name in ("dev", "etc/ssh/keys", "proc", "sys", "mnt", "opt", "srv", "var/log", "var/empty"):
        (root / name).mkdir(parents=True)
    for name, mode in (("tmp", 0o1777), ("var/tmp", 0o1777), ("run/sshd", 0o755), ("root", 0o711)):
        (root / name).mkdir(parents=True)
        (root / name).chmod(mode)
    for name, user in (("lab", 1000), ("guest", 1001)):
        (root / "home" / name).mkdir(parents=True, mode=0o700)
        os.chown(root / "home" / name, user, user)


def settings(root: Path) -> None:
    """How the machine's programs find their libraries and their own settings."""
    for name in (*ETC, *ETC_MORE):
        source, target = Path("/etc", name), root / "etc" / name
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True)
        elif source.exists():
            shutil.copy(source, target)


def names(root: Path, lab: Lab, host: str) -> None:
    """Users, the host's own name, and those of the others."""
    users = [*USERS, GUEST, *NOBODY]
    groups = ["{0}:x:{3}:".format(*user.split(":")) for user in users]
    # No password fits; without this file, or with the machine's other sources of users, root is
    # locked for sshd.
    passwords = [user.partition(":")[0] + ":*:1::::::" for user in users]
    sources = [f"{what}: files" for what in ("passwd", "group", "shadow")]
    files = {
        "passwd": users,
        "group": [*groups, "tty:x:5:"],
        "shadow": passwords,
        "nsswitch.conf": [*sources, "hosts: files dns"],
        "hostname": [host],
        "machine-id": [uuid.uuid4().hex],
    }
    for name, lines in files.items():
        (root / "etc" / name).write_text("\n".join(lines) + "\n")
    (root / "etc" / "shadow").chmod(0o600)
    (root / "etc" / "hosts").write_text(hosts_file(lab.subnet))


def ssh_server(root: Path, lab: Lab, host: str) -> None:
    """The server's configuration, its key, and who may come in."""
    folder, own = root / "etc" / "ssh", lab.folder / host
    for key in ("host_key", "host_key.pub"):
        shutil.copy(own / key, folder / key)
    (folder / "host_key").chmod(0o600)
    for user in USERS:
        shutil.copy(lab.folder / "key.pub", folder / "keys" / user.partition(":")[0])
    address = f"{lab.subnet}.{number(host)}"
    lines = [f"ListenAddress {address}:{port}" for port in PORTS]
    lines += ["HostKey /etc/ssh/host_key", "AuthorizedKeysFile /etc/ssh/keys/%u", "UseDNS no"]
    lines += ["PidFile /run/sshd.pid", "Subsystem sftp internal-sftp", "UsePAM no"]
    lines += ["PermitRootLogin prohibit-password", "KbdInteractiveAuthentication no"]
    lines += ["PasswordAuthentication no", *(lab.folder / "sshd_more").read_text().splitlines()]
    lines += ["Match User guest", "PasswordAuthentication yes"]
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")


def environment(root: Path, lab: Lab, host: str) -> None:
    """The host's own virtual environment: it can be changed there, and no other host sees it."""
    own, target = lab.folder / host, root / PYTHON.parents[1].relative_to("/")
    # An overlay's options are separated by commas and colons, which the names of these have not.
    for name in ("python", "project"):
        run("mount", "--bind", lab.folder / name, own / name)
    layers = root / "var" / "lib" / "cluster"
    for folder in (target, layers / "changes", layers / "work"):
        folder.mkdir(parents=True)
    places = f"lowerdir={own}/project:{own}/python"
    places += f",upperdir={layers}/changes,workdir={layers}/work"
    run("mount", "-t", "overlay", "-o", places, "venv", target)


def shared(root: Path, lab: Lab) -> None:
    """A folder that is the same one on all hosts of the lab; the homes are each host's own."""
    target = root / SHARED.relative_to("/")
    target.mkdir(parents=True)
    run("mount", "--bind", lab.folder / "shared", target)


def become(lab: Lab, host: str) -> None:
    """Build the host's root, and leave the machine's for it."""
    root = lab.folder / host / "root"
    prefix = Path(os.path.realpath(sys.base_prefix))
    run("mount", "-t", "tmpfs", "-o", f"size={DISK},mode=755", f"lab-{lab.name}-{host}", root)
    folders(root)
    system(root, prefix)
    devices(root)
    kernel_views(root)
    settings(root)
    names(root, lab, host)
    ssh_server(root, lab, host)
    environment(root, lab, host)
    shared(root, lab)
    socket.sethostname(host)
    # This process, too, has the new root from here on.
    run("pivot_root", root, root / "mnt")
    os.chdir("/")
    run("umount", "--lazy", "/mnt")


# -- the keeper ------------------------------------------------------------------------------------


def keep() -> None:
    """Be PID 1 for ever: bury what ended and has no other parent."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    while True:
        signal.sigwait({signal.SIGCHLD})
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def ready() -> None:
    """Tell `up`, and let go of its pipe."""
    print("ready", flush=True)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


def main(name: str, host: str) -> None:
    """Hold a host, or the network between them, until killed."""
    os.umask(0o022)
    if host != SWITCH:
        become(Lab(name), host)
    os.chdir("/")
    ready()
    keep()


if __name__ == "__main__":
    main(*sys.argv[-2:])
