"""Validation of rows as they are read: no value from a store is used before it is checked.

A store may be damaged, or come from anywhere. The columns that say what a run is (its ids,
definition and goal) must be complete and well-formed, and give the identity that is recorded with
them; otherwise the run is refused. What is recorded of its end or its progress can be computed
again, so it is left out, with a message.
"""

from __future__ import annotations

import json
import math
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

from cluster.common.errors import ClusterError
from cluster.ledger.marks import UNENDED, End, What, probe_mark
from cluster.ledger.rows import Run
from cluster.sampling.kernels import KernelSource
from cluster.sampling.plan import Target
from cluster.sampling.tally import Tally, TallyError
from cluster.sampling.task import checked
from cluster.spec.request import identity_of

# Ids become file names, and arguments of commands that we print, so they are restricted to this.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,126}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_STATES = ("running", "interrupted", "partial", "failed", "done")
_REASONS = ("samples", "target", "max_time", "max_samples", "window", "failure", "nodes")
# Seconds since the epoch that calendars reach.
_END_OF_TIME = 1e11
_MOST = 1 << 127
# Each checkpoint lies 1/growth beyond the last: with a larger growth they would hardly end.
_MOST_GROWTH = 100
# Entries of the caches by kernel text and goal: a run has few, a sweep of 10,000 points shares one.
_KERNELS = 64

#: The columns of the table of runs, in the order that :func:`run_of` takes them.
COLUMNS = (
    "key",
    "id",
    "name",
    "created",
    "request",
    "identity",
    "definition",
    "goal",
    "state",
    "stopped_by",
    "drained",
    "counted",
    "tally",
    "ranges",
    "progress",
    "own",
    "ended",
    "probe",
    "probed",
)


T = TypeVar("T")


class Wrong(ValueError):
    """A damaged column: its name, and what is wrong with it, in words."""

    def __init__(self, column: str, why: str) -> None:
        super().__init__(f"column {column}: {why}")
        self.column = column


class _Raw(NamedTuple):
    """A row of the table of runs, as SQLite gives it; the fields are ``COLUMNS``."""

    key: Any
    id: Any
    name: Any
    created: Any
    request: Any
    identity: Any
    definition: Any
    goal: Any
    state: Any
    stopped_by: Any
    drained: Any
    counted: Any
    tally: Any
    ranges: Any
    progress: Any
    own: Any
    ended: Any
    probe: Any
    probed: Any


def is_id(text: object) -> bool:
    """Whether a text may be the id of a run or a sweep."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def is_time(value: object) -> bool:
    """Whether a value is a possible time, in seconds since the epoch."""
    return is_number(value) and 0 <= value < _END_OF_TIME  # type: ignore[operator]


def is_number(value: object) -> bool:
    """Whether a value is a number that a float can hold, and not a bool."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True


def is_finite(value: object) -> bool:
    """Whether a value is a number, neither NaN nor infinite."""
    return is_number(value) and math.isfinite(value)  # type: ignore[arg-type]


