"""Where frozen kernels are unpacked: private folders named by their hashes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from cluster.sampling.kernels.model import KernelSource

_MEMORY = "/dev/shm"
# Beside the kernels' own folders: a kernel that starts a fresh Python hands it its functions by the
# name of their module, and there that name leads here.
_MODULES = ".modules"
_STAND_IN = '''\
"""A kernel's module, for processes that the kernel starts."""
import os, pathlib, sys
sys.path.insert(0, os.environ["{root}"])
from cluster.sampling.kernels.load import run_as
del sys.path[0]
sys.modules[__name__] = run_as(__name__, pathlib.Path(__file__).parents[1] / "{sha}", {entry!r})
'''
# Where this package is, for those processes.
ROOT = "CLUSTER_PACKAGE"


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


def module_name(source: KernelSource) -> str:
    """What a kernel's module is called in every process."""
    return f"_cluster_kernel_{source.sha[:16]}"


def modules_folder(folder: Path) -> Path:
    """Where the modules of kernels are found by name, for one that is unpacked in ``folder``."""
    return folder.parent / _MODULES


def unpack(source: KernelSource) -> Path:
    """Write the files once, whole or not at all; what is there is believed only if it is equal."""
    try:
        root = cache_folder() / "kernels"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = root / source.sha
        if root.stat().st_uid != os.getuid():
            raise PermissionError
        if not _holds(folder, source):
            _replace(folder, source)
        _written(modules_folder(folder), _stand_in(source))
        return folder
    except OSError:
        # No home, a full or a read-only disk: the kernel still runs, only its cache is lost.
        return _unpack_aside(source)


def _unpack_aside(source: KernelSource) -> Path:
    """In a folder of this process: on the disk for such, else in memory."""
    try:
        return _aside(Path(_scratch().name), source)
    except OSError:
        return _aside(Path(_scratch(_MEMORY).name), source)


def _aside(root: Path, source: KernelSource) -> Path:
    _written(root / _MODULES, _stand_in(source))
    return _written(root / source.sha, source.files)


def _stand_in(source: KernelSource) -> dict[str, str]:
    text = _STAND_IN.format(root=ROOT, sha=source.sha, entry=source.entry)
    return {f"{module_name(source)}.py": text}


def _holds(folder: Path, source: KernelSource) -> bool:
    try:
        return all(
            (folder / name).read_bytes() == text.encode() for name, text in source.files.items()
        )
    except OSError:
        return False


def _replace(folder: Path, source: KernelSource) -> None:
    fresh = Path(tempfile.mkdtemp(prefix=f".{source.sha[:8]}-", dir=folder.parent))
    try:
        _written(fresh, source.files)
        with suppress(OSError):
            fresh.rename(folder)
            return
        # Another worker came first, or something else stands there: heal it file by file.
        _written(folder, source.files)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _written(folder: Path, files: Mapping[str, str]) -> Path:
    """The folder, with the files in it."""
    for name, text in files.items():
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
