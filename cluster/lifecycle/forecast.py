"""What a spec would run, and how long it would take by a short trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

from cluster.backends.base import Options, create, kernels_at_home
from cluster.dispatch import Clock
from cluster.hosts.nodes import Node
from cluster.lifecycle.trial import Trial, blocks_needed, calibrate
from cluster.report.result import finite
from cluster.sampling.plan import Checkpoints
from cluster.spec import Spec
from cluster.spec.points import Point, expand
from cluster.spec.request import Request, placed, resolve

_SHOWN = 10


@dataclass(frozen=True)
class Outlook:
    """What a spec would run, and the predictions of a short trial; None where unknown.

    Attributes:
        request: of the run, or of a sweep's first point; the other attributes are of that, too.
        nodes: where it would run.
        checkpoints: the first ones, in blocks; empty without a target.
        trial: None: there was none.
        blocks: expected until the goal is reached.
        expected_s: seconds until then.
        sweep: the JSON object of the sweep; None: it is a run.
    """

    request: Request
    nodes: Sequence[Node]
    checkpoints: list[int]
    trial: Trial | None
    blocks: int | None
    expected_s: float | None
    sweep: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The JSON object of ``plan``."""
        if self.sweep is not None:
            return {**self.sweep, "first": replace(self, sweep=None).to_json()}
        request, block = self.request, self.request.block
        document: dict[str, Any] = finite(
            {
                "name": request.spec.name,
                "kernel": request.source.name,
                # A seed that is drawn at submit makes another identity than one drawn now.
                "identity": None if request.spec.seed is None else request.identity,
                "block": block,
                "blocks": self.blocks,
                "samples": self.blocks and self.blocks * block,
                "slots": sum(node.slots or 0 for node in self.nodes),
                "backend": request.spec.backend,
                "nodes": [{"node": node.host, "slots": node.slots} for node in self.nodes],
                "checkpoints": self.checkpoints,
                "target": request.goal.target and asdict(request.goal.target),
                "calibration": self.trial and self._calibration(self.trial),
                "expected_s": self.expected_s,
                "expected_samples": self.blocks and self.blocks * block,
            }
        )
        return document

    def _calibration(self, trial: Trial) -> dict[str, Any]:
        request = self.request
        estimate = trial.tally.estimate(request.goal.confidence, request.scale, request.offset)
        return {
            "seconds": trial.seconds,
            "blocks": trial.blocks,
            "samples": trial.tally.samples,
            "samples_per_s": trial.tally.samples / trial.seconds,
            "estimate": estimate.value,
            "std_error": estimate.std_error,
        }


def look_ahead(spec: Spec, seconds: float, clock: Clock, *, yes: bool = False) -> Outlook:
    """What a spec would run, and how long it would take.

    Args:
        spec: of a run, or of a sweep, whose first point is tried: the prediction assumes that a
            block of any point takes as long as one of the first.
        seconds: of trial on the spec's backend; 0: none.
        clock: measures the trial.
        yes: a sweep may have more than 100,000 points.

    Raises:
        UsageError: there are too many points.
        EngineError: no slot came up, or the kernel failed or hangs.
    """
    with kernels_at_home():
        points = expand(spec, yes=yes) if spec.sweep else ()
        request = points[0].request if points else resolve(spec)
    # Without a trial nothing is run, and the hosts of a job need not be there yet.
    nodes = placed(spec.nodes.hosts) if seconds or spec.nodes.hosts else ()
    trial = None
    if seconds:
        engine = create(request.spec.backend, nodes, Options.of(request.spec))
        timeout = request.spec.retry.timeout
        trial = calibrate(engine, request.work("plan"), clock, timeout, seconds)
    blocks = blocks_needed(trial, request) if trial else request.goal.blocks
    outlook = Outlook(
        request,
        nodes,
        list(islice(Checkpoints(request.goal).stops(), _SHOWN)) if request.goal.target else [],
        trial,
        blocks,
        _expected(trial, blocks),
    )
    return replace(outlook, sweep=_of_points(spec, points, outlook)) if points else outlook


def _expected(trial: Trial | None, blocks: int | None) -> float | None:
    """Seconds that blocks take, at the speed of a trial."""
    return blocks * trial.seconds / trial.blocks if trial and blocks else None


def _of_points(spec: Spec, points: Sequence[Point], outlook: Outlook) -> dict[str, Any]:
    """The JSON object of a sweep, but for its first point."""
    goals = [point.request.goal for point in points]
    known = all(goal.blocks is not None and goal.target is None for goal in goals)
    blocks = sum(goal.blocks or 0 for goal in goals) if known else None
    samples = sum((p.request.goal.blocks or 0) * p.request.block for p in points)
    return {
        "name": spec.name,
        "points": len(points),
        "keys": sorted(spec.sweep.keys) if spec.sweep else [],
        "backends": sorted({point.request.spec.backend for point in points}),
        "blocks": blocks,
        "samples": samples if known else None,
        "slots": sum(node.slots or 0 for node in outlook.nodes),
        "expected_s": _expected(outlook.trial, blocks),
    }
