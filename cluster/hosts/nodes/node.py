"""A node, a list of nodes, and the rules for their values."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from typing import Any, NamedTuple

MAX_NODES = 100_000
MAX_SLOTS = 4_096

_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,252})")
# Texts that inet_aton(3) reads as an address, of one to four numbers; they cannot be host names.
_NUMBERS = re.compile(r"(0[xX][0-9a-fA-F]*|[0-9]+)(\.(0[xX][0-9a-fA-F]*|[0-9]+))*\.?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,63}")
_SCOPE = re.compile(r"[A-Za-z0-9._-]{1,32}")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Keys that only apply to hosts that are reached by ssh.
_OF_SSH = ("python", "user", "port")


class NodeError(ValueError):
    """An invalid node or host list.

    Attributes:
        message: what is wrong.
        column: 0-based column of the fault in the string, or None.
        fix: how to correct it, or None.
        key: the key of a mapping that is wrong, or None for the whole entry.
        entry: the 0-based index of the entry in a list, or None.
    """

    def __init__(
        self,
        message: str,
        column: int | None = None,
        fix: str | None = None,
        *,
        key: str | None = None,
        entry: int | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.column, self.fix = message, column, fix
        self.key, self.entry = key, entry

    def __str__(self) -> str:
        place = "" if self.entry is None else f"entry {self.entry}: "
        key = f"{self.key}: " if self.key else ""
        column = "" if self.column is None else f" (column {self.column + 1})"
        return f"{place}{key}{self.message}{column}" + (f"; {self.fix}" if self.fix else "")


@dataclass(frozen=True, slots=True)
class Node:
    """A host and how to work on it.

    Attributes:
        host: a name, an address, or ``localhost``; IPv6 without brackets.
        slots: number of workers; None: the number of the host's usable cores.
        python: path of the interpreter there; None: the same path as here.
        user: for ssh; None: as in ssh's own configuration.
        port: for ssh; None: as in ssh's own configuration.
        weight: expected speed of a slot relative to others, until it is measured.
        env: environment variables of the workers, as pairs sorted by name.
        tags: labels by which the host can be selected.
        cwd: working directory there; None: the home directory, or on this machine the current one.
        attach: the port of a node that already runs there, to connect to instead of by ssh; or
            None.

    Raises:
        NodeError: a value is out of range or unsafe as an argument, or two keys exclude each other.
    """

    host: str
    slots: int | None = None
    python: str | None = None
    user: str | None = None
    port: int | None = None
    weight: float = 1.0
    env: tuple[tuple[str, str], ...] = ()
    tags: tuple[str, ...] = ()
    cwd: str | None = None
    attach: int | None = None

    def __post_init__(self) -> None:
        for key, check in _CHECKS.items():
            _check(key, getattr(self, key), check)
        if self.attach is not None and (other := self._for_ssh()):
            fix = "leave one of the two out; a node that is attached has its own Python and user"
            raise NodeError("is for ssh, which attach replaces", key=other, fix=fix)

    @property
    def name(self) -> str:
        """What tells it from the other nodes of a run."""
        return self.host

    def _for_ssh(self) -> str | None:
        return next((key for key in _OF_SSH if getattr(self, key)), None)

    def to_json(self) -> dict[str, Any]:
        """A JSON-safe mapping, from which :meth:`from_json` makes an equal Node."""
        return {**asdict(self), "env": dict(self.env), "tags": list(self.tags)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Node:
        """Read what ``to_json`` wrote; keys of a later version are ignored.

        A host of another version can therefore start its agent, and then report its version.
        """
        known = {field.name for field in fields(cls)}
        rest = {"env": tuple(sorted(data["env"].items())), "tags": tuple(data["tags"])}
        return cls(**{key: value for key, value in {**data, **rest}.items() if key in known})


@dataclass(frozen=True, slots=True)
class Defaults:
    """Values for the hosts of a list that do not have their own; see :class:`Node`."""

    slots: int | None = None
    python: str | None = None
    user: str | None = None
    port: int | None = None
    env: tuple[tuple[str, str], ...] = ()
    cwd: str | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            _check(each.name, getattr(self, each.name), _CHECKS[each.name])

    def fill(self, nodes: Iterable[Node]) -> tuple[Node, ...]:
        """The nodes, with the values that they lack filled in."""
        ours = {each.name: getattr(self, each.name) for each in fields(self)}
        given = {key: value for key, value in ours.items() if value not in (None, ())}
        return tuple(
            replace(
                node,
                **{
                    key: value
                    for key, value in given.items()
                    if getattr(node, key) in (None, ()) and _takes(node, key)
                },
            )
            for node in nodes
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-safe mapping of the values; :meth:`from_json` makes an equal object from it."""
        given = {key: value for key, value in asdict(self).items() if value not in (None, ())}
        return {**given, "env": dict(self.env)} if self.env else given

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Defaults:
        """Read what ``to_json`` wrote."""
        return cls(**{**data, "env": tuple(sorted(data.get("env", {}).items()))})


