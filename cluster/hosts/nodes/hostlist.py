"""Expands Slurm host lists: ``n[01-16,20]``, ``a[1-2],b3``, ``host:4``, ``4/host``.

The size of a list is computed before it is expanded, so ``n[1-999999999]`` is refused at once.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from cluster.hosts.nodes.node import (
    MAX_NODES,
    MAX_SLOTS,
    Node,
    NodeError,
    host_fault,
    range_fault,
    user_fault,
)

_MAX_DIGITS = 12
_NUMBER = re.compile(r"[0-9]+")
_BRACKET = re.compile(r"\[([^\[\]]*)\]")
_ENTRY = re.compile(
    r"(?:(?P<before>[0-9]+)/)?(?:(?P<user>[^@]*)@)?(?P<host>.*?)(?::(?P<after>[^:\[\]]*))?",
    re.DOTALL,
)
# Common mistakes in host names, and what to write instead.
_MEANT = (
    (r"[0-9]+", "write slots as host:4"),
    (r"\w[\w.]*(\s+\w[\w.]*)+", "separate hosts by commas"),
    (r"\w[\w.]*?\{?[0-9]+\.\.+[\w.]*\}?", "write a range as n[01-16]"),
)
_FORM = "write it as n[01-16,20]"


@dataclass(frozen=True, slots=True)
class _Names:
    """The alternatives for a piece of a host name: a single text, or the numbers of a range."""

    text: str
    numbers: range | None = None
    width: int = 0

    @property
    def size(self) -> int:
        # len() of a range overflows beyond 2^63; the widest one here has 10^12 numbers.
        return 1 if self.numbers is None else self.numbers.stop - self.numbers.start

    def __iter__(self) -> Iterator[str]:
        if self.numbers is None:
            yield self.text
        else:
            yield from (f"{number:0{self.width}}" for number in self.numbers)


class _Entry(NamedTuple):
    """An entry of a host list before its expansion, with the alternatives for each piece."""

    column: int
    pieces: Sequence[Sequence[_Names]]
    slots: int | None
    user: str | None

    @property
    def size(self) -> int:
        return math.prod(sum(choice.size for choice in piece) for piece in self.pieces)


def expand(text: str, room: int = MAX_NODES, *, ports: bool = False) -> tuple[Node, ...]:
    """The nodes of one host list: ``n[01-16,20]``, ``a[1-2],b3``, ``host:4``, ``4/host``.

    An entry is ``[SLOTS/][USER@]HOST[:SLOTS]``, with IPv6 addresses in brackets: ``[::1]:4``.
    Duplicate hosts are not refused here, but by :class:`cluster.hosts.nodes.HostCollection`.

    Args:
        text: the host list.
        room: the greatest number of hosts, which is checked before the expansion.
        ports: refuse ``:22``, by which a user may mean a port. In a host file it is a number of
            slots.

    Raises:
        NodeError: the list is invalid, with the column; or it has more hosts than ``room``.
    """
    entries = [_parse_entry(entry, column, ports) for entry, column in _split(text)]
    total = sum(entry.size for entry in entries)
    if total > room:
        left = "" if room == MAX_NODES else f"; there is room for {room:,} more"
        raise NodeError(f"{total:,} hosts; a list may have at most {MAX_NODES:,}{left}")
    return tuple(node for entry in entries for node in _expand_entry(entry))


def parse_slots(digits: str, column: int | None = None) -> int:
    """Parse a number of slots.

    Args:
        digits: the text.
        column: where it is in the host list, for the error.

    Raises:
        NodeError: it is not a whole number from 1 to ``MAX_SLOTS``.
    """
    if not _NUMBER.fullmatch(digits):
        raise NodeError(f"slots must be a whole number, got {digits!r}", column)
    number = parse_number(digits, column)
    fix = "a port is a key of its own: {host: ..., port: ...}" if number > MAX_SLOTS else None
    fault = range_fault(1, MAX_SLOTS, number)
    _refuse(fault and f"slots {fault}", column, fix)
    return number


def parse_number(digits: str, column: int | None = None) -> int:
    """Parse a text of digits.

    Args:
        digits: the text.
        column: where it is in the host list, for the error.

    Raises:
        NodeError: it has more digits than any number of hosts or slots.
    """
    if len(digits) > _MAX_DIGITS:
        raise NodeError(f"a number of {len(digits)} digits", column, f"at most {_MAX_DIGITS}")
    return int(digits)


def _refuse(fault: str | None, column: int | None, fix: str | None = None) -> None:
    if fault:
        raise NodeError(fault, column, fix)


def _split(text: str) -> Iterator[tuple[str, int]]:
    """The entries of a list, split at the commas outside brackets, each with its column."""
    start, opened = 0, None
    for column, letter in enumerate(f"{text},"):
        if column == len(text) and opened is not None:
            raise NodeError("'[' without ']'", opened)
        if letter == "," and opened is None:
            yield _stripped(text[start:column], start)
            start = column + 1
        elif letter in "[]":
            opened = _toggled(letter, opened, column)


def _toggled(letter: str, opened: int | None, column: int) -> int | None:
    """The column of the bracket that is open after this letter, or None."""
    if letter == "[" and opened is not None:
        raise NodeError("a bracket inside a bracket", column, _FORM)
    if letter == "]" and opened is None:
        raise NodeError("']' without '['", column)
    return column if letter == "[" else None


def _stripped(entry: str, start: int) -> tuple[str, int]:
    bare = entry.strip(" ")
    if not bare:
        raise NodeError("a host name is missing", start, "is there a comma too many?")
    return bare, start + len(entry) - len(entry.lstrip(" "))


def _parse_entry(entry: str, column: int, ports: bool) -> _Entry:
    found = _ENTRY.fullmatch(entry)
    # Every group is optional or matches any text, so the pattern matches anything.
    assert found is not None
    at = {name: column + found.start(name) for name in found.groupdict()}
    before, user, host, after = found.groups()
    if not host and after == "":
        fix = f"write {f'{before}/' if before else ''}localhost"
        raise NodeError("':' means this machine in GNU parallel only", at["after"] - 1, fix)
    if user is not None:
        _refuse(user_fault(user), at["user"])
    slots = _slots(before, after, at)
    if after == "22" and (ports or user is not None):
        login = f"{user}@" if user else ""
        fix = (
            f"write {{host: {host}, {f'user: {user}, ' if user else ''}port: 22}}, or"
            f" 22/{login}{host} for 22 slots"
        )
        raise NodeError("':22' is 22 slots here, and looks like a port", at["after"], fix)
    return _Entry(column, _pieces(host, at["host"]), slots, user)


def _slots(before: str | None, after: str | None, at: dict[str, int]) -> int | None:
    if before is not None and after is not None:
        raise NodeError("slots are given before and after the host", at["after"], "leave one out")
    if before is not None:
        return parse_slots(before, at["before"])
    return None if after is None else parse_slots(after, at["after"])


def _pieces(host: str, column: int) -> Sequence[Sequence[_Names]]:
    """The pieces of a host's name, alternately outside and inside brackets."""
    if host.startswith("[") and host.endswith("]") and ":" in host:
        _refuse(host_fault(host[1:-1]), column + 1)
        return [[_Names(host[1:-1])]]
    if ":" in host:
        fix = "put an IPv6 address in brackets: [::1]"
        raise NodeError(f"{host!r} is not a host name", column, fix)
    one = _BRACKET.sub("0", host)
    if fault := host_fault(one):
        raise NodeError(fault.replace(repr(one), repr(host)), column, _meant(host))
    return list(_choices(host, column))


