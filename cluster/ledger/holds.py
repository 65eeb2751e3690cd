"""The locks of several runs at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from cluster.common.descriptors import raised
from cluster.common.errors import UsageError
from cluster.ledger.faults import translated
from cluster.ledger.locks import Owner, flock, unlock, write_owner
from cluster.ledger.store import Ledger

# Descriptors for everything else: the store, the engine's pipes, libraries.
_SPARE = 512


class Holds:
    """Locks runs, each by a lock of its own, until they are released or this process ends.

    Args:
        ledger: the store.
        runs: the ids of the runs.

    Attributes:
        all: the runs that were locked to begin with.

    Raises:
        Locked: another process holds one of them.
        UsageError: there are more runs than this process may have open files.
    """

    def __init__(self, ledger: Ledger, runs: Sequence[str]) -> None:
        self.all = frozenset(runs)
        self._held: dict[str, int] = {}
        ledger.check_writable()
        check_room(len(runs))
        me, folder = Owner.here(), ledger.locks
        try:
            with translated(folder):
                folder.mkdir(mode=0o700, exist_ok=True)
                for run in sorted(runs):  # in one order: else two sweeps could refuse each other
                    self._hold(ledger.lock_path(run), run, me)
            ledger.own()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def release(self, run: str) -> None:
        """Release one."""
        descriptor = self._held.pop(run, None)
        if descriptor is not None:
            unlock(descriptor)

    def close(self) -> None:
        """Release all."""
        for run in tuple(self._held):
            self.release(run)

    def _hold(self, path: Path, run: str, me: Owner) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._held[run] = descriptor
        flock(descriptor, path, run)
        write_owner(descriptor, me)


def check_room(runs: int) -> None:
    """Check that this process may have as many open files as runs are to be locked.

    Raises:
        UsageError: it may not.
    """
    may = raised()
    # A single run is no problem of this kind: whatever else lacks descriptors reports it itself.
    if runs > 1 and runs + _SPARE > may:
        parts = -(-runs // max(1, may - _SPARE))
        raise UsageError(
            f"{runs:,} points need as many open files, and this process may have {may:,}",
            fix=f"submit them in parts, --points 1/{parts} and so on, or raise 'ulimit -Hn'",
        )
