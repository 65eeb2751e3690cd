"""What is watched, waited for and stopped: a run, or a sweep as one thing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cluster.common.errors import UsageError
from cluster.common.states import State
from cluster.dispatch.events import Event, Noted, PointProgress, Progress, Started
from cluster.ledger import JobRow, Ledger, Owner, SweepRow, sessions, sweeps
from cluster.report.recorded import job_result
from cluster.report.result import Result
from cluster.report.standing import nodes_of
from cluster.sampling.tally import Estimate


class WatchedRun:
    """A run or a sweep of a store, as other processes see it.

    Args:
        ledger: the store.
        name: of a run, a sweep, or a point of one.

    Attributes:
        id: its whole id.
        run: the run whose events hold the requests of people.

    Raises:
        UsageError: it is no run, and no sweep with points.
    """

    def __init__(self, ledger: Ledger, name: str) -> None:
        self._ledger = ledger
        self._row = sweeps.job_named(ledger, name)
        self.id = self._row.id
        self._runs = [run for _, _, run in sweeps.runs_of(ledger, self._row)]
        if not self._runs:
            raise UsageError(f"the sweep {self.id} has no points", fix="submit its spec again")
        self.run = self._runs[0]
        # What news were given of so far; None: of nothing.
        self._last_event: int | None = None
        self._last_record: Mapping[str, Any] = {}

    def owners(self) -> Iterator[Owner]:
        """Who computes it now, each process once: several where a sweep is computed in parts."""
        seen = set()
        for run in tuple(self._runs):
            owner = self._ledger.holder(run)
            if owner is not None and owner.process not in seen:
                seen.add(owner.process)
                # Looked at first the next time: of many points few are held.
                self._runs.remove(run)
                self._runs.insert(0, run)
                yield owner

    def holder(self) -> Owner | None:
        """One who computes it now, or None."""
        return next(self.owners(), None)

    def result(self) -> Result:
        """How it stands."""
        return job_result(self._ledger, self.id)

    def news(self) -> Iterator[Event]:
        """What its own observers saw since the last call, as the ledger has it.

        What came before the first call is in the result.
        """
        row = sweeps.job_named(self._ledger, self.id)
        record = row.progress or {}
        if self._last_event is None:
            self._last_event = sessions.last_event(self._ledger, row)
            yield self._started(row, record)
        for number, node, text in sessions.events_since(self._ledger, row, self._last_event):
            self._last_event = number
            yield Noted(text, node)
        if record and record != self._last_record:
            self._last_record = record
            yield _progress(row, record)

    def _started(self, row: JobRow, record: Mapping[str, Any]) -> Started:
        starts = sessions.sessions_of(self._ledger, row)
        backend = starts[-1]["backend"] if starts else row.backend
        if isinstance(row, SweepRow):
            owed = sum(run.state != State.DONE.value for run in self._runs)
            return Started(row.id, 0, None, 0, backend, points=len(self._runs), owed=owed)
        goal, block = row.goal["blocks"], row.definition["block"]
        return Started(row.id, record.get("blocks", 0), goal, block, backend)


def _progress(row: JobRow, record: Mapping[str, Any]) -> Progress:
    """The progress that a row records; only a run alone has an estimate."""
    return Progress(
        record["elapsed_s"],
        record["blocks"],
        record["goal_blocks"] if isinstance(row, SweepRow) else row.goal["blocks"],
        record["samples"],
        record["samples_per_s"],
        None if isinstance(row, SweepRow) else _estimate(record, row.goal["confidence"]),
        nodes_of(record),
        record.get("points_done"),
        record.get("points"),
        tuple(PointProgress(*point) for point in record.get("running", [])),
    )


def _estimate(record: Mapping[str, Any], confidence: float) -> Estimate | None:
    if record["estimate"] is None or record["std_error"] is None:
        return None
    value, error = _tuple(record["estimate"]), _tuple(record["std_error"])
    return Estimate(value, error, value, value, confidence)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
