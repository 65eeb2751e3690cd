"""The only reader of YAML: from text to plain data, with the position of every value.

PyYAML's pure-Python parser provides the events (its C parser crashes on deep nesting). The tree is
built here, with limits on depth and size, so that no input takes more than about a second. All
errors after which parsing can continue are collected; a syntax error ends it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import yaml

from cluster.spec.scalars import ScalarError, resolve
from cluster.spec.syntax import SyntaxFault, decode, explain

MAX_DEPTH = 32
# Scalars, lists and mappings, with aliases expanded. A text counts as one value per 256 characters.
MAX_VALUES = 20_000
_TEXT_PER_VALUE = 256

# Invisible or look-alike characters that a plain scalar must not begin or end with.
_LOOKALIKE_SPACE = "\u00a0\u1680\u2000-\u200b\u202f\u205f\u2060\u3000\ufeff"
_EDGE_SPACE = re.compile(rf"^[{_LOOKALIKE_SPACE}]|[{_LOOKALIKE_SPACE}]$|\w:[{_LOOKALIKE_SPACE}]")
_WIDE_KEY = re.compile(r"(?:^|\s)[A-Za-z_]\w*\s*\uff1a", re.ASCII)
_SURROGATE = re.compile("[\ud800-\udfff]")
_UNWRITABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")

Path = tuple[str | int, ...]


class Mark(NamedTuple):
    """A position in the text.

    Attributes:
        line, column: 1-based.
        inset: offset from here to the text of a one-line scalar (1 for a quote); None if it has
            several lines, so that a column inside it cannot be told.
    """

    line: int
    column: int
    inset: int | None = None


class SpecIssue(NamedTuple):
    """An error in the text.

    Attributes:
        path: of the value that it is about.
        mark: its position.
        message: what is wrong.
        fix: how to fix it, or None.
    """

    path: Path
    mark: Mark
    message: str
    fix: str | None = None


class Document(NamedTuple):
    """The result of parsing.

    Attributes:
        data: dict, list, str, int, float, bool and None; None if nothing could be read.
        values: the position of each value by its path.
        keys: the position of each key by the path of its value.
        findings: all errors.
        broken: paths of values with an error, which must not be reported again.
    """

    data: Any
    values: dict[Path, Mark]
    keys: dict[Path, Mark]
    findings: list[SpecIssue]
    broken: set[Path]

    @classmethod
    def of(cls, data: Any) -> Document:
        """A document of data that has no text, and so no positions."""
        return cls(data, {}, {}, [], set())


def read(source: str | bytes, what: str = "file") -> Document:
    """Read one YAML document with any root; errors are in its ``findings``.

    Args:
        source: the text; bytes must be UTF-8.
        what: what messages call it.
    """
    document = Document.of(None)
    try:
        text = decode(source)
        root = _Composer(text).compose(what)
        data = _Builder(document).build(root, ())
    except SyntaxFault as fault:
        document.findings.append(SpecIssue((), Mark(*fault.place), fault.message, fault.fix))
        document.broken.add(())
        return document
    return document._replace(data=data)


@dataclass(slots=True)
class _Node:
    """A value of the text: a scalar's text, a list's nodes, or a mapping's pairs.

    Attributes:
        mark: its position.
        tag: its explicit tag, or None.
        scalar, items, pairs: one of them, by its kind.
        plain: whether a scalar is unquoted, so that it may be a number.
        height: levels below it, and size: values in it, to limit what aliases add up to.
    """

    mark: Mark
    tag: str | None
    scalar: str | None = None
    plain: bool = False
    items: list[_Node] | None = None
    pairs: list[tuple[_Node, _Node]] | None = None
    height: int = 0
    size: int = 1


def _mark(event: Any, inset: int | None = None) -> Mark:
    return Mark(event.start_mark.line + 1, event.start_mark.column + 1, inset)


class _Composer:
    """Builds nodes from events. An alias counts as much as the node of its anchor.

    All methods raise SyntaxFault for errors after which parsing cannot continue.
    """

    def __init__(self, text: str) -> None:
        self.events = _events(text)
        self.anchors: dict[str, _Node | None] = {}  # None while the node is being built
        self.values = 0

    def compose(self, what: str) -> _Node:
        kinds = (yaml.StreamStartEvent, yaml.DocumentStartEvent)
        first = next(event for event in self.events if not isinstance(event, kinds))
        if isinstance(first, yaml.StreamEndEvent):
            raise SyntaxFault(f"the {what} is empty", (1, 1))
        root = self.node(first, 0)
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                fix = "a spec is one document; remove the '---' or split the file"
                raise SyntaxFault("a second document begins here", _mark(event)[:2], fix)
        return root

    def node(self, event: Any, depth: int) -> _Node:
        if isinstance(event, yaml.AliasEvent):
            node = self.alias(event)
        else:
            node = self.anchored(event, depth)
            self.count(event, node.size if node.scalar is not None else 1)
        if depth + node.height > MAX_DEPTH:
            raise SyntaxFault(f"nested deeper than {MAX_DEPTH} levels", _mark(event)[:2])
        return node

    def anchored(self, event: Any, depth: int) -> _Node:
        if depth > MAX_DEPTH:
            raise SyntaxFault(f"nested deeper than {MAX_DEPTH} levels", _mark(event)[:2])
        if event.anchor:
            self.anchors[event.anchor] = None  # an alias inside would be an endless tree
        node = self.content(event, depth)
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def content(self, event: Any, depth: int) -> _Node:
        if isinstance(event, yaml.ScalarEvent):
            return _scalar(event)
        children = list(self.children(depth + 1))
        node = _Node(_mark(event), _tag(event))
        node.height = 1 + max((child.height for child in children), default=0)
        node.size = 1 + sum(child.size for child in children)
        if isinstance(event, yaml.SequenceStartEvent):
            node.items = children
        else:
            node.pairs = list(zip(children[::2], children[1::2], strict=True))
        return node

    def children(self, depth: int) -> Iterator[_Node]:
        for event in self.events:
            if isinstance(event, yaml.SequenceEndEvent | yaml.MappingEndEvent):
                return
            yield self.node(event, depth)

    def alias(self, event: Any) -> _Node:
        place, name = _mark(event)[:2], event.anchor[:40]
        if event.anchor not in self.anchors:
            raise SyntaxFault(
                f"the alias *{name} has no anchor", place, f"quote it if it is text: '*{name}'"
            )
        node = self.anchors[event.anchor]
        if node is None:
            raise SyntaxFault(f"the alias *{name} is inside its own anchor", place)
        self.count(event, node.size)
        return node

    def count(self, event: Any, size: int) -> None:
        self.values += size
        if self.values > MAX_VALUES:
            fix = "name many hosts as n[001-999] or in a host file"
            raise SyntaxFault(f"more than {MAX_VALUES:,} values", _mark(event)[:2], fix)


def _events(text: str) -> Iterator[Any]:
    try:
        yield from yaml.parse(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise explain(error, text) from None
    except (ValueError, OverflowError, RecursionError) as error:
        # PyYAML converts \U00110000 and the version after %YAML without a check.
        raise SyntaxFault(f"not valid YAML: {error}", (1, 1)) from None


def _scalar(event: Any) -> _Node:
    plain = event.style is None
    one_line = event.start_mark.line == event.end_mark.line
    inset = (0 if plain else 1) if one_line and event.style not in ("|", ">") else None
    size = 1 + len(event.value) // _TEXT_PER_VALUE
    return _Node(_mark(event, inset), _tag(event), event.value, plain, size=size)


def _tag(event: Any) -> str | None:
    return None if event.tag is None else str(event.tag)


class _Builder:
    """Builds plain data from nodes; positions and errors are added to the document."""

    def __init__(self, document: Document) -> None:
        self.document = document

    def build(self, node: _Node, path: Path) -> Any:
        self.document.values[path] = node.mark
        if node.tag is not None:
            self.breaks(path, node.mark, f"has the tag {_short_tag(node.tag)}", _TAG_FIX)
        if node.pairs is not None:
            return self.mapping(node.pairs, path)
        if node.items is not None:
            return [self.build(item, (*path, index)) for index, item in enumerate(node.items)]
        return self.scalar(node, path)

    def find(self, path: Path, mark: Mark, message: str, fix: str | None = None) -> None:
        self.document.findings.append(SpecIssue(path, mark, message, fix))

    def breaks(self, path: Path, mark: Mark, message: str, fix: str | None) -> None:
        self.document.broken.add(path)
        self.find(path, mark, message, fix)

    def scalar(self, node: _Node, path: Path) -> Any:
        text = _joined(node.scalar or "")
        for sees, message, fix in _SUSPECTS:
            if sees(text, node.plain):
                self.breaks(path, node.mark, message, fix)
                return None
        try:
            return resolve(text) if node.plain else text
        except ScalarError as error:
            self.breaks(path, node.mark, error.message, error.fix)
            return None

    def mapping(self, pairs: list[tuple[_Node, _Node]], path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key, value in pairs:
            name = self.key(key, path)
            if name is None:
                continue
            place = (*path, name)
            # PyYAML's own loader would silently keep the last one.
            if name in data:
                first = self.document.keys[place].line
                lines = f"on line {first} and again on line {key.mark.line}"
                self.find(place, key.mark, f"duplicate key, {lines}")
                continue
            self.document.keys[place] = key.mark
            data[name] = self.build(value, place)
        return data

    def key(self, node: _Node, path: Path) -> str | None:
        """A key's text; None, with a finding, if it cannot be a key."""
        name = resolve_key(node)
        if isinstance(name, str):
            wrong = "\uff1a" in name or _EDGE_SPACE.search(name) or _UNWRITABLE.search(name)
            if not wrong:
                return name
            shown = name if len(name) <= 40 else f"{name[:40]}..."
            message = f"the key {shown!r} contains a character that looks like a space or a colon"
            self.find(path, node.mark, message, "write it with a plain space and ':'")
        elif node.plain and node.scalar == "<<":
            self.find(path, node.mark, "merge keys (<<) are not supported", "write the keys out")
        else:
            shown, fix = repr(node.scalar), "quote it"
            if node.scalar is None:
                shown, fix = "a list or a mapping", "write it as key: value"
            self.find(path, node.mark, f"a key must be text, got {shown}", fix)
        return None


