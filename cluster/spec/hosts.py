"""The key ``nodes``: every way to write it, as a NodeList."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    ValidationInfo,
)
from pydantic_core import CoreSchema, core_schema

from cluster.common.engines import built_in
from cluster.hosts.nodes import (
    MAX_NODES,
    MAX_SLOTS,
    Defaults,
    HostCollection,
    HostFile,
    Node,
    NodeError,
    NodeList,
    has_allocation,
    local,
    names_file,
    parse_entry,
    read_beside,
)
from cluster.spec.values import (
    Duration,
    Environment,
    Number,
    Rule,
    Text,
    Whole,
    fault,
    faults,
    show,
)


@dataclass(slots=True)
class Context:
    """What the meaning of a host list depends on, and the hosts of the entries before.

    ``engines``: names of engines that are known to have been there.
    """

    base: Path
    environ: Mapping[str, str]
    engines: frozenset[str] = frozenset()
    roster: HostCollection = field(default_factory=HostCollection)
    entries: int = 0
    files: list[HostFile] = field(default_factory=list)


class Frozen(BaseModel):
    """Base of the models: immutable, and no key but the declared ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NodeForm(Frozen):
    """One host, or one host list whose hosts are all alike."""

    host: Annotated[str, Text()] = Field(
        description="Name or address; also a host list such as n[01-16], for hosts that are alike."
    )
    slots: Annotated[int, Whole(1, MAX_SLOTS)] | None = Field(
        default=None, description="Workers at a time; without it, the usable cores of the host."
    )
    python: Annotated[str, Text()] | None = Field(
        default=None, description="The Python there; without it, the path that it has here."
    )
    user: Annotated[str, Text()] | None = Field(
        default=None, description="User for ssh; without it, what ssh's own configuration says."
    )
    port: Annotated[int, Whole(1, 65_535)] | None = Field(
        default=None, description="Port of ssh; without it, what ssh's own configuration says."
    )
    weight: Annotated[float, Number()] = Field(
        default=1.0, description="Expected speed of a slot beside others, until it was measured."
    )
    env: Annotated[Mapping[str, str], Environment()] | None = Field(
        default=None, description="Environment variables for the workers; each value is text."
    )
    tags: tuple[Annotated[str, Text()], ...] = Field(
        default=(), description="Words that the host can be chosen by."
    )
    cwd: Annotated[str, Text()] | None = Field(
        default=None, description="Folder to work in on the host."
    )
    attach: Annotated[int, Whole(1, 65_534)] | None = Field(
        default=None,
        description="Port of a node that stands there (cluster node), used in place of ssh; with "
        f"backend {' or '.join(each.name for each in built_in() if each.attach)}.",
    )


class HostRule(Rule):
    """A rule that needs to know the folder, the environment or the engines."""

    def check_in(self, value: Any, context: Context) -> Any:
        """The value to keep."""
        raise NotImplementedError

    def schema(self) -> dict[str, Any]:
        # The texts and mappings are put together in cluster.spec.reference.
        return {}

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self._checked)

    def _checked(self, value: Any, info: ValidationInfo) -> Any:
        context = Context(Path(), {}) if info.context is None else info.context
        return self.check_in(value, context)


class NodeEntry(HostRule):
    """An entry of the list: a text or a mapping, as the hosts it means."""

    def check_in(self, value: Any, context: Context) -> tuple[Node, ...]:
        """The hosts of one entry."""
        entry, context.entries = context.entries, context.entries + 1
        nodes = _entry(_judged(value), context)
        with _located():
            context.roster.add(entry, nodes)
        if isinstance(value, str) and names_file(value, context.base):
            context.files.append(HostFile(value, tuple(node.host for node in nodes)))
        return nodes


def _judged(value: Any) -> str | dict[str, Any]:
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        fix = "write it as n[01-16], host:4, or {host: n1, slots: 4}"
        raise fault(f"must be a host or a mapping, got {show(value)}", fix)
    form = NodeForm.model_validate(value)
    return {key: getattr(form, key) for key in form.model_fields_set}


