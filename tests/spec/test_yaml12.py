"""The YAML reader: the rules of 1.2, positions of all values, and limits."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.spec.yaml12 import MAX_DEPTH, Document, read


def value(text: str) -> Any:
    """The data of a valid text."""
    document = read(f"a: {text}")
    assert document.findings == []
    return document.data["a"]


def told(source: str | bytes) -> str:
    """All findings, one per line: position, path, message, fix."""
    lines = (
        f"{found.mark.line}:{found.mark.column}: {'.'.join(map(str, found.path))}: "
        f"{found.message}; {found.fix}"
        for found in read(source).findings
    )
    return "\n".join(lines)


@pytest.mark.fault(65, 66, 67)
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1e9", 1e9),
        ("1e-5", 1e-5),
        ("1_000_000", 1_000_000),
        ("1_000.5", 1000.5),
        ("+1", 1),
        ("-0", 0),
        ("0x1F", 31),
        ("0o17", 15),
        (".5", 0.5),
        ("1.", 1.0),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        ("true", True),
        ("FALSE", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("22:30", "22:30"),
        ("1:30:00", "1:30:00"),
        ("2026-10-25", "2026-10-25"),
        ("10**9", "10**9"),
        ("1e9.5", "1e9.5"),
        ("1__0", "1__0"),
        ("0b1", "0b1"),
        ("\u0661\u0662", "\u0661\u0662"),
        ("'1'", "1"),
        ('"no"', "no"),
        ("n[01-16,20]", "n[01-16,20]"),
        ("[no, 1:2, 0x10]", ["no", "1:2", 16]),
    ],
)
def test_a_value_means_what_yaml_1_2_says(text: str, expected: Any) -> None:
    """Only true and false are booleans, and times and dates are text."""
    got = value(text)
    assert got == expected
    assert type(got) is type(expected)


def test_what_json_escapes_in_two_halves_is_one_letter() -> None:
    """JSON is YAML, and writes characters beyond U+FFFF as surrogate pairs."""
    assert read('{"\\ud83c\\udfb2": "\\ud83c\\udfb2"}').data == {"\U0001f3b2": "\U0001f3b2"}


def test_not_a_number_is_read() -> None:
    """`.nan` is a float here; the models reject it."""
    assert math.isnan(value(".nan"))


@pytest.mark.fault(67)
@pytest.mark.parametrize("text", ["010", "-010", "08", "0_10"])
def test_a_leading_zero_is_an_error(text: str) -> None:
    """It is octal in YAML 1.1 and decimal in 1.2: the user must say which."""
    assert "could be decimal or octal" in told(f"a: {text}")


@pytest.mark.fault(68)
def test_a_duplicate_key_names_both_lines() -> None:
    """The position is that of the second one, and no other value is lost."""
    text = "a: 1\nb: 2\na: 3\n"
    assert told(text).startswith("3:1: a: duplicate key, on line 1 and again on line 3")
    assert read(text).data == {"a": 1, "b": 2}


@pytest.mark.fault(71)
def test_crlf_and_a_byte_order_mark_are_accepted() -> None:
    """Windows line endings are accepted."""
    assert read("\ufeffa: 1\r\nb: 2\r\n".encode()).data == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("source", "start", "words"),
    [
        pytest.param("a:\n\tb: 1", "2:1", "a tab where", marks=pytest.mark.fault(71)),
        pytest.param("a:\t1", "1:3", "a tab where", marks=pytest.mark.fault(71)),
        pytest.param("\xa0a: 1", "1:1", "looks like a space", marks=pytest.mark.fault(71)),
        pytest.param("a: \xa01", "1:4", "no-break", marks=pytest.mark.fault(71)),
        pytest.param("a:\xa01", "1:1", "no-break", marks=pytest.mark.fault(71)),
        pytest.param("a\uff1a 1", "1:1", "full-width colon", marks=pytest.mark.fault(71)),
        pytest.param("a: 1\nb\uff1a2\nc: 3", "2:2", "full-width", marks=pytest.mark.fault(71)),
        pytest.param("a:\n b\uff1a1\n c\uff1a2", "2:2", "full-width", marks=pytest.mark.fault(71)),
        pytest.param("", "1:1", "the file is empty", marks=pytest.mark.fault(72)),
        pytest.param("# c\n\n", "1:1", "the file is empty", marks=pytest.mark.fault(72)),
        pytest.param("a: 1\n---\nb: 2", "2:1", "second document", marks=pytest.mark.fault(72)),
        pytest.param("a: &x [*x]", "1:8", "inside its own", marks=pytest.mark.fault(73)),
        pytest.param("<<: {a: 1}", "1:1", "merge keys", marks=pytest.mark.fault(73)),
        pytest.param(
            "a: !!python/object x", "1:4", "'!!python/object'", marks=pytest.mark.fault(74)
        ),
        pytest.param("a: !x {b: 1}", "1:4", "the tag '!x'", marks=pytest.mark.fault(74)),
        pytest.param("!x a: 1", "1:1", "must be text", marks=pytest.mark.fault(74)),
        pytest.param("%TAG x\n---\na: 1", "1:", "directive", marks=pytest.mark.fault(74)),
        pytest.param(b"ab: \xff", "1:5", "0xff at offset 4", marks=pytest.mark.fault(75)),
        pytest.param("a: 1".encode("utf-16"), "1:1", "UTF-16", marks=pytest.mark.fault(75)),
        pytest.param("a: 1\nb: \0", "2:4", "U+0000) at byte 8", marks=pytest.mark.fault(75)),
        pytest.param("a: \x1b[1m", "1:4", "control", marks=pytest.mark.fault(75)),
        pytest.param("a: \ud800", "1:4", "a lone surrogate", marks=pytest.mark.fault(75)),
        pytest.param("a: caf\udce9", "1:7", "0xe9 at offset 6", marks=pytest.mark.fault(75)),
        pytest.param('a: "\\ud800"', "1:4", "a lone surrogate", marks=pytest.mark.fault(75)),
        pytest.param('a: "\\0"', "1:4", "control character", marks=pytest.mark.fault(75)),
        pytest.param('a: "\\U00110000"', "1:1", "not valid YAML", marks=pytest.mark.fault(75)),
        pytest.param("a: *.py", "1:5", "quote it", marks=pytest.mark.fault(76)),
        pytest.param("a: *py", "1:4", "quote it", marks=pytest.mark.fault(76)),
        pytest.param("a: @x", "1:4", "quote it", marks=pytest.mark.fault(76)),
        pytest.param("a: %d", "1:4", "quote it", marks=pytest.mark.fault(76)),
        pytest.param("a: `x", "1:4", "quote it", marks=pytest.mark.fault(76)),
        pytest.param("a: [n[01-16], b]", "1:6", "quote items", marks=pytest.mark.fault(76)),
        ("a: b: c", "1:5", "a second ':'"),
        ("a: - b", "1:4", "a list item"),
        ('a: "b', "1:6", "not closed"),
        ("a: [b", "1:6", "close the list"),
        ("a: {b: 1", "1:9", "close the mapping"),
        ("a: {b[1]: [c[1]]}", "1:6", "quote"),
        ("a:\n  b: 1\n c: 2", "3:2", "not aligned"),
        ("- a\nb: 1", "2:1", "not aligned"),
        ("a: 1\nb\nc: 2", "2:1", "without ':'"),
        ("a: 1\nb:\n- n1\n-n2\n", "4:1", "write a list item as '- item', with a space"),
        ("b:\n  - n1\n  -n2\nc: 1\n", "3:3", "write a list item as '- item'"),
        ('a: "\\q"', "1:6", "escape"),
        ('a: "\\xzz"', "1:7", "escape"),
        ("a: |x\n b", "1:5", "'|' or '>'"),
        ("a: ]", "1:4", "a value is missing before"),
        ("- [", "1:4", "before the end"),
        ("{a: 1}}", "1:7", "after the end"),
        ("? [a]\n: 1", "1:3", "a key must be text"),
        ("1: x", "1:1", "a key must be text, got '1'"),
        ("null: x", "1:1", "a key must be text"),
        ("%YAML 9.0\n---\na: 1", "1:", "not valid YAML"),
    ],
)
def test_what_is_no_spec_is_told_with_its_place(
    source: str | bytes, start: str, words: str
) -> None:
    """Every kind of syntax error has its own message, at the position of its cause."""
    lines = told(source)
    assert lines.startswith(start)
    assert words in lines
    assert len(lines) < 300


def test_a_wide_colon_in_text_that_is_quoted_or_a_comment_is_fine() -> None:
    """It is an error only in place of a colon."""
    assert told("# \uff1a\na: '\u6ce8: b\uff1a'\nc: |\n  d\uff1a1\n\u6ce8\uff1a: 1") != ""
    assert told("# \uff1a\na: 'b\uff1ac'\nc: |\n  d\uff1a1\ne: \u8ba1\u7b97\uff1a\u03c0\n") == ""


def test_findings_do_not_hide_each_other() -> None:
    """All errors after which parsing can continue are reported at once."""
    assert len(told("a: 010\nb: !x 1\na: 2\n? [c]\n: 1\n").splitlines()) == 4


def test_everything_read_has_its_place() -> None:
    """Positions of values and keys, in flow and block style, by their path."""
    document = read("a: 1\nb:\n  - {c: 'x'}\n  - |\n    y\n")
    assert document.keys["b", 0, "c"][:2] == (3, 6)
    assert document.values["b", 0, "c"] == (3, 9, 1)
    assert document.values["b", 1][:2] == (4, 5)
    assert document.values["b", 1].inset is None
    assert document.values["a",] == (1, 4, 0)


@pytest.mark.fault(73)
def test_anchors_give_their_value_again() -> None:
    """An alias is a copy of what its anchor named."""
    assert read("a: &x [1, {b: 2}]\nc: *x").data == {"a": [1, {"b": 2}], "c": [1, {"b": 2}]}


@pytest.mark.fault(73)
@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_depth_is_bounded(opening: str) -> None:
    """32 levels are read, one more is refused, and 100,000 are refused as fast."""
    closing = {"[": "]", "{a: ": "}"}.get(opening, "")

    def nested(levels: int) -> str:
        return opening * levels + "1" * (not opening.startswith("?")) + closing * levels

    if opening != "? ":
        assert told(nested(MAX_DEPTH)) == ""
    assert "deeper than 32" in told(nested(MAX_DEPTH + 1))
    assert "deeper than 32" in told(nested(100_000))


@pytest.mark.fault(73)
def test_depth_is_bounded_through_aliases() -> None:
    """An alias counts with the depth of its anchor's value."""
    lines = ["a0: &a0 [1]", *(f"a{i}: &a{i} [[[[[[[*a{i - 1}]]]]]]]" for i in range(1, 6))]
    assert "deeper than 32" in told("\n".join(lines))