def is_count(value: object, least: int = 0) -> bool:
    """Whether a value is an integer, and at least ``least``."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < _MOST


def is_word(value: object) -> bool:
    """Whether a value is text on one line, without control characters."""
    return isinstance(value, str) and not _CONTROL.search(value)


def parsed(column: str, text: object, kind: type | tuple[type, ...]) -> Any:
    """The value of a JSON column.

    Args:
        column: its name, for the error.
        text: what is stored.
        kind: the expected type.

    Raises:
        Wrong: it is not JSON, or not of that type.
    """
    if not isinstance(text, str):
        raise Wrong(column, "not text")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Wrong(column, f"not JSON: {error}"[:200]) from None
    if not isinstance(value, kind):
        raise Wrong(column, f"not what it must hold: {text[:60]!r}")
    return value


# -- a run ----------------------------------------------------------------------------------------


def run_of(row: Sequence[Any]) -> Run:
    """A run from its columns, in the order of ``COLUMNS``.

    Raises:
        Wrong: a column that says what the run is is damaged.
    """
    raw = _Raw(*row)
    _check_names(raw)
    definition = parsed("definition", raw.definition, dict)
    goal = dict(_goal(raw.goal))
    if not identity_holds(definition, raw.identity):
        what = "kernel, parameters, seed and block"
        raise Wrong("definition", f"its {what} do not give the identity that is recorded with them")
    if What(*raw[1:8]).mark != raw.own:
        columns = "own, which marks id, name, created, request, identity, definition and goal"
        raise Wrong(columns, "one of these is not what was written")
    faults: list[str] = []
    ended = partial(_ended, raw, definition["block"], goal)
    nothing: tuple[End, Tally | None, list[list[int]] | None] = UNENDED, None, None
    end, total, ranges = _left_out(faults, ended, nothing)
    progress = _left_out(faults, lambda: _progress(raw.progress), None)
    definition["probe"] = _left_out(faults, lambda: _probe(raw), None)
    return Run(
        raw.key,
        raw.id,
        raw.name,
        raw.created,
        raw.request,
        raw.identity,
        definition,
        goal,
        end.state,
        end.stopped_by,
        None if end.drained is None else bool(end.drained),
        end.counted,
        end.tally,
        ranges,
        progress,
        tuple(faults),
        total,
        (raw.own, raw.ended),
    )


def _left_out(faults: list[str], read: Callable[[], T], instead: T) -> T:
    try:
        return read()
    except Wrong as wrong:
        faults.append(str(wrong))
        return instead


def _check_names(raw: _Raw) -> None:
    if not is_id(raw.id):
        raise Wrong("id", f"no id of a run: {ascii(raw.id)[:80]}")
    if not is_id(raw.name):
        raise Wrong("name", f"no name of a run: {ascii(raw.name)[:80]}")
    if not is_time(raw.created):
        raise Wrong("created", f"no time: {ascii(raw.created)[:80]}")
    for column in ("request", "identity"):
        if not is_word(getattr(raw, column)):
            raise Wrong(column, "not text")


def _check_form(
    column: str,
    data: Mapping[str, Any],
    needed: Mapping[str, Callable[[Any], bool]],
    later: Mapping[str, Callable[[Any], bool]],
) -> None:
    for key, fits in needed.items():
        if key not in data or not fits(data[key]):
            raise Wrong(column, f"its {key} cannot be: {ascii(data.get(key))[:80]}")
    for key, fits in later.items():
        if key in data and not fits(data[key]):
            raise Wrong(column, f"its {key} cannot be: {ascii(data[key])[:80]}")


def identity_holds(definition: Mapping[str, Any], identity: object) -> bool:
    """Whether a definition's kernel text, parameters, seed and block give an identity.

    Raises:
        Wrong: it is not a definition.
    """
    _check_form("definition", definition, _DEFINITION, _LATER)
    source = definition["source"]
    try:
        sha = _sha(source["entry"], source["function"], tuple(source["files"].items()))
        return identity_of(definition, sha) == identity
    except (ClusterError, ValueError, TypeError, RecursionError) as error:
        raise Wrong("definition", f"no kernel and parameters: {ascii(str(error))[:200]}") from None


@lru_cache(maxsize=_KERNELS)
def _sha(entry: str, function: str, files: tuple[tuple[str, str], ...]) -> str:
    return KernelSource(entry, function, dict(files)).sha


def _is_source(value: object) -> bool:
    if not isinstance(value, dict) or set(value) != {"entry", "function", "files"}:
        return False
    entry, function, files = value["entry"], value["function"], value["files"]
    texts = isinstance(files, dict) and all(isinstance(text, str) for text in files.values())
    return texts and is_word(entry) and isinstance(function, str) and function.isidentifier()


def _is_spec(value: object) -> bool:
    return isinstance(value, dict) and is_word(value.get("backend"))


def _is_reference(value: object) -> bool:
    several = isinstance(value, list) and all(map(is_number, value))
    return value is None or several or is_number(value)


def _is_shard(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, list) and len(value) == 2 and all(map(is_count, value))


def _or_none(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


@lru_cache(maxsize=_KERNELS)
def _goal(text: object) -> Mapping[str, Any]:
    """A goal; cached, since all points of a sweep may share one."""
    goal: dict[str, Any] = parsed("goal", text, dict)
    _check_form("goal", goal, _GOAL, _GOAL_LATER)
    return goal


_is_some = partial(is_count, least=1)
_DEFINITION: Mapping[str, Callable[[Any], bool]] = {
    "params": lambda value: isinstance(value, dict),
    "seed": lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
    "block": _is_some,
    "scale": is_finite,
    "offset": is_finite,
    "reference": _is_reference,
    "source": _is_source,
    "spec": _is_spec,
}
# Keys that definitions of earlier versions lack.
_LATER: Mapping[str, Callable[[Any], bool]] = {
    "pinned": _or_none(_is_some),
    "common": lambda value: isinstance(value, bool),
    "shard": _is_shard,
}


def _is_target(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    try:
        target = Target(**value)
    except TypeError:
        return False
    counts = is_count(target.min_samples) and is_count(target.min_hits)
    limits = all(limit is None or is_number(limit) for limit in target.limits)
    return counts and limits and _is_confidence(target.confidence)


def _is_confidence(value: object) -> bool:
    # As in a spec: half a tail that is lost in rounding has no quantile.
    return is_finite(value) and value > 0 and (1 + value) / 2 < 1  # type: ignore[operator]


_GOAL: Mapping[str, Callable[[Any], bool]] = {
    "blocks": _or_none(_is_some),
    "target": _or_none(_is_target),
    "max_time": _or_none(is_number),
    "confidence": _is_confidence,
}
_GOAL_LATER: Mapping[str, Callable[[Any], bool]] = {
    "first_checkpoint": _is_some,
    "growth": lambda value: _is_some(value) and value <= _MOST_GROWTH,
    "first": is_count,
}


# -- how it ended ---------------------------------------------------------------------------------


def _ended(
    raw: _Raw, block: int, goal: Mapping[str, Any]
) -> tuple[End, Tally | None, list[list[int]] | None]:
    """How a run ended, its tally and ranges."""
    end = End(*raw[8:14])
    if raw.ended is None and end == UNENDED:
        return end, None, None
    if raw.ended != end.mark(raw.id):
        columns = "ended, which marks state, stopped_by, drained, counted, tally and ranges"
        raise Wrong(columns, "one of these is not what was written")
    if end.state not in _STATES:
        raise Wrong("state", f"no state: {ascii(end.state)[:80]}")
    if not is_reason(end.stopped_by):
        raise Wrong("stopped_by", f"no such end: {ascii(end.stopped_by)[:80]}")
    if end.drained not in (None, 0, 1) or not _or_none(is_count)(end.counted):
        raise Wrong("drained", "neither it nor counted can be")
    total, ranges = _total(end, block)
    if not _fits(end, ranges or [], goal):
        raise Wrong("ranges", f"not blocks of its goal, or not all: {ascii(end.ranges)[:80]}")
    return end, total, ranges


def _fits(end: End, ranges: list[list[int]], goal: Mapping[str, Any]) -> bool:
    """Whether a run's ranges lie within its goal, and cover all of it if the run is done."""
    first, last = goal.get("first", 0), goal["blocks"]
    if end.state == "done":
        whole = end.stopped_by not in ("samples", "max_samples") or end.counted == last
        if not whole or ranges != [[first, end.counted]]:
            return False
    return not ranges or (ranges[0][0] >= first and (last is None or ranges[-1][1] <= last))


