"""Lines and tables, rendered as plain text for pipes or by rich for terminals.

Texts come from users and other machines. They are never read as markup, and control characters are
escaped, so that a terminal shows them instead of obeying them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, TextIO

from rich.cells import cell_len

from cluster.report.numbers import NONE

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

# Character cells between two columns, and of a label.
_GAP = 2
_LABEL = 11
# Character cells down to which a title, or a column of prose, may be folded.
_FOLDED, _FOLDED_PROSE = 6, 16
# A plausible value of COLUMNS or LINES.
_SIZE = re.compile(r"0*[1-9][0-9]{0,4}")
# Replacements for our own symbols in encodings that lack them.
_ASCII = str.maketrans({"✓": "+", "✗": "x", "◐": "~", "▸": ">", "…": "...", "±": "+/-"})


@dataclass(frozen=True)
class Line:
    """One or more lines of text; ``style`` is a rich style, used on terminals only."""

    text: str = ""
    style: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a row of titles.

    Attributes:
        titles: of the columns.
        rows: one text per column in each row.
        right: titles of right-aligned columns, such as numbers.
        prose: titles of columns that may fold on a narrow terminal.
        spare: titles of columns to drop on a narrow terminal, in this order.
    """

    titles: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[str] = frozenset()
    prose: frozenset[str] = frozenset()
    spare: tuple[str, ...] = ()

    def without(self, title: str) -> Table:
        """The same table without a column."""
        place = self.titles.index(title)
        titles, *rows = (row[:place] + row[place + 1 :] for row in (self.titles, *self.rows))
        return replace(self, titles=titles, rows=tuple(rows))

    def widths(self) -> list[int]:
        """The width of each column in character cells."""
        return [max(map(cell_len, column)) for column in zip(self.titles, *self.rows, strict=True)]

    def least_widths(self) -> list[int]:
        """The width of each column when titles and prose are folded."""
        return [
            min(width, _FOLDED_PROSE if title in self.prose else max(_FOLDED, *cells, 0))
            for title, width, cells in zip(self.titles, self.widths(), self._lengths(), strict=True)
        ]

    def shown(self, encoding: str) -> Table:
        """The same table with each cell as one printable line in the encoding."""
        titles, *rows = (
            tuple(fitted(one_line(cell, None), encoding) for cell in row)
            for row in (self.titles, *self.rows)
        )
        return replace(self, titles=titles, rows=tuple(rows))

    def _lengths(self) -> Iterator[list[int]]:
        columns = zip(*self.rows, strict=True) if self.rows else ((),) * len(self.titles)
        return ([cell_len(cell) for cell in column] for column in columns)


Part = Line | Table
Page = Sequence[Part]


def table(
    titles: Sequence[str],
    rows: Iterable[Sequence[str | None]],
    *,
    right: Collection[str] = (),
    prose: Collection[str] = (),
    spare: Sequence[str] = (),
) -> Table:
    """Make a table.

    Args:
        titles: of the columns.
        rows: one text per column; None is shown as ``-``.
        right: titles of right-aligned columns.
        prose: titles of columns that may fold.
        spare: titles of columns to drop on a narrow terminal, in this order.
    """
    cells = tuple(tuple(NONE if cell is None else cell for cell in row) for row in rows)
    return Table(tuple(titles), cells, frozenset(right), frozenset(prose), tuple(spare))


def facts(pairs: Mapping[str, str | None]) -> list[Line]:
    """One line per fact, after its label; facts that are None are omitted."""
    return [Line(f"{label:<{_LABEL}} {text}") for label, text in pairs.items() if text is not None]


def indented(text: str) -> list[Line]:
    """A multi-line text such as a traceback, indented; nothing if it is empty."""
    lines = text.rstrip().split("\n")
    return [Line("\n".join(f"  {line}" for line in lines))] if lines != [""] else []


def show(page: Page, stream: TextIO) -> None:
    """Write a page to a stream, styled if it is a terminal."""
    stream.write(rendered(page, stream))


def rendered(page: Page, stream: TextIO) -> str:
    """Render a page for a stream: styled if it is a terminal, else plain."""
    if not stream.isatty():
        return plain(page, encoding_of(stream))
    console = terminal(stream)
    with console.capture() as captured:
        draw(page, console)
    return captured.get()


def plain(page: Page, encoding: str = "utf-8") -> str:
    """Render a page as aligned plain lines, in characters that the encoding has."""
    lines = (line for part in page for line in _plain_lines(part, encoding))
    return "".join(f"{line.rstrip()}\n" for line in lines)


