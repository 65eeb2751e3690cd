"""What a spec would run, and what a short trial of it promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from cluster.backends.base import Options, create
from cluster.dispatch import Clock
from cluster.hosts.nodes import Node
from cluster.report.result import finite
from cluster.runs.trial import Trial, blocks_needed, calibrate
from cluster.sampling.plan import Checkpoints
from cluster.spec.request import Request

_SHOWN = 10


@dataclass(frozen=True)
class Outlook:
    """What a spec would run, and what a short trial of it promises; None where unknown."""

    request: Request
    nodes: Sequence[Node]
    checkpoints: list[int]
    trial: Trial | None
    blocks: int | None
    expected_s: float | None

    def to_json(self) -> dict[str, Any]:
        """The JSON object of ``plan``."""
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


def look_ahead(request: Request, nodes: Sequence[Node], seconds: float, clock: Clock) -> Outlook:
    """What a request would run; with ``seconds`` of trial on its backend (0: none), how long."""
    trial = None
    if seconds:
        engine = create(request.spec.backend, nodes, Options.of(request.spec))
        timeout = request.spec.retry.timeout
        trial = calibrate(engine, request.work("plan"), clock, timeout, seconds)
    blocks = blocks_needed(trial, request) if trial else request.goal.blocks
    expected = blocks * trial.seconds / trial.blocks if trial and blocks else None
    first = list(islice(Checkpoints(request.goal).stops(), _SHOWN)) if request.goal.target else []
    return Outlook(request, nodes, first, trial, blocks, expected)
