"""Processes and their descendants: how to find them, and make sure that they end (Linux)."""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
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
_F_SETSIG = 10
_PAGE = os.sysconf("SC_PAGE_SIZE")

# The handlers that this package has set, and for each signal the handler before the first of them.
_ours: WeakSet[Callable[..., object]] = WeakSet()
_plain: dict[int, Any] = {}
_mask = threading.local()
_forking = threading.local()


def catch(number: int, handler: Callable[[int, Any], object]) -> Any:
    """Set a signal handler in this process, but not in processes that it forks.

    A child forked by a kernel would inherit the handler. With one that only records SIGTERM, the
    child would survive ``terminate()``, and a ``join()`` would wait for ever.

    Args:
        number: the signal.
        handler: called with the signal's number and the frame.

    Returns:
        The handler before, as :func:`signal.signal` returns it.
    """
    before = signal.signal(number, handler)
    if before not in _ours:
        _plain[number] = before
    _ours.add(handler)
    _spare_children()
    return before


def leave_signals() -> None:
    """Do not react to signals that a keyboard, Slurm or systemd sends to all processes of a job.

    The dispatcher reacts to them: it drains, and ends its workers itself. The signals are caught
    and not ignored, because programs that a kernel starts would inherit an ignored signal.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        catch(number, _leave)


def _leave(_number: int, _frame: object) -> None:
    """Do nothing."""


@cache
def _spare_children() -> None:
    os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_as_before)


def _hold() -> None:
    # A signal may reach the child before its handlers are restored: block it until then.
    _mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, _plain)


def _let_go() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)


def _as_before() -> None:
    for number, handler in _plain.items():
        if signal.getsignal(number) in _ours:  # a kernel may have set its own
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    _let_go()


def die_with_parent() -> None:
    """Have the system kill this process when its parent dies, for whatever reason.

    Precisely: when the thread that forked it ends. Forked children do not inherit this.
    """
    _control(_PR_SET_PDEATHSIG, signal.SIGKILL)


def leash_children() -> None:
    """Have everything that this process forks end with it; call it once, in the main thread.

    The parent-death signal is sent when the *thread* that forked the child ends. That is right for
    the main thread, but a child of another thread, such as the one that multiprocessing has for its
    pools, must outlive its thread. Such a child instead gets SIGKILL at the end of a pipe whose
    writing end only this process holds.
    """
    ends = list(os.pipe())
    pipe = os.fstat(ends[0]).st_ino  # recognises the pipe, whose numbers a kernel may reuse

    def before() -> None:
        _forking.thread = threading.get_native_id() != os.getpid()

    def in_child() -> None:
        if not _forking.thread:
            die_with_parent()
        elif ends:
            _die_at_end_of(pipe, *ends)
            ends.clear()

    os.register_at_fork(before=before, after_in_child=in_child)


def _die_at_end_of(pipe: int, reader: int, writer: int) -> None:
    """In a forked child: have the system send SIGKILL when the pipe's last writer is closed.

    Args:
        pipe: the inode of the pipe.
        reader: its inherited reading end.
        writer: its inherited writing end, which is closed here.
    """
    try:
        if {os.fstat(end).st_ino for end in (reader, writer)} != {pipe}:
            return  # a kernel has closed them, and the numbers now belong to other files
        # Opened again: the owner and the signal are set for an open file, which a fork would share
        # with the parent and all its other children.
        own = os.open(f"/proc/self/fd/{reader}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        os.close(writer)
        fcntl.fcntl(own, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(own, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(own, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    except OSError:
        return
    if select.select([own], [], [], 0)[0]:  # the parent died before the signal was set up
        os.kill(os.getpid(), signal.SIGKILL)


def adopt() -> None:
    """Become the parent of every orphaned descendant (a subreaper), so that all can be found."""
    _control(_PR_SET_CHILD_SUBREAPER, 1)


def descendants(pid: int) -> set[int]:
    """The IDs of all processes that descend from one and have not ended."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            # A name is cut at 15 bytes, possibly inside a character, and may contain ")" itself.
            name, _, rest = entry.read_text(errors="replace").rpartition(")")
            state, parent = rest.split()[:2]
            if state != "Z":
                parents[int(name.partition(" ")[0])] = int(parent)
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= more
    return found


def is_alive(pid: int) -> bool:
    """Whether a process has not ended; a zombie has, even if it is never reaped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2]
        return state.split()[0] not in "ZX"
    except OSError:
        return False


def memory_text(size: float) -> str:
    """A number of bytes as text, such as ``2 GiB``."""
    unit = min(3, max(1, (int(size).bit_length() - 1) // 10))
    return f"{round(size / 2 ** (10 * unit), 1):g} {('', 'KiB', 'MiB', 'GiB')[unit]}"


def memory_of(pid: int, limit: int) -> int:
    """The memory that a process and its descendants use, in bytes.

    The sum of their resident sizes is cheap, but counts shared pages once for each process. Only if
    it exceeds the limit are the exact, proportional sizes read.

    Args:
        pid: the process.
        limit: bytes; below it, the result is an upper bound, above it exact.
    """
    family = _family(pid)
    used = sum(_resident(each) for each in family)
    return used if used <= limit else sum(map(_share, family))


def _family(pid: int) -> list[int]:
    """A process and its descendants, found without reading all of /proc."""
    found = [pid]
    for each in found:  # the list grows as it is read
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{each}/task"):
                found += map(int, Path(f"/proc/{each}/task/{thread}/children").read_text().split())
    return found


def _resident(pid: int) -> int:
    """Resident bytes of a process, shared pages included; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _share(pid: int) -> int:
    """Proportional bytes of a process: each shared page is divided among those that map it."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0


def born(pid: int) -> int | None:
    """The start time of a process, in clock ticks since the system's start; None if it has ended.

    Together with the pid it identifies a process, even if the pid is reused.
    """
    try:
        _, _, rest = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
        return int(rest.split()[19])
    except (OSError, IndexError, ValueError):
        return None


def _control(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