def draw(page: Page, console: Console) -> None:
    """Print a page on a rich console."""
    from rich.text import Text

    for part in page:
        drawn = _drawn(part, console)
        if drawn is not None:
            console.print(drawn)
            continue
        # The terminal wraps what does not fit: a command cut by rich could not be copied.
        style = part.style if isinstance(part, Line) else ""
        text = plain([part], console.encoding).removesuffix("\n")
        console.print(Text(text, style=style), soft_wrap=True)


def _drawn(part: Part, console: Console) -> RichTable | None:
    """The rich table of a part; None if it is a line, or does not fit the console."""
    if isinstance(part, Line):
        return None
    part = narrowed(part.shown(console.encoding), console.width)
    fits = _span(part.least_widths(), 1) <= console.width
    return rich_table(part, console.width) if fits else None


def narrowed(part: Table, width: int) -> Table:
    """The table without the spare columns that do not fit the width (in character cells)."""
    for title in part.spare:
        if _span(part.least_widths(), 1) <= width:
            break
        part = part.without(title)
    return part


def rich_table(part: Table, width: int) -> RichTable:
    """The rich table, without a box; titles and prose fold if it exceeds the width."""
    from rich.table import Table as RichTable
    from rich.text import Text

    gap = _GAP if _span(part.widths(), _GAP) <= width else 1
    drawn = RichTable(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="dim")
    for title, room in zip(part.titles, _rooms(part, width, gap), strict=True):
        justify: Literal["left", "right"] = "right" if title in part.right else "left"
        drawn.add_column(Text(title), justify=justify, overflow="fold", width=room)
    for row in part.rows:
        drawn.add_row(*map(Text, row))
    return drawn


def terminal(stream: TextIO) -> Console:
    """A rich console on a stream, without markup; a failed write raises instead of exiting."""
    from rich.console import Console

    class Harmless(Console):
        def on_broken_pipe(self) -> None:
            """Raise; rich's own method would redirect stdout and exit the process."""
            raise BrokenPipeError

    # Rich trusts COLUMNS and LINES, and shows nothing at a width of 0. Without them it asks the
    # terminal, and falls back to 80 columns.
    kept = {name: value for name, value in os.environ.items() if _is_plausible(name, value)}
    return Harmless(file=stream, markup=False, emoji=False, highlight=False, _environ=kept)


def _is_plausible(name: str, value: str) -> bool:
    """Whether rich may see a variable: it is not a terminal size, or a possible one."""
    return name not in ("COLUMNS", "LINES") or bool(_SIZE.fullmatch(value))


def fitted(text: str, encoding: str) -> str:
    """Escape control characters in a text, and characters that the encoding lacks."""
    text = "\n".join(map(_harmless, text.expandtabs(4).split("\n")))
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
    return text


def one_line(text: str, most: int | None = 200) -> str:
    """Collapse whitespace to make a text one line, cut to ``most`` characters."""
    text = " ".join(text.split())
    return text if most is None or len(text) <= most else f"{text[: most - 1]}…"


def encoding_of(stream: TextIO) -> str:
    """The encoding of a stream; UTF-8 for one in memory, which takes any text."""
    return getattr(stream, "encoding", None) or "utf-8"


def _harmless(line: str) -> str:
    if line.isprintable():
        return line
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return "".join(escaped)


def _span(widths: Sequence[int], gap: int) -> int:
    # Rich pads the last column too.
    return sum(widths) + gap * len(widths)


def _rooms(part: Table, width: int, gap: int) -> list[int]:
    """Column widths that fit: those with the most slack are narrowed, cell by cell."""
    rooms, least = part.widths(), part.least_widths()
    # The widest slack first: a long cell folds once more before a short one folds at all.
    for _ in range(_span(rooms, gap) - width):
        widest = max(range(len(rooms)), key=lambda place: rooms[place] - least[place])
        rooms[widest] = max(rooms[widest] - 1, least[widest])
    return rooms


def _plain_lines(part: Part, encoding: str) -> Iterator[str]:
    if isinstance(part, Line):
        yield from fitted(part.text, encoding).split("\n")
        return
    part = part.shown(encoding)
    widths, right = part.widths(), [title in part.right for title in part.titles]
    for row in (part.titles, *part.rows):
        yield (" " * _GAP).join(map(_padded, row, widths, right))


def _padded(cell: str, width: int, right: bool) -> str:
    space = " " * (width - cell_len(cell))
    return f"{space}{cell}" if right else f"{cell}{space}"
