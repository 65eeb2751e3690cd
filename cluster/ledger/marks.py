"""The marks of a store: what a row must hold to be the one that was written.

A mark is a short sha256 over columns. It tells damage, and a change by anything but this package;
it is no signature: who writes a store can write its marks, so what they cover is judged as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple


class What(NamedTuple):
    """What a run is, as its columns hold it: these seven are under one mark."""

    id: str
    name: str
    created: float
    request: str
    identity: str
    definition: str
    goal: str

    @property
    def mark(self) -> str:
        """The mark of the column ``own``."""
        return _mark("run", *self)


class End(NamedTuple):
    """How a run ended, as its columns hold it; ``ranges`` is JSON."""

    state: str
    stopped_by: str | None
    drained: int | None
    counted: int | None
    tally: str | None
    ranges: str | None

    @classmethod
    def of(
        cls,
        state: str,
        stopped_by: str,
        drained: bool,
        counted: int | None,
        tally: str | None,
        ranges: object,
    ) -> End:
        """How a start of a run ended.

        Of one that did not drain nothing but that is recorded: it may have been cut short in the
        middle of adding, and its rows can be added up again.
        """
        if not drained:
            tally = ranges = None
        return cls(state, stopped_by, int(drained), counted, tally, json.dumps(ranges))

    def mark(self, run: str) -> str:
        """The mark of the column ``ended``, for the run of that id."""
        return _mark("end", run, *self)


#: A run that has not ended has no mark of its end.
UNENDED = End("running", None, None, None, None, None)


def taken_apart(definition: Mapping[str, Any]) -> tuple[str, str | None]:
    """A definition as the columns hold it: its JSON, and the probe, which is recorded later."""
    rest = {name: value for name, value in definition.items() if name != "probe"}
    return json.dumps(rest), definition.get("probe")


def probe_mark(run: str, probe: str | None) -> str | None:
    """The mark of how a probe of a run's kernel came out; None where there is none."""
    return None if probe is None else _mark("probe", run, probe)


def sweep_mark(
    sweep: str, name: str, created: float, request: str, spec: str, asked: str | None
) -> str:
    """The mark of a sweep's row, over these columns."""
    return _mark("sweep", sweep, name, created, request, spec, asked)


def point_mark(sweep: str, place: int, run: int, given: str) -> str:
    """The mark of a point of the sweep of that id."""
    return _mark("point", sweep, place, run, given)


def _mark(*values: object) -> str:
    # One to one for whatever SQLite gives: a text stands behind its length, all else is a repr.
    parts = (f"{len(each)}:{each}" if isinstance(each, str) else repr(each) for each in values)
    return hashlib.sha256("\n".join(parts).encode(errors="replace")).hexdigest()[:16]
