"""The result of a run or sweep: the object of ``--json``, and the digest."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from cluster.common.canonical import sha256
from cluster.common.states import State
from cluster.ledger import NodeTotals, Run
from cluster.sampling.tally import Estimate, Tally

SCHEMA = 1


@dataclass(frozen=True)
class NodeResult:
    """One node's part in a run.

    Attributes:
        node: its name in the spec.
        slots: how many workers it ran.
        tasks, samples: counted ones.
        share: of the run's counted samples, 0 to 1.
        busy_s, cpu_s: wall and CPU seconds inside the kernel, over its counted tasks.
        samples_per_s: counted samples per busy second of one slot.
        utilisation: busy seconds / (slots * seconds of the starts that used the node), 0 to 1.
        goodput: counted blocks / attempted blocks, 0 to 1.
        failures: number of failed attempts.
        lost_s: seconds that counted tasks spent in transit or waiting, over all tasks.
    """

    node: str
    slots: int
    tasks: int
    samples: int
    share: float | None
    busy_s: float
    cpu_s: float
    samples_per_s: float | None
    utilisation: float | None
    goodput: float | None
    failures: int
    lost_s: float


@dataclass(frozen=True)
class Failure:
    """A failed attempt; ``block`` is None if it is unknown which block of the task failed."""

    block: int | None
    node: str
    attempt: int
    type: str
    message: str
    traceback: str


@dataclass(frozen=True)
class Result:
    """The present result of a run, or of a sweep with its points; most attributes are JSON keys.

    The state of a sweep is that of the requested points: failed if any failed; else running,
    interrupted or partial if any is; else done. Samples, blocks and nodes are sums over all points;
    a sweep has no estimate, tally or digest of its own.

    Attributes:
        run, name: its id, and the name in its spec.
        state: running, interrupted, partial, failed or done.
        stopped_by: samples, target, max_time, window, max_samples, failure, nodes or a signal;
            None while it runs.
        drained: whether every started block is counted; None while it runs.
        backend: name of the engine of the last start.
        kernel, params: ``file:function``, and its parameters with defaults filled in.
        seed, block: seed of the streams, and samples in a block.
        samples, blocks: how many are counted.
        ranges: the counted blocks, as merged ranges [first, stop).
        estimate, std_error, interval: in the scaled unit; lists, one entry per bin, for a
            histogram; None if nothing is counted.
        confidence: of the interval, between 0 and 1.
        reference: the exact value, if the kernel knows it.
        tally: the exact tally.
        identity: sha256 over kernel, parameters, seed, block and stream format.
        digest: sha256 over identity, counted blocks, samples and tally.
        wall_s: seconds, over all starts.
        nodes: the part of each node.
        failures: the first failed attempts, in order of time.
        events: what happened to nodes and the store: ``at``, ``node`` and ``text``.
        resume: the command that continues it, or None.
        advice: what to do about a run whose kernel failed, where a resume does not help; or None.
        members: the points of a sweep, in the order of the spec; empty for a run.
        asked: indices of the points that were requested; None: all. The other points may be
            computed elsewhere, in another store.
    """

    run: str
    name: str
    state: str
    stopped_by: str | None
    drained: bool | None
    backend: str
    kernel: str
    params: dict[str, Any]
    seed: int
    block: int
    samples: int
    blocks: int
    ranges: list[list[int]]
    estimate: Any
    std_error: Any
    interval: Any
    confidence: float
    reference: Any
    tally: dict[str, Any] | None
    identity: str
    digest: str | None
    wall_s: float
    nodes: list[NodeResult]
    failures: list[Failure]
    events: list[dict[str, Any]]
    resume: str | None
    advice: str | None = None
    members: Sequence[PointResult] = ()
    asked: frozenset[int] | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of a command that ends with this result.

        For a sweep: 1 if a point failed; else that of the signal that ended it, if any; else 3 if a
        point is unfinished; else 0.
        """
        return State(self.state).exit_code(self.stopped_by)

    @property
    def own(self) -> Sequence[PointResult]:
        """The points that were requested."""
        return [m for m in self.members if self.asked is None or m.point in self.asked]

    @property
    def owes(self) -> bool:
        """Whether a requested point is neither done nor failed."""
        return any(member.result.state not in ("done", "failed") for member in self.own)

    @property
    def done(self) -> int:
        """How many points are done."""
        return sum(member.result.state == State.DONE.value for member in self.members)

    def to_json(self) -> dict[str, Any]:
        """The document of ``--json``; NaN and infinities become null."""
        if self.members:
            return self._sweep_json()
        names = (field.name for field in fields(self) if field.name not in ("members", "asked"))
        own = {name: getattr(self, name) for name in names}
        rows = {
            "nodes": [vars(node) for node in self.nodes],
            "failures": [vars(failure) for failure in self.failures],
        }
        return {"schema": SCHEMA, **finite({**own, **rows})}

    def _sweep_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "sweep": self.run,
            "name": self.name,
            "state": self.state,
            "stopped_by": self.stopped_by,
            "points_done": self.done,
            "points_total": len(self.members),
            "points_asked": len(self.own),
            "samples": self.samples,
            "wall_s": self.wall_s,
            "nodes": [vars(node) for node in self.nodes],
            "events": [dict(event) for event in self.events],
            "resume": self.resume,
            "advice": self.advice,
            "points": [member.to_json() for member in self.members],
        }