BOMBS = {
    "aliases": "'a: &a0 [x]\\n' + ''.join(f'b{i}: &a{i+1} [{\",\".join([f\"*a{i}\"]*10)}]\\n'"
    " for i in range(9))",
    "merges": "'a: &a0 {k: 1}\\n' + ''.join(f'b{i}: &a{i+1}\\n  <<: [' + f'*a{i},' * 10 + ']\\n'"
    " for i in range(9))",
    "text": "'a: &a \"' + 'x' * 500000 + '\"\\nb: [' + '*a,' * 5000 + ']'",
    "digits": "'samples: ' + '9' * 4301",
    "megabyte of digits": "'samples: ' + '9' * 1000000",
    "hex": "'samples: 0x' + 'f' * 1000000",
    "float": "'samples: 1e' + '9' * 1000000",
    "brackets": "'a: ' + '[' * 1000000",
    "braces": "'{' * 1000000",
    "dashes": "'- ' * 400000",
    "questions": "'? ' * 400000",
    "values": "'a: [' + 'x,' * 400000 + ']'",
    "lists": "'a: [' + '[],' * 300000 + ']'",
    "lines": "'a: \"' + '\\n' * 1000000 + '\"'",
    "word": "'a' * 1000000",
    "key": "'a' * 1000000 + ': 1'",
    "tag": "'a: !' + 'a' * 1000000",
    "anchor": "'a: *' + 'a' * 1000000",
    "version": "'%YAML 1.' + '1' * 1000000",
    "large": "'a: 1\\n' * 400000",
    "comment": "'#' + 'x' * 1000000",
    "bytes": "b'a: ' + b'\\xff' * 1000000",
    "keys": "''.join(f'k{i}: 1\\n' for i in range(9000))",
    "hosts": "'kernel: k.py:f\\nsamples: 1\\nnodes:\\n' + '- n[1-99999]\\n' * 9000",
    "hosts twice": "'kernel: k.py:f\\nsamples: 1\\nnodes:\\n' + '- n[1-49999]\\n' * 9000",
    "ranges": "'nodes: n' + '[1-99999999]' * 9",
}

