"""What is watched, waited for and stopped: a run, or a sweep as the one thing that it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any

from cluster.common.errors import UsageError
from cluster.common.states import State
from cluster.dispatch.events import Event, Noted, PointProgress, Progress, Started
from cluster.ledger import Ledger, Owner, Run, sweeps
from cluster.report.recorded import job_result
from cluster.report.result import Result
from cluster.report.standing import nodes_of
from cluster.sampling.tally import Estimate


class WatchedRun(ABC):
    """A run or a sweep of a store.

    Attributes:
        id: its whole id.
        run: the run whose events hold the wishes of people.
    """

    id: str
    run: Run

    @abstractmethod
    def owners(self) -> Iterator[Owner]:
        """Who computes it now, each process once: more than one where a sweep is in parts."""

    def holder(self) -> Owner | None:
        """One who computes it now, or None."""
        return next(self.owners(), None)

    @abstractmethod
    def result(self) -> Result:
        """How it stands."""

    @abstractmethod
    def news(self) -> Iterator[Event]:
        """What its own observers were told since it was asked last, as the ledger has it."""


def subject(ledger: Ledger, name: str) -> WatchedRun:
    """What a word names.

    Raises:
        UsageError: it is no run, and no sweep.
    """
    found = sweeps.named(ledger, name)
    return _Sweep(ledger, found) if found else _Single(ledger, ledger.run(name))


class _Single(WatchedRun):
    def __init__(self, ledger: Ledger, run: Run) -> None:
        self._ledger, self.run, self.id = ledger, run, run.id
        self._told: Mapping[str, Any] = {}
        self._event = -1

    def owners(self) -> Iterator[Owner]:
        owner = self._ledger.holder(self.run)
        if owner is not None:
            yield owner

    def result(self) -> Result:
        return job_result(self._ledger, self.id)

    def news(self) -> Iterator[Event]:
        row = self._ledger.run(self.id)
        record = row.progress or {}
        if self._event < 0:
            yield self._beginning(row, record)
        for number, node, text in self._ledger.events_since(row, self._event):
            self._event = number
            yield Noted(text, node)
        if record and record != self._told:
            self._told = record
            yield _progress(row, record)

    def _beginning(self, row: Run, record: Mapping[str, Any]) -> Started:
        """What came before is in the result; from here on it is shown as it comes."""
        sessions = self._ledger.sessions(row)
        backend = sessions[-1]["backend"] if sessions else row.definition["spec"]["backend"]
        self._event = max((n for n, _, _ in self._ledger.events_since(row, 0)), default=0)
        goal, block = row.goal["blocks"], row.definition["block"]
        return Started(row.id, record.get("blocks", 0), goal, block, backend)


class _Sweep(WatchedRun):
    def __init__(self, ledger: Ledger, sweep: sweeps.SweepRow) -> None:
        self._ledger, self._sweep, self.id = ledger, sweep, sweep.id
        self._runs = [run for _, _, run in sweeps.runs_of(ledger, sweep)]
        if not self._runs:
            raise UsageError(f"the sweep {sweep.id} has no points", fix="submit its spec again")
        self.run = self._runs[0]
        self._told: Mapping[str, Any] | None = None
        self._heard = 0

    def owners(self) -> Iterator[Owner]:
        """Whoever holds a run of it; one that was held the last time is asked first."""
        seen = set()
        for run in tuple(self._runs):
            owner = self._ledger.holder(run)
            if owner is not None and owner.process not in seen:
                seen.add(owner.process)
                self._runs.remove(run)
                self._runs.insert(0, run)
                yield owner

    def result(self) -> Result:
        return job_result(self._ledger, self.id)

    def news(self) -> Iterator[Event]:
        found = sweeps.named(self._ledger, self.id)
        record = (found and found.progress) or {}
        if self._told is None:
            self._told, self._heard = {}, sweeps.last_pool_event(self._ledger, self._sweep)
            owed = sum(run.state != State.DONE.value for run in self._runs)
            backend = self._sweep.spec["backend"]
            yield Started(self.id, 0, None, 0, backend, points=len(self._runs), owed=owed)
        for number, node, text in sweeps.pool_events_since(self._ledger, self._sweep, self._heard):
            self._heard = number
            yield Noted(text, node)
        if record and record != self._told:
            self._told = record
            yield Progress(
                record["elapsed_s"],
                record["blocks"],
                record["goal_blocks"],
                record["samples"],
                record["samples_per_s"],
                None,
                nodes_of(record),
                record["points_done"],
                record["points"],
                tuple(PointProgress(*point) for point in record.get("running", [])),
            )


def _progress(row: Run, record: Mapping[str, Any]) -> Progress:
    estimate = None
    if record["estimate"] is not None and record["std_error"] is not None:
        value, error = _tuple(record["estimate"]), _tuple(record["std_error"])
        estimate = Estimate(value, error, value, value, row.goal.get("confidence", 0.95))
    return Progress(
        record["elapsed_s"],
        record["blocks"],
        row.goal["blocks"],
        record["samples"],
        record["samples_per_s"],
        estimate,
        nodes_of(record),
    )


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
