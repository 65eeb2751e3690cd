"""Parses host lists, in all the forms that users have them in, into tuples of :class:`Node`.

A host list is plain text that ends up in the arguments of ssh and mpirun. So a name is accepted
only if no program can take it for an option, and no shell gives any of its characters a meaning.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from cluster.common.errors import did_you_mean
from cluster.hosts.nodes.hostfile import read_hostfile
from cluster.hosts.nodes.hostlist import expand
from cluster.hosts.nodes.machine import (
    ALLOCATE,
    NO_ALLOCATION,
    allocated,
    has_allocation,
    is_local,
    local,
    usable_cores,
)
from cluster.hosts.nodes.node import (
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
    "HostCollection",
    "HostFile",
    "Node",
    "NodeError",
    "NodeList",
    "allocated",
    "expand",
    "has_allocation",
    "is_local",
    "local",
    "names_file",
    "parse",
    "parse_entry",
    "read_beside",
    "read_hostfile",
    "usable_cores",
]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_FILE_NAME = re.compile(
    r"\.(txt|hosts|lst|list|csv|ini|cfg|conf|ya?ml|json)$"
    r"|(host|machine|node)s?[_-]?(file|list)([._-][^/]*)?$"
)
# Characters of a host list that the name of a file beside the spec does not have.
_LISTED = re.compile(r"[\[\],:@/]")


def parse(
    entries: str | Sequence[str | Mapping[str, Any]],
    base_dir: Path,
    environ: Mapping[str, str],
) -> tuple[Node, ...]:
    """The nodes of a list of entries, each host once.

    Args:
        entries: strings and mappings as in :func:`parse_entry`; or a single string.
        base_dir: the folder that host files are relative to.
        environ: environment variables, for those of a scheduler.

    Raises:
        NodeError: an entry is invalid, with its index and the column; a host is listed twice; there
            is no host.
    """
    listed = [entries] if isinstance(entries, str) else entries
    collection = HostCollection()
    for index, entry in enumerate(listed):
        try:
            collection.add(index, parse_entry(entry, base_dir, environ, collection.room))
        except NodeError as error:
            error.entry = index
            raise
    return collection.close()


def parse_entry(
    entry: str | Mapping[str, Any],
    base_dir: Path,
    environ: Mapping[str, str],
    room: int = MAX_NODES,
) -> tuple[Node, ...]:
    """The nodes of one entry.

    Args:
        entry: a mapping with the keys of :class:`Node`, whose host may be a host list, to all of
            which the other keys apply; or a string: ``auto``, the name of a host file, or a host
            list as in :func:`expand`.
        base_dir: the folder that host files are relative to.
        environ: environment variables, for those of a scheduler.
        room: the greatest number of hosts.

    Raises:
        NodeError: an unknown key, an invalid host list or host file, or more hosts than ``room``.
    """
    if not isinstance(entry, str):
        return _from_mapping(entry, room)
    if entry.strip() == "auto":
        return allocated(environ, base_dir)
    if names_file(entry, base_dir):
        return read_beside(entry, base_dir)
    _check_no_file(entry, base_dir)
    return expand(entry, room, ports=True)


def names_file(text: str, base_dir: Path) -> bool:
    """Whether an entry is the name of a host file, relative to a folder."""
    # '4/host' is a host with slots; 'localhost' is this machine, even if there is such a file.
    if re.match(r"[0-9]+/[^/]+$", text) or _CONTROL.search(text) or text == "localhost":
        return False
    if "/" in text or _FILE_NAME.search(text):
        return True
    return bool(text) and _is_file(base_dir / text)


def read_beside(name: str, base_dir: Path) -> tuple[Node, ...]:
    """The nodes of a host file whose name is relative to a folder.

    Raises:
        NodeError: there is no such file, with one that may be meant; or it is invalid, as in
            :func:`read_hostfile`.
    """
    path = base_dir / name
    if not path.exists():
        fix = _way_to(name, base_dir) if _is_file(Path(name)) else None
        fix = fix or did_you_mean(path.name, _files(path.parent))
        raise NodeError(f"no file {path}", fix=fix)
    return read_hostfile(path)


def _check_no_file(text: str, base_dir: Path) -> None:
    """Refuse a host name that more likely is a misspelt or misplaced host file.

    Raises:
        NodeError: there is a file of that name in the current folder, or one of a similar name
            beside the spec.
    """
    if text == "localhost" or _CONTROL.search(text):
        return
    if _is_file(Path(text)):
        reason = f"{text!r} is a file in the current folder; host files are relative to the spec"
        raise NodeError(reason, fix=f"{_way_to(text, base_dir)}; or {{host: {text}}} for a host")
    names = [] if _LISTED.search(text) else [n for n in _files(base_dir) if _FILE_NAME.search(n)]
    if close := get_close_matches(text, names, n=1, cutoff=0.85):
        fix = f"did you mean {close[0]!r}? or {{host: {text}}} for a host"
        raise NodeError(f"there is no file {text!r}", fix=fix)


def _way_to(name: str, base_dir: Path) -> str:
    """Advice on how a spec in a folder has to name a file in the current folder."""
    way = os.path.relpath(name, base_dir)
    return f"write {way if '/' in way else f'./{way}'}"


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        # A host list may be longer than the system allows for a file name.
        return False


def _files(folder: Path) -> tuple[str, ...]:
    """The names in a folder; cached, because each entry of a list asks for them."""
    try:
        return _names_at(str(folder), folder.stat().st_mtime_ns)
    except OSError:
        return ()


@lru_cache(maxsize=8)
def _names_at(folder: str, _changed: int) -> tuple[str, ...]:
    return tuple(sorted(os.listdir(folder)))


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
        # Here an IPv6 address needs no brackets, because no slots can follow it.
        return (Node(host),) if is_ipv6(host) else expand(host, room)
    except NodeError as error:
        error.key = "host"
        raise


def _with_keys(node: Node, given: Mapping[str, Any]) -> Node:
    for key in ("slots", "user"):
        if key in given and getattr(node, key) is not None:
            raise NodeError(f"{key} in the host and as a key", key=key, fix="leave one of them out")
    return replace(node, **given)


class HostCollection:
    """Collects the nodes of a list, entry by entry; each host may be listed once.

    Attributes:
        nodes: all nodes so far, in order.
        room: how many more nodes there may be. Refused entries count as well, so a list of many
            invalid entries costs no more time than a valid one.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.room = MAX_NODES
        self._entry_of: dict[str, int] = {}

    def add(self, entry: int, group: Sequence[Node]) -> None:
        """Add the nodes of an entry.

        Args:
            entry: the 0-based index of the entry.
            group: its nodes.

        Raises:
            NodeError: a host is listed twice, with the indices of both entries; or there are more
                than 100,000 hosts.
        """
        fits = len(group) <= self.room
        self.room = max(0, self.room - len(group))
        if not fits:
            raise NodeError(f"more than {MAX_NODES:,} hosts up to here", entry=entry)
        for node in group:
            # For DNS, N1, n1 and n1. are the same name.
            name = node.host.lower().removesuffix(".")
            if name in self._entry_of:
                raise NodeError(_twice(node.host, self._entry_of[name], entry), entry=entry)
            self._entry_of[name] = entry
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
    return f"the host {host!r} is listed twice, {places}"
