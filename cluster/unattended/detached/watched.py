"""A run or a sweep as other processes see it: they watch it, wait for it, and stop it."""

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
    """A run or a sweep of a store that another process may be computing.

    Args:
        ledger: the store.
        name: of a run, a sweep, or a point of one.

    Attributes:
        id: the full id.
        run: the run to whose events requests to its dispatcher are added; the first of a sweep.

    Raises:
        UsageError: there is no such run or sweep, or the sweep has no points.
    """

    def __init__(self, ledger: Ledger, name: str) -> None:
        self._ledger = ledger
        self._row = sweeps.job_named(ledger, name)
        self.id = self._row.id
        self._runs = [run for _, _, run in sweeps.runs_of(ledger, self._row)]
        if not self._runs:
            raise UsageError(f"the sweep {self.id} has no points", fix="submit its spec again")
        self.run = self._runs[0]
        # The newest event and progress that `news` has yielded; None: it was not called yet.
        self._last_event: int | None = None
        self._last_record: Mapping[str, Any] = {}

    def owners(self) -> Iterator[Owner]:
        """The processes that compute it now, each once; several if a sweep is computed in parts."""
        seen = set()
        for run in tuple(self._runs):
            owner = self._ledger.holder(run)
            if owner is not None and owner.process not in seen:
                seen.add(owner.process)
                # Look at this run first the next time: of many points, only a few are locked.
                self._runs.remove(run)
                self._runs.insert(0, run)
                yield owner

    def holder(self) -> Owner | None:
        """A process that computes it now; None if there is none."""
        return next(self.owners(), None)

    def result(self) -> Result:
        """Its present result, complete or not."""
        return job_result(self._ledger, self.id)

    def news(self) -> Iterator[Event]:
        """The events since the last call, as an observer in its own process would get them.

        They are read from the ledger. Events before the first call are left out, as the result
        shows them.
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
