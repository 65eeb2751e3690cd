"""The cache of unpacked kernels: private folders named by the kernels' hashes."""

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
# A folder beside those of the kernels, on the path of every process. A kernel that starts another
# Python (multiprocessing, loky) passes functions to it by the name of their module: the stub of
# that name in this folder loads the kernel there.
_MODULES = ".modules"
_STAND_IN = '''\
"""A kernel's module, for processes that the kernel starts."""
import os, pathlib, sys
sys.path.insert(0, os.environ["{root}"])
from cluster.sampling.kernels.load import run_as
del sys.path[0]
sys.modules[__name__] = run_as(__name__, pathlib.Path(__file__).parents[1] / "{sha}", {entry!r})
'''
# The environment variable that tells those processes where this package is.
ROOT = "CLUSTER_PACKAGE"


def cache_folder() -> Path:
    """Where kernels are unpacked: CLUSTER_CACHE, or ``cluster`` in XDG_CACHE_HOME or ~/.cache.

    Raises:
        OSError: neither variable is set, and the user has no home, as in some containers.
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
    """The name of a kernel's module, the same in every process."""
    return f"_cluster_kernel_{source.sha[:16]}"


def modules_folder(folder: Path) -> Path:
    """The folder of the importable stubs, beside the folder of an unpacked kernel."""
    return folder.parent / _MODULES


def unpack(source: KernelSource) -> Path:
    """Write a kernel's files to its folder, unless they are there already.

    Existing files are compared with the text and not trusted otherwise.

    Returns:
        The folder: in the cache, or else in a temporary folder of this process.

    Raises:
        OSError: no folder could be written, on disk or in memory.
    """
    try:
        root = cache_folder() / "kernels"
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = root / source.sha
        # Whoever owns the folder could swap the kernel's files between check and import.
        if root.stat().st_uid != os.getuid():
            raise PermissionError
        if not _holds(folder, source):
            _replace(folder, source)
        _written(modules_folder(folder), _stand_in(source))
        return folder
    except OSError:
        # No home, a full or read-only disk: the kernel still runs, only without a cache.
        return _unpack_aside(source)


def _unpack_aside(source: KernelSource) -> Path:
    """Unpack into a temporary folder of this process: on disk, else in memory."""
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
    """Put the files in place by a rename, so that no other worker sees half of them."""
    fresh = Path(tempfile.mkdtemp(prefix=f".{source.sha[:8]}-", dir=folder.parent))
    try:
        _written(fresh, source.files)
        with suppress(OSError):
            fresh.rename(folder)
            return
        # Another worker was faster, or the folder has wrong files: replace it file by file.
        _written(folder, source.files)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _written(folder: Path, files: Mapping[str, str]) -> Path:
    """Write the files that are missing or differ, each atomically; returns the folder."""
    for name, text in files.items():
        target = folder / name
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not target.is_file() or target.read_bytes() != text.encode():
            # mkstemp, not a name with the pid: a shared home is written to from several machines
            # and containers, where pids coincide.
            descriptor, scratch = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            with os.fdopen(descriptor, "wb") as file:
                file.write(text.encode())
            # numba keys its cache by time and size: the same text keeps the same time stamp.
            os.utime(scratch, (0, 0))
            Path(scratch).replace(target)
    return folder


@lru_cache(maxsize=2)
def _scratch(place: str | None = None) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="cluster-kernel-", dir=place)
