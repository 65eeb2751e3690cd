"""Durable files and folders: once a call here returns, its effect survives a power failure.

A new name is an entry of its parent folder, so the parent has to be synced as well.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

# Raised by file systems that cannot sync a folder.
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP)


def make_folder(folder: Path) -> None:
    """Create a folder with mode 0700, and its missing parents.

    Raises:
        OSError: a folder cannot be created or synced.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for each in missing:
        _sync(each.parent)


def replace(path: Path, text: str) -> None:
    """Replace a file's content atomically, as UTF-8; a missing folder is created.

    Raises:
        OSError: the file cannot be written; its old content stays.
    """
    make_folder(path.parent)
    part = path.with_suffix(f"{path.suffix}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return  # a folder with mode -wx: files can be created in it, but it cannot be opened
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)
