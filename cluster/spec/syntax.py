"""Syntax errors of YAML, translated to messages that help to fix them."""

from __future__ import annotations

import re

import yaml

MAX_BYTES = 2**20
MAX_LINES = 50_000

# The characters that YAML does not allow, and surrogates, which UTF-8 cannot encode.
_NOT_TEXT = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_WIDE = re.compile("[\uff1a\uff0c\u00a0\u3000]")
_WIDE_NAMES = {
    "\uff1a": "a full-width colon (U+FF1A)",
    "\uff0c": "a full-width comma (U+FF0C)",
    "\u00a0": "a no-break space (U+00A0)",
    "\u3000": "an ideographic space (U+3000)",
}

Place = tuple[int, int]


class SyntaxFault(Exception):
    """An error that ends the parsing.

    Attributes:
        message: what is wrong.
        place: line and column, 1-based.
        fix: how to fix it, or None.
    """

    def __init__(self, message: str, place: Place, fix: str | None = None) -> None:
        super().__init__(message)
        self.message, self.place, self.fix = message, place, fix


def decode(source: str | bytes) -> str:
    """The text of a document, without its byte order mark.

    Raises:
        SyntaxFault: it is too long, not UTF-8, or has characters that YAML does not allow.
    """
    if len(source) > MAX_BYTES:
        raise SyntaxFault("the file is over 1 MiB", (1, 1), "name many hosts in a host file")
    text = (source if isinstance(source, str) else _utf8(source)).removeprefix("\ufeff")
    if found := _NOT_TEXT.search(text):
        raise _not_text(text, found.start())
    if text.count("\n") > MAX_LINES:
        raise SyntaxFault(f"more than {MAX_LINES:,} lines", (MAX_LINES, 1))
    return text


def _utf8(source: bytes) -> str:
    try:
        return source.decode()
    except UnicodeDecodeError as error:
        before = source[: error.start].decode()
        wide = source.startswith((b"\xff\xfe", b"\xfe\xff"))
        fix = "it looks like UTF-16; save it as UTF-8" if wide else "save the file as UTF-8"
        message = f"not UTF-8: byte 0x{source[error.start]:02x} at offset {error.start}"
        raise SyntaxFault(message, _place(before, len(before)), fix) from None


def _not_text(text: str, index: int) -> SyntaxFault:
    code = ord(text[index])
    offset = len(text[:index].encode("utf-8", "surrogatepass"))
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a command-line argument, by surrogateescape
        message = f"not UTF-8: byte 0x{code - 0xDC00:02x} at offset {offset}"
        return SyntaxFault(message, _place(text, index), "write it as UTF-8")
    surrogate = 0xD800 <= code <= 0xDFFF
    kind = "a lone surrogate" if surrogate else "a control or unassigned character"
    message = f"{kind} (U+{code:04X}) at byte {offset}"
    return SyntaxFault(message, _place(text, index), "remove it")


def _place(text: str, index: int) -> Place:
    start = text.rfind("\n", 0, index) + 1
    return text.count("\n", 0, index) + 1, index - start + 1


def explain(error: yaml.YAMLError, text: str) -> SyntaxFault:
    """A syntax error of PyYAML in our words, at its cause and not where it was detected."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None:
        return SyntaxFault(f"not valid YAML: {_first_line(error)}", (1, 1))
    return _lookalike(error, text, mark) or _worded(error, text, mark)


def _first_line(error: yaml.YAMLError) -> str:
    return str(error).partition("\n")[0][:200]


def _lookalike(error: yaml.YAMLError, text: str, mark: yaml.Mark) -> SyntaxFault | None:
    """A character that looks like a colon or a space, in the lines around the error."""
    context = getattr(error, "context_mark", None)
    lines = text.split("\n")
    # A missing ':' is detected on the following line at the latest.
    first = max(0, min(context.line if context else mark.line, mark.line) - 1)
    first = max(first, mark.line - 20)
    for number in range(first, min(mark.line + 1, len(lines))):
        if found := _WIDE.search(lines[number].partition(" #")[0]):
            fix = "write a plain ':' or space, or quote the text"
            message = f"{_WIDE_NAMES[found[0]]} is not punctuation in YAML"
            return SyntaxFault(message, (number + 1, found.start() + 1), fix)
    return None


def _at(mark: yaml.Mark) -> Place:
    return mark.line + 1, mark.column + 1


def _worded(error: yaml.YAMLError, text: str, mark: yaml.Mark) -> SyntaxFault:
    problem = str(getattr(error, "problem", "") or "")
    context_mark = getattr(error, "context_mark", None)
    if context_mark is not None and "expected ':'" in problem:
        # It is detected on the line after the one without the colon.
        mark = context_mark
        if text[mark.index] == "-":
            return SyntaxFault("a '-' without a space is not a list item", _at(mark), _ITEM)
    place = _at(mark)
    here = repr(text[mark.index : mark.index + 1]) if mark.index < len(text) else "the end"
    context = str(getattr(error, "context", "") or "")
    for pattern, message, fix in _WORDS:
        if re.search(pattern, f"{context}: {problem}"):
            return SyntaxFault(message.format(here=here), place, fix)
    return SyntaxFault(f"not valid YAML: {problem or _first_line(error)}"[:200], place)


_ITEM = "write a list item as '- item', with a space"
_INDENT = "indent it like the lines around it"
_QUOTE = "quote it if it is text"
# (pattern of PyYAML's message, our message, the fix); the first match counts.
_WORDS = (
    (r"'\\t' that cannot start", "a tab where YAML needs spaces", "use spaces"),
    (r"cannot start any token", "a value cannot begin with {here}", _QUOTE),
    (r"scanning an (alias|anchor)", "no name after '*' or '&'", _QUOTE),
    (r"(scanning|parsing) a.*(tag|directive)", "tags and directives are not supported", _QUOTE),
    (
        r"mapping values are not allowed",
        "a second ':' in one value, or a key at the wrong depth",
        "quote the value, or align the key with those around it",
    ),
    (
        r"sequence entries are not allowed",
        "a list item '- ' is not allowed here",
        "begin it on a line of its own",
    ),
    (
        r"could not find expected ':'",
        "a line without ':' where a key should be",
        "write it as key: value",
    ),
    (
        r"flow sequence.*expected ',' or '\]'",
        "expected ',' or ']' in the list",
        "close the list, and quote items that contain brackets: ['n[01-16]', b]",
    ),
    (
        r"flow mapping.*expected ',' or '\}'",
        "expected ',' or '}}' in the mapping",
        "close the mapping, and quote values that contain brackets",
    ),
    (r"block mapping.*expected <block end>", "not aligned with the keys above", _INDENT),
    (r"block collection.*expected <block end>", "not aligned with the items above", _INDENT),
    (r"quoted scalar.*(end of stream|document separator)", "a quote is not closed", None),
    (r"unknown escape character", "an unknown escape in double quotes", "use single quotes"),
    (r"escape sequence", "an invalid escape in double quotes", "use single quotes"),
    (r"'<document start>'", "text after the end of the document", None),
    (r"block scalar", "an invalid header or indentation after '|' or '>'", None),
    (r"node content, but found", "a value is missing before {here}", _QUOTE),
)
