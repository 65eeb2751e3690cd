"""Add and remove this project's lines in a crontab, between markers; keep every other line.

These functions only edit text. :mod:`cluster.unattended.schedule.cron` runs crontab(1).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from itertools import pairwise

_FIELD = re.compile(r"[0-9A-Za-z*,/-]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NICKNAMES = {
    "@reboot",
    "@yearly",
    "@annually",
    "@monthly",
    "@weekly",
    "@daily",
    "@midnight",
    "@hourly",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# Each field: its name, lowest and highest number, and the names of its values, lowest first.
_FIELDS = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 7, _DAYS),
)
_PART = re.compile(r"(?:\*|([0-9A-Za-z]+)(?:-([0-9A-Za-z]+))?)(?:/([0-9]+))?")
# MAX_COMMAND of Debian's cron (3.0pl1), less the terminator.
_LONGEST = 998


class CrontabError(ValueError):
    """A line that cron could not read, or a crontab whose markers do not match."""


def line(when: str, command: Sequence[str]) -> str:
    """The crontab line that runs a command at a time.

    Args:
        when: five fields, or a nickname such as ``@daily``.
        command: the arguments; the first is an absolute path, because cron's PATH has only two
            directories.

    Raises:
        CrontabError: the time is invalid, or cron cannot run the command as given.
    """
    fields = when.split()
    if when not in _NICKNAMES:
        if not are_five(fields):
            raise CrontabError(f"must be five fields such as '0 22 * * 1-5', got {when!r}")
        check_fields(fields)
    if not command or not command[0].startswith("/"):
        raise CrontabError("the program must be an absolute path")
    if any(not word.isprintable() for word in command):
        raise CrontabError("the command contains a character that cannot be printed")
    # cron turns % into a newline, even inside quotes, and removes one backslash before it.
    quoted = " ".join(map(shlex.quote, command))
    if "\\%" in quoted:
        raise CrontabError("cron cannot pass a backslash before a %")
    made = quoted.replace("%", r"\%")
    if len(made) >= _LONGEST:
        raise CrontabError(
            f"the command must be shorter than {_LONGEST} characters for cron, got {len(made)}"
        )
    return f"{' '.join(fields)} {made}"


def are_five(fields: Sequence[str]) -> bool:
    """Whether there are five fields, by their form; :func:`check_fields` checks the values."""
    return len(fields) == 5 and all(map(_FIELD.fullmatch, fields))


def check_fields(fields: Sequence[str]) -> None:
    """Check that each of five fields has a valid value.

    Raises:
        CrontabError: one has not; the message gives its name and the valid range.
    """
    for text, (name, low, high, names) in zip(fields, _FIELDS, strict=True):
        for part in text.split(","):
            if not _may_be(part, low, high, names):
                context = "" if part == text else f" in {text!r}"
                order = ", and a range must ascend" if "-" in part else ""
                message = f"the {name} must be from {low} to {high}{order}, got {part!r}{context}"
                raise CrontabError(message)


def _may_be(part: str, low: int, high: int, names: Sequence[str]) -> bool:
    """Whether a part of a field is ``*``, a number, a name or a range, with or without a step."""
    found = _PART.fullmatch(part)
    if not found:
        return False
    first, last, step = found.groups()
    if step is not None and int(step) == 0:
        return False
    ends = [_number(word, low, names) for word in (first, last) if word is not None]
    return all(low <= end <= high for end in ends) and ends == sorted(ends)


def _number(word: str, low: int, names: Sequence[str]) -> int:
    """The number that a word means; -1, below every field's range, if it means none."""
    if word.lower() in names:
        return low + list(names).index(word.lower())
    return int(word) if word.isdigit() else -1


def put(crontab: str, name: str, lines: Sequence[str]) -> str:
    """Replace the lines of a schedule in a crontab.

    Args:
        crontab: the text of the whole crontab.
        name: the schedule, which the markers carry.
        lines: its new lines.

    Returns:
        The new text.

    Raises:
        CrontabError: the name is not valid, or a marker is missing.
    """
    block = [_begin(name), *lines, _end(name)]
    others = remove(crontab, name)
    # If the crontab does not end with a newline, its last line would run into our first.
    gap = "" if not others or others.endswith("\n") else "\n"
    return others + gap + "".join(f"{text}\n" for text in block)


def remove(crontab: str, name: str) -> str:
    """Remove the lines of a schedule from a crontab; all others keep their newlines, too.

    Raises:
        CrontabError: a marker is missing. Then it is unknown which lines are ours, so none is
            removed.
    """
    lines = re.findall(r"[^\n]*\n|[^\n]+", crontab)
    # An editor may have converted every line, ours included, to Windows line endings.
    bare = [text.rstrip("\r\n") for text in lines]
    markers = [at for at, text in enumerate(bare) if text in (_begin(name), _end(name))]
    expected = [_begin(name), _end(name)] * (len(markers) // 2)
    if [bare[at] for at in markers] != expected:
        raise CrontabError(f"the markers of {name!r} do not match; fix the crontab by hand")
    ours = {at for first, last in list(pairwise(markers))[::2] for at in range(first, last + 1)}
    return "".join(text for at, text in enumerate(lines) if at not in ours)


def _begin(name: str) -> str:
    return f"# >>> cluster {_checked(name)}"


def _end(name: str) -> str:
    return f"# <<< cluster {_checked(name)}"


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise CrontabError(f"not a valid name for a schedule: {name!r}")
    return name
