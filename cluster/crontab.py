"""Lines of ours in a crontab, between markers; every other line stays as it is. Pure text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from itertools import pairwise

_FIELD = re.compile(r"[0-9A-Za-z*,/-]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NICKNAMES = {"@reboot", "@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight",
              "@hourly"}  # fmt: skip
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
    known = when in _NICKNAMES or (len(fields) == 5 and all(map(_FIELD.fullmatch, fields)))
    if not known:
        raise CrontabError(f"must be five fields such as '0 22 * * 1-5', got {when!r}")
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


def put(crontab: str, name: str, lines: Sequence[str]) -> str:
    """The crontab with lines of ours under a name, in the place of those it had before."""
    block = [_begin(name), *lines, _end(name)]
    return _text([*_others(crontab, name), *block])


def remove(crontab: str, name: str) -> str:
    """The crontab without our lines of that name."""
    return _text(_others(crontab, name))


def _begin(name: str) -> str:
    return f"# >>> cluster {_checked(name)}"


def _end(name: str) -> str:
    return f"# <<< cluster {_checked(name)}"


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise CrontabError(f"no name for a schedule: {name!r}")
    return name


def _others(crontab: str, name: str) -> list[str]:
    """Every line that is not between our markers.

    Raises:
        CrontabError: a marker is missing: what is whose cannot be told, so nothing is touched.
    """
    lines = crontab.split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    marks = [at for at, text in enumerate(lines) if text in (_begin(name), _end(name))]
    wanted = [_begin(name), _end(name)] * (len(marks) // 2)
    if [lines[at] for at in marks] != wanted:
        raise CrontabError(f"the markers of {name!r} do not match; mend the crontab by hand")
    ours = {at for first, last in list(pairwise(marks))[::2] for at in range(first, last + 1)}
    return [text for at, text in enumerate(lines) if at not in ours]


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{text}\n" for text in lines)