def _meant(host: str) -> str | None:
    """What to write instead of a text that is not a host name; None if that is unclear."""
    short = host[:80]
    return next((fix for pattern, fix in _MEANT if re.fullmatch(pattern, short)), None)


def _choices(host: str, column: int) -> Iterator[list[_Names]]:
    place = 0
    for found in _BRACKET.finditer(host):
        yield [_Names(host[place : found.start()])]
        yield list(_ranges(found[1], column + found.start(1)))
        place = found.end()
    yield [_Names(host[place:])]


def _ranges(text: str, column: int) -> Iterator[_Names]:
    for part in text.split(","):
        yield _range(part, column)
        column += len(part) + 1


def _range(text: str, column: int) -> _Names:
    low, dash, high = text.partition("-")
    if not dash:
        high = low
    for digits in (low, high):
        if not _NUMBER.fullmatch(digits):
            raise NodeError(f"{text!r} is not a number or a range", column, _FORM)
    first, last = parse_number(low, column), parse_number(high, column)
    if last < first:
        raise NodeError(f"the range {text} runs backwards", column, f"write {high}-{low}")
    return _Names(text, range(first, last + 1), len(low) if low.startswith("0") else 0)


def _expand_entry(entry: _Entry) -> Iterator[Node]:
    pieces = [[name for choice in piece for name in choice] for piece in entry.pieces]
    try:
        for names in product(*pieces):
            yield Node("".join(names), slots=entry.slots, user=entry.user)
    except NodeError as error:
        raise NodeError(error.message, entry.column) from None
