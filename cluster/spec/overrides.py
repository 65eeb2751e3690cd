"""``--set key=value``: overrides, applied to the data of a spec before it is validated."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from cluster.common.errors import Problem
from cluster.spec.source import OVERRIDE, join, split, with_hosts
from cluster.spec.sweep import is_rule, may_vary
from cluster.spec.values import clip, show
from cluster.spec.yaml12 import MAX_DEPTH, Path, read

# Keys whose values may contain plain commas; for other keys a comma makes a sweep.
_TEXTS = frozenset({"description", "include", "name", "nodes", "notify", "schedule", "store"})
_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?:\\.|[^"\\])*\"""")
_NODES_KEYS = frozenset({"hosts", "file", "required", "wait", "defaults"})


class _Refused(Exception):
    """An override that cannot be applied."""

    def __init__(self, path: Path, message: str, fix: str | None = None) -> None:
        super().__init__(message)
        self.problem = Problem(OVERRIDE, 0, 0, join(path), message, fix)


@dataclass
class Applied:
    """The result of applying overrides.

    Attributes:
        data: the mapping, changed in place.
        paths: the paths that were set.
        problems: one for each override that could not be applied.
    """

    data: dict[str, Any]
    paths: set[Path] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)


def apply(data: dict[str, Any], overrides: Sequence[str], known: Collection[str]) -> Applied:
    """Apply each ``key=value`` in turn; the value ``null`` removes a key.

    Args:
        data: the root mapping of a spec; changed in place.
        overrides: the texts after ``--set``.
        known: the keys that a spec may have at the top.
    """
    applied = Applied(data)
    for text in overrides:
        try:
            path, value = _parsed(text)
            applied.paths.add(_put(data, path, value, known))
        except _Refused as refused:
            applied.problems.append(refused.problem)
    return applied


def _parsed(text: str) -> tuple[Path, Any]:
    key, equals, value = text.partition("=")
    path = split(key.strip())
    if not equals or path is None:
        fix = "write samples=1e6, params.d=3 or nodes[0].slots=4"
        raise _Refused((), f"{clip(text)} is not of the form key=value", fix)
    if len(path) > MAX_DEPTH:
        raise _Refused(path[:1], f"nested deeper than {MAX_DEPTH} levels")
    if path[:2] in (("sweep", "matrix"), ("sweep", "zip")) and len(path) > 2:
        # The keys of these mappings are dotted paths themselves.
        path = (*path[:2], join(path[2:]))
    if path[0] not in _TEXTS and _bare_comma(value):
        return _axis(path, f"[{value}]")
    if is_rule(value) and may_vary(join(path)):
        return _axis(path, value)
    return path, _value(path, value)


def _axis(path: Path, text: str) -> tuple[Path, Any]:
    """Several values of one key become an axis of the sweep's matrix."""
    key = join(path)
    if not may_vary(key):
        fix = "set one value, or write a list in brackets"
        raise _Refused(path, "several values make a sweep, and a sweep cannot vary this key", fix)
    return ("sweep", "matrix", key), _value(path, text)


def _bare_comma(value: str) -> bool:
    """Whether there is a comma outside quotes and brackets."""
    depth = 0
    for letter in _QUOTED.sub("", value):
        depth += (letter in "[{(") - (letter in "]})")
        if letter == "," and depth <= 0:
            return True
    return False


def _value(path: Path, text: str) -> Any:
    if not text.strip():
        raise _Refused(path, "has no value", "write key=null to remove the key")
    document = read(text, "value")
    for finding in document.findings:
        inner = f"{join(finding.path)}: " if finding.path else ""
        raise _Refused(path, f"{inner}{finding.message}", finding.fix)
    return document.data


def _put(data: dict[str, Any], path: Path, value: Any, known: Collection[str]) -> Path:
    made = _nodes_made_ready(data, path)
    # Problems name the path as the user wrote it: nodes[0] for nodes.hosts[0] in the data.
    added = len(made) - len(path)
    parent: Any = data
    for length, (step, following) in enumerate(pairwise(made), 1):
        parent = _descend(parent, step, following, path[: max(1, length - added)])
    last = path[-1]
    if isinstance(last, int):
        _entry(parent, path)
        parent[last] = value
    # In params null is a value: a parameter of the kernel may be None.
    elif value is None and path[0] != "params":
        if last not in parent and (len(path) > 1 or last not in known):
            raise _Refused(path, "is not in the spec, so it cannot be removed")
        parent.pop(last, None)
    else:
        parent[last] = value
    return path


def _descend(parent: Any, step: str | int, following: str | int, path: Path) -> Any:
    """The container at a step; a missing mapping is created, a missing list is an error."""
    if isinstance(step, int):
        _entry(parent, path)
    elif parent.get(step) is None:
        if isinstance(following, int):
            raise _Refused(path, "is not in the spec, so it has no entries to set")
        parent[step] = {}
    wanted = list if isinstance(following, int) else dict
    if not isinstance(parent[step], wanted):
        kind = "entries" if wanted is list else f"key {following!r}"
        raise _Refused(path, f"is {show(parent[step])}, so it has no {kind}")
    return parent[step]


def _entry(parent: Any, path: Path) -> None:
    if path[-1] >= len(parent):  # type: ignore[operator]  # an entry's step is an int
        entries = "1 entry" if len(parent) == 1 else f"{len(parent)} entries"
        raise _Refused(path, f"the list has {entries}, counted from 0")


def _nodes_made_ready(data: dict[str, Any], path: Path) -> Path:
    """Convert ``nodes`` to the form that has the path; returns the path in that form."""
    if path[0] != "nodes" or len(path) == 1:
        return path
    # By default the only node is this machine.
    nodes = data.get("nodes", ["localhost"] if isinstance(path[1], int) else {})
    made = with_hosts(path)
    if isinstance(nodes, str | list) and made[1] in _NODES_KEYS:
        nodes = {"hosts": nodes}
    data["nodes"] = nodes
    if isinstance(nodes, dict) and len(made) > 2:
        _hosts_made_ready(nodes, made)
    return made


def _hosts_made_ready(nodes: dict[str, Any], path: Path) -> None:
    """Make ``hosts`` a list, and an entry whose key is set a mapping."""
    hosts = nodes.get("hosts")
    if isinstance(hosts, str):
        hosts = nodes["hosts"] = [hosts]
    index = path[2]
    if isinstance(hosts, list) and isinstance(index, int) and index < len(hosts) and len(path) > 3:
        hosts[index] = {"host": hosts[index]} if isinstance(hosts[index], str) else hosts[index]
