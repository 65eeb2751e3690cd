"""Lines of ours in a crontab: quoted for cron and for the shell, and nobody else's touched."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.unattended.crontab import CrontabError, line, put, remove

OTHERS = "MAILTO=me\n\n# mine\n5 4 * * * /bin/true\n"
WORDS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)


def run_by_cron(text: str) -> bytes:
    """What the command of a line prints, read as cron(8) does: a bare % is a line break."""
    command = text.split(" ", 5)[5]
    shell = ""
    while command:
        taken = 2 if command.startswith("\\%") else 1
        shell += "%" if taken == 2 else "\n" if command[0] == "%" else command[0]
        command = command[taken:]
    bare = {"PATH": "/usr/bin:/bin"}
    return subprocess.run(
        ["/bin/sh", "-c", shell], env=bare, capture_output=True, timeout=20, check=True
    ).stdout


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS, min_size=1, max_size=3))
def test_every_word_arrives_as_it_is(words: list[str]) -> None:
    """Quotes, dollars, semicolons and percent signs have no meaning on the way."""
    command = ["/usr/bin/printf", "%s\\0", *words]
    if any("\\%" in word for word in words):
        with pytest.raises(CrontabError, match="backslash"):
            line("0 22 * * 1-5", command)
        return
    printed = run_by_cron(line("0 22 * * 1-5", command))
    assert printed == b"".join(word.encode() + b"\0" for word in words)


@pytest.mark.parametrize(
    "when",
    [
        "0 22 * * 1-5",
        "*/15 0-6 1,15 * mon",
        "@daily",
        "0-59/5 23 31 DEC 7",
        "59 0 1 jan-mar 0,Mon-Fri",
    ],
)
def test_a_time_of_cron_is_taken(when: str) -> None:
    """Five fields, or one of cron's words."""
    assert line(when, ["/bin/true"]) == f"{when} /bin/true"


@pytest.mark.parametrize("when", ["", "0 22 * *", "0 22 * * 1 root", "0 22 * * $(id)", "@often"])
def test_what_is_no_time_is_refused(when: str) -> None:
    """It could become part of the command."""
    with pytest.raises(CrontabError, match="five fields"):
        line(when, ["/bin/true"])


@pytest.mark.parametrize(
    ("when", "words"),
    [
        ("0 25 * * *", "the hour must be from 0 to 23, got '25'"),
        ("60 * * * *", "the minute must be from 0 to 59, got '60'"),
        ("0 0 0 * *", "the day of the month must be from 1 to 31, got '0'"),
        ("0 0 1,32 * *", "the day of the month must be from 1 to 31, got '32' in '1,32'"),
        ("0 0 * 13 *", "the month must be from 1 to 12, got '13'"),
        ("0 0 * mon *", "the month must be from 1 to 12, got 'mon'"),
        ("0 0 * * 8", "the day of the week must be from 0 to 7, got '8'"),
        (
            "0 0 * * 5-1",
            "the day of the week must be from 0 to 7, and a range must ascend, got '5-1'",
        ),
        ("*/0 0 * * *", "the minute must be from 0 to 59, got '*/0'"),
        ("0 5- * * *", "the hour must be from 0 to 23, and a range must ascend, got '5-'"),
        ("0 ** * * *", "the hour must be from 0 to 23, got '**'"),
    ],
)
def test_a_field_that_is_out_of_range_is_named(when: str, words: str) -> None:
    """Cron itself would say no more than that there is a bad hour, once it is given the crontab."""
    with pytest.raises(CrontabError) as caught:
        line(when, ["/bin/true"])
    assert str(caught.value) == words


@pytest.mark.parametrize("command", [[], ["true"], ["/bin/echo", "a\nb"], ["/bin/echo", "\0"]])
def test_a_command_that_a_line_cannot_hold_is_refused(command: list[str]) -> None:
    """A program that cron would not find, and letters that end the line."""
    with pytest.raises(CrontabError):
        line("@daily", command)


@pytest.mark.parametrize("crontab", ["", OTHERS, OTHERS[:-1]])
def test_putting_twice_is_putting_once_and_removing_leaves_the_rest(crontab: str) -> None:
    """All lines of others stay, in their order."""
    once = put(crontab, "night", ["@daily /bin/a"])
    assert put(once, "night", ["@daily /bin/a"]) == once
    changed = put(once, "night", ["@hourly /bin/b"])
    assert "/bin/a" not in changed
    other = put(changed, "night2", ["@daily /bin/c"])
    assert "/bin/c" in remove(other, "night")
    rest = remove(remove(other, "night"), "night2")
    assert rest == (f"{crontab.removesuffix(chr(10))}\n" if crontab else "")


@pytest.mark.parametrize(
    "crontab",
    ["# >>> cluster night\n5 4 * * * /bin/true\n", "# <<< cluster night\n# >>> cluster night\n"],
)
def test_markers_that_do_not_match_leave_the_crontab_alone(crontab: str) -> None:
    """Else a line of somebody else could be taken away."""
    with pytest.raises(CrontabError, match="by hand"):
        remove(crontab, "night")


def test_a_command_too_long_for_cron_is_refused() -> None:
    """Before cron does, in words that say how long it may be."""
    assert len(line("@daily", ["/bin/" + "x" * 990])) > 990
    with pytest.raises(CrontabError, match="shorter than 998 characters for cron, got 1005"):
        line("@daily", ["/bin/" + "x" * 1000])
