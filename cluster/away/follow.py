"""Watch a run from any shell: by reading its ledger, which disturbs nobody."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster import api
from cluster.away.halt import halt
from cluster.dispatch import Stop
from cluster.errors import Locked, StopNow, UsageError
from cluster.events import Draining, NodeProgress, Noted, Observer, Progress, Started
from cluster.ledger import Ledger, Run, log_of
from cluster.report.result import Result
from cluster.state import State
from cluster.tally import Estimate
from cluster.verbs import command

_LOOK_EVERY = 0.5


def follow(
    run: str,
    store: Path,
    observe: Observer | None = None,
    *,
    timeout: float | None = None,
    look: Callable[[], bool] = lambda: False,
) -> Result:
    """Return when nobody computes a run any more; its result.

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
        name = ledger.run(run).id
        viewer = _Viewer(ledger, observe) if observe else None
        while not look():
            row = ledger.run(name)
            if ledger.state(row) != State.RUNNING.value:
                break
            if viewer:
                viewer.show(row)
            left = deadline - time.monotonic()
            if left <= 0:
                words = f"run {name} is held by {ledger.holder(row)} still, after {timeout:g} s"
                raise Locked(words, fix=command("wait", name, store=store))
            time.sleep(min(_LOOK_EVERY, left))
        return api.show(name, ledger)


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
        return api.show(halt(run, store, now=True), store)


class _Viewer:
    """Makes of a run's newest record the events that its own observers are told."""

    def __init__(self, ledger: Ledger, observe: Observer) -> None:
        self._ledger, self._observe = ledger, observe
        self._told: Mapping[str, Any] = {}
        self._event = -1

    def show(self, row: Run) -> None:
        record = row.progress or {}
        if self._event < 0:
            self._begin(row, record)
        for number, node, text in self._ledger.events_since(row, self._event):
            self._event = number
            self._observe(Noted(text, node))
        if record and record != self._told:
            self._told = record
            self._observe(_progress(row, record))

    def _begin(self, row: Run, record: Mapping[str, Any]) -> None:
        """What came before is in the result; from here on it is shown as it comes."""
        sessions = self._ledger.sessions(row)
        backend = sessions[-1]["backend"] if sessions else row.definition["spec"]["backend"]
        goal, block = row.goal["blocks"], row.definition["block"]
        self._observe(Started(row.id, record.get("blocks", 0), goal, block, backend))
        self._event = max((n for n, _, _ in self._ledger.events_since(row, 0)), default=0)


def _progress(row: Run, record: Mapping[str, Any]) -> Progress:
    estimate = None
    if record["estimate"] is not None and record["std_error"] is not None:
        value, error = _tuple(record["estimate"]), _tuple(record["std_error"])
        estimate = Estimate(value, error, value, value, row.goal.get("confidence", 0.95))
    return Progress(
        record["elapsed_s"], record["blocks"], row.goal["blocks"], record["samples"],
        record["samples_per_s"], estimate,
        tuple(NodeProgress(*node) for node in record.get("nodes", [])),
    )  # fmt: skip


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def tail(run: str, store: Path, *, onward: bool = False) -> Iterator[str]:
    """The log of a run, in pieces; ``onward``: and what is added until nobody computes it.

    Raises:
        UsageError: there is no such run, or none without a terminal.
    """
    with Ledger(store) as ledger:
        row = ledger.run(run)
        path = log_of(row.id, store)
        try:
            file = path.open(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            message = f"run {row.id} has no log: what it says went to where it was started"
            raise UsageError(message, fix=command("show", row.id, store=store)) from None
        with file:
            while True:
                running = onward and ledger.state(row) == State.RUNNING.value
                yield from iter(lambda: file.read(1 << 16), "")
                if not running:
                    return
                time.sleep(_LOOK_EVERY)
