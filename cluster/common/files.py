"""Files and folders that are there after a power failure, once they are said to be there.

A new name is an entry in the folder above: it lasts when that folder was written out.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

# What file systems say that know no such thing.
_CANNOT = (errno.EINVAL, errno.ENOTSUP)


def make_folder(folder: Path) -> None:
    """Make a folder for the owner alone, and what is missing above it.

    Raises:
        OSError: it cannot be made, or not be written out.
    """
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for each in missing:
        _write_out(each.parent)


def replace(path: Path, text: str) -> None:
    """Have a file hold a text, whole or not at all; its folder is made where it is missing.

    Raises:
        OSError: it cannot be written; what was there before stays.
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
    _write_out(path.parent)


def _write_out(folder: Path) -> None:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:
        return  # names may be made in a folder that may not be read
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    finally:
        os.close(descriptor)
