"""Results and streams that the tests of the report are made of."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

from cluster.report.result import Failure, NodeResult, Result
from cluster.sampling.tally import Estimate, Histogram, Hits, Moments, Tally

DIGEST = "5aa9e9a9d57881dadc40c76e81489f44e4c5c00239b8565b256a371097486c85"
NODE = NodeResult("localhost", 2, 61, 1_000_000, 1.0, 9.5, 9.25, 105_263.2, 0.95, 1.0, 0, 0.25)
FAILURE = Failure(
    7, "n2", 1, "ValueError", "bad luck", "Traceback:\n  line 3\nValueError: bad luck"
)


class Terminal(io.StringIO):
    """A stream that says it is a terminal, with an encoding of its choice."""

    def __init__(self, encoding: str = "utf-8") -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """What the terminal takes."""
        return self._encoding

    def isatty(self) -> bool:
        """Yes."""
        return True


def listed(value: Any) -> Any:
    """Tuples as the lists that a result holds."""
    return list(value) if isinstance(value, tuple) else value


def interval(estimate: Estimate) -> list[Any]:
    """The interval as a result holds it."""
    if isinstance(estimate.low, tuple) and isinstance(estimate.high, tuple):
        return [list(pair) for pair in zip(estimate.low, estimate.high, strict=True)]
    return [estimate.low, estimate.high]


def made(tally: Tally | None, scale: float = 1, **changes: Any) -> Result:
    """A result of that tally, done unless the changes say otherwise."""
    estimate = tally.estimate(0.95, scale) if tally else None
    samples = tally.samples if tally else 0
    base = Result(
        run="pi-1",
        name="pi",
        state="done",
        stopped_by="samples",
        drained=True,
        backend="processes",
        kernel="pi.py:pi",
        params={},
        seed=7,
        block=1000,
        samples=samples,
        blocks=samples // 1000,
        ranges=[[0, samples // 1000]] if samples else [],
        estimate=listed(estimate.value) if estimate else None,
        std_error=listed(estimate.std_error) if estimate else None,
        interval=interval(estimate) if estimate else None,
        confidence=0.95,
        reference=None,
        tally=tally.to_json() if tally else None,
        identity=DIGEST,
        digest=DIGEST if tally else None,
        wall_s=5.0,
        nodes=[NODE],
        failures=[],
        events=[],
        resume=None,
    )
    return replace(base, **changes)


PI = made(Hits(785_398, 1_000_000), 4, reference=3.141592653589793)
MEAN = made(Moments.of([1.0, 2.0, 4.0] * 1000), params={"rate": 0.5}, kernel="m.py:m")
BINS = made(
    Histogram.of([0.5] * 900 + [1.5] * 90 + [2.5] * 10, [0.0, 1.0, 2.0]),
    reference=[0.9, 0.1],
    kernel="h.py:h",
)
FAILED = made(
    Hits(785, 1000),
    4,
    state="failed",
    stopped_by="failure",
    failures=[FAILURE],
    nodes=[NODE, replace(NODE, node="n2", failures=2, share=0.0, samples_per_s=None)],
    resume="cluster resume pi-1",
)
UNDRAINED = made(
    Hits(785, 4000),
    4,
    state="interrupted",
    stopped_by="SIGINT",
    drained=False,
    ranges=[[0, 2], [3, 4], [9, 10]],
    resume="cluster resume pi-1",
)
KILLED = made(
    Hits(0, 1000),
    4,
    state="interrupted",
    stopped_by=None,
    drained=None,
    resume="cluster resume pi-1",
)
RUNNING = made(None, state="running", stopped_by=None, drained=None)
ONE = made(Moments.of([3.25]), samples=1, blocks=1, block=1, ranges=[[0, 1]])
LATE = made(
    Hits(785, 1000),
    4,
    state="partial",
    stopped_by="max_time",
    resume="cluster resume pi-1",
    events=[
        {"at": 0.5, "node": "n1", "text": "1 slot: 1 of 2 are starting"},
        {"at": 1.0, "node": "n1", "text": "2 slots: ready"},
        {"at": 2.0, "node": "n1", "text": "blocks 3 to 4 came out differently"},
    ],
)

CASES = {
    "pi": PI,
    "mean": MEAN,
    "bins": BINS,
    "failed": FAILED,
    "undrained": UNDRAINED,
    "killed": KILLED,
    "running": RUNNING,
    "one": ONE,
    "late": LATE,
}
