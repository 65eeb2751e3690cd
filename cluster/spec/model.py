"""The spec as an immutable model. The schema and the reference are generated from its fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, PrivateAttr

from cluster.common import engines
from cluster.common.errors import Problem, SpecError
from cluster.hosts.nodes import NodeList, local
from cluster.spec.engine_options import EngineName, resolved
from cluster.spec.hosts import Frozen, NodesRule
from cluster.spec.judge import OwnOptions, SpecOrigin, judge
from cluster.spec.night import Notify, Schedule
from cluster.spec.source import SpecSource, split, with_hosts
from cluster.spec.sweep import Sweep
from cluster.spec.values import (
    Block,
    Confidence,
    Duration,
    FileName,
    Folder,
    KernelName,
    Name,
    Number,
    Params,
    ReadOnly,
    Size,
    Text,
    Whole,
)
from cluster.spec.yaml12 import Document

_ORIGIN = ("path", "base", "overrides", "engines")


class Until(Frozen):
    """When a run may stop. If there are several targets, all must be met."""

    half_width: Annotated[float, Number()] | None = Field(
        default=None,
        description="Target: half the width of the confidence interval is at most this.",
    )
    rel_error: Annotated[float, Number()] | None = Field(
        default=None,
        description="Target: the standard error divided by the estimate is at most this.",
    )
    std_error: Annotated[float, Number()] | None = Field(
        default=None, description="Target: the standard error is at most this."
    )
    confidence: Annotated[float, Confidence()] = Field(
        default=0.95, description="Confidence level of the interval."
    )
    min_samples: Annotated[int, Whole()] | None = Field(
        default=None, description="The target is not judged on fewer samples."
    )
    max_samples: Annotated[int, Whole()] | None = Field(
        default=None, description="Stop here, whether the target is met or not."
    )
    max_time: Annotated[float, Duration()] | None = Field(
        default=None,
        description="Start no block after this time (90m, 8h, 1h30m, or seconds); "
        "blocks already started are finished and counted.",
    )


class Retry(Frozen):
    """What happens when a block fails."""

    attempts: Annotated[int, Whole()] | None = Field(
        default=None,
        description="Attempts at a block; by default 1 if the kernel raises and 3 if the worker "
        "is lost.",
    )
    timeout: Annotated[float, Duration()] = Field(
        default=3600.0, description="A block that takes longer is considered hung."
    )
    memory: Annotated[int, Size(low=128 * 2**20)] | None = Field(
        default=None,
        description="Memory limit of a slot, including the kernel's processes; a block that needs "
        "more fails. Not enforced by serial and threads.",
    )


class Spec(Frozen):
    """What to compute, where, and until when.

    Deeply immutable: ``params`` is a read-only mapping, its lists are tuples. Made by
    :func:`cluster.spec.load`, :func:`cluster.spec.parse` and :meth:`from_json`.
    """

    name: Annotated[str, Name()] = Field(
        default_factory=lambda: "run",
        description="Name of the run; by default the name of the spec's file.",
    )
    description: Annotated[str, Text(lines=True)] | None = Field(
        default=None, description="A note for readers; it has no effect."
    )
    kernel: Annotated[str, KernelName()] = Field(
        description="What draws the samples: file.py:function, relative to the spec, or "
        "module:function."
    )
    params: Annotated[Mapping[str, Any], Params()] = Field(
        default_factory=ReadOnly, description="Parameters of the kernel, by name."
    )
    samples: Annotated[int, Whole()] | None = Field(
        default=None,
        description="Samples to draw, rounded up to whole blocks; not with a target in until.",
    )
    block: Annotated[int | Literal["auto"], Block()] = Field(
        default="auto",
        description="Samples per block, the unit of randomness; auto is what the kernel declares.",
    )
    seed: Annotated[int, Whole(0, 2**128 - 1)] | None = Field(
        default=None, description="Seed of all streams; by default one is drawn and recorded."
    )
    until: Until | None = Field(
        default=None, description="A precision target, and limits of samples and time."
    )
    sweep: Sweep | None = Field(
        default=None, description="Keys that vary: one run for each combination of their values."
    )
    include: tuple[Annotated[str, FileName()], ...] = Field(
        default=(),
        description="Files that the kernel imports, relative to its folder; frozen with it.",
    )
    backend: Annotated[str, EngineName()] = Field(
        default="processes",
        description="The engine that runs the blocks, built-in or from another package; its "
        "options are given under its name (cluster backends).",
    )
    nodes: Annotated[NodeList, NodesRule()] = Field(
        default_factory=lambda: NodeList((local(),)),
        description="The hosts to run on; by default this machine with its usable cores.",
    )
    retry: Retry = Field(default=Retry(), description="What happens when a block fails.")
    schedule: Schedule | None = Field(default=None, description="When the run may work.")
    notify: Notify | None = Field(default=None, description="Who is notified, and of what.")
    store: Annotated[str, Folder()] = Field(
        default="runs",
        description="Folder of the ledger, relative to the working directory.",
    )

    _source: SpecSource = PrivateAttr(default_factory=lambda: SpecSource("", Path()))

    _own: OwnOptions = PrivateAttr(default_factory=ReadOnly)

    @property
    def path(self) -> str:
        """The spec's file, as the user gave it."""
        return self._source.file

    @property
    def base(self) -> Path:
        """The folder that the spec's paths are relative to."""
        return self._source.base

    @property
    def overrides(self) -> tuple[str, ...]:
        """Every ``key=value`` override that was applied to the file."""
        return self._source.overrides

    def engine_options(self, name: str) -> dict[str, Any]:
        """All options of an engine by name, with their defaults; empty if it is not installed."""
        entry = engines.entry(name)
        return {} if entry is None else resolved(entry, self._own.get(name, {}), self.base)

    def problem(self, path: str, message: str, fix: str | None = None) -> Problem:
        """A problem at the position of a key in the spec's text.

        Args:
            path: dotted, as in ``nodes[0].slots``; a key that is not in the text has the position
                of the nearest key above it, and an overridden one has ``--set``.
            message: what is wrong.
            fix: how to fix it, or None.
        """
        return self.problem_at(with_hosts(split(path) or ()), message, fix)

    def problem_at(
        self, path: tuple[str | int, ...], message: str, fix: str | None = None
    ) -> Problem:
        """The same for a path of steps: keys of ``sweep.matrix`` contain dots themselves.

        Args:
            path: the steps.
            message: what is wrong.
            fix: how to fix it, or None.
        """
        return self._source.problem(path, message, fix)

    def to_json(self) -> dict[str, Any]:
        """A JSON-safe mapping; :meth:`from_json` restores an equal Spec from it.

        It has the keys of a spec, with defaults filled in and without those that have no value,
        and ``path``, ``base`` and ``overrides``. The hosts are resolved: neither host files nor
        the environment are read again.
        """
        origin: dict[str, Any] = {
            "path": self.path,
            "base": str(self.base),
            "overrides": list(self.overrides),
            # So a reader without these engines can tell their sections from unknown keys.
            **({"engines": sorted(self._own)} if self._own else {}),
        }
        return {**self._keys(), **origin}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` wrote.

        Raises:
            SpecError: it is not valid.
        """
        keys = {name: value for name, value in data.items() if name not in _ORIGIN}
        keys["nodes"] = NodeList.from_json(keys["nodes"])
        known = frozenset({data["backend"], *data.get("engines", ())})
        place = data["path"], Path(data["base"]), tuple(data["overrides"])
        origin = SpecOrigin(*place, engines=known)
        return cls.read(Document.of(keys), origin)

    @classmethod
    def read(cls, document: Document, origin: SpecOrigin, changes: Sequence[str] = ()) -> Self:
        """The spec of a document.

        Args:
            document: what was read; its data is changed in place.
            origin: where it comes from.
            changes: ``key=value`` overrides to apply.

        Raises:
            SpecError: all problems at once.
        """
        spec, source, own = judge(cls, document, origin, changes)
        spec._source, spec._own = source, own
        if problems := list(spec._unattachable()):
            raise SpecError(problems)
        return spec

    def _unattachable(self) -> Iterator[Problem]:
        """Problems of nodes with ``attach``, which only some engines can use."""
        if all(node.attach is None for node in self.nodes.hosts):
            return
        entry = engines.entry(self.backend)
        if entry is None or not entry.attach:
            able = " or ".join(each.name for each in engines.that_attach())
            message = f"must be {able} if a node has attach, got {self.backend}"
            yield self.problem("backend", message)
        elif not entry.attaches(self.engine_options(self.backend)):
            option = entry.attach[0].partition("=")[0]
            fix = (
                f"write {self.backend}: {{{option}: {{file: PATH}}}}, with the file that cluster "
                "node was started with there"
            )
            yield self.problem(self.backend, f"a node with attach needs a {option}", fix)

    def _keys(self) -> dict[str, Any]:
        """The keys of this spec and the sections of engines, JSON-safe."""
        return {**_plain(self), **_plain(self._own)}

    def _origin(self) -> SpecOrigin:
        known = frozenset({self.backend, *self._own})
        return SpecOrigin(self.path, self.base, self.overrides, engines=known)

    def placed_as(self, other: Self) -> Self:
        """This spec, but to be run where and how the other one says."""
        made = self.model_copy(update={name: getattr(other, name) for name in _PLACE})
        made._own = other._own
        return made

    def varied(self, values: Mapping[str, Any]) -> Self:
        """One point of this spec's sweep: this spec without the sweep, and with other values.

        Args:
            values: by dotted keys that a sweep may vary.

        Raises:
            SpecError: they are not valid; its problems have no position.
        """
        plain = {name: _plain(getattr(self, name)) for name in _VARIED}
        # Passed as an object: parsing it again would count this machine's cores for each point.
        keys = {**_without_none(plain), **_plain(self._own), "nodes": self.nodes}
        for dotted, value in values.items():
            *above, last = dotted.split(".")
            _mapping_at(keys, above)[last] = value
        made = self.read(Document.of(keys), self._origin())
        # What does not vary is not validated again: host lists can be long.
        return made.model_copy(update={name: getattr(self, name) for name in _FIXED})

    def revised(self, changes: Sequence[str], without: Sequence[str] = ()) -> Self:
        """This spec with further overrides, validated like a new one; its file is not read again.

        Args:
            changes: texts of the form ``key=value``.
            without: top-level keys to remove first.

        Raises:
            SpecError: a change is not valid.
        """
        keys = {name: value for name, value in self._keys().items() if name not in without}
        if "nodes" in keys:
            # The hosts of the files are already in the list.
            keys["nodes"].pop("files", None)
            # An empty list is "auto" read outside a job; this process may be inside one now.
            keys["nodes"]["hosts"] = keys["nodes"]["hosts"] or "auto"
        made = self.read(Document.of(keys), self._origin(), changes)
        if any(_changes_hosts(change) for change in changes):
            return made
        # The hosts are those of before, so their files are still to be watched.
        nodes = replace(made.nodes, files=self.nodes.files)
        return made.model_copy(update={"nodes": nodes})


# What a sweep may vary; where and how a run works; and what all points of a sweep share.
_VARIED = ("kernel", "params", "samples", "block", "seed", "until", "backend")
_PLACE = ("backend", "nodes", "retry", "schedule", "notify")
_FIXED = frozenset(Spec.model_fields) - {*_VARIED, "sweep"}


def _changes_hosts(change: str) -> bool:
    key = change.partition("=")[0].strip()
    return key.startswith("nodes") and key not in ("nodes.required", "nodes.wait")


def _mapping_at(data: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """The mapping at a path, created if it is missing."""
    for step in path:
        if not isinstance(data.get(step), dict):
            data[step] = {}
        data = data[step]
    return data


def _plain(value: Any) -> Any:
    """JSON-safe data of a model, without keys that have no value."""
    if isinstance(value, NodeList):
        data = value.to_json()
        data["hosts"] = [_without_none(node) for node in data["hosts"]]
        return _without_none(data)
    if isinstance(value, BaseModel):
        fields = {name: getattr(value, name) for name in type(value).model_fields}
        return {name: _plain(inner) for name, inner in _without_none(fields).items()}
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _without_none(data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if value is not None}
