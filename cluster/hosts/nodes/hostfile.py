"""Host files of Open MPI (``host slots=4``) and MPICH (``host:4``)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from cluster.hosts.nodes.hostlist import expand, parse_slots
from cluster.hosts.nodes.node import MAX_NODES, MAX_SLOTS, Node, NodeError, is_ipv6

_EQUALS = re.compile(r"\s*=\s*")
_SECTION = re.compile(r"\[[A-Za-z_][^\]]*\]")
_MAX_FILE = 4 * 2**20
# Some schedulers write a host once for each of its slots.
_MAX_ENTRIES = 4 * MAX_NODES

# Keys of a line that bind workers or name interfaces; they do not change the number of slots.
_IGNORED_KEYS = frozenset({"ifname", "binding", "max_slots", "max-slots"})


def read_hostfile(
    path: Path, bare: int | None = None, most: int = _MAX_ENTRIES
) -> tuple[Node, ...]:
    """The nodes of an Open MPI (``host slots=4``) or MPICH (``host:4``) host file.

    If a host has several lines, their slots are added; a line without slots counts as one.

    Args:
        path: the file, at most 4 MiB of UTF-8.
        bare: slots of a host that is listed once and without slots; None: its usable cores.
        most: the limit of entries in the file.

    Raises:
        NodeError: the file cannot be read, or a line is invalid, with its number.
    """
    found: dict[str, Node] = {}
    entries = 0
    for number, line in enumerate(_text_of(path).splitlines(), 1):
        try:
            nodes = _line_nodes(_words(line))
            entries += len(nodes)
            if entries > most:
                _fail(f"more than {most:,} entries")
            for node in nodes:
                found[node.host] = _added(found.get(node.host), node)
        except NodeError as error:
            raise NodeError(f"{path}:{number}: {error.message}", fix=error.fix) from None
    if not found:
        raise NodeError(f"{path} names no host")
    return tuple(node if node.slots else replace(node, slots=bare) for node in found.values())


def _fail(message: str, fix: str | None = None) -> NoReturn:
    raise NodeError(message, fix=fix)


def _text_of(path: Path) -> str:
    try:
        if not path.is_file():
            # Reading a named pipe or a device might never end.
            _fail(f"{path} is not a file" if path.exists() else f"no file {path}")
        with path.open("rb") as file:
            data = file.read(_MAX_FILE + 1)
    except OSError as error:
        _fail(f"cannot read {path}: {error.strerror}")
    if len(data) > _MAX_FILE:
        _fail(f"{path} is over {_MAX_FILE // 2**20} MiB")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        _fail(f"{path} is not UTF-8: it looks like UTF-16", "save it as UTF-8")
    return data.decode("utf-8-sig", "surrogateescape")


def _words(line: str) -> Sequence[str]:
    """The words of a line, without its comment; only the comment may be in another encoding."""
    text = line.partition("#")[0]
    try:
        text.encode()
    except UnicodeEncodeError:
        _fail("not UTF-8", "save the file as UTF-8; host names are ASCII")
    # Open MPI allows spaces around the equals sign.
    return _EQUALS.sub("=", text).split()


def _line_nodes(words: Sequence[str]) -> tuple[Node, ...]:
    if not words:
        return ()
    if _SECTION.fullmatch(" ".join(words)) and not is_ipv6(words[0].strip("[]")):
        _fail(
            f"{' '.join(words)!r} is a section of an Ansible inventory",
            "list only the hosts, one a line, as: host slots=4",
        )
    settings = dict(map(_setting, words[1:]))
    nodes = expand(words[0])
    keys = [key for key in ("slots", "max_slots", "max-slots") if key in settings]
    if not keys:
        return nodes
    if nodes[0].slots is not None:
        _fail(f"slots are given twice: in {words[0]!r} and by '{keys[0]}='")
    slots = parse_slots(settings[keys[0]])
    return tuple(replace(node, slots=slots) for node in nodes)


def _setting(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals or (key != "slots" and key not in _IGNORED_KEYS):
        _fail(f"{word!r} is not a setting of a host", "write a line as: host slots=4")
    return key, value


def _added(before: Node | None, node: Node) -> Node:
    if before is None:
        return node
    if before.user != node.user:
        _fail(f"{node.host!r} has another user on an earlier line")
    slots = (before.slots or 1) + (node.slots or 1)
    if slots > MAX_SLOTS:
        _fail(f"the lines of {node.host!r} add up to more than {MAX_SLOTS:,} slots")
    return replace(before, slots=slots)
