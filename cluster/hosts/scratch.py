"""Private folders of engines on a host, and what identifies hosts that share a home directory."""

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
# Free bytes that a folder must have.
_ROOM = 1 << 16
_LOCK = "lock"
# The locks on this process's folders; they are released when it ends, for whatever reason.
_LOCKS: dict[Path, int] = {}


def private_folder() -> Path:
    """Create a folder for an engine's files, beside the kernels' cache; never in /tmp.

    Its name contains the machine, because home directories may be shared. A lock in it shows
    whether its owner lives. If the disk is full, the folder is in memory.

    Raises:
        OSError: the folder can be created neither on disk nor in memory.
    """
    *places, last = _places()
    for place in places:
        with suppress(OSError):
            return _folder_in(place)
    return _folder_in(last)


def remove(folder: Path) -> None:
    """Remove a private folder of this process."""
    # Closed first: on a network file system, an open file keeps its folder from being removed.
    os.close(_LOCKS.pop(folder))
    shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove the private folders on this machine whose owners are dead."""
    for place in _places():
        for old in place.parent.glob(f"{place.name}*"):
            if not _is_held(old):
                shutil.rmtree(old, ignore_errors=True)


def _places() -> tuple[Path, ...]:
    """The possible places of private folders, as prefixes of their paths."""
    memory = Path(_MEMORY, f"cluster-{os.getuid()}-")
    try:
        return cache_folder() / "hosts" / f"{machine()}-", memory
    except OSError:
        return (memory,)


def _folder_in(place: Path) -> Path:
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Until it is locked, the folder has a name that no sweep matches.
    fresh = Path(tempfile.mkdtemp(prefix=f".{place.name}", dir=place.parent))
    lock = -1
    try:
        # On a full disk a folder can be created, but no file in it.
        (fresh / "room").write_bytes(bytes(_ROOM))
        (fresh / "room").unlink()
        lock = os.open(fresh / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        with suppress(OSError):  # a file system without locks
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
    """Whether the owner of a private folder is alive, or may be.

    Its pid would not do: containers may share a home directory, and have pids of their own.
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
    """This host's name as valid text; the system allows any byte in it, which is then escaped."""
    name = socket.gethostname().encode(errors="surrogateescape")
    return name.decode(errors="backslashreplace")


def boot() -> str:
    """The kernel's boot ID; empty if it cannot be read.

    Cloned machines have the same machine-id, but different boot IDs.
    """
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii", "ignore").strip()
    return ""


def machine() -> str:
    """This machine's ID, which is the same whatever name it is reached by."""
    for place in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with suppress(OSError):
            # Some container images have an empty one.
            if name := Path(place).read_text("ascii", "ignore").strip():
                return name
    return hostname().replace("-", "_")