# The limits are generous: a second and 64 MiB are promised, and the machine may be busy.
HARNESS = """
import resource, sys, time
from pathlib import Path
from cluster.common.errors import SpecError
from cluster.spec import parse
text = {bomb}
usage = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (usage + 64 * 2**20,) * 2)
start = time.process_time()
try:
    parse(text, 'bomb.yaml', Path())
except SpecError as error:
    took = time.process_time() - start
    print(took, error.problems[0])
"""


@pytest.mark.fault(73)
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_refused_in_a_second_and_64_mib(bomb: str) -> None:
    """CPU time, so that other work on the machine does not count."""
    command = [sys.executable, "-c", HARNESS.format(bomb=BOMBS[bomb])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-2000:]
    seconds, _, problem = done.stdout.partition(" ")
    assert float(seconds) < 2
    assert problem.startswith("bomb.yaml:")
    assert len(problem) < 400


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
def test_any_bytes_are_a_document(source: bytes) -> None:
    """Any input gives a document, and what could not be read is in its findings."""
    document = read(source)
    assert isinstance(document, Document)
    assert document.data is not None or document.findings or document.values


PIECES = [
    *"a[]{},'\"|>#%@:~\\",
    "b: ",
    "- ",
    "? ",
    "&x ",
    "*x ",
    "!t ",
    "---",
    "<<: ",
    "1e3",
    "010",
]
ODD = ["\n", "\n  ", "|", "...\n", "\t", "\uff1a", "\xa0", "\ufeff", "\u2028", "\x85", " "]
SOUP = st.lists(st.sampled_from([*PIECES, *ODD]), max_size=40).map("".join)


@given(SOUP)
def test_any_heap_of_punctuation_is_a_document(text: str) -> None:
    """The same for texts that are almost YAML."""
    assert isinstance(read(text), Document)
