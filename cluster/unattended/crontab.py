"""Lines of ours in a crontab, between markers; every other line stays as it is. Pure text."""

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
# Of each field the name, the lowest and highest number, and the names of those from the lowest on.
_FIELDS = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, _MONTHS),
    ("day of the week", 0, 7, _DAYS),
)
_PART = re.compile(r"(?:\*|([0-9A-Za-z]+)(?:-([0-9A-Za-z]+))?)(?:/([0-9]+))?")
# MAX_COMMAND of cron 3.0pl1, which Debian has, less its end.
_LONGEST = 998


class CrontabError(ValueError):
    """What cannot stand in a crontab, or a crontab whose markers do not match."""


def line(when: str, command: Sequence[str]) -> str:
    """One line: at a time, a command.

    Args:
        when: five fields, or one of cron's own words such as ``@daily``.
        command: its words; the first is an absolute path, for cron's PATH has two folders.

    Raises:
        CrontabError: it cannot be written as a line.
    """
    fields = when.split()
    if when not in _NICKNAMES:
        if not are_five(fields):
            raise CrontabError(f"must be five fields such as '0 22 * * 1-5', got {when!r}")
        check_fields(fields)
    if not command or not command[0].startswith("/"):
        raise CrontabError("the program must be an absolute path")
    if any(not word.isprintable() for word in command):
        raise CrontabError("a word of the command holds a letter that cannot be printed")
    # cron makes a line break of a %, also inside of quotes, and takes one backslash off it.
    quoted = " ".join(map(shlex.quote, command))
    if "\\%" in quoted:
        raise CrontabError("cron cannot pass a backslash before a %")
    made = quoted.replace("%", r"\%")
    if len(made) >= _LONGEST:
        raise CrontabError(f"cron takes {_LONGEST} letters of a command, this one has {len(made)}")
    return f"{' '.join(fields)} {made}"


def are_five(fields: Sequence[str]) -> bool:
    """Whether these look like the fields of a time; :func:`check_fields` sees that they are."""
    return len(fields) == 5 and all(map(_FIELD.fullmatch, fields))


def check_fields(fields: Sequence[str]) -> None:
    """See that five fields are times that there are.

    Raises:
        CrontabError: one is not, with its name and what it may be.
    """
    for text, (name, low, high, names) in zip(fields, _FIELDS, strict=True):
        for part in text.split(","):
            if not _may_be(part, low, high, names):
                said = "" if part == text else f" in {text!r}"
                upwards = ", and a range goes upwards" if "-" in part else ""
                words = f"the {name} must be from {low} to {high}{upwards}, got {part!r}{said}"
                raise CrontabError(words)


def _may_be(part: str, low: int, high: int, names: Sequence[str]) -> bool:
    """Whether a part of a field is ``*``, a number or name, or a range, perhaps with a step."""
    found = _PART.fullmatch(part)
    if not found:
        return False
    first, last, step = found.groups()
    if step is not None and int(step) == 0:
        return False
    ends = [_number(word, low, names) for word in (first, last) if word is not None]
    return all(low <= end <= high for end in ends) and ends == sorted(ends)


def _number(word: str, low: int, names: Sequence[str]) -> int:
    """What a word stands for; of one that stands for nothing, a number below all."""
    if word.lower() in names:
        return low + list(names).index(word.lower())
    return int(word) if word.isdigit() else -1


def put(crontab: str, name: str, lines: Sequence[str]) -> str:
    """The crontab with lines of ours under a name, in the place of those it had before."""
    block = [_begin(name), *lines, _end(name)]
    others = remove(crontab, name)
    # Without a line break at its end, the last line of somebody else would run into ours.
    gap = "" if not others or others.endswith("\n") else "\n"
    return others + gap + "".join(f"{text}\n" for text in block)


def remove(crontab: str, name: str) -> str:
    """The crontab without our lines of that name; every other one stays, its line break too.

    Raises:
        CrontabError: a marker is missing: what is whose cannot be told, so nothing is touched.
    """
    lines = re.findall(r"[^\n]*\n|[^\n]+", crontab)
    # An editor may have given all lines the line breaks of Windows, ours among them.
    bare = [text.rstrip("\r\n") for text in lines]
    marks = [at for at, text in enumerate(bare) if text in (_begin(name), _end(name))]
    wanted = [_begin(name), _end(name)] * (len(marks) // 2)
    if [bare[at] for at in marks] != wanted:
        raise CrontabError(f"the markers of {name!r} do not match; mend the crontab by hand")
    ours = {at for first, last in list(pairwise(marks))[::2] for at in range(first, last + 1)}
    return "".join(text for at, text in enumerate(lines) if at not in ours)


def _begin(name: str) -> str:
    return f"# >>> cluster {_checked(name)}"


def _end(name: str) -> str:
    return f"# <<< cluster {_checked(name)}"


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise CrontabError(f"no name for a schedule: {name!r}")
    return name
