"""A resolved spec: exactly what is computed, its identity, and its goal.

Here a spec is combined with its kernel: the kernel's text is frozen, defaults are filled in, and a
seed is drawn if none was given. From here on nothing is read from the source tree.
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

# A drawn seed stays exact even in JSON readers that read numbers as doubles.
_SEED_BITS = 53
# Keys that do not affect what is computed; a resume may override them.
WHERE = frozenset({"backend", "nodes", "retry", "schedule", "notify", "description"})


@dataclass(frozen=True)
class Request:
    """What a run computes.

    Attributes:
        spec: with the overrides.
        source: the kernel's frozen text.
        params: the canonical parameters.
        seed: from the spec, or drawn.
        block: samples per block, from the spec or the kernel.
        scale, offset: the estimate is ``offset + scale * x``.
        reference: the exact value of the estimate, if the kernel declares one.
        pinned: a fixed number of blocks per task, for benchmarks; None: adapted to the hosts.
        common: whether all points of its sweep draw from the same streams.
        shard: (first, stop) if only the blocks [first, stop) are computed here, else None.
        probe: the result of the probe where the run was started; None if there was none.
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
        """The hash of everything that affects the tally: equal identity, equal tally per block."""
        return sha256(_essence(self.source.sha, self.params, self.seed, self.block, self.common))

    @property
    def key(self) -> str:
        """The request key: like the identity, but with seed and block as the spec gives them."""
        seed = "drawn" if self.spec.seed is None else self.spec.seed
        block = self.spec.block
        return sha256(_essence(self.source.sha, self.params, seed, block, self.common))

    @property
    def point(self) -> int:
        """The 64-bit key of its streams, besides the seed."""
        return streams.point_of({} if self.common else self.params)

    @property
    def goal(self) -> Goal:
        """When the run is complete."""
        goal = goal_of(self.spec, self.block)
        if self.shard is None:
            return goal
        first, stop = self.shard
        return replace(goal, blocks=stop, target=None, first=first)

    def work(self, run: str) -> Work:
        """What the workers of a run need to know."""
        return Work(run, self.source, self.params, self.seed, self.point, self.block)

    def with_recorded(self, other: Request) -> Request:
        """This request with the seed, block and probe that an earlier run of its key recorded."""
        return replace(self, seed=other.seed, block=other.block, probe=other.probe)

    def to_json(self) -> dict[str, Any]:
        """A JSON-safe mapping; :meth:`from_json` restores an equal request from it."""
        own = {name: getattr(self, name) for name in _OWN}
        return {
            **own,
            "params": dict(self.params),
            "spec": self.spec.to_json(),
            "source": self.source.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Request:
        """The request that ``to_json`` wrote; the files of spec and kernel are not needed.

        Raises:
            SpecError: the recorded spec is not valid.
        """
        own = {name: data[name] for name in _OWN if name in data}  # older stores have fewer
        for name in ("reference", "shard"):
            if isinstance(own.get(name), list):
                own[name] = tuple(own[name])
        return cls(spec=Spec.from_json(data["spec"]), source=KernelSource(**data["source"]), **own)


def identity_of(definition: Mapping[str, Any], sha: str) -> str:
    """Recompute the identity of a recorded request without parsing its spec.

    Args:
        definition: what ``Request.to_json`` wrote.
        sha: of the kernel's frozen text.
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
        # Left out otherwise, so that other runs keep the identity that they had before this key.
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
    """The request of a spec without a sweep.

    Raises:
        SpecError: the spec has a sweep, or its kernel or a parameter is not valid.
    """
    if spec.sweep is not None:
        message = "makes many runs of this spec, but a single one is needed here"
        raise SpecError([spec.problem("sweep", message, "--set sweep=null removes it")])
    return bound(spec, *prepared(spec))


def drawn_seed() -> int:
    """A random seed, for a spec that has none."""
    return secrets.randbits(_SEED_BITS)


def prepared(spec: Spec) -> tuple[KernelSource, Kernel]:
    """Freeze and load the kernel of a spec.

    Raises:
        SpecError: the kernel cannot be found or loaded, or is not a kernel.
        KernelError: called while a kernel's file is being imported.
    """
    refuse_verbs()
    try:
        # Frozen first and loaded from the copy: what is checked here is what workers will run.
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
    """The request of a spec and its kernel, with everything that the spec leaves open filled in.

    Args:
        spec: of a single run.
        source: the kernel's frozen text, from :func:`prepared`.
        kernel: loaded from it.
        seed: used if the spec has none; None: one is drawn.
        common: draw from streams shared by all points of a sweep.

    Raises:
        SpecError: a parameter or the hosts are not valid.
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
    """The goal of a spec's run.

    Args:
        spec: of a single run.
        block: samples per block.
    """
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
    """The same request with another backend, nodes, retries, schedule or notification.

    Args:
        request: the recorded one.
        overrides: texts of the form ``key=value``.

    Raises:
        SpecError: an override is not valid.
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
    """The same request with another goal.

    A number of samples replaces a target, and a target replaces a number of samples; the
    confidence level and the time limit stay.

    Args:
        request: the recorded one.
        overrides: texts ``samples=...`` or ``until.*=...``.

    Raises:
        SpecError: an override is not valid.
        UsageError: an override is not about the goal.
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
    """A warning if the kernel's files have changed since submit, or None."""
    spec = request.spec
    changed = differing(request.source, spec.kernel, spec.base)
    if not changed:
        return None
    return (
        f"{', '.join(changed)} changed since submit: the run continues with the frozen text; "
        "submit again to compute with the new one"
    )


def _problem(spec: Spec, fault: ParamFault) -> Problem:
    path = "kernel" if fault.of_kernel else f"params.{fault.name}" if fault.name else "params"
    return spec.problem(path, fault.message, fault.fix)


def _limits(spec: Spec) -> list[str]:
    """The keys of ``until`` that a new number of samples keeps, as overrides."""
    if spec.until is None:
        return []
    time = [f"until.max_time={spec.until.max_time}"] if spec.until.max_time else []
    return [f"until.confidence={spec.until.confidence}", *time]


def check_place(spec: Spec) -> None:
    """Check that the backend can use the spec's hosts.

    Raises:
        SpecError: the backend works only on this machine, and the spec names another one.
    """
    entry = engines.entry(spec.backend)
    if entry is not None and not entry.trouble and not entry.hosted:
        far = [node.host for node in spec.nodes.hosts if not is_local(node.host)]
        if far:
            message = f"the backend {spec.backend} works only on this machine, got {far[0]!r}"
            raise SpecError([spec.problem("nodes", message, "name localhost, or remove nodes")])


def placed(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes, with the slots of those on this machine filled in: its usable cores.

    Raises:
        UsageError: there are none: ``nodes: auto`` outside a job.
    """
    if not nodes:
        raise UsageError(f"nodes: {NO_ALLOCATION}", fix=ALLOCATE)
    return with_slots(nodes)


def with_slots(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes, with the slots of those on this machine filled in: its usable cores."""
    return tuple(
        replace(node, slots=usable_cores()) if node.slots is None and is_local(node.host) else node
        for node in nodes
    )


def _bind(
    spec: Spec, kernel: Kernel
) -> tuple[dict[str, object], float, float, float | tuple[float, ...] | None]:
    """Canonical parameters, scale, offset and reference; errors at their position in the spec."""
    try:
        params = kernel.resolve(spec.params)
        return params, *kernel.scale(params), kernel.reference(params)
    except ParamError as error:
        raise SpecError(_problem(spec, fault) for fault in error.faults) from error
