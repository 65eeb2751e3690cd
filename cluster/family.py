"""Processes and their parents, as far as Linux helps to lose none of them."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any
from weakref import WeakSet

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

# Handlers that this package has set, and what each signal did before the first of them.
_ours: WeakSet[Callable[..., object]] = WeakSet()
_plain: dict[int, Any] = {}
_mask = threading.local()


def catch(number: int, handler: Callable[[int, Any], object]) -> Any:
    """Set a signal handler for this process, not for what a kernel forks; the one before it.

    A forked child inherits handlers. One that only makes a note of SIGTERM would outlive
    ``terminate()``, and whoever joins it would wait for ever.
    """
    before = signal.signal(number, handler)
    if before not in _ours:
        _plain[number] = before
    _ours.add(handler)
    _spare_children()
    return before


@cache
def _spare_children() -> None:
    os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_as_before)


def _hold() -> None:
    # A signal for the child may come before its handlers are put back: it must not get lost.
    _mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, _plain)


def _let_go() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)


def _as_before() -> None:
    for number, handler in _plain.items():
        if signal.getsignal(number) in _ours:  # a kernel may have set its own
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    _let_go()


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