def is_reason(value: object) -> bool:
    """Whether a value is a reason for the end of a session, or None."""
    if value is None or value in _REASONS:
        return True
    return isinstance(value, str) and value in signal.Signals.__members__


def _total(end: End, block: int) -> tuple[Tally | None, list[list[int]] | None]:
    """The tally of a run that has ended, and the ranges of blocks that it is of."""
    if end.ranges is None or end.ranges == "null":
        if end.tally is not None:
            raise Wrong("ranges", "none, where there is a tally")
        return None, None
    spans = parsed("ranges", end.ranges, list)
    at = -1
    for span in spans:
        if not _is_shard(span) or span is None or not at < span[0] < span[1]:
            raise Wrong("ranges", f"no ranges of blocks: {end.ranges[:80]!r}")
        at = span[1]
    samples = sum(stop - first for first, stop in spans) * block
    if end.tally is None and not samples:
        return None, spans
    try:
        return checked(end.tally or "", samples), spans
    except TallyError as error:
        raise Wrong("tally", f"{error}"[:200]) from None


def _probe(raw: _Raw) -> str | None:
    if probe_mark(raw.id, raw.probe) != raw.probed:
        raise Wrong("probe", "how the kernel's probe came out is not what was written")
    if not isinstance(raw.probe, str | None):
        raise Wrong("probe", "not text")
    return raw.probe


