"""The marks of a store: checksums that show whether a row is as it was written.

A mark is a truncated sha256 over columns. It reveals damage, and changes by anything but this
package. It is not a signature: whoever can write a store can write its marks, so the columns that
they cover are validated as well.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple


class What(NamedTuple):
    """What a run is, as stored in its columns: one mark covers these seven."""

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
    """How a run ended, as stored in its columns; ``ranges`` is JSON."""

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
        """The columns for the end of a session.

        For a session that did not drain, no tally is recorded: it may have been cut short in the
        middle of adding, and the rows can be added up again.

        Args:
            state: of the run from now on.
            stopped_by: what ended the session.
            drained: every block that was begun is counted.
            counted: the result is the blocks [0, counted); None: all counted blocks.
            tally: of the result, as JSON text; None: nothing is counted.
            ranges: the counted blocks as merged ranges [first, stop).
        """
        if not drained:
            tally = ranges = None
        return cls(state, stopped_by, int(drained), counted, tally, json.dumps(ranges))

    def mark(self, run: str) -> str:
        """The mark of the column ``ended`` of the run with that id."""
        return _mark("end", run, *self)


#: A run that has not ended; its column ``ended`` is NULL.
UNENDED = End("running", None, None, None, None, None)


def taken_apart(definition: Mapping[str, Any]) -> tuple[str, str | None]:
    """A definition as stored: its JSON without the probe, and the probe, which may come later."""
    rest = {name: value for name, value in definition.items() if name != "probe"}
    return json.dumps(rest), definition.get("probe")


def probe_mark(run: str, probe: str | None) -> str | None:
    """The mark of the result of a probe of a run's kernel; None without one."""
    return None if probe is None else _mark("probe", run, probe)


def sweep_mark(
    sweep: str, name: str, created: float, request: str, spec: str, asked: str | None
) -> str:
    """The mark of a sweep's row.

    Args:
        sweep: its id.
        name: of its spec.
        created: in seconds since the epoch.
        request: the key under which the same set of points finds it again.
        spec: as JSON text.
        asked: places of the points that its starts were to compute, as JSON text; None: all.
    """
    return _mark("sweep", sweep, name, created, request, spec, asked)


def point_mark(sweep: str, place: int, run: int, given: str) -> str:
    """The mark of a point.

    Args:
        sweep: the id of its sweep.
        place: in the list of points, from 0.
        run: the key of its run.
        given: the column of this name.
    """
    return _mark("point", sweep, place, run, given)


def _mark(*values: object) -> str:
    # Unambiguous for any value of SQLite: text is preceded by its length, anything else is a repr.
    parts = (f"{len(each)}:{each}" if isinstance(each, str) else repr(each) for each in values)
    return hashlib.sha256("\n".join(parts).encode(errors="replace")).hexdigest()[:16]
