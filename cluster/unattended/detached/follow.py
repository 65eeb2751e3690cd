"""Watch a run from any shell, by polling its ledger; the run does not notice."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.common.commands import command
from cluster.common.errors import Locked, StopNow, UsageError
from cluster.dispatch import Stop
from cluster.dispatch.events import Draining, Observer
from cluster.ledger import Ledger, log_of
from cluster.report.result import Result
from cluster.unattended.detached.halt import halt
from cluster.unattended.detached.watched import WatchedRun

_POLL_S = 0.5


def follow(
    run: str,
    store: Path,
    observe: Observer | None = None,
    *,
    timeout: float | None = None,
    look: Callable[[], bool] = lambda: False,
) -> Result:
    """Wait until no process computes a run or a sweep any more, and return its result.

    Args:
        run: its id, or a unique prefix of it.
        store: the folder of the ledger.
        observe: receives the run's events, as the run's own observer does.
        timeout: seconds to wait; None: without limit.
        look: called twice a second; stop waiting once it returns True.

    Raises:
        Locked: the run is still being computed after the timeout.
        UsageError: there is no such run.
    """
    deadline = math.inf if timeout is None else time.monotonic() + timeout
    with Ledger(store) as ledger:
        watched = WatchedRun(ledger, run)
        while not look() and (owner := watched.holder()):
            if observe:
                for event in watched.news():
                    observe(event)
            left = deadline - time.monotonic()
            if left <= 0:
                message = f"{watched.id} is still held by {owner} after {timeout:g} s"
                raise Locked(message, fix=command("wait", watched.id, store=store))
            time.sleep(min(_POLL_S, left))
        return watched.result()


def attach(run: str, store: Path, observe: Observer, stop: Stop) -> Result:
    """Follow a run, and forward signals to it: the first drains the run, a second stops it at once.

    Args:
        run: its id, or a unique prefix of it.
        store: the folder of the ledger.
        observe: receives the run's events.
        stop: this process's own signals.

    Raises:
        StopNow: a signal came that is for this process alone, not for the run.
        UsageError: there is no such run.
    """
    draining = False

    def look() -> bool:
        nonlocal draining
        if stop.reason and not draining:
            halt(run, store, timeout=None)
            draining = True
            observe(Draining(stop.reason))
        return False

    try:
        return follow(run, store, observe, look=look)
    except StopNow:
        if not stop.reason:  # a signal that ends only the watching, such as SIGTERM
            raise
        halt(run, store, now=True)
        return follow(run, store)


def tail(run: str, store: Path, *, onward: bool = False) -> Iterator[str]:
    """Yield the log of a detached run, in pieces.

    Args:
        run: its id, or a unique prefix of it.
        store: the folder of the ledger.
        onward: also yield what is appended, until no process computes the run any more.

    Raises:
        UsageError: there is no such run, or it has no log.
    """
    with Ledger(store) as ledger:
        watched = WatchedRun(ledger, run)
        path = log_of(watched.id, store)
        try:
            # A store may come from an untrusted source, so a symbolic link is not followed.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            message = f"{watched.id} has no log: its output went to where it was started"
            raise UsageError(message, fix=command("show", watched.id, store=store)) from None
        with open(descriptor, encoding="utf-8", errors="replace") as file:
            while True:
                # Checked before the read: what a run writes just before its end is read as well.
                running = onward and watched.holder() is not None
                yield from iter(lambda: file.read(1 << 16), "")
                if not running:
                    return
                time.sleep(_POLL_S)
