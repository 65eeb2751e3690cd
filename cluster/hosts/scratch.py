"""Private folders of engines on a host, and what tells hosts apart that share a home."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

from cluster.sampling.kernels import cache_folder

_MEMORY = "/dev/shm"
_ROOM = 1 << 16
_LOCK = "lock"
# What keeps the folders of this process, until it ends in whatever way.
_LOCKS: dict[Path, int] = {}


def private_folder() -> Path:
    """A fresh folder for an engine's files, beside the kernels' cache; never in /tmp.

    Its name tells the machine, for homes may be shared; that its owner lives, the lock in it does.
    Where the disk is full it is in memory. :func:`remove` removes it.
    """
    *places, last = _places()
    for place in places:
        with suppress(OSError):
            return _folder_in(place)
    return _folder_in(last)


def remove(folder: Path) -> None:
    """Remove a private folder of this process."""
    # First: on a network's disk a file that is open keeps its folder from being removed.
    os.close(_LOCKS.pop(folder))
    shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove the private folders of this machine whose owners were killed."""
    for place in _places():
        for old in place.parent.glob(f"{place.name}*"):
            if not _is_held(old):
                shutil.rmtree(old, ignore_errors=True)


def _places() -> tuple[Path, ...]:
    """Where private folders are, and what their names begin with."""
    memory = Path(_MEMORY, f"cluster-{os.getuid()}-")
    try:
        return cache_folder() / "hosts" / f"{machine()}-", memory
    except OSError:
        return (memory,)


def _folder_in(place: Path) -> Path:
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Under a name that no sweep looks at, until it is locked.
    fresh = Path(tempfile.mkdtemp(prefix=f".{place.name}", dir=place.parent))
    lock = -1
    try:
        # A folder can still be made on a full disk; what is to be in it could not.
        (fresh / "room").write_bytes(bytes(_ROOM))
        (fresh / "room").unlink()
        lock = os.open(fresh / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        with suppress(OSError):  # a disk without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        folder = fresh.rename(fresh.with_name(fresh.name.removeprefix(".")))
    except OSError:
        if lock >= 0:
            os.close(lock)
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    _LOCKS[folder] = lock
    return folder


def _is_held(folder: Path) -> bool:
    """Whether the owner of a private folder lives, or may live for all that can be told.

    Not by its process id: containers may share a home, and each has process ids of its own.
    """
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def hostname() -> str:
    """This host's name, as text that any file takes: the system allows every byte in it."""
    name = socket.gethostname().encode(errors="surrogateescape")
    return name.decode(errors="backslashreplace")


def boot() -> str:
    """What tells this start of the system from all others; empty where that is not told.

    Clones have the machine-id of their master, and starts of their own.
    """
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii", "ignore").strip()
    return ""


def machine() -> str:
    """What tells two machines apart that are reached under two names."""
    for place in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with suppress(OSError):
            # An image of a container may have an empty one.
            if name := Path(place).read_text("ascii", "ignore").strip():
                return name
    return hostname().replace("-", "_")
