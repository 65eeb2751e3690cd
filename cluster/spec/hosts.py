"""The key ``nodes``: every form of it, parsed to a NodeList."""

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
    """What parsing a host list depends on, and the entries parsed so far.

    Attributes:
        base: the folder that host files are relative to.
        environ: where ``auto`` finds the variables of Slurm and PBS.
        engines: names of engines that a recorded spec may use without their being installed.
        roster: the hosts so far.
        entries: how many entries they come from.
        files: the host files that were read.
    """

    base: Path
    environ: Mapping[str, str]
    engines: frozenset[str] = frozenset()
    roster: HostCollection = field(default_factory=HostCollection)
    entries: int = 0
    files: list[HostFile] = field(default_factory=list)


class Frozen(BaseModel):
    """Base of the models: immutable, and only the declared keys are allowed."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NodeForm(Frozen):
    """One host, or a host list whose hosts have the same settings."""

    host: Annotated[str, Text()] = Field(
        description="Name or address; or a host list such as n[01-16] with the same settings."
    )
    slots: Annotated[int, Whole(1, MAX_SLOTS)] | None = Field(
        default=None, description="Number of workers; by default the usable cores of the host."
    )
    python: Annotated[str, Text()] | None = Field(
        default=None,
        description="Python interpreter on the host; by default the same path as here.",
    )
    user: Annotated[str, Text()] | None = Field(
        default=None, description="User for ssh; by default as in ssh's configuration."
    )
    port: Annotated[int, Whole(1, 65_535)] | None = Field(
        default=None, description="Port of ssh; by default as in ssh's configuration."
    )
    weight: Annotated[float, Number()] = Field(
        default=1.0,
        description="Expected speed of a slot relative to other hosts, until it is measured.",
    )
    env: Annotated[Mapping[str, str], Environment()] | None = Field(
        default=None, description="Environment variables of the workers; each value is text."
    )
    tags: tuple[Annotated[str, Text()], ...] = Field(
        default=(), description="Labels that the host can be selected by."
    )
    cwd: Annotated[str, Text()] | None = Field(
        default=None, description="Working folder on the host."
    )
    attach: Annotated[int, Whole(1, 65_534)] | None = Field(
        default=None,
        description="Port of a node that already runs there (cluster node), used instead of ssh; "
        f"with backend {' or '.join(each.name for each in built_in() if each.attach)}.",
    )


class HostRule(Rule):
    """A rule that depends on the folder, the environment or the engines."""

    def check_in(self, value: Any, context: Context) -> Any:
        """The validated value.

        Raises:
            PydanticCustomError, ValidationError: it is not valid.
        """
        raise NotImplementedError

    def schema(self) -> dict[str, Any]:
        # Filled in by cluster.spec.reference, which knows the definitions to refer to.
        return {}

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self._checked)

    def _checked(self, value: Any, info: ValidationInfo) -> Any:
        context = Context(Path(), {}) if info.context is None else info.context
        return self.check_in(value, context)


class NodeEntry(HostRule):
    """An entry of the list, text or mapping, parsed to its hosts."""

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
    # Without the keys that were not given, so that defaults of the list can fill them.
    return {key: getattr(form, key) for key in form.model_fields_set}


def _entry(value: str | dict[str, Any], context: Context) -> tuple[Node, ...]:
    with _located():
        return parse_entry(value, context.base, context.environ, context.roster.room)


@contextmanager
def _located(key: str | None = None) -> Iterator[None]:
    """Turn errors of the host list parser into errors at a key and column of the spec."""
    try:
        yield
    except NodeError as error:
        place = key or error.key
        found = fault(error.message, error.fix, column=error.column)
        raise faults([((place,) if place else (), found)]) from None


def _like(key: str) -> Any:
    """An optional field with the description of the same key of a node."""
    return Field(default=None, description=NodeForm.model_fields[key].description)


class DefaultsForm(Frozen):
    """Settings of every host that does not have its own, including hosts added later."""

    slots: Annotated[int, Whole(1, MAX_SLOTS)] | None = _like("slots")
    python: Annotated[str, Text()] | None = _like("python")
    user: Annotated[str, Text()] | None = _like("user")
    port: Annotated[int, Whole(1, 65_535)] | None = _like("port")
    env: Annotated[Mapping[str, str], Environment()] | None = _like("env")
    cwd: Annotated[str, Text()] | None = _like("cwd")

    def made(self) -> Defaults:
        """The plain form that other rooms use."""
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
        default=None, description="Number of hosts that must be ready at the start; default: all."
    )
    defaults: DefaultsForm | None = Field(
        default=None, description="Settings of every host that does not have its own."
    )
    wait: Annotated[float, Duration(zero=True)] = Field(
        default=60.0, description="After this time without a usable slot the run drains and stops."
    )


class NodesRule(HostRule):
    """``nodes`` in any form."""

    def check_in(self, value: Any, context: Context) -> NodeList:
        """The node list with each host once; empty for ``auto`` outside a job.

        So a spec with ``auto`` can be read and scheduled outside a job; only running it fails.

        Raises:
            PydanticCustomError, ValidationError: it is not valid.
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
        # A mapping with other keys only, such as defaults, is about this machine.
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
    """Whether the hosts are those of a Slurm or PBS job and no others."""
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