def _entry(value: str | dict[str, Any], context: Context) -> tuple[Node, ...]:
    with _located():
        return parse_entry(value, context.base, context.environ, context.roster.room)


@contextmanager
def _located(key: str | None = None) -> Iterator[None]:
    """What is wrong with a host list, told at its key and column."""
    try:
        yield
    except NodeError as error:
        place = key or error.key
        found = fault(error.message, error.fix, column=error.column)
        raise faults([((place,) if place else (), found)]) from None


def _like(key: str) -> Any:
    """No value; in the words of the key of a node."""
    return Field(default=None, description=NodeForm.model_fields[key].description)


class DefaultsForm(Frozen):
    """What holds for every host that does not say otherwise, also for those that come later."""

    slots: Annotated[int, Whole(1, MAX_SLOTS)] | None = _like("slots")
    python: Annotated[str, Text()] | None = _like("python")
    user: Annotated[str, Text()] | None = _like("user")
    port: Annotated[int, Whole(1, 65_535)] | None = _like("port")
    env: Annotated[Mapping[str, str], Environment()] | None = _like("env")
    cwd: Annotated[str, Text()] | None = _like("cwd")

    def made(self) -> Defaults:
        """The same, as the rooms behind this one have it."""
        given = {key: getattr(self, key) for key in self.model_fields_set}
        given["env"] = tuple(sorted((self.env or {}).items()))
        return Defaults(**given)


class NodesForm(Frozen):
    """The hosts, and how many of them a run needs."""

    hosts: tuple[Annotated[tuple[Node, ...], NodeEntry()], ...] = Field(
        default=(),
        description="Hosts: texts (n[01-16,20], host:4, 4/host, the name of a host file, auto) "
        "or mappings; or one such text.",
    )
    file: Annotated[str, Text()] | None = Field(
        default=None, description="A host file of Open MPI or MPICH, relative to the spec."
    )
    required: Annotated[int, Whole(1, MAX_NODES)] | None = Field(
        default=None, description="So many hosts must be ready at the start; without it, all."
    )
    defaults: DefaultsForm | None = Field(
        default=None, description="Keys for every host that does not have them itself."
    )
    wait: Annotated[float, Duration(zero=True)] = Field(
        default=60.0, description="With no usable slot for so long, the run drains and stops."
    )


class NodesRule(HostRule):
    """``nodes`` in any form."""

    def check_in(self, value: Any, context: Context) -> NodeList:
        """The node list, each host once; empty for the hosts of a job outside of any job.

        So a spec can be read and scheduled where no job is; what is to run refuses it.
        """
        if isinstance(value, NodeList):
            return value
        if _is_auto(value) and not has_allocation(context.environ):
            form = NodesForm.model_validate({**_mapping(value), "hosts": []}, context=context)
            return NodeList((), form.required, form.wait)
        form = NodesForm.model_validate(_mapping(value), context=context)
        if form.file is not None:
            with _located("file"):
                nodes = read_beside(form.file, context.base)
                context.roster.add(context.entries, nodes)
            context.files.append(HostFile(form.file, tuple(node.host for node in nodes)))
        if isinstance(value, Mapping) and not {"hosts", "file"} & set(value):
            context.roster.add(0, [local()])
        with _located():
            hosts = context.roster.close()
        if form.required is not None and form.required > len(hosts):
            message = f"must be at most {len(hosts)}, the number of hosts, got {form.required}"
            raise faults([(("required",), fault(message))])
        with _located("defaults"):
            defaults = form.defaults.made() if form.defaults else Defaults()
        files = tuple(context.files)
        return NodeList(defaults.fill(hosts), form.required, form.wait, files, defaults)


def _is_auto(value: Any) -> bool:
    """Whether the hosts of a job are all that is meant."""
    if isinstance(value, Mapping) and value.get("file") is None:
        value = value.get("hosts")
    return value in ("auto", ["auto"])


def _mapping(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str | list):
        value = {"hosts": value}
    if not isinstance(value, Mapping):
        raise fault(f"must be a host list, a list or a mapping, got {show(value)}")
    hosts = value.get("hosts")
    return {**value, "hosts": [hosts]} if isinstance(hosts, str) else value