def resolve_key(node: _Node) -> object:
    """The value of a key; only a str is a valid one."""
    if node.scalar is None or node.tag is not None or (node.plain and node.scalar == "<<"):
        return None
    try:
        return resolve(node.scalar) if node.plain else _joined(node.scalar)
    except ScalarError:
        return None


def _joined(text: str) -> str:
    """The text with surrogate pairs joined: JSON escapes a character above U+FFFF as a pair."""
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


_TAG_FIX = "YAML tags are not supported; quote it if it is text"


def _short_tag(tag: str) -> str:
    name = tag.replace("tag:yaml.org,2002:", "!!")
    return repr(name if len(name) <= 40 else f"{name[:40]}...")


def _wide_colon(text: str, plain: bool) -> bool:
    return plain and bool(_WIDE_KEY.search(text))


def _edge_space(text: str, plain: bool) -> bool:
    return plain and bool(_EDGE_SPACE.search(text))


def _unwritable(text: str, _plain: bool) -> bool:
    return bool(_UNWRITABLE.search(text))


_SUSPECTS: tuple[tuple[Callable[[str, bool], bool], str, str], ...] = (
    (
        _wide_colon,
        "a full-width colon (U+FF1A) does not end a key",
        "write a plain ':' and a space, or quote the text",
    ),
    (
        _edge_space,
        "a no-break or other special space in place of a plain one",
        "write a plain space, or quote the text",
    ),
    (_unwritable, "a control character or a lone surrogate in the text", "remove it"),
)
