"""A spec resolved: exactly what is computed, its identity, and until when.

This is where a spec meets its kernel: the kernel's text is frozen, defaults are filled in, a seed
is drawn where none was given. From here on nothing is read from the source tree.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.common import engines
from cluster.common.canonical import sha256
from cluster.common.errors import KernelError, Problem, SpecError, UsageError
from cluster.hosts.nodes import ALLOCATE, NO_ALLOCATION, Node, is_local, usable_cores
from cluster.sampling import streams
from cluster.sampling.kernels import (
    Kernel,
    KernelSource,
    ParamError,
    ParamFault,
    differing,
    freeze,
    load,
    refuse_verbs,
    unfound,
    within,
)
from cluster.sampling.plan import Goal, Target, blocks_for
from cluster.sampling.tally import MEASURES
from cluster.sampling.task import Work
from cluster.spec import Spec

# A drawn seed stays exact in every JSON reader, those that read numbers as doubles included.
_SEED_BITS = 53
# What may be changed without changing what is computed: a resume takes these.
WHERE = frozenset({"backend", "nodes", "retry", "schedule", "notify", "description"})


@dataclass(frozen=True)
class Request:
    """What a run computes.

    Attributes:
        spec: as it was written, with the overrides.
        source: the kernel's frozen text.
        params: the canonical parameters.
        seed, block: as written, drawn or resolved.
        scale, offset: the estimate is ``offset + scale * x``.
        reference: the exact value, where the kernel knows it.
        pinned: blocks of every task, for measurements; None: adapted.
        common: its streams are those that all points of its sweep share.
        shard: of its blocks only those from the first to before the second are computed here.
        probe: how a few samples of the kernel came out where the run was begun; None: not asked.
    """

    spec: Spec
    source: KernelSource
    params: Mapping[str, Any]
    seed: int
    block: int
    scale: float
    offset: float
    reference: float | tuple[float, ...] | None
    pinned: int | None = None
    common: bool = False
    shard: tuple[int, int] | None = None
    probe: str | None = None

    @property
    def identity(self) -> str:
        """What makes a run's tally: two runs of one identity and block set have one tally."""
        return sha256(_essence(self.source.sha, self.params, self.seed, self.block, self.common))

    @property
    def key(self) -> str:
        """The request key: the identity, with seed and block as they were written."""
        seed = "drawn" if self.spec.seed is None else self.spec.seed
        block = self.spec.block
        return sha256(_essence(self.source.sha, self.params, seed, block, self.common))

    @property
    def point(self) -> int:
        """The 64-bit key that its streams have beside the seed."""
        return streams.point_of({} if self.common else self.params)

    @property
    def goal(self) -> Goal:
        """Until when."""
        goal = goal_of(self.spec, self.block)
        if self.shard is None:
            return goal
        first, stop = self.shard
        return replace(goal, blocks=stop, target=None, first=first)

    def work(self, run: str) -> Work:
        """What the workers of a run are told."""
        return Work(run, self.source, self.params, self.seed, self.point, self.block)

    def with_recorded(self, other: Request) -> Request:
        """The same request, with what an earlier run of its key recorded: seed, block, probe."""
        return replace(self, seed=other.seed, block=other.block, probe=other.probe)

    def to_json(self) -> dict[str, Any]:
        """A JSON-safe mapping, from which :meth:`from_json` makes an equal request."""
        own = {name: getattr(self, name) for name in _OWN}
        return {
            **own,
            "params": dict(self.params),
            "spec": self.spec.to_json(),
            "source": self.source.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Request:
        """Read what ``to_json`` wrote; neither the spec's file nor the kernel's is needed."""
        own = {name: data[name] for name in _OWN if name in data}  # earlier versions had fewer
        for name in ("reference", "shard"):
            if isinstance(own.get(name), list):
                own[name] = tuple(own[name])
        return cls(spec=Spec.from_json(data["spec"]), source=KernelSource(**data["source"]), **own)


def identity_of(definition: Mapping[str, Any], sha: str) -> str:
    """The identity of what ``Request.to_json`` wrote, computed again, without reading its spec.

    Args:
        definition: with params, seed and block.
        sha: of its kernel, from the frozen text.
    """
    common = definition.get("common", False)
    essence = _essence(sha, definition["params"], definition["seed"], definition["block"], common)
    return sha256(essence)


def _essence(
    sha: str, params: Mapping[str, Any], seed: object, block: object, common: bool
) -> dict[str, object]:
    return {
        "kernel": sha,
        "params": params,
        "seed": seed,
        "block": block,
        "stream": streams.FORMAT,
        # Named only where it is so: the identities of all other runs are as ever.
        **({"streams": "common"} if common else {}),
    }


_OWN = (
    "params",
    "seed",
    "block",
    "scale",
    "offset",
    "reference",
    "pinned",
    "common",
    "shard",
    "probe",
)


def resolve(spec: Spec) -> Request:
    """The request of a spec that is one run.

    Raises:
        SpecError: the kernel or a parameter is not what the spec says, with its place.
    """
    if spec.sweep is not None:
        message = "makes many runs of this spec, where one is wanted"
        raise SpecError([spec.problem("sweep", message, "--set sweep=null leaves it out")])
    return bound(spec, *prepared(spec))


def drawn_seed() -> int:
    """A seed for a spec that has none."""
    return secrets.randbits(_SEED_BITS)


def prepared(spec: Spec) -> tuple[KernelSource, Kernel]:
    """Freeze and load the kernel of a spec.

    Raises:
        SpecError: it is not there, or no kernel; with its place.
        KernelError: a kernel's file asks for it while it is imported.
    """
    refuse_verbs()
    try:
        source = freeze(spec.kernel, spec.base, spec.include)
        with within(spec.retry.timeout, source.entry):
            return source, load(source)
    except KernelError as error:
        place = f" (at {error.where})" if error.where else ""
        fix = error.fix or unfound(error, spec.kernel, spec.base)
        raise SpecError([spec.problem("kernel", error.message + place, fix)]) from error


def bound(
    spec: Spec,
    source: KernelSource,
    kernel: Kernel,
    seed: int | None = None,
    *,
    common: bool = False,
) -> Request:
    """The request of a spec with its kernel: what the spec leaves open is filled in.

    Args:
        spec: one run.
        source: the kernel's frozen text, from :func:`prepared`.
        kernel: what was loaded from it.
        seed: for a spec that has none; without it, one is drawn.
        common: draw from the streams that all points of a sweep share.

    Raises:
        SpecError: a parameter does not fit, with its place.
    """
    params, scale, offset, reference = _bind(spec, kernel)
    check_place(spec)
    return Request(
        spec=spec,
        source=source,
        params=params,
        seed=spec.seed if spec.seed is not None else drawn_seed() if seed is None else seed,
        block=kernel.traits.block if spec.block == "auto" else int(spec.block),
        scale=scale,
        offset=offset,
        reference=reference,
        common=common,
    )


def goal_of(spec: Spec, block: int) -> Goal:
    """Until when a spec wants its run to go on."""
    until = spec.until
    if until is None:
        return Goal(blocks_for(spec.samples or 0, block))
    limit = spec.samples or until.max_samples
    blocks = blocks_for(limit, block) if limit else None
    wanted = {name: getattr(until, name) for name in MEASURES}
    target = None
    if any(value is not None for value in wanted.values()):
        target = Target(**wanted, confidence=until.confidence, min_samples=until.min_samples or 0)
    return Goal(blocks, target, until.max_time, until.confidence)


def elsewhere(request: Request, overrides: Sequence[str]) -> Request:
    """The same request, to be run on another backend, other nodes, or with other patience.

    Raises:
        SpecError: an override does not fit.
        UsageError: an override would change what is computed.
    """
    for override in overrides:
        key = override.partition("=")[0].strip()
        root = key.partition(".")[0].partition("[")[0]
        if root not in WHERE and not engines.options([root]):
            raise UsageError(
                f"--set {key} would change what the run computes",
                fix="submit a new run, or 'cluster extend' for more samples or a tighter target",
            )
    spec = request.spec.revised(overrides)
    check_place(spec)
    return replace(request, spec=spec)


def extended(request: Request, overrides: Sequence[str]) -> Request:
    """The same request, with another goal: overrides of ``samples`` and ``until``.

    More samples take the place of a target, and a target that of samples; the confidence and the
    time limit stay.

    Raises:
        SpecError: an override does not fit.
        UsageError: an override is of something else than the goal.
    """
    keys = {override.partition("=")[0].strip() for override in overrides}
    for key in keys:
        if key != "samples" and not key.startswith("until."):
            raise UsageError(f"--set {key} is not a goal", fix="extend takes samples and until.*")
    if "samples" in keys:
        spec = request.spec.revised([*_limits(request.spec), *overrides], without=["until"])
    elif keys & {f"until.{name}" for name in MEASURES}:
        spec = request.spec.revised(overrides, without=["samples"])
    else:
        spec = request.spec.revised(overrides)
    return replace(request, spec=spec)


def outdated(request: Request) -> str | None:
    """Words where a kernel's file differs now from what a run has frozen; None: it does not."""
    spec = request.spec
    changed = differing(request.source, spec.kernel, spec.base)
    if not changed:
        return None
    return (
        f"{', '.join(changed)} differs now from what was frozen at submit: the frozen text is "
        "what goes on, and only a new submit computes with the new one"
    )


def _problem(spec: Spec, fault: ParamFault) -> Problem:
    path = "kernel" if fault.of_kernel else f"params.{fault.name}" if fault.name else "params"
    return spec.problem(path, fault.message, fault.fix)


def _limits(spec: Spec) -> list[str]:
    if spec.until is None:
        return []
    time = [f"until.max_time={spec.until.max_time}"] if spec.until.max_time else []
    return [f"until.confidence={spec.until.confidence}", *time]


def check_place(spec: Spec) -> None:
    """Refuse hosts that the backend cannot reach.

    Raises:
        SpecError: the backend works on this machine only, and the spec names another.
    """
    entry = engines.entry(spec.backend)
    if entry is not None and not entry.trouble and not entry.hosted:
        far = [node.host for node in spec.nodes.hosts if not is_local(node.host)]
        if far:
            message = f"the backend {spec.backend} works on this machine only, got {far[0]!r}"
            raise SpecError([spec.problem("nodes", message, "name localhost, or leave nodes out")])


def placed(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes, those of this machine with their slots filled in: its usable cores.

    Raises:
        UsageError: they are those of a job, and this process is in none.
    """
    if not nodes:
        raise UsageError(f"nodes: {NO_ALLOCATION}", fix=ALLOCATE)
    return with_slots(nodes)


def with_slots(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Nodes, those of this machine with their slots filled in: its usable cores."""
    return tuple(
        replace(node, slots=usable_cores()) if node.slots is None and is_local(node.host) else node
        for node in nodes
    )


def _bind(
    spec: Spec, kernel: Kernel
) -> tuple[dict[str, object], float, float, float | tuple[float, ...] | None]:
    """Canonical parameters, scale, offset and reference; errors at their place in the spec."""
    try:
        params = kernel.resolve(spec.params)
        return params, *kernel.scale(params), kernel.reference(params)
    except ParamError as error:
        raise SpecError(_problem(spec, fault) for fault in error.faults) from error
