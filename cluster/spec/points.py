"""The points of a sweep: each is a request of its own. Nothing is computed here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

from cluster.common.canonical import sha256
from cluster.common.errors import Problem, SpecError, UsageError
from cluster.sampling.kernels import Kernel, KernelSource
from cluster.spec import Spec, Sweep
from cluster.spec.request import Request, bound, drawn_seed, prepared

# Above this number a sweep has to be confirmed: it is more often a mistake than intended.
MANY = 100_000


class Cell(NamedTuple):
    """One value of a point, and its path in the spec."""

    value: Any
    path: tuple[str | int, ...]


Row = Mapping[str, Cell]


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Attributes:
        values: its values of the varied keys, by dotted key.
        request: what it computes.
    """

    values: Mapping[str, Any]
    request: Request


@dataclass(frozen=True)
class Part:
    """The k-th of n parts of a sweep: the points with index k - 1, k - 1 + n, ...

    Attributes:
        number: k, from 1.
        of: n.
    """

    number: int
    of: int

    @classmethod
    def read(cls, text: str) -> Part:
        """Parse ``k/n``.

        Raises:
            UsageError: the text is not of this form, or not 1 <= k <= n.
        """
        found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            fix = "write --points 1/4 to --points 4/4 for four parts"
            raise UsageError(f"--points takes k/n, 1 <= k <= n, got {text!r}", fix=fix)
        return cls(int(found[1]), int(found[2]))

    def __contains__(self, place: int) -> bool:
        return place % self.of == self.number - 1


def expand(spec: Spec, *, yes: bool = False) -> tuple[Point, ...]:
    """The points of a spec's sweep, in the order in which they are written.

    Each kernel is frozen and loaded once. If the spec has no seed, one is drawn for the whole
    sweep, so that points that differ only in their goal or backend share their streams.

    Args:
        spec: one with a sweep.
        yes: whether more than 100,000 points are confirmed.

    Raises:
        SpecError: all problems of the sweep and of its points, with their positions.
        UsageError: the spec has no sweep, or too many points.
    """
    sweep = spec.sweep
    if sweep is None:
        raise UsageError("the spec has no sweep")
    if problems := [*_clashes(spec, sweep)]:
        raise SpecError(problems)
    # Before any point is made: a few characters can ask for more points than fit in memory.
    _judge_count(count(sweep), yes)
    rows = _kept(spec, sweep)
    if not rows:
        raise SpecError([spec.problem("sweep", "has no point", "give it a matrix, zip or include")])
    points = _resolved(spec, rows, sweep.streams == "common")
    if problems := [*_duplicates(spec, rows, points)]:
        raise SpecError(problems)
    return points


def count(sweep: Sweep) -> int:
    """The number of points before exclusions, computed without listing them."""
    lengths = [len(values) for values in (sweep.matrix or {}).values()]
    if sweep.zip:
        lengths.append(len(next(iter(sweep.zip.values()))))
    return (math.prod(lengths) if lengths else 0) + len(sweep.include)


def _judge_count(points: int, yes: bool) -> None:
    if points > MANY and not yes:
        raise UsageError(f"the sweep has {points:,} points", fix="add --yes to confirm")


def _clashes(spec: Spec, sweep: Sweep) -> Iterator[Problem]:
    """Keys of matrix or zip that another of their keys sets too, as params and params.d do."""
    matrix, zipped = sweep.matrix or {}, sweep.zip or {}
    parts = [("matrix", key) for key in matrix] + [("zip", key) for key in zipped]
    for part, key in parts:
        others = [other for other in parts if other != (part, key)]
        if any(f"{key}.".startswith(f"{other}.") for _, other in others):
            yield spec.problem_at(("sweep", part, key), "another key of the sweep sets it too")


