"""Watch a run from any shell: by reading its ledger, which disturbs nobody."""

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

_LOOK_EVERY = 0.5


def follow(
    run: str,
    store: Path,
    observe: Observer | None = None,
    *,
    timeout: float | None = None,
    look: Callable[[], bool] = lambda: False,
) -> Result:
    """Return when nobody computes a run, or a sweep, any more; its result.

    Args:
        run: its id, or a beginning of it.
        store: the folder of the ledger.
        observe: is told the run's progress, as the run itself tells it.
        timeout: seconds to wait; None: as long as it takes.
        look: called twice a second; what it says true to ends the watching.

    Raises:
        Locked: it is computed still when the timeout is over.
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
                words = f"{watched.id} is held by {owner} still, after {timeout:g} s"
                raise Locked(words, fix=command("wait", watched.id, store=store))
            time.sleep(min(_LOOK_EVERY, left))
        return watched.result()


def attach(run: str, store: Path, observe: Observer, stop: Stop) -> Result:
    """Follow a run, and pass on the wish to stop: the first one drains it, the second ends it."""
    asked: list[str] = []

    def look() -> bool:
        if stop.reason and not asked:
            asked.append(halt(run, store, timeout=None))
            observe(Draining(stop.reason))
        return False

    try:
        return follow(run, store, observe, look=look)
    except StopNow:
        if not stop.reason:  # some other signal, that is meant for the view alone
            raise
        halt(run, store, now=True)
        return follow(run, store)


def tail(run: str, store: Path, *, onward: bool = False) -> Iterator[str]:
    """The log of a run, in pieces; ``onward``: and what is added until nobody computes it.

    Raises:
        UsageError: there is no such run, or none without a terminal.
    """
    with Ledger(store) as ledger:
        said = WatchedRun(ledger, run)
        path = log_of(said.id, store)
        try:
            # A store may come from anywhere: its log is read, and not what a link there points to.
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            message = f"{said.id} has no log: what it says went to where it was started"
            raise UsageError(message, fix=command("show", said.id, store=store)) from None
        with open(descriptor, encoding="utf-8", errors="replace") as file:
            while True:
                running = onward and said.holder() is not None
                yield from iter(lambda: file.read(1 << 16), "")
                if not running:
                    return
                time.sleep(_LOOK_EVERY)
