"""Numbers are shown to their error, and can be read back."""

from __future__ import annotations

import math
import re
from decimal import Decimal

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from cluster.report.numbers import (
    count,
    counted,
    duration,
    interval_text,
    number,
    percent,
    rate,
    value_text,
)

FORM = re.compile(r"(-?\d+(?:\.(?:\d{3} )*\d{1,3})?)\((\d+)\)(?:e(-?\d+))?")
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
ERRORS = st.floats(min_value=0, exclude_min=True, allow_infinity=False)


def read(text: str) -> tuple[Decimal, Decimal, Decimal]:
    """Value, error and the unit of the last digit of ``3.141 59(12)e-3``."""
    match = FORM.fullmatch(text)
    assert match, text
    digits = match[1].replace(" ", "")
    power = int(match[3] or 0)
    unit = Decimal(1).scaleb(power - len(digits.partition(".")[2]))
    return Decimal(digits).scaleb(power), int(match[2]) * unit, unit


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (3.14159265, 0.00012, "3.141 59(12)"),
        (-3.14159265, 0.00012, "-3.141 59(12)"),
        (3.14159265, 0.000123456, "3.141 59(12)"),
        (1.234e-12, 5e-15, "1.234 0(50)e-12"),
        (1.234e12, 5e9, "1.234 0(50)e12"),
        (12345.678, 2.3, "12345.7(23)"),
        (3142.1, 12, "3142(12)"),
        (31420, 120, "3.142(12)e4"),
        (0.001, 1.2, "0.0(12)"),
        (-1e-5, 1, "0.0(10)"),
        (0.00012345, 0.0000012, "0.000 123 4(12)"),
        (9.9996, 0.0995, "10.00(10)"),
        (9.9996e-12, 1.2e-13, "1.000(12)e-11"),
        (0, 1e-300, "0.0(10)e-300"),
    ],
)
def test_a_value_ends_at_its_error(value: float, error: float, text: str) -> None:
    """Two digits of the error in parentheses, groups of three, an exponent where it is short."""
    assert value_text(value, error) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.0, 0.0, "0.0(0)"),
        (3.5, 0.0, "3.5(0)"),
        (3.14159, math.nan, "3.14(?)"),
        (3.14159, None, "3.14(?)"),
        (3.14159, math.inf, "3.14(inf)"),
        (math.nan, 1.0, "nan"),
        (math.inf, 1.0, "inf"),
        (-math.inf, math.nan, "-inf"),
        (None, None, "-"),
        (1e300, 1e-300, "1e300 ± 1.0e-300"),
        (0.1, 1e-30, "0.1 ± 1.0e-30"),
    ],
)
def test_odd_values_and_errors_are_named(
    value: float | None, error: float | None, text: str
) -> None:
    """An error that is zero, unknown, infinite or beyond a double's digits is not dressed up."""
    assert value_text(value, error) == text


@given(value=FLOATS, error=ERRORS)
@example(value=9.995, error=0.01)
@example(value=5e-324, error=5e-324)
@example(value=1.7e308, error=1.7e308)
@example(value=-0.0, error=0.5)
def test_a_value_read_back_is_within_half_a_unit(value: float, error: float) -> None:
    """The digits shown are those of the value, rounded once, and of the error to two digits."""
    text = value_text(value, error)
    assume("±" not in text)
    shown, shown_error, unit = read(text)
    assert abs(shown - Decimal(value)) <= unit / 2
    assert abs(shown_error - Decimal(error)) <= unit / 2
    assert 10 <= shown_error / unit <= 99


@given(value=FLOATS, error=ERRORS)
def test_no_digit_is_invented(value: float, error: float) -> None:
    """No more than the 17 digits that a double carries are shown, and none are lost to ``±``."""
    text = value_text(value, error)
    digits = re.sub(r"[^0-9]", "", re.split(r"\(|e| ±", text)[0].lstrip("-0."))
    assert len(digits) <= 17
    if "±" in text:
        assert float(text.partition(" ±")[0].replace(" ", "")) == value


@pytest.mark.parametrize(
    ("low", "high", "error", "text"),
    [
        (3.141351, 3.141829, 0.00012, "3.141 35 to 3.141 83"),
        (0.0, 3.81e-6, 0.0, "0 to 3.81e-6"),
        (-math.inf, math.inf, math.nan, "-inf to inf"),
        (1.0, 1.0, 0.0, "1.0 to 1.0"),
        (-1.26, 1.26, 0.5, "-1.26 to 1.26"),
    ],
)
def test_an_interval_is_as_fine_as_its_error(
    low: float, high: float, error: float, text: str
) -> None:
    """The ends have the digits of the error; of the width, where there is no error."""
    assert interval_text(low, high, error) == text


@given(a=FLOATS, b=FLOATS, error=ERRORS)
def test_a_shown_interval_covers_the_computed_one(a: float, b: float, error: float) -> None:
    """The ends are rounded outwards."""
    low, high = sorted((a, b))
    shown = [Decimal(end.replace(" ", "")) for end in interval_text(low, high, error).split(" to ")]
    assert shown[0] <= Decimal(repr(low))
    assert shown[1] >= Decimal(repr(high))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (3e-7, "0 us"),
        (4.2e-5, "42 us"),
        (0.34, "340 ms"),
        (0.9996, "1.0 s"),
        (3.44, "3.4 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1m 00s"),
        (125, "2m 05s"),
        (3599.7, "1h 00m"),
        (7260, "2h 01m"),
        (86400 * 3 + 4 * 3600, "3d 04h"),
        (math.nan, "-"),
        (math.inf, "-"),
        (-1, "-"),
        (None, "-"),
    ],
)
def test_a_duration_has_the_units_that_matter(seconds: float | None, text: str) -> None:
    """Never sixty seconds or minutes, never a digit nobody needs."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("per_second", "text"),
    [
        (0, "0/s"),
        (0.0123, "0.0123/s"),
        (1, "1.00/s"),
        (12.3, "12.3/s"),
        (999.4, "999/s"),
        (999.6, "1.00 k/s"),
        (1.14e9, "1.14 G/s"),
        (1e25, "1e+07 E/s"),
        (None, "-"),
        (math.nan, "-"),
    ],
)
def test_a_rate_has_three_digits_and_a_prefix(per_second: float | None, text: str) -> None:
    """Rates are comparable at a glance."""
    assert rate(per_second) == text


def test_counts_and_shares() -> None:
    """Thousands are grouped, one thing is singular, what is unknown is a dash."""
    assert (count(10**19), count(None)) == ("10,000,000,000,000,000,000", "-")
    assert (counted(1, "block"), counted(1000, "block")) == ("1 block", "1,000 blocks")
    assert (percent(0.19749), percent(1), percent(None)) == ("19.7 %", "100.0 %", "-")
    assert (number(math.pi), number(10.0), number(None)) == ("3.141 592 653 59", "10", "-")
