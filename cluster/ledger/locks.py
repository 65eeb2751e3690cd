"""Locks on runs: those of the operating system, which are released when their process ends."""

from __future__ import annotations

import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from cluster.common.errors import Locked
from cluster.hosts.process_tree import born
from cluster.hosts.scratch import hostname
from cluster.ledger.judge import is_time, is_word


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock: host, pid and since when (seconds since the epoch).

    ``born`` distinguishes the process from a later one of the same pid: see
    :func:`cluster.hosts.process_tree.born`.
    """

    host: str
    pid: int
    since: float
    born: int | None = None

    @classmethod
    def here(cls) -> Owner:
        """This process, now."""
        pid = os.getpid()
        return cls(hostname(), pid, time.time(), born(pid))

    @property
    def process(self) -> tuple[str, int, int | None]:
        """The process's identity, whatever it holds and since when."""
        return self.host, self.pid, self.born

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host} (since {since})"


def holder(path: Path) -> Owner | None:
    """The process that holds a lock file, or None."""
    # Opening a pipe in a lock's place would block until somebody writes into it.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_owner(descriptor)
    finally:
        os.close(descriptor)
    return None


def flock(descriptor: int, path: Path | str, run: str) -> None:
    """Lock a file for this process.

    Args:
        descriptor: the open file.
        path: its path, for the error.
        run: the run that it stands for, for the error.

    Raises:
        Locked: another process holds it; the error names that process.
    """
    # A reader that looks up the holder takes the lock for an instant: one refusal proves nothing.
    for _ in range(10):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _held.add(descriptor)
            return
        except BlockingIOError:
            time.sleep(0.02)
    owner = _read_owner(descriptor)
    raise Locked(
        f"run {run} is held by {owner}", where=str(path), fix="wait for it, or stop it first"
    )


def unlock(descriptor: int) -> None:
    """Release a lock file, and close it."""
    _held.discard(descriptor)
    # A child forked at this moment has the descriptor too, so closing alone would not release it.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


_held: set[int] = set()


def _leave_to_parent() -> None:
    """A child that a kernel forks must not keep the runs locked after this process has ended."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_leave_to_parent)


def _read_owner(descriptor: int) -> Owner:
    nobody = Owner("an unknown host", 0, 0.0)
    try:
        fields = json.loads(os.pread(descriptor, 4096, 0))
        owner = Owner(**fields)
    except (ValueError, TypeError, RecursionError):
        return nobody
    numbers = isinstance(fields["pid"], int) and isinstance(fields.get("born"), int | None)
    return owner if numbers and is_word(owner.host) and is_time(owner.since) else nobody


def write_owner(descriptor: int, owner: Owner) -> None:
    """Record in a lock file which process holds it."""
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(vars(owner)).encode(), 0)
