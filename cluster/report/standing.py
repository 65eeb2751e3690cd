"""Where runs stand: the rows of ``ls`` and ``status``, cheap enough to ask for often."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from cluster.common.states import State
from cluster.dispatch.events import NodeProgress
from cluster.ledger import Damaged, Ledger, Owner, Run
from cluster.report.advice import advice_of
from cluster.report.result import finite
from cluster.sampling.plan import Goal

_NUMBERS = ("samples", "blocks", "estimate", "std_error", "samples_per_s", "elapsed_s")


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands, cheaply: from its newest record, without adding up its rows.

    ``holder`` is the process that computes it now, or None; the numbers are None before the first.
    Of a sweep ``run`` is its id, ``points`` how many it has, and its numbers are of all together.
    Of these ``points_waiting`` are held and not begun. What ``ls`` does not tell is None there.

    Attributes:
        left_s: seconds to the last block that it may draw, at its present speed.
        nodes: what each node has done in this start, or did in the last one.
        by_point: where each point of a sweep stands.
        advice: what helps where its kernel failed.
        damaged: the damage of its row in the ledger, in words; None: none.
    """

    run: str
    name: str
    state: str
    created: str
    holder: Owner | None
    kernel: str
    backend: str
    samples: int | None
    blocks: int | None
    goal_blocks: int | None
    estimate: Any
    std_error: Any
    samples_per_s: float | None
    elapsed_s: float | None
    points: int | None = None
    points_done: int | None = None
    points_running: int | None = None
    points_waiting: int | None = None
    points_failed: int | None = None
    left_s: float | None = None
    nodes: tuple[NodeProgress, ...] | None = None
    by_point: tuple[PointStatus, ...] | None = None
    advice: str | None = None
    damaged: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON object of ``ls`` and ``status``."""
        document = {**vars(self), "holder": self.holder and vars(self.holder)}
        nodes, points = document.pop("nodes"), document.pop("by_point")
        if nodes is not None:
            document["nodes"] = [vars(node) for node in nodes]
        if points is not None:
            document["by_point"] = [point.to_json() for point in points]
        told: dict[str, Any] = finite(document)
        return told


@dataclass(frozen=True)
class PointStatus:
    """Where a point of a sweep stands; ``waiting``: it is held, and its turn has not come."""

    point: int
    given: Mapping[str, Any]
    waiting: bool
    standing: RunStatus

    def to_json(self) -> dict[str, Any]:
        """The object in the list of ``by_point``."""
        names = ("run", "state", *_NUMBERS, "goal_blocks", "left_s")
        own = {name: getattr(self.standing, name) for name in names}
        given = dict(self.given)
        return {"point": self.point, "given": given, "waiting": self.waiting, **own}


def nodes_of(progress: Mapping[str, Any] | None) -> tuple[NodeProgress, ...]:
    """The nodes of a recorded progress."""
    return tuple(NodeProgress(*node) for node in (progress or {}).get("nodes", []))


def standing_of(ledger: Ledger, run: Run) -> RunStatus:
    """Where a run stands, from its row and its lock."""
    definition, progress = run.definition, run.progress or {}
    source = definition["source"]
    if run.ranges is not None:
        blocks = sum(stop - first for first, stop in run.ranges)
        ended = {"blocks": blocks, "samples": blocks * definition["block"]}
        progress = {**progress, **_final(run), **ended}
    state = ledger.state(run)
    found = RunStatus(
        run=run.id,
        name=run.name,
        state=state,
        advice=advice_of(ledger, run, state),
        created=stamp(run.created),
        holder=ledger.holder(run),
        kernel=f"{source['entry']}:{source['function']}",
        backend=definition["spec"]["backend"],
        goal_blocks=Goal.from_json(run.goal).size,
        damaged="; ".join(run.faults) or None,
        **{name: progress.get(name) for name in _NUMBERS},
    )
    return replace(found, left_s=seconds_left(found, owed_samples(found, definition["block"])))


def standing_of_damaged(row: Damaged) -> RunStatus:
    """The status of a run or a sweep whose row is damaged: unknown but for the damage."""
    nothing = dict.fromkeys(("goal_blocks", *_NUMBERS))
    return RunStatus(
        run=row.id,
        name=row.name,
        state=State.DAMAGED.value,
        created=stamp(row.created),
        holder=None,
        kernel="",
        backend="",
        damaged=str(row.error),
        **nothing,
    )


def stamp(seconds: float) -> str:
    """A time as JSON tells it, in the local zone."""
    return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(seconds))


def owed_samples(standing: RunStatus, block: int) -> float:
    """What a run may draw yet; infinite where nothing limits it, 0 where it has ended."""
    if standing.state in ("done", "failed"):
        return 0.0
    goal = standing.goal_blocks
    return math.inf if goal is None else float((goal - (standing.blocks or 0)) * block)


def seconds_left(standing: RunStatus, owed: float) -> float | None:
    """Seconds that so many samples take at its speed; None where it is not being computed."""
    speed = standing.samples_per_s
    known = standing.state == "running" and speed and math.isfinite(owed)
    return owed / speed if known and speed else None


def _final(run: Run) -> dict[str, Any]:
    """Estimate and standard error of a run that has ended."""
    if run.total is None:
        return {"estimate": None, "std_error": None}
    own = run.definition
    estimate = run.total.estimate(run.goal["confidence"], own["scale"], own["offset"])
    return {"estimate": estimate.value, "std_error": estimate.std_error}