# -- where it stands ------------------------------------------------------------------------------


def _progress(text: object) -> dict[str, Any] | None:
    if text is None:
        return None
    found: dict[str, Any] = parsed("progress", text, dict)
    _check_form("progress", found, _PROGRESS, {})
    return found


def sweep_progress(text: object) -> dict[str, Any] | None:
    """The progress of a sweep, from its column.

    Raises:
        Wrong: it is malformed.
    """
    if text is None:
        return None
    found: dict[str, Any] = parsed("progress", text, dict)
    _check_form("progress", found, _SWEEP_PROGRESS, {"running": _are(_POINT)})
    return found


def _are(kinds: Sequence[Callable[[Any], bool]]) -> Callable[[Any], bool]:
    """A check that a value is a list of rows with columns of these kinds."""

    def fits(value: Any) -> bool:
        return isinstance(value, list) and all(
            isinstance(row, list)
            and len(row) == len(kinds)
            and all(is_kind(item) for is_kind, item in zip(kinds, row, strict=True))
            for row in value
        )

    return fits


_NODE = (is_word, is_count, is_count, is_count, is_number, is_count)
_POINT = (
    lambda value: isinstance(value, str),
    is_count,
    _or_none(is_count),
    _is_reference,
    _is_reference,
)
_PROGRESS: Mapping[str, Callable[[Any], bool]] = {
    "elapsed_s": is_finite,
    "blocks": is_count,
    "samples": is_count,
    "samples_per_s": is_finite,
    "estimate": _is_reference,
    "std_error": _is_reference,
    "nodes": _are(_NODE),
}
_SWEEP_PROGRESS: Mapping[str, Callable[[Any], bool]] = {
    "elapsed_s": is_finite,
    "points_done": is_count,
    "points": is_count,
    "blocks": is_count,
    "goal_blocks": _or_none(is_count),
    "samples": is_count,
    "samples_per_s": is_finite,
    "nodes": _are(_NODE),
}


# -- rows that belong to a run --------------------------------------------------------------------


def is_slots(value: object) -> bool:
    """Whether a value is JSON text of slots by node."""
    try:
        found = parsed("nodes", value, dict)
    except Wrong:
        return False
    return all(is_word(node) and is_count(slots) for node, slots in found.items())


def is_text(value: object) -> bool:
    """Whether a value is text of any form, such as an error's message."""
    return isinstance(value, str)


Kinds = Mapping[str, Callable[[Any], bool]]
_OR_WORD, _OR_COUNT = _or_none(is_word), _or_none(is_count)
#: Checks of the columns of each table that is read row by row.
SPAN: Kinds = {"started": is_time, "wall": _or_none(is_finite)}
SESSION: Kinds = {
    "host": is_word,
    "pid": is_count,
    "backend": is_word,
    "nodes": is_slots,
    "start": _OR_WORD,
}
FAILURE: Kinds = {
    "at": is_time,
    "block": _OR_COUNT,
    "blocks": is_count,
    "node": is_word,
    "attempt": is_count,
    "kind": is_word,
    "type": is_text,
    "message": is_text,
    "traceback": is_text,
}
EVENT: Kinds = {"at": is_time, "node": _OR_WORD, "text": is_text}
SPARE: Kinds = {"first": is_count, "stop": is_count, "node": is_word, "verdict": is_word}

#: All columns but the run.
OUTCOME: Kinds = {
    "first": is_count,
    "stop": is_count,
    "tally": is_text,
    "node": is_word,
    "slot": is_count,
    "pid": is_count,
    "attempt": is_count,
    "created": is_finite,
    "started": is_finite,
    "ended": is_finite,
    "received": is_finite,
    "wall": is_finite,
    "cpu": is_finite,
    "variant": is_word,
    "checksum": is_text,
}


def wrong_column(kinds: Kinds, row: Sequence[Any]) -> str | None:
    """The first invalid column of a row; None if all are valid."""
    for (column, fits), value in zip(kinds.items(), row, strict=True):
        if not fits(value):
            return column
    return None
