"""Number formatting: no digit beyond the error, grouped thousands, SI prefixes."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

#: Shown in place of a missing number.
NONE = "-"

# Significant digits of a double; further ones would be meaningless.
_DIGITS = 17
# Powers of ten of the first digit for which a number is written without an exponent.
_PLAIN = range(-4, 7)
_PREFIXES = ("", " k", " M", " G", " T", " P", " E")


def value_text(value: float | None, error: float | None) -> str:
    """A value with its standard error, and no digit beyond it: ``3.141 59(12)``.

    The parentheses contain two significant digits of the error, in units of the last digit shown;
    decimals are grouped by three. ``(?)`` marks an unknown error, ``(inf)`` an infinite one, and
    ``(0)`` an exact value. An error below the precision of a double is written after ``±``.

    Args:
        value: the value; None is shown as ``-``.
        error: its standard error, in the same unit; None or NaN if unknown.
    """
    if value is None:
        return NONE
    if not math.isfinite(value):
        return str(value)
    if not error or not math.isfinite(error):
        return _with_odd_error(value, error)
    size = _two_digits(abs(error))
    unit = _unit(size)
    if not _carries(value, unit):
        return f"{_written(Decimal(repr(value)))} ± {_written(size)}"
    shown = Decimal(value).quantize(Decimal((0, (1,), unit)), ROUND_HALF_EVEN)
    digits = "".join(map(str, size.as_tuple().digits))
    return _written(shown, f"({digits})", max(shown.adjusted(), size.adjusted()))


def interval_text(low: float, high: float, error: float | None) -> str:
    """An interval as ``low to high``, rounded outwards so that it covers the computed one.

    Args:
        low: lower end.
        high: upper end.
        error: standard error of the estimate, which sets the number of digits; if it is 0, None or
            not finite, a quarter of the width does.
    """
    # A 95 % interval is about four standard errors wide.
    scale = error if error and math.isfinite(error) else (high - low) / 4
    if not scale or not math.isfinite(scale):
        return f"{_shortest(low)} to {_shortest(high)}"
    unit = _unit(_two_digits(abs(scale)))
    return f"{_end(low, unit, ROUND_FLOOR)} to {_end(high, unit, ROUND_CEILING)}"


def number(value: float | None) -> str:
    """A number without a known error, to twelve significant digits."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return str(value)
    return _written(Decimal(f"{value:.12g}"))


def duration(seconds: float | None) -> str:
    """Seconds in one or two suitable units: ``340 ms``, ``3.4 s``, ``2m 05s``, ``3d 04h``."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return NONE
    if 0 < seconds < 0.9995:
        return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} us"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes:02}m" if hours < 24 else f"{hours // 24}d {hours % 24:02}h"


def count(n: int | None) -> str:
    """A count with grouped thousands: ``1,000,000``."""
    return NONE if n is None else f"{n:,}"


def counted(n: int, noun: str) -> str:
    """A count with its noun: ``1 block``, ``1,000 blocks``."""
    return f"{count(n)} {noun}{'' if n == 1 else 's'}"


def si(value: float | None) -> str:
    """Three significant digits and an SI prefix: ``1.14 G``."""
    if value is None or not math.isfinite(value):
        return NONE
    power = 0
    while abs(value) >= 999.5 and power < len(_PREFIXES) - 1:
        value, power = value / 1000, power + 1
    # Plain "g" drops the zeros of 1.00, and "#.3g" switches to an exponent at 1000.
    plain = 0.9995 <= abs(value) < 999.5
    text = f"{value:#.3g}".rstrip(".") if plain else f"{value:.3g}"
    return f"{text}{_PREFIXES[power]}"


def rate(per_second: float | None) -> str:
    """A rate with its SI prefix: ``1.14 G/s``."""
    text = si(per_second)
    return text if text == NONE else f"{text}/s"


def percent(share: float | None) -> str:
    """A fraction from 0 to 1 in percent: ``87.5 %``."""
    return NONE if share is None or not math.isfinite(share) else f"{100 * share:.1f} %"


def _with_odd_error(value: float, error: float | None) -> str:
    if error == 0:
        return _written(Decimal(repr(value)), "(0)")
    known = error is not None and not math.isnan(error)
    # The error is unknown or infinite, so only few digits can mean anything.
    return _written(Decimal(f"{value:.3g}"), "(inf)" if known else "(?)")


def _two_digits(error: float) -> Decimal:
    return Decimal(f"{Decimal(error):.1e}")


def _unit(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int), "finite numbers only"
    return exponent


def _carries(value: float, unit: int) -> bool:
    """Whether a double has a digit at the power of ten ``unit``."""
    return not value or Decimal(value).adjusted() - unit < _DIGITS


def _end(value: float, unit: int, rounding: str) -> str:
    if not value or not math.isfinite(value) or not _carries(value, unit):
        return _shortest(value)
    # From the shortest repr: 1.26 is no exact double, and its exact value would round up to 1.27.
    return _written(Decimal(repr(value)).quantize(Decimal((0, (1,), unit)), rounding))


def _shortest(value: float) -> str:
    if not value:
        return "0"
    return _written(Decimal(repr(value))) if math.isfinite(value) else str(value)


def _written(number: Decimal, mark: str = "", lead: int | None = None) -> str:
    """A decimal with exactly its digits, in plain or scientific notation.

    Args:
        number: the decimal.
        mark: text after the digits, such as an error in parentheses.
        lead: power of ten of the first digit to show; None: that of the number.
    """
    number = number if number else number.copy_abs()
    lead = number.adjusted() if lead is None else lead
    shift = 0 if _unit(number) <= 0 and lead in _PLAIN else lead
    whole, point, rest = f"{number.scaleb(-shift):f}".partition(".")
    groups = " ".join(rest[at : at + 3] for at in range(0, len(rest), 3))
    return f"{whole}{point}{groups}{mark}{f'e{shift}' if shift else ''}"
