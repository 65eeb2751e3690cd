"""Where a run may work: host lists in every form that people have them in, as tuples of Node.

A host list is plain text that ends up in the arguments of ssh and mpirun, so a name is taken only
if it cannot be read as an option or by a shell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from cluster.errors import did_you_mean
from cluster.nodes.hostfile import read_hostfile
from cluster.nodes.hostlist import expand
from cluster.nodes.machine import (
    ALLOCATE,
    NO_ALLOCATION,
    allocated,
    has_allocation,
    is_local,
    local,
    usable_cores,
)
from cluster.nodes.node import (
    MAX_NODES,
    MAX_SLOTS,
    Defaults,
    HostFile,
    Node,
    NodeError,
    NodeList,
    is_ipv6,
)

__all__ = [
    "ALLOCATE",
    "MAX_NODES",
    "MAX_SLOTS",
    "NO_ALLOCATION",
    "Defaults",
    "HostFile",
    "Node",
    "NodeError",
    "NodeList",
    "Roster",
    "allocated",
    "expand",
    "has_allocation",
    "is_local",
    "local",
    "names_file",
    "parse",
    "parse_entry",
    "read_hostfile",
    "usable_cores",
]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_FILE_NAME = re.compile(r"\.txt$|\.hosts$|hostfile$|machinefile$")


def parse(
    entries: str | Sequence[str | Mapping[str, Any]],
    base_dir: Path,
    environ: Mapping[str, str],
) -> tuple[Node, ...]:
    """The nodes of a list of entries, each host once.

    Args:
        entries: strings and mappings as in :func:`parse_entry`; or one string.
        base_dir: the folder that host files are relative to.
        environ: where the scheduler's variables are looked for.

    Raises:
        NodeError: naming the entry and the column; a host that stands twice; no host at all.
    """
    listed = [entries] if isinstance(entries, str) else entries
    roster = Roster()
    for index, entry in enumerate(listed):
        try:
            roster.add(index, parse_entry(entry, base_dir, environ, roster.room))
        except NodeError as error:
            error.entry = index
            raise
    return roster.close()


def parse_entry(
    entry: str | Mapping[str, Any],
    base_dir: Path,
    environ: Mapping[str, str],
    room: int = MAX_NODES,
) -> tuple[Node, ...]:
    """The nodes of one entry.

    A mapping has the keys of :class:`Node`, and its host may be a host list that they all hold
    for. A string is ``auto``, the name of a host file, or a host list as in :func:`expand`.

    Raises:
        NodeError: as in :func:`expand` and :func:`read_hostfile`; an unknown key.
    """
    if not isinstance(entry, str):
        return _from_mapping(entry, room)
    if entry.strip() == "auto":
        return allocated(environ, base_dir)
    if names_file(entry, base_dir):
        return read_hostfile(base_dir / entry)
    return expand(entry, room)


def names_file(text: str, base_dir: Path) -> bool:
    """Whether an entry is the name of a host file, relative to a folder."""
    # '4/host' has a slash too. A file that is there must not hide this machine.
    if re.match(r"[0-9]+/[^/]+$", text) or _CONTROL.search(text) or text == "localhost":
        return False
    if "/" in text or _FILE_NAME.search(text):
        return True
    try:
        return bool(text) and (base_dir / text).is_file()
    except OSError:
        # A host list may be longer than a file's name can be.
        return False


def _from_mapping(entry: Mapping[str, Any], room: int) -> tuple[Node, ...]:
    known = [field.name for field in fields(Node)]
    for key in entry:
        if key not in known:
            raise NodeError("unknown key", key=str(key), fix=did_you_mean(str(key), known))
    given = {key: value for key, value in entry.items() if key != "host" and value is not None}
    if "env" in given:
        given["env"] = tuple(sorted(dict(given["env"]).items()))
    if "tags" in given:
        given["tags"] = tuple(given["tags"])
    return tuple(_with_keys(node, given) for node in _hosts_of(entry.get("host"), room))


def _hosts_of(host: object, room: int) -> tuple[Node, ...]:
    if not isinstance(host, str):
        raise NodeError("a node needs a host", key="host")
    try:
        # The one place where an IPv6 address needs no brackets: nothing else can follow it.
        return (Node(host),) if is_ipv6(host) else expand(host, room)
    except NodeError as error:
        error.key = "host"
        raise


def _with_keys(node: Node, given: Mapping[str, Any]) -> Node:
    for key in ("slots", "user"):
        if key in given and getattr(node, key) is not None:
            raise NodeError(f"{key} in the host and as a key", key=key, fix="leave one of them out")
    return replace(node, **given)


class Roster:
    """Hosts as they are collected, entry by entry; each may be named once.

    Attributes:
        nodes: all nodes so far, in order.
        room: how many more there may be. What was refused has used up its room too, so that no
            list of wrong entries is expanded over and over.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.room = MAX_NODES
        self._entry_of: dict[str, int] = {}

    def add(self, entry: int, group: Sequence[Node]) -> None:
        """Add the nodes of an entry.

        Raises:
            NodeError: a host that stands twice, naming both entries; more than 100,000 hosts.
        """
        fits = len(group) <= self.room
        self.room = max(0, self.room - len(group))
        if not fits:
            raise NodeError(f"more than {MAX_NODES:,} hosts up to here", entry=entry)
        for node in group:
            if node.host in self._entry_of:
                raise NodeError(_twice(node.host, self._entry_of[node.host], entry), entry=entry)
            self._entry_of[node.host] = entry
            self.nodes.append(node)

    def close(self) -> tuple[Node, ...]:
        """All nodes.

        Raises:
            NodeError: there are none.
        """
        if not self.nodes:
            raise NodeError("names no host", fix="leave nodes out to use this machine")
        return tuple(self.nodes)


def _twice(host: str, first: int, second: int) -> str:
    places = f"in entry [{first}]" if first == second else f"in entries [{first}] and [{second}]"
    return f"the host {host!r} stands twice, {places}"