@dataclass(frozen=True)
class PointResult:
    """A point of a sweep: its index, its values of the keys that the sweep varies, and its run."""

    point: int
    given: Mapping[str, Any]
    result: Result

    @property
    def busy_s(self) -> float:
        """Wall seconds inside the kernel, over all counted tasks of all slots."""
        return sum(node.busy_s for node in self.result.nodes)

    def to_json(self) -> dict[str, Any]:
        """Its object in the list ``points``."""
        return {"point": self.point, "given": finite(dict(self.given)), **self.result.to_json()}


def state_of(states: Sequence[str], stopped_by: str | None) -> str:
    """The state of a sweep: the worst of its points' states.

    Args:
        states: of the requested points.
        stopped_by: what ended the sweep, or None.
    """
    if all(state == "done" for state in states):
        return "done"
    # After a limit a sweep is partial, though points that it never began look interrupted.
    timed = stopped_by in ("max_time", "window", "nodes")
    worst = ("failed", "running", *(() if timed else ("interrupted",)))
    return next((state for state in worst if state in states), "partial")


@dataclass(frozen=True)
class About:
    """What a run computes: the part of its :class:`cluster.spec.request.Request` in a result."""

    kernel: str
    params: Mapping[str, Any]
    seed: int
    block: int
    scale: float
    offset: float
    reference: Any
    confidence: float
    identity: str

    @classmethod
    def of(cls, run: Run) -> About:
        """Read it from a run's row in the ledger."""
        own, source = run.definition, run.definition["source"]
        names = ("params", "seed", "block", "scale", "offset", "reference")
        return cls(
            kernel=f"{source['entry']}:{source['function']}",
            confidence=run.goal["confidence"],
            identity=run.identity,
            **{name: own[name] for name in names},
        )


@dataclass(frozen=True)
class Facts:
    """What the ledger holds of a run.

    Attributes:
        run: its row.
        state: its present state, which the row may not have yet.
        tally, ranges: sum of the counted rows, and their merged block ranges [first, stop).
        totals: what each node has counted.
        uncounted: blocks that were attempted and are not counted, by node.
        failures: the first failed attempts, in order of time.
        failure_counts: number of all failed attempts, by node.
        events: what happened to nodes and the store.
        slots: number of slots, by node, in the last start that used it.
        capacity: slots * seconds over all starts, by node.
        backend: engine of the last start.
        wall: seconds over all starts.
        resume, advice: see :class:`Result`.
    """

    run: Run
    state: str
    tally: Tally | None
    ranges: Sequence[tuple[int, int]]
    failures: Sequence[Mapping[str, Any]]
    events: Sequence[Mapping[str, Any]]
    nodes: Sequence[NodeResult]
    backend: str
    wall: float
    resume: str | None
    advice: str | None


