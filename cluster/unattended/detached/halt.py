"""Stop a run from any shell of its host: the holder of its lock, and nobody else, is signalled."""

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

# Between the signal that drains and the one that stops at once.
_PAUSE = 0.3
# For a run that stops at once, until it is killed.
_STOPPING = 10.0
_LOOK_EVERY = 0.1


class HolderUnreachable(ClusterError):
    """The process that holds a run cannot be signalled from here."""

    code = 75


def halt(run: str, store: Path, *, now: bool = False, timeout: float | None = 60.0) -> str:
    """Have a run or a sweep drain, or with ``now`` stop at once, and wait for it; returns its id.

    What nobody computes is left as it is. Of a sweep that several processes compute in parts, each
    is asked.

    Args:
        run: its id, or a beginning of it.
        store: the folder of the ledger.
        now: what was started is not finished; a run that does not heed that is killed.
        timeout: seconds for the drain; None: only ask for it.

    Raises:
        UsageError: there is no such run.
        Unreachable: the process is of another host, or another user.
        Locked: it drains still when the timeout is over.
    """
    with Ledger(store, write=True) as ledger:
        found = WatchedRun(ledger, run)
        here = hostname()
        owners = sorted(found.owners(), key=lambda owner: owner.host != here)
        if not all(_asked(ledger, found, owner, now=now) for owner in owners):
            return halt(found.id, store, now=now, timeout=timeout)
        if owners and not now and timeout is not None:
            _wait(found, store, timeout)
        return found.id


def _asked(ledger: Ledger, found: WatchedRun, owner: Owner, *, now: bool) -> bool:
    """Ask a process to drain, and with ``now`` end it; False where it holds nothing any more."""
    try:
        return _signalled(ledger, found, owner, now=now)
    except HolderUnreachable:
        # It may have ended by itself, just now.
        if _free(found, owner, 0.0):
            return False
        raise


def _signalled(ledger: Ledger, found: WatchedRun, owner: Owner, *, now: bool) -> bool:
    with _Process(owner) as process:
        # The lock says that the owner lives; asked again, now that its process is at hand, it
        # says that this is the process, and no later one of the same pid.
        if _free(found, owner, 0.0):
            return False
        # A second signal would not drain any more, so a second wish sends none.
        wish = f"process {owner.pid} on {owner.host} was asked to drain by cluster stop"
        fresh = note_once(ledger, found.run, wish, owner.since)
        if fresh:
            process.send(signal.SIGTERM)
        if now:
            _at_once(found, owner, process, _PAUSE if fresh else 0.0)
        return True


class _Process:
    """The process that holds a lock, by a descriptor that stays with it."""

    def __init__(self, owner: Owner) -> None:
        self._owner, self._descriptor = owner, -1

    def __enter__(self) -> _Process:
        owner = self._owner
        if owner.host != hostname():
            raise self._unreachable("it is on another host", f"run this on {owner.host}")
        try:
            self._descriptor = os.pidfd_open(owner.pid)
        except (OSError, AttributeError) as error:
            raise self._unreachable(f"{error}", "it may run in a container") from None
        if owner.born is None or born(owner.pid) != owner.born:
            os.close(self._descriptor)
            raise self._unreachable("its pid belongs to another", "it may run in a container")
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self._descriptor)

    def send(self, number: int) -> None:
        """Signal it; one that has ended needs none."""
        try:
            signal.pidfd_send_signal(self._descriptor, number)
        except ProcessLookupError:
            pass
        except PermissionError:
            raise self._unreachable("it is another user's", "stop it as that user") from None

    def _unreachable(self, why: str, fix: str) -> HolderUnreachable:
        return HolderUnreachable(f"the run is held by {self._owner}, out of reach: {why}", fix=fix)


def _at_once(found: WatchedRun, owner: Owner, process: _Process, pause: float) -> None:
    """The second signal of a kind stops what the first one drains; then there is no more to ask."""
    for seconds, number in ((pause, signal.SIGTERM), (_STOPPING, signal.SIGKILL)):
        if _free(found, owner, seconds):
            return
        process.send(number)
    _free(found, owner, _STOPPING)


def _wait(found: WatchedRun, store: Path, timeout: float) -> None:
    if not _free(found, None, timeout):
        raise Locked(
            f"{found.id} drains, and is held by {found.holder()} still, after {timeout:g} s",
            fix=f"{command('wait', found.id, store=store)}, or stop it with --now",
        )


def _free(found: WatchedRun, owner: Owner | None, seconds: float) -> bool:
    """Whether an owner, or anybody, holds nothing of it, or no more so within a time."""
    end = time.monotonic() + seconds
    while any(owner is None or each.process == owner.process for each in found.owners()):
        if time.monotonic() >= end:
            return False
        time.sleep(_LOOK_EVERY)
    return True
