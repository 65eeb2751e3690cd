"""The limit of open files: raised for this process, restored for its children."""

from __future__ import annotations

import os
import resource
from contextlib import suppress

_FILES = resource.RLIMIT_NOFILE
#: Kept free of workers: the store, an engine's sockets, libraries, short-lived files.
RESERVE = 64
# Linux's default fs.nr_open, the largest limit that it accepts; some programs close every
# possible descriptor before exec, which takes long enough at this one.
_MAX_FILES = 1 << 20
_ORIGINAL = resource.getrlimit(_FILES)


def raised() -> int:
    """Raise this process's soft limit of open files as far as allowed, and return the limit."""
    soft, hard = resource.getrlimit(_FILES)
    most = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return _MAX_FILES if soft == resource.RLIM_INFINITY else soft
    with suppress(ValueError, OSError):
        resource.setrlimit(_FILES, (most, hard))
    return resource.getrlimit(_FILES)[0]


def left() -> int:
    """How many more files this process may open, less :data:`RESERVE`; may be negative."""
    return raised() - len(os.listdir("/proc/self/fd")) - RESERVE


def give_back(pid: int) -> None:
    """Restore, for a child process, the limit that this process was started with.

    The child may use select(), which fails for descriptors above 1,023, or close every possible
    descriptor one by one.
    """
    with suppress(ProcessLookupError, PermissionError):
        resource.prlimit(pid, _FILES, _ORIGINAL)
