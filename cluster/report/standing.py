"""Where runs stand: the rows of ``ls`` and ``status``, cheap enough to ask for often."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from cluster.ledger import Owner, Run
from cluster.plan import Goal
from cluster.report.result import finite
from cluster.request import Request
from cluster.tally import from_json

_NUMBERS = ("samples", "blocks", "estimate", "std_error", "samples_per_s", "elapsed_s")


@dataclass(frozen=True)
class Standing:
    """Where a run stands, cheaply: from its newest record, without adding up its rows.

    ``holder`` is the process that computes it now, or None; the numbers are None before the first.
    Of a sweep ``run`` is its id, ``points`` how many it has, and its numbers are of all together.
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

    def to_json(self) -> dict[str, Any]:
        """The JSON object of ``ls`` and ``status``."""
        document: dict[str, Any] = finite(
            {**vars(self), "holder": self.holder and vars(self.holder)}
        )
        return document


def standing_of(run: Run, state: str, holder: Owner | None) -> Standing:
    """Where a run stands, from its row alone."""
    definition, progress = run.definition, run.progress or {}
    source = definition["source"]
    if run.ranges is not None:
        blocks = sum(stop - first for first, stop in run.ranges)
        ended = {"blocks": blocks, "samples": blocks * definition["block"]}
        progress = {**progress, **_final(run), **ended}
    return Standing(
        run=run.id,
        name=run.name,
        state=state,
        created=time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(run.created)),
        holder=holder,
        kernel=f"{source['entry']}:{source['function']}",
        backend=definition["spec"]["backend"],
        goal_blocks=Goal.from_json(run.goal).size,
        **{name: progress.get(name) for name in _NUMBERS},
    )


def _final(run: Run) -> dict[str, Any]:
    """Estimate and standard error of a run that has ended."""
    if run.tally is None:
        return {"estimate": None, "std_error": None}
    request = Request.from_json(run.definition)
    tally = from_json(json.loads(run.tally))
    estimate = tally.estimate(request.goal.confidence, request.scale, request.offset)
    return {"estimate": estimate.value, "std_error": estimate.std_error}
