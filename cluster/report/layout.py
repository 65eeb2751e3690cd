"""Lines and tables, and their two forms: plain text for pipes, rich text for terminals.

What is shown comes from users and from other machines: it is never markup, and what a terminal
would obey instead of show is written out as an escape.
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

_GAP = 2
_LABEL = 11
# Columns narrower than this are not folded: a title, and prose.
_FOLDED, _FOLDED_PROSE = 6, 16
_SIZE = re.compile(r"0*[1-9][0-9]{0,4}")
# What stands for our own symbols where an encoding has no place for them.
_ASCII = str.maketrans({"✓": "+", "✗": "x", "◐": "~", "▸": ">", "…": "...", "±": "+/-"})


@dataclass(frozen=True)
class Line:
    """A line of text, or several; ``style`` is rich's, and shows on terminals only."""

    text: str = ""
    style: str = ""


@dataclass(frozen=True)
class Table:
    """Rows of cells below their titles.

    Attributes:
        right: titles of columns of numbers.
        prose: titles of columns that may fold where a terminal is narrow.
        spare: titles of columns to leave out there, the first one first.
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
        """Terminal cells that each column takes."""
        return [max(map(cell_len, column)) for column in zip(self.titles, *self.rows, strict=True)]

    def least_widths(self) -> list[int]:
        """The same, where titles and prose fold."""
        return [
            min(width, _FOLDED_PROSE if title in self.prose else max(_FOLDED, *cells, 0))
            for title, width, cells in zip(self.titles, self.widths(), self._lengths(), strict=True)
        ]

    def shown(self, encoding: str) -> Table:
        """The same table, each cell as one line that can be shown."""
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
    """A table; a cell of None is shown as ``-``."""
    cells = tuple(tuple(NONE if cell is None else cell for cell in row) for row in rows)
    return Table(tuple(titles), cells, frozenset(right), frozenset(prose), tuple(spare))


def facts(pairs: Mapping[str, str | None]) -> list[Line]:
    """One line a fact, its label before it; a fact of None is left out."""
    return [Line(f"{label:<{_LABEL}} {text}") for label, text in pairs.items() if text is not None]


def indented(text: str) -> list[Line]:
    """A text of several lines, such as a traceback, as it is; no line where it is empty."""
    lines = text.rstrip().split("\n")
    return [Line("\n".join(f"  {line}" for line in lines))] if lines != [""] else []


def show(page: Page, stream: TextIO) -> None:
    """Write a page to a stream, in the form that is right for it."""
    stream.write(rendered(page, stream))


def rendered(page: Page, stream: TextIO) -> str:
    """A page in the form that is right for a stream: styled on a terminal, else plain."""
    if not stream.isatty():
        return plain(page, encoding_of(stream))
    console = terminal(stream)
    with console.capture() as captured:
        draw(page, console)
    return captured.get()


def plain(page: Page, encoding: str = "utf-8") -> str:
    """A page as aligned lines, without boxes or colour, in characters that the encoding has."""
    lines = (line for part in page for line in _plain_lines(part, encoding))
    return "".join(f"{line.rstrip()}\n" for line in lines)


def draw(page: Page, console: Console) -> None:
    """Print a page on rich's console."""
    from rich.text import Text

    for part in page:
        drawn = _drawn(part, console)
        if drawn is not None:
            console.print(drawn)
            continue
        # A long command, a digest or a table that cannot fit is left to the terminal to wrap.
        style = part.style if isinstance(part, Line) else ""
        text = plain([part], console.encoding).removesuffix("\n")
        console.print(Text(text, style=style), soft_wrap=True)


def _drawn(part: Part, console: Console) -> RichTable | None:
    """A table as rich's, where it fits the console; else None."""
    if isinstance(part, Line):
        return None
    part = narrowed(part.shown(console.encoding), console.width)
    fits = _span(part.least_widths(), 1) <= console.width
    return rich_table(part, console.width) if fits else None


def narrowed(part: Table, width: int) -> Table:
    """The table without as many of its spare columns as it takes to fit a width."""
    for title in part.spare:
        if _span(part.least_widths(), 1) <= width:
            break
        part = part.without(title)
    return part


def rich_table(part: Table, width: int) -> RichTable:
    """The table as rich's, without a box; where it is too wide, titles and prose fold."""
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
    """Rich's console on a stream; it reads nothing as markup, and no failed write ends us."""
    from rich.console import Console

    class Harmless(Console):
        def on_broken_pipe(self) -> None:
            # Rich's own way is to redirect stdout and exit.
            raise BrokenPipeError

    # Rich believes any digits: in a width of 0 it shows nothing at all. Without a size in the
    # environment it asks the terminal, and takes 80 columns where that does not know.
    given = {name: value for name, value in os.environ.items() if _may_be_told(name, value)}
    return Harmless(file=stream, markup=False, emoji=False, highlight=False, _environ=given)


def _may_be_told(name: str, value: str) -> bool:
    """Whether a variable is right for rich: no size of a terminal, or one that can be."""
    return name not in ("COLUMNS", "LINES") or bool(_SIZE.fullmatch(value))


def fitted(text: str, encoding: str) -> str:
    """A text as it can be shown: nothing in it that a terminal obeys, or an encoding lacks."""
    text = "\n".join(map(_harmless, text.expandtabs(4).split("\n")))
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "backslashreplace").decode(encoding)
    return text


def one_line(text: str, most: int | None = 200) -> str:
    """A text of any form as one line, of at most so many characters."""
    text = " ".join(text.split())
    return text if most is None or len(text) <= most else f"{text[: most - 1]}…"


def encoding_of(stream: TextIO) -> str:
    """What a stream can be sent; a stream in memory takes everything."""
    return getattr(stream, "encoding", None) or "utf-8"


def _harmless(line: str) -> str:
    if line.isprintable():
        return line
    escaped = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return "".join(escaped)


def _span(widths: Sequence[int], gap: int) -> int:
    # Rich keeps room for the gap behind the last column too.
    return sum(widths) + gap * len(widths)


def _rooms(part: Table, width: int, gap: int) -> list[int]:
    """The widths of the columns, those with most to spare narrowed until all fit."""
    rooms, least = part.widths(), part.least_widths()
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
