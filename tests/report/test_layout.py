"""Pages keep their form on every stream, and data is never obeyed."""

from __future__ import annotations

import io
import re
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from cluster.report.layout import (
    Line,
    Page,
    Table,
    fitted,
    indented,
    one_line,
    plain,
    rendered,
    show,
    table,
)
from tests.report.made import Terminal

CSI = re.compile(r"\x1b\[[0-9;]*m")
HOSTILE = "[bold]n1[/] \x1b[31m\x1b]0;title\x07:smile: \u202ereversed\r\x00"


def on_terminal(page: Page, width: int = 80, encoding: str = "utf-8") -> str:
    """What a terminal of that width is sent."""
    environment = {"COLUMNS": str(width), "TERM": "xterm-256color"}
    with patch.dict("os.environ", environment):
        return rendered(page, Terminal(encoding))


def test_plain_columns_are_aligned() -> None:
    """Text to the left, numbers to the right, two spaces between, none at the end."""
    page = [table(("node", "tasks"), [("n1", "7"), ("node-22", None)], right=("tasks",))]
    assert plain(page) == "node     tasks\nn1           7\nnode-22      -\n"


def test_wide_characters_keep_the_columns_aligned() -> None:
    """A name that takes two cells a character shifts nothing."""
    lines = plain([table(("node", "n"), [("節点", "1"), ("n1", "2")])]).splitlines()
    assert [cell_len(line) for line in lines] == [7, 7, 7]


@given(st.lists(st.lists(st.text(max_size=12), min_size=3, max_size=3), max_size=5))
def test_every_row_is_one_line_of_one_width(rows: list[list[str]]) -> None:
    """Whatever the cells hold, a row stays a row and the last column stays in its place."""
    lines = plain([table(("a", "b", "c", "end"), [[*row, "|"] for row in rows])])
    assert {cell_len(line) for line in lines.split("\n")[1:-1]} <= {lines.index("end") + 1}
    assert lines.count("\n") == len(rows) + 1


@pytest.mark.fault(96, 97)
@pytest.mark.parametrize("page", [[Line(HOSTILE)], [table((HOSTILE,), [(HOSTILE,)])]])
def test_data_is_shown_and_not_obeyed(page: Page) -> None:
    """Markup, escapes, control and direction characters are written out, piped or not."""
    piped, drawn = plain(page), CSI.sub("", on_terminal(page, 200))
    for text in (piped, drawn):
        assert "[bold]n1[/]" in text
        assert ":smile:" in text
        assert r"\x1b[31m\x1b]0;title\x07" in text
        assert r"\u202e" in text
        assert text.replace("\n", "").isprintable()


@pytest.mark.fault(96)
@given(st.text())
def test_any_text_can_be_shown(text: str) -> None:
    """Nothing but line ends is left that a terminal obeys, and any encoding can take it."""
    assert fitted(text, "utf-8").replace("\n", "").isprintable()
    assert fitted(text, "ascii").isascii()


def test_a_pipe_gets_no_escapes_and_no_boxes() -> None:
    """Styles are for terminals."""
    page: Page = [Line("good", "bold green"), table(("a",), [("b",)])]
    stream = io.StringIO()
    show(page, stream)
    assert stream.getvalue() == "good\na\nb\n"


def test_a_terminal_gets_style_without_boxes() -> None:
    """The same words, with colour."""
    drawn = on_terminal([Line("good", "bold green"), table(("a",), [("b",)])])
    assert "\x1b[" in drawn
    assert CSI.sub("", drawn).split() == ["good", "a", "b"]


def test_no_color_is_respected() -> None:
    """NO_COLOR leaves a terminal without colours (https://no-color.org)."""
    with patch.dict("os.environ", {"NO_COLOR": "1"}):
        assert "\x1b[32m" not in on_terminal([Line("good", "green")])


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_symbols_that_an_encoding_lacks_become_ascii(encoding: str) -> None:
    """A done run in a C locale is ticked with a plus, and the columns stay aligned."""
    page: Page = [Line("✓ 0.1 ± 1e-30 …"), table(("state", "x"), [("✗ failed", "節")])]
    for text in (plain(page, encoding), on_terminal(page, 80, encoding)):
        assert "+ 0.1 " in text
        assert "1e-30 ..." in text
        assert "x failed  \\u7bc0" in text
        text.encode(encoding)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_a_narrow_terminal_loses_no_cell(width: int) -> None:
    """Titles and prose fold, spare columns go first, and what cannot fit is left to wrap."""
    wide = table(
        ("run", "samples", "utilisation", "spare", "doc"),
        [("pi-20261123-101235", "16,777,216", "19.7 %", "unneeded", "a sentence of some words")],
        right=("samples", "utilisation"),
        prose=("doc",),
        spare=("spare",),
    )
    drawn = CSI.sub("", on_terminal([wide], width))
    for cell in ("pi-20261123-101235", "16,777,216", "19.7 %"):
        assert cell in drawn
    assert all(word in drawn for word in ("sentence", "words"))
    assert ("unneeded" in drawn) == (width >= 80 or width < 60)
    if width >= 60:
        assert max(map(len, drawn.splitlines())) <= width


def test_a_long_command_is_not_broken_by_us() -> None:
    """The terminal wraps it, so that it is copied in one piece."""
    command = "cluster resume " + "x" * 200
    assert command in on_terminal([Line(command)], 40)


def test_a_table_without_rows_shows_its_titles() -> None:
    """An empty table is still one."""
    empty = table(("a", "b"), [])
    assert plain([empty]) == "a  b\n"
    assert isinstance(empty.without("a"), Table)
    assert CSI.sub("", on_terminal([empty])).split() == ["a", "b"]


def test_a_text_is_cut_to_one_line() -> None:
    """Messages of any length and form fit into one."""
    assert one_line(" a\n\tb ") == "a b"
    assert one_line("x" * 300).endswith("x…")
    assert len(one_line("x" * 300)) == 200


def test_a_traceback_is_indented_as_it_is() -> None:
    """Each line keeps its own indentation; nothing stands for nothing."""
    assert plain(indented("a\n  b\n")) == "  a\n    b\n"
    assert indented("") == []
