"""The hours in which a scheduled run may work, and the date that a start belongs to.

The current time is always an argument: nothing here reads the clock. Instants are seconds since
the epoch.

A window is a pair of wall-clock times in a time zone. Each calendar date has one window, which
opens on it, and closes on the next date if it crosses midnight.

When clocks change: an ambiguous time is the first of the two; a skipped time is read with the
offset before the gap, so 02:30 means 03:30 (RFC 5545, section 3.3.5). So every date has exactly
one opening, and the window from 22:00 to 06:00 has seven hours in spring and nine in autumn. A
window that would then close before it opens, such as 02:30-03:15, is empty on that date.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from cluster.common.canonical import sha256
from cluster.common.errors import UsageError

_TIME = r"([01][0-9]|2[0-3]):([0-5][0-9])"
_WINDOW = re.compile(rf"{_TIME} ?- ?{_TIME}")
_DAY = timedelta(days=1)
_LOCALTIME = "/etc/localtime"
# Keeps the dates before and after any instant, in any time zone, within what datetime supports.
_FIRST = datetime(1, 1, 4, tzinfo=UTC).timestamp()
_LAST = datetime(9999, 12, 29, tzinfo=UTC).timestamp()


class WindowError(ValueError):
    """A text that is not a window, or an unknown time zone.

    Attributes:
        fix: how to fix it, or None.
    """

    def __init__(self, message: str, fix: str | None = None) -> None:
        super().__init__(message)
        self.fix = fix


@dataclass(frozen=True)
class Window:
    """Opening and closing time of each date, and their time zone."""

    opens: time
    closes: time
    zone: ZoneInfo

    def __str__(self) -> str:
        return f"{self.opens:%H:%M}-{self.closes:%H:%M} ({self.zone.key or 'local time'})"

    @classmethod
    def parse(cls, text: str, zone: str | None) -> Window:
        """Read ``22:00-06:00``.

        Args:
            text: the two times.
            zone: a name of the tz database, such as ``Europe/Berlin``; None: the machine's own.

        Raises:
            WindowError: the text is not a window, or the time zone is unknown.
        """
        found = _WINDOW.fullmatch(text)
        if not found:
            raise WindowError(f"must be a window such as 22:00-06:00, got {text!r}")
        hour, minute, last_hour, last_minute = map(int, found.groups())
        opens, closes = time(hour, minute), time(last_hour, last_minute)
        if opens == closes:
            raise WindowError(f"a window must not close at the time it opens, got {text!r}")
        return cls(opens, closes, zone_of(zone))

    def opening(self, day: date) -> float:
        """When the window of a date opens."""
        return _instant(day, self.opens, self.zone)

    def closing(self, day: date) -> float:
        """When the window of a date closes; may be before its opening if the clocks skip hours."""
        after = day + _DAY if self.closes < self.opens else day
        return _instant(after, self.closes, self.zone)

    def date_of(self, now: float) -> date:
        """The scheduled date that a start belongs to: that of the latest opening.

        A start after the window has closed, as when the machine was off, belongs to it too.

        Raises:
            UsageError: the clock is outside the range of dates.
        """
        # From the next date on: if clocks went back over midnight, it may have opened already.
        day = _date(now, self.zone) + _DAY
        while self.opening(day) > now:
            day -= _DAY
        return day

    def closes_at(self, now: float) -> float | None:
        """When the window that is open now closes; None if none is open."""
        closing = self.closing(self.date_of(now))
        return closing if now < closing else None

    def local(self, instant: float) -> str:
        """An instant as date and time in the window's time zone, for messages."""
        return f"{_local(instant, self.zone):%Y-%m-%d %H:%M %Z}"

    def next_opening(self, now: float) -> float:
        """The first opening after now."""
        return self.opening(self.date_of(now) + _DAY)


def zone_of(name: str | None) -> ZoneInfo:
    """A time zone by its name in the tz database; None: the machine's own.

    The machine's is ``/etc/localtime`` regardless of TZ: cron does not set TZ, and a start by
    cron must have the same window as a start by hand.

    Raises:
        WindowError: the name is unknown.
    """
    if name is None:
        return _local_zone()
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        fix = "a name such as Europe/Berlin; a system without any needs the package tzdata"
        raise WindowError(f"unknown time zone {name!r}", fix) from None


def _local_zone() -> ZoneInfo:
    try:
        # Usually a link into the tz database, whose path gives the name.
        place = os.path.realpath(_LOCALTIME)
        with open(place, "rb") as file:
            named = place.partition("/zoneinfo/")[2] or None
            return ZoneInfo.from_file(file, named)
    except (OSError, ValueError):
        return ZoneInfo("UTC")  # as the C library does if /etc/localtime is missing


def start_key(request: str, scheduled: date) -> str:
    """The key of a scheduled start; the same date gives the same key, so it runs only once.

    Args:
        request: the request's key.
        scheduled: the date.
    """
    return sha256({"request": request, "scheduled": scheduled.isoformat()})


def date_at(now: float) -> date:
    """The date of an instant in the machine's own time zone.

    Raises:
        UsageError: the clock is outside the range of dates.
    """
    return _date(now, zone_of(None))


def _date(now: float, zone: ZoneInfo) -> date:
    if not _FIRST < now < _LAST:
        raise UsageError(
            f"this machine's clock is outside the range of dates: {now:.6g} s since 1970",
            fix="set the clock, as with timedatectl",
        )
    return _local(now, zone).date()


def _local(now: float, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(now, UTC).astimezone(zone)


def _instant(day: date, wall: time, zone: ZoneInfo) -> float:
    return datetime.combine(day, wall, zone).timestamp()