def _kept(spec: Spec, sweep: Sweep) -> list[Row]:
    """The rows of matrix and zip without the excluded ones, then the included ones."""
    rows, used = [], [False] * len(sweep.exclude)
    for row in _combined(sweep):
        hits = [_matches(row, excluded) for excluded in sweep.exclude]
        used = [was or hit for was, hit in zip(used, hits, strict=True)]
        if not any(hits):
            rows.append(row)
    if not all(used):
        message = "excludes nothing: no combination has these values"
        idle = (place for place, hit in enumerate(used) if not hit)
        raise SpecError(spec.problem_at(("sweep", "exclude", at), message) for at in idle)
    for place, values in enumerate(sweep.include):
        path = ("sweep", "include", place)
        rows.append({key: Cell(value, (*path, key)) for key, value in values.items()})
    return rows


def _combined(sweep: Sweep) -> Iterator[Row]:
    axes: list[Sequence[Row]] = [
        [{key: Cell(value, ("sweep", "matrix", key, at))} for at, value in enumerate(values)]
        for key, values in (sweep.matrix or {}).items()
    ]
    if sweep.zip:
        steps = enumerate(zip(*sweep.zip.values(), strict=True))
        keys = list(sweep.zip)
        axes.append(
            [
                {k: Cell(v, ("sweep", "zip", k, at)) for k, v in zip(keys, step, strict=True)}
                for at, step in steps
            ]
        )
    for parts in product(*axes) if axes else ():
        yield {key: cell for part in parts for key, cell in part.items()}


def _matches(row: Row, excluded: Mapping[str, Any]) -> bool:
    return all(key in row and _same(row[key].value, value) for key, value in excluded.items())


def _same(one: Any, other: Any) -> bool:
    """Whether a user would call two values equal: 1 and 1.0 (as logspace gives), not 1 and true."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return bool(one == other)


def _resolved(spec: Spec, rows: Sequence[Row], common: bool) -> tuple[Point, ...]:
    kernels: dict[str, tuple[KernelSource, Kernel]] = {}
    seed, points, problems = drawn_seed(), [], set()
    for row in rows:
        values = {key: cell.value for key, cell in row.items()}
        try:
            one = spec.varied(values)
            if one.kernel not in kernels:
                kernels[one.kernel] = prepared(one)
            request = bound(one, *kernels[one.kernel], seed, common=common)
        except SpecError as error:
            problems |= {_placed(spec, row, problem) for problem in error.problems}
        else:
            points.append(Point(values, request))
    if problems:
        raise SpecError(problems)
    return tuple(points)


def _placed(spec: Spec, row: Row, problem: Problem) -> Problem:
    """A problem of a point, at the value of the sweep that causes it, or at the spec's key."""
    for key, cell in row.items():
        if _within(problem.path, key):
            return spec.problem_at(cell.path, problem.message, problem.fix)
    return spec.problem(problem.path, problem.message, problem.fix)


def _within(path: str, key: str) -> bool:
    return path == key or path.startswith((f"{key}.", f"{key}["))


def _duplicates(spec: Spec, rows: Sequence[Row], points: Sequence[Point]) -> Iterator[Problem]:
    """Equal points, and different parameters whose stream keys collide."""
    seen: dict[tuple[object, ...], int] = {}
    streams: dict[tuple[int, int], str] = {}
    for place, (row, point) in enumerate(zip(rows, points, strict=True)):
        request = point.request
        where = next(iter(row.values())).path
        # The same identity with another goal or backend is another run.
        whole = (request.identity, request.goal, request.spec.backend)
        if seen.setdefault(whole, place) != place:
            first = dict(points[seen[whole]].values)
            yield spec.problem_at(where, f"the same point as {first}", "remove one of them")
        # Stream keys are 64 bits of a sha256; two equal ones would correlate their points.
        params, key = sha256(request.params), (request.seed, request.point)
        if not request.common and streams.setdefault(key, params) != params:
            message = f"{dict(point.values)} has the 64-bit stream key of another point"
            yield spec.problem_at(where, message, "give one of them a seed of its own")
