"""Where frozen kernels are unpacked: private folders named by their hashes."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from cluster.kernels.model import Source

_MEMORY = "/dev/shm"


def cache_folder() -> Path:
    """Where kernels are unpacked: below CLUSTER_CACHE, XDG_CACHE_HOME or ~/.cache.

    Raises:
        OSError: none of them is known: this user has no entry, as in some containers.
    """
    named = os.environ.get("CLUSTER_CACHE")
    if named:
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".cache") / "cluster"
    except RuntimeError as error:
        raise OSError(str(error)) from None


def unpack(source: Source) -> Path:
    """Write the files once, whole or not at all; what is there is believed only if it is equal."""
    try:
        root = cache_folder() / "kernels"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = root / source.sha
        if root.stat().st_uid != os.getuid():
            raise PermissionError
        if not _holds(folder, source):
            _replace(folder, source)
        return folder
    except OSError:
        # No home, a full or a read-only disk: the kernel still runs, only its cache is lost.
        return _unpack_aside(source)


def _unpack_aside(source: Source) -> Path:
    """In a folder of this process: on the disk for such, else in memory."""
    try:
        return _written(Path(_scratch().name) / source.sha, source)
    except OSError:
        return _written(Path(_scratch(_MEMORY).name) / source.sha, source)


def _holds(folder: Path, source: Source) -> bool:
    try:
        return all(
            (folder / name).read_bytes() == text.encode() for name, text in source.files.items()
        )
    except OSError:
        return False


def _replace(folder: Path, source: Source) -> None:
    fresh = Path(tempfile.mkdtemp(prefix=f".{source.sha[:8]}-", dir=folder.parent))
    try:
        _written(fresh, source)
        with suppress(OSError):
            fresh.rename(folder)
            return
        # Another worker came first, or something else stands there: heal it file by file.
        _written(folder, source)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _written(folder: Path, source: Source) -> Path:
    """The folder, with the files in it."""
    for name, text in source.files.items():
        target = folder / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not target.is_file() or target.read_bytes() != text.encode():
            # Homes are shared, and process ids are those of one machine, or of one container.
            descriptor, scratch = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            with os.fdopen(descriptor, "wb") as file:
                file.write(text.encode())
            # Compilers key their caches by time and size: the same text keeps the same stamp.
            os.utime(scratch, (0, 0))
            Path(scratch).replace(target)
    return folder


@lru_cache(maxsize=2)
def _scratch(place: str | None = None) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="cluster-kernel-", dir=place)