class HostFile(NamedTuple):
    """A host file in a list of nodes.

    Attributes:
        path: its name, as in the list.
        hosts: the hosts that it listed.
    """

    path: str
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeList:
    """The nodes of a run.

    Attributes:
        hosts: each host once, in the order of the list.
        required: how many hosts must be ready at the start; None: all.
        wait: seconds without a usable slot after which the run drains.
        files: the host files among the entries, which are read again while the run goes on.
        defaults: values for these hosts, and for those that are added later.
    """

    hosts: tuple[Node, ...]
    required: int | None = None
    wait: float = 60.0
    files: tuple[HostFile, ...] = ()
    defaults: Defaults = field(default_factory=Defaults)

    def to_json(self) -> dict[str, Any]:
        """A JSON-safe mapping, from which :meth:`from_json` makes an equal NodeList."""
        return {
            "hosts": [node.to_json() for node in self.hosts],
            "required": self.required,
            "wait": self.wait,
            "files": [[file.path, list(file.hosts)] for file in self.files],
            "defaults": self.defaults.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> NodeList:
        """Read what ``to_json`` wrote; earlier versions wrote fewer keys."""
        return cls(
            hosts=tuple(map(Node.from_json, data["hosts"])),
            required=data.get("required"),
            wait=data["wait"],
            files=tuple(HostFile(path, tuple(hosts)) for path, hosts in data.get("files", ())),
            defaults=Defaults.from_json(data.get("defaults", {})),
        )


def _takes(node: Node, key: str) -> bool:
    """Whether a node can have the key: those for ssh do not apply to a node with ``attach``."""
    return node.attach is None or key not in _OF_SSH


def _check(key: str, value: Any, check: Callable[[Any], str | None]) -> None:
    # Empty values are skipped first: there may be 100,000 nodes, with few values each.
    if value is not None and value != () and (reason := check(value)):
        raise NodeError(reason, key=key)


def host_fault(text: str) -> str | None:
    """Why a text cannot be a host's name or address; None if it can."""
    if not text:
        return "a host name is missing"
    if text.startswith("-"):
        return f"a host name may not start with '-', or ssh would read {text!r} as an option"
    if ":" in text:
        return None if is_ipv6(text) else f"{text!r} is not an IPv6 address"
    if not _HOST.fullmatch(text) or ".." in text:
        return f"{text!r} is not a host name"
    return _number_fault(text)


def _number_fault(text: str) -> str | None:
    """Why a text of numbers is not an address; ssh would read 4 as 0.0.0.4, and 010 as octal."""
    if text.isdigit():
        return f"{text!r} is a number, not a host name"
    if _NUMBERS.fullmatch(text):
        try:
            ipaddress.IPv4Address(text)
        except ValueError:
            return f"{text!r} is not an IPv4 address"
    return None


def is_ipv6(text: str) -> bool:
    """Whether a text is an IPv6 address without brackets, with or without a scope (``%eth0``)."""
    address, percent, scope = text.partition("%")
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return not percent or bool(_SCOPE.fullmatch(scope))


def user_fault(text: str) -> str | None:
    """Why a text cannot be a user name; None if it can."""
    return None if _USER.fullmatch(text) else f"{text!r} is not a user name"


def range_fault(low: int, high: int, value: int) -> str | None:
    """Why a number is not valid; None if it is.

    Args:
        low: the least valid number.
        high: the greatest valid number.
        value: the number.
    """
    return None if low <= value <= high else f"must be from {low:,} to {high:,}, got {value}"


def _weight_fault(value: float) -> str | None:
    fine = math.isfinite(value) and 0 < value <= 1e6
    return None if fine else f"must be above 0 and at most 1e6, got {value}"


def _text_fault(text: str) -> str | None:
    if not text or text.startswith("-") or _CONTROL.search(text):
        return f"must be text that is not empty and does not start with '-', got {text!r}"
    return None


def _tags_fault(tags: Iterable[str]) -> str | None:
    bad = next((tag for tag in tags if not _TAG.fullmatch(tag)), None)
    return None if bad is None else f"{bad!r} is not one word of letters, digits, '.', '_' and '-'"


def _env_fault(env: Iterable[tuple[str, str]]) -> str | None:
    for name, value in env:
        if not _VARIABLE.fullmatch(name):
            return f"{name!r} is not the name of an environment variable"
        if "\0" in value:
            return f"the value of {name} contains a NUL character"
    return None


_CHECKS: Mapping[str, Callable[[Any], str | None]] = {
    "host": host_fault,
    "slots": partial(range_fault, 1, MAX_SLOTS),
    "python": _text_fault,
    "user": user_fault,
    "port": partial(range_fault, 1, 65_535),
    "weight": _weight_fault,
    "env": _env_fault,
    "tags": _tags_fault,
    "cwd": _text_fault,
    # At the next port a run has a process of its own there.
    "attach": partial(range_fault, 1, 65_534),
}
