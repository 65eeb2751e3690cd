"""Stop a run from any shell on its host, by a signal to the process that holds its lock."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from cluster.common.commands import command
from cluster.common.errors import ClusterError, Locked
from cluster.hosts.process_tree import born
from cluster.hosts.scratch import hostname
from cluster.ledger import Ledger, Owner
from cluster.ledger.sessions import note_once
from cluster.unattended.detached.watched import WatchedRun

# Seconds between the signal that drains and the one that stops at once.
_PAUSE = 0.3
# Seconds for a run to stop at once, before it is killed.
_STOPPING = 10.0
_POLL_S = 0.1


class HolderUnreachable(ClusterError):
    """The process that holds a run cannot be signalled from here."""

    code = 75


def halt(run: str, store: Path, *, now: bool = False, timeout: float | None = 60.0) -> str:
    """Drain a run or a sweep, or with ``now`` stop it at once, and wait for its end.

    A run that is not being computed is left as it is. If several processes compute parts of a
    sweep, all of them are stopped.

    Args:
        run: its id, or a unique prefix of it.
        store: the folder of the ledger.
        now: abandon the blocks being drawn; kill a run that ignores the signal.
        timeout: seconds to wait for the drain; None: do not wait.

    Returns:
        The whole id.

    Raises:
        UsageError: there is no such run.
        HolderUnreachable: the process is on another host, or belongs to another user.
        Locked: the run is still draining after the timeout.
    """
    with Ledger(store, write=True) as ledger:
        found = WatchedRun(ledger, run)
        here = hostname()
        # Local owners first: a remote one raises, and the local ones are stopped by then.
        owners = sorted(found.owners(), key=lambda owner: owner.host != here)
        if not all(_stop(ledger, found, owner, now=now) for owner in owners):
            # An owner has ended meanwhile; another process may have taken over its runs.
            return halt(found.id, store, now=now, timeout=timeout)
        if owners and not now and timeout is not None:
            _wait(found, store, timeout)
        return found.id


def _stop(ledger: Ledger, found: WatchedRun, owner: Owner, *, now: bool) -> bool:
    """Drain a process, or with ``now`` end it; False if it no longer holds the run."""
    try:
        return _signal(ledger, found, owner, now=now)
    except HolderUnreachable:
        if _is_released(found, owner, 0.0):  # it has just ended by itself
            return False
        raise


def _signal(ledger: Ledger, found: WatchedRun, owner: Owner, *, now: bool) -> bool:
    with _Process(owner) as process:
        # The lock is checked again once the pidfd is open: if the owner still holds it, the pidfd
        # is the owner's, and not that of a later process with the same pid.
        if _is_released(found, owner, 0.0):
            return False
        # A second signal would not drain any more, so a second wish sends none.
        wish = f"process {owner.pid} on {owner.host} was asked to drain by cluster stop"
        fresh = note_once(ledger, found.run, wish, owner.since)
        if fresh:
            process.send(signal.SIGTERM)
        if now:
            _stop_at_once(found, owner, process, _PAUSE if fresh else 0.0)
        return True


class _Process:
    """The process that holds a lock, by a pidfd: its pid may be reused, a pidfd is not."""

    def __init__(self, owner: Owner) -> None:
        self._owner, self._descriptor = owner, -1

    def __enter__(self) -> _Process:
        owner = self._owner
        if owner.host != hostname():
            raise self._unreachable("it runs on another host", f"run this on {owner.host}")
        try:
            self._descriptor = os.pidfd_open(owner.pid)
        except (OSError, AttributeError) as error:
            raise self._unreachable(f"{error}", "it may run in a container") from None
        if owner.born is None or born(owner.pid) != owner.born:
            os.close(self._descriptor)
            raise self._unreachable(
                "its pid belongs to another process here", "it may run in a container"
            )
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._descriptor)

    def send(self, number: int) -> None:
        """Send a signal, unless the process has ended.

        Raises:
            HolderUnreachable: the process belongs to another user.
        """
        try:
            signal.pidfd_send_signal(self._descriptor, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            raise self._unreachable("it belongs to another user", "stop it as that user") from None

    def _unreachable(self, why: str, fix: str) -> HolderUnreachable:
        return HolderUnreachable(f"the run is held by {self._owner}, out of reach: {why}", fix=fix)


def _stop_at_once(found: WatchedRun, owner: Owner, process: _Process, pause: float) -> None:
    """Send the second SIGTERM, which stops a draining run at once; kill a run that ignores it."""
    for seconds, number in ((pause, signal.SIGTERM), (_STOPPING, signal.SIGKILL)):
        if _is_released(found, owner, seconds):
            return
        process.send(number)
    _is_released(found, owner, _STOPPING)


def _wait(found: WatchedRun, store: Path, timeout: float) -> None:
    if not _is_released(found, None, timeout):
        raise Locked(
            f"{found.id} is draining, and still held by {found.holder()} after {timeout:g} s",
            fix=f"{command('wait', found.id, store=store)}, or stop it with --now",
        )


def _is_released(found: WatchedRun, owner: Owner | None, seconds: float) -> bool:
    """Wait until an owner (None: every owner) holds the run no more; False after the time."""
    end = time.monotonic() + seconds
    while any(owner is None or each.process == owner.process for each in found.owners()):
        if time.monotonic() >= end:
            return False
        time.sleep(_POLL_S)
    return True
