"""Windows across midnight and both changes of daylight saving; no test waits."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import TZPATH, ZoneInfo

import pytest

from cluster.common.errors import UsageError
from cluster.spec import window
from cluster.spec.window import Window, WindowError, date_at, start_key, zone_of
from tests.conftest import need

BERLIN = "Europe/Berlin"
NIGHT = Window.parse("22:00-06:00", BERLIN)
HOUR = 3600.0


def at(text: str) -> float:
    """An instant, written with its offset from UTC."""
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("now", "closes"),
    [
        ("2026-07-01T21:59:59+02:00", None),
        ("2026-07-01T22:00:00+02:00", "2026-07-02T06:00:00+02:00"),
        ("2026-07-02T00:00:00+02:00", "2026-07-02T06:00:00+02:00"),
        ("2026-07-02T05:59:59+02:00", "2026-07-02T06:00:00+02:00"),
        ("2026-07-02T06:00:00+02:00", None),
        ("2026-07-02T12:00:00+02:00", None),
    ],
)
def test_a_window_is_open_across_midnight(now: str, closes: str | None) -> None:
    """From its opening to before its closing."""
    assert NIGHT.closes_at(at(now)) == (None if closes is None else at(closes))


def test_a_window_by_day_opens_and_closes_on_one_date() -> None:
    """It does not reach into the next."""
    day = Window.parse("08:00-18:00", BERLIN)
    assert day.closes_at(at("2026-07-01T17:59:00+02:00")) == at("2026-07-01T18:00:00+02:00")
    assert day.closes_at(at("2026-07-02T07:59:00+02:00")) is None


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-27", 8), ("2026-03-28", 7), ("2026-10-24", 9), ("2026-10-25", 8)]
)
def test_a_night_ends_by_the_clock_on_the_wall(day: str, hours: int) -> None:
    """It is an hour shorter in spring and an hour longer in autumn."""
    night = date.fromisoformat(day)
    assert NIGHT.closing(night) - NIGHT.opening(night) == hours * HOUR


@pytest.mark.fault(34)
def test_a_time_that_comes_twice_opens_once() -> None:
    """02:30 is at 00:30 and at 01:30 UTC on 2026-10-25: both starts are of one date."""
    window = Window.parse("02:30-05:00", BERLIN)
    first, second = at("2026-10-25T02:30+02:00"), at("2026-10-25T02:30+01:00")
    assert second - first == HOUR
    assert window.opening(date(2026, 10, 25)) == first
    assert window.date_of(first) == window.date_of(second) == date(2026, 10, 25)
    key = start_key("abc", window.date_of(first))
    assert key == start_key("abc", window.date_of(second))
    assert key != start_key("abc", date(2026, 10, 26))
    assert key != start_key("abd", date(2026, 10, 25))


def test_a_time_that_is_skipped_opens_an_hour_later_by_the_clock() -> None:
    """02:30 is skipped on 2026-03-29; the window opens at 03:30, once."""
    window = Window.parse("02:30-05:00", BERLIN)
    assert window.opening(date(2026, 3, 29)) == at("2026-03-29T03:30+02:00")
    assert window.closes_at(at("2026-03-29T03:29+02:00")) is None
    assert window.closes_at(at("2026-03-29T03:30+02:00")) == at("2026-03-29T05:00+02:00")


def test_a_window_that_the_clocks_skip_is_not_open_that_day() -> None:
    """Its opening is read as 03:15, after its closing at 03:10."""
    window = Window.parse("02:15-03:10", BERLIN)
    minute = timedelta(minutes=1).total_seconds()
    begin = at("2026-03-29T00:00+01:00")
    assert all(window.closes_at(begin + minute * k) is None for k in range(23 * 60))


@pytest.mark.fault(35)
def test_a_late_start_belongs_to_the_opening_it_missed() -> None:
    """The machine was off: a start in the morning belongs to that night, up to the next opening."""
    assert NIGHT.date_of(at("2026-07-02T09:00+02:00")) == date(2026, 7, 1)
    assert NIGHT.date_of(at("2026-07-02T21:59:59+02:00")) == date(2026, 7, 1)
    assert NIGHT.date_of(at("2026-07-02T22:00:00+02:00")) == date(2026, 7, 2)


def test_dates_and_openings_agree_over_a_year() -> None:
    """Every hour of a year lies between the opening of its date and the next one."""
    now, end = at("2026-01-01T00:00+01:00"), at("2027-01-01T00:00+01:00")
    while now < end:
        opened, following = NIGHT.opening(NIGHT.date_of(now)), NIGHT.next_opening(now)
        assert opened <= now < following
        assert 23 * HOUR <= following - opened <= 25 * HOUR
        now += HOUR


@pytest.mark.parametrize(
    "text", ["", "22:00", "22-06", "24:00-06:00", "22:60-06:00", "22:00-22:00", "2:00-06:00"]
)
def test_what_is_no_window_is_refused(text: str) -> None:
    """The error has an example."""
    with pytest.raises(WindowError):
        Window.parse(text, BERLIN)


@pytest.mark.parametrize(
    "zone", ["", "Europe/Nowhere", "../etc/passwd", "/etc/localtime", "Europe"]
)
def test_a_zone_that_nobody_knows_is_refused(zone: str) -> None:
    """Not even by a path."""
    with pytest.raises(WindowError, match="unknown time zone"):
        Window.parse("22:00-06:00", zone)


def test_the_zone_is_the_one_that_was_named() -> None:
    """The same wall-clock time in another zone is another instant."""
    tokyo = Window.parse("22:00-06:00", "Asia/Tokyo")
    assert tokyo.zone == ZoneInfo("Asia/Tokyo")
    assert tokyo.opening(date(2026, 7, 1)) == at("2026-07-01T22:00+09:00")


def test_without_a_name_the_zone_is_the_machine_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is /etc/localtime and not TZ, which cron does not set; without that file it is UTC."""
    found = [tokyo for folder in TZPATH if (tokyo := Path(folder, "Asia", "Tokyo")).exists()]
    need(found, "the tz database: apt install tzdata")
    place = tmp_path / "zoneinfo" / "Asia" / "Tokyo"
    place.parent.mkdir(parents=True)
    place.write_bytes(found[0].read_bytes())
    local = tmp_path / "localtime"
    local.symlink_to(place)
    monkeypatch.setattr(window, "_LOCALTIME", str(local))
    monkeypatch.setenv("TZ", "Europe/Berlin")
    night = Window.parse("22:00-06:00", None)
    assert night.opening(date(2026, 7, 1)) == at("2026-07-01T22:00+09:00")
    assert str(night) == "22:00-06:00 (Asia/Tokyo)"
    local.unlink()
    assert str(zone_of(None)) == "UTC"


@pytest.mark.parametrize(
    "zone", ["UTC", "Europe/Berlin", "Pacific/Kiritimati", "Pacific/Pago_Pago"]
)
def test_a_clock_at_the_end_of_all_dates_has_a_window_or_a_word(zone: str) -> None:
    """Up to the last nights of 9999 there is a date; beyond, the clock is reported as wrong."""
    night = Window.parse("22:00-06:00", zone)
    for day in (datetime(9998, 12, 31, 23, tzinfo=UTC), datetime(9999, 12, 28, 12, tzinfo=UTC)):
        now = day.timestamp()
        assert night.local(night.next_opening(now)).partition(" ")[2].startswith("22:00")
        assert (night.closes_at(now) or now + 1) > now
    for seconds in (datetime(9999, 12, 31, 23, tzinfo=UTC).timestamp(), 1e12, -1e12, float("nan")):
        with pytest.raises(UsageError, match="clock"):
            night.closes_at(seconds)
        with pytest.raises(UsageError, match="clock"):
            date_at(seconds)
