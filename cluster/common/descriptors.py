"""How many files this process may have open: as many as it may, its children as many as before."""

from __future__ import annotations

import os
import resource
from contextlib import suppress

_FILES = resource.RLIMIT_NOFILE
#: For everything else than workers: the store, an engine's sockets, libraries, what is passing.
RESERVE = 64
# Beyond this a kernel of the system takes no limit, and some programs close each one before exec.
_MOST = 1 << 20
_GIVEN = resource.getrlimit(_FILES)


def raised() -> int:
    """How many files this process may have open, its soft limit raised as far as it may be."""
    soft, hard = resource.getrlimit(_FILES)
    most = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return _MOST if soft == resource.RLIM_INFINITY else soft
    with suppress(ValueError, OSError):
        resource.setrlimit(_FILES, (most, hard))
    return resource.getrlimit(_FILES)[0]


def left() -> int:
    """How many files more this process may open, less a reserve; may be negative."""
    return raised() - len(os.listdir("/proc/self/fd")) - RESERVE


def give_back(pid: int) -> None:
    """Give a child the limit that this process was started with.

    A program may use select(), which knows no descriptor above 1,023, or close all that there may
    be, one by one.
    """
    with suppress(ProcessLookupError, PermissionError):
        resource.prlimit(pid, _FILES, _GIVEN)
