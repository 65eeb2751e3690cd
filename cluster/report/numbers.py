"""Numbers as people read them: no digit beyond the error, thousands grouped, SI prefixes."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal

#: What stands where there is no number.
NONE = "-"

# Significant digits that a double can carry: further ones would be invented.
_DIGITS = 17
# A number is written without an exponent when its first digit stands at one of these powers of ten.
_PLAIN = range(-4, 7)
_PREFIXES = ("", " k", " M", " G", " T", " P", " E")


def value_text(value: float | None, error: float | None) -> str:
    """A value with its standard error, and no digit beyond it: ``3.141 59(12)``.

    In parentheses stand two significant digits of the error, in units of the last digit shown;
    digits after the point are grouped by three. ``(?)`` marks an unknown error, ``(inf)`` an
    infinite one, ``(0)`` none. An error too small for a double's digits stands behind ``±``.

    Args:
        value: None where nothing is known, which is shown as ``-``.
        error: its standard error, in the same unit; None or NaN: unknown.
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
    """``low to high``, to the last digit of the error (or of the width, where it is 0 or unknown).

    The ends are rounded outwards: what is shown covers what was computed.
    """
    scale = error if error and math.isfinite(error) else (high - low) / 4
    if not scale or not math.isfinite(scale):
        return f"{_shortest(low)} to {_shortest(high)}"
    unit = _unit(_two_digits(abs(scale)))
    return f"{_end(low, unit, ROUND_FLOOR)} to {_end(high, unit, ROUND_CEILING)}"


def number(value: float | None) -> str:
    """A number that is exact, or has no known error, to twelve significant digits."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return str(value)
    return _written(Decimal(f"{value:.12g}"))


def duration(seconds: float | None) -> str:
    """Seconds, in the two units that matter: ``340 ms``, ``3.4 s``, ``2m 05s``, ``3d 04h``."""
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
    """A count, its thousands grouped: ``1,000,000``."""
    return NONE if n is None else f"{n:,}"


def counted(n: int, noun: str) -> str:
    """A count of things: ``1 block``, ``1,000 blocks``."""
    return f"{count(n)} {noun}{'' if n == 1 else 's'}"


def si(value: float | None) -> str:
    """Three significant digits and an SI prefix: ``1.14 G``."""
    if value is None or not math.isfinite(value):
        return NONE
    power = 0
    while abs(value) >= 999.5 and power < len(_PREFIXES) - 1:
        value, power = value / 1000, power + 1
    # The g format falls into exponents at 1000, and drops the zeros of 1.00.
    plain = 0.9995 <= abs(value) < 999.5
    text = f"{value:#.3g}".rstrip(".") if plain else f"{value:.3g}"
    return f"{text}{_PREFIXES[power]}"


def rate(per_second: float | None) -> str:
    """A rate with its SI prefix: ``1.14 G/s``."""
    text = si(per_second)
    return text if text == NONE else f"{text}/s"


def percent(share: float | None) -> str:
    """A share, 0 to 1, in percent: ``87.5 %``."""
    return NONE if share is None or not math.isfinite(share) else f"{100 * share:.1f} %"


def _with_odd_error(value: float, error: float | None) -> str:
    if error == 0:
        return _written(Decimal(repr(value)), "(0)")
    known = error is not None and not math.isnan(error)
    # With no error to go by, few digits claim little.
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
    # From the shortest text, so that 1.26, which no double is exactly, is not rounded to 1.27.
    return _written(Decimal(repr(value)).quantize(Decimal((0, (1,), unit)), rounding))


def _shortest(value: float) -> str:
    if not value:
        return "0"
    return _written(Decimal(repr(value))) if math.isfinite(value) else str(value)


def _written(number: Decimal, mark: str = "", lead: int | None = None) -> str:
    """A decimal with exactly its digits, a mark behind them, and an exponent where it is short.

    ``lead`` is the power of ten of the first digit to show, where it is not the number's own.
    """
    number = number if number else number.copy_abs()
    lead = number.adjusted() if lead is None else lead
    shift = 0 if _unit(number) <= 0 and lead in _PLAIN else lead
    whole, point, rest = f"{number.scaleb(-shift):f}".partition(".")
    groups = " ".join(rest[at : at + 3] for at in range(0, len(rest), 3))
    return f"{whole}{point}{groups}{mark}{f'e{shift}' if shift else ''}"
