"""Processes and their parents, as far as Linux helps to lose none of them."""

from __future__ import annotations

import ctypes
import signal
import sys
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def die_with_parent() -> None:
    """Ask the kernel to end this process when its parent is gone, however it went."""
    _control(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt() -> None:
    """Become the parent of every descendant whose own parent ends: none can get away."""
    _control(_PR_SET_CHILD_SUBREAPER, 1)


def descendants(pid: int) -> set[int]:
    """Every process that descends from one and has not ended."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # A name is bytes, cut at 15: the last letter may be half of one.
            name, _, rest = entry.read_text(errors="replace").rpartition(")")
            state, parent = rest.split()[:2]
            if state != "Z":
                parents[int(name.partition(" ")[0])] = int(parent)
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= more
    return found


def born(pid: int) -> int | None:
    """When a process began, in the kernel's ticks since the machine's start; None: it has ended.

    With its pid that is one process, however often the pid is used again.
    """
    try:
        _, _, rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
        return int(rest.split()[19])
    except (OSError, IndexError, ValueError):
        return None


def _control(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
