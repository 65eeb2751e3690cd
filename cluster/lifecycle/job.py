"""What one start computes, and who started it: a run alone, or the points of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.dispatch import Clock, Stop, SystemClock
from cluster.dispatch.events import Event, Observer
from cluster.ledger import JobRow, Run, SweepRow
from cluster.sampling.progress import Count
from cluster.spec import Spec
from cluster.spec.request import Request


@dataclass(frozen=True)
class Caller:
    """Whoever starts a job.

    Attributes:
        observe: called with each :mod:`cluster.dispatch.events` event.
        stop: setting its ``reason``, from another thread or a signal handler, drains all runs.
        clock: the time source, which says when the window closes.
        keep_going: whether other points go on after one has failed; None: as the spec says.
        scheduled: it is a scheduled start.
    """

    observe: Observer | None = None
    stop: Stop | None = None
    clock: Clock = field(default_factory=SystemClock)
    keep_going: bool | None = None
    scheduled: bool = False

    def tell(self, event: Event) -> None:
        """Report an event to the observer, if there is one."""
        if self.observe is not None:
            self.observe(event)


@dataclass(frozen=True)
class Member:
    """A run of a job, as it is entered in the ledger.

    Attributes:
        place: in the list of points, from 0.
        given: what the sweep gives it; empty for a run alone.
        request: what it computes, and until when, in this start.
        run: its row.
        count: what is counted of it; None: not read yet.
    """

    place: int
    given: Mapping[str, Any]
    request: Request
    run: Run
    count: Count | None = None

    @property
    def finished(self) -> bool:
        """Whether it is known to have reached its goal."""
        return self.count is not None and self.count.finished

    @property
    def name(self) -> str:
        """The name of a point for people: its place, and what the sweep gives it."""
        given = ", ".join(f"{key} {value}" for key, value in self.given.items())
        return f"point {self.place} ({given})"


@dataclass(frozen=True)
class Job:
    """The runs that one start computes.

    Attributes:
        spec: where and how they are computed.
        members: those that this start is to compute.
        sweep: the sweep that has them as points; None: it is one run alone.
        asked: the places of the points that are to be computed; None: all.
        wish: the overrides of an ``extend``; None: it is not an ``extend``.
    """

    spec: Spec
    members: Sequence[Member]
    sweep: SweepRow | None = None
    asked: frozenset[int] | None = None
    wish: tuple[str, ...] | None = None

    @classmethod
    def of_one(cls, run: Run, request: Request) -> Job:
        """A run alone."""
        return cls(request.spec, [Member(0, {}, request, run)])

    @property
    def row(self) -> JobRow:
        """The row of the sweep, or of the run alone."""
        return self.sweep or self.members[0].run

    @property
    def id(self) -> str:
        """The id of the run, or of the sweep."""
        return self.row.id

    @property
    def request(self) -> str:
        """The key under which the same job is found again."""
        return self.sweep.request if self.sweep else self.members[0].request.key

    @property
    def max_time(self) -> float | None:
        """Seconds after which this start drains; the points of a sweep have limits of their own."""
        if self.sweep:
            return self.spec.sweep.max_time if self.spec.sweep else None
        return self.members[0].request.goal.max_time