def result_of(facts: Facts, about: About) -> Result:
    """Assemble the result of a run."""
    estimate = None
    if facts.tally is not None:
        estimate = facts.tally.estimate(about.confidence, about.scale, about.offset)
    blocks = sum(stop - first for first, stop in facts.ranges)
    return Result(
        run=facts.run.id,
        name=facts.run.name,
        state=facts.state,
        stopped_by=facts.run.stopped_by,
        drained=facts.run.drained,
        backend=facts.backend,
        kernel=about.kernel,
        params=dict(about.params),
        seed=about.seed,
        block=about.block,
        samples=blocks * about.block,
        blocks=blocks,
        ranges=[list(pair) for pair in facts.ranges],
        estimate=estimate and _listed(estimate.value),
        std_error=estimate and _listed(estimate.std_error),
        interval=estimate and _interval(estimate),
        confidence=about.confidence,
        reference=_listed(about.reference),
        tally=None if facts.tally is None else facts.tally.to_json(),
        identity=about.identity,
        digest=digest(about.identity, facts.ranges, about.block, facts.tally),
        wall_s=facts.wall,
        nodes=list(facts.nodes),
        failures=[_failure(row) for row in facts.failures],
        events=[dict(event) for event in facts.events],
        resume=facts.resume,
        advice=facts.advice,
    )


def digest(
    identity: str, ranges: Sequence[tuple[int, int]], block: int, tally: Tally | None
) -> str | None:
    """The digest of a result: sha256 over canonical JSON of the arguments.

    Args:
        identity: of the run.
        ranges: the counted blocks, as merged ranges [first, stop).
        block: samples in a block.
        tally: the sum of the counted blocks, or None if nothing is counted.

    Returns:
        64 hexadecimal digits; None if nothing is counted.
    """
    if tally is None:
        return None
    return sha256(
        {
            "identity": identity,
            "blocks": [list(pair) for pair in ranges],
            "samples": sum(stop - first for first, stop in ranges) * block,
            "tally": tally.to_json(),
        }
    )


def finite(value: Any) -> Any:
    """Replace every NaN and infinity in a value by None, since JSON has neither."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def node_results(
    parts: Iterable[tuple[int, NodeTotals]],
    uncounted: Mapping[str, tuple[int, int]],
    sessions: Sequence[Mapping[str, Any]],
) -> list[NodeResult]:
    """The table of nodes.

    Args:
        parts: what nodes counted, each with the number of samples of a block there; those of one
            node are added up.
        uncounted: of each node, attempts that failed, and blocks that were attempted in vain.
        sessions: the starts, each with its ``seconds``, and its ``nodes``: slots by name.
    """
    slots = {node: count for session in sessions for node, count in session["nodes"].items()}
    room = Counter[str]()
    for session in sessions:
        room.update({node: n * session["seconds"] for node, n in session["nodes"].items()})
    nodes = {name: _Sums() for name in slots}
    for block, total in parts:
        nodes.setdefault(total.node, _Sums()).add(block, total)
    for name in uncounted:
        nodes.setdefault(name, _Sums())
    drawn = sum(sums.samples for sums in nodes.values())
    return [
        sums.result(name, slots.get(name, 0), room[name], drawn, uncounted.get(name, (0, 0)))
        for name, sums in nodes.items()
    ]


@dataclass
class _Sums:
    """What one node counted, of any number of runs; times in seconds."""

    tasks: int = 0
    blocks: int = 0
    samples: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    lost: float = 0.0

    def add(self, block: int, total: NodeTotals) -> None:
        self.tasks += total.tasks
        self.blocks += total.blocks
        self.samples += total.blocks * block
        self.wall += total.wall
        self.cpu += total.cpu
        self.lost += total.lost

    def result(
        self, name: str, slots: int, room: float, drawn: int, uncounted: tuple[int, int]
    ) -> NodeResult:
        failures, in_vain = uncounted
        return NodeResult(
            node=name,
            slots=slots,
            tasks=self.tasks,
            samples=self.samples,
            share=_ratio(self.samples, drawn),
            busy_s=self.wall,
            cpu_s=self.cpu,
            samples_per_s=_ratio(self.samples, self.wall),
            utilisation=_ratio(self.wall, room),
            goodput=_ratio(self.blocks, self.blocks + in_vain),
            failures=failures,
            lost_s=self.lost,
        )


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _failure(row: Mapping[str, Any]) -> Failure:
    return Failure(**{field.name: row[field.name] for field in fields(Failure)})


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _interval(estimate: Estimate) -> list[Any]:
    if isinstance(estimate.low, tuple) and isinstance(estimate.high, tuple):
        return [list(pair) for pair in zip(estimate.low, estimate.high, strict=True)]
    return [estimate.low, estimate.high]
