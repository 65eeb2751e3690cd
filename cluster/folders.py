"""Private folders of engines on a host, and what tells hosts apart that share a home."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

from cluster.kernels import cache_folder

_MEMORY = "/dev/shm"
_ROOM = 1 << 16


def private_folder() -> Path:
    """A fresh folder for an engine's files, beside the kernels' cache; never in /tmp.

    Its name tells the machine (homes may be shared) and the process id of its owner. Where the
    disk is full it is in memory.
    """
    *places, last = _places()
    for place in places:
        with suppress(OSError):
            return _folder_in(place)
    return _folder_in(last)


def sweep() -> None:
    """Remove the private folders of this machine whose owners were killed."""
    for place in _places():
        for old in place.parent.glob(f"{place.name}*"):
            owner = old.name.removeprefix(place.name).split("-")[0]
            if not Path("/proc", owner).exists():
                shutil.rmtree(old, ignore_errors=True)


def _places() -> tuple[Path, ...]:
    """Where private folders are, and what their names begin with."""
    return cache_folder() / "hosts" / f"{machine()}-", Path(_MEMORY, f"cluster-{os.getuid()}-")


def _folder_in(place: Path) -> Path:
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{place.name}{os.getpid()}-", dir=place.parent))
    try:
        # A folder can still be made on a full disk; what is to be in it could not.
        (folder / "room").write_bytes(bytes(_ROOM))
        (folder / "room").unlink()
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def machine() -> str:
    """What tells two machines apart that are reached under two names."""
    for place in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        with suppress(OSError):
            return Path(place).read_text().strip()
    return socket.gethostname().replace("-", "_")
