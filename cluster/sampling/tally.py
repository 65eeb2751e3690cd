"""Mergeable statistics: what a kernel returns for a block, and the estimates made from it.

Merging is exact integer arithmetic, so neither the order nor the partition of the blocks matters:
counts are integers, and a sum of floats is stored as an integer multiple of a power of two.
"""

from __future__ import annotations

import math
import operator
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

from cluster.sampling.quantiles import normal_z, student_t

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

# Every finite double is an integer multiple of 2**-1074, and a product of two is one of 2**-2148.
_SUM_BITS = 1074
_SQUARES_BITS = 2 * _SUM_BITS
# Values are scaled by this power of two where their squares would overflow or underflow.
_RESCALED = 600
# Rows of this many columns are added elementwise, which fixes the order of every float addition
# whatever vector instructions numpy uses; the column sums are then added exactly by fsum.
_COLUMNS = 256
# Larger than any count that a run can reach: rejects forged or broken counts before merging.
_SAMPLES_LIMIT = 1 << 127

# What a precision target may limit, in the order of ``Estimate.measures``.
MEASURES = ("half_width", "rel_error", "std_error")


class TallyError(ValueError):
    """An impossible tally: rejected where it is made, and again where it is received."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its statistical error.

    Attributes:
        value: the scaled estimate; a tuple with one element per bin for a Histogram.
        std_error: standard error of ``value``, in its unit and shape.
        low, high: ends of the confidence interval, in the same unit and shape.
        confidence: coverage probability of the interval, between 0 and 1.
        half: half the width of the interval before its ends were rounded to doubles: beside a
            large value the rounded ends keep few digits of it. None: (high - low) / 2.
    """

    value: float | tuple[float, ...]
    std_error: float | tuple[float, ...]
    low: float | tuple[float, ...]
    high: float | tuple[float, ...]
    confidence: float
    half: float | None = None

    @property
    def half_width(self) -> float:
        """Half the width of the interval; of the widest bin of a histogram."""
        if self.half is not None:
            return _worst([self.half])
        pairs = zip(_each(self.low), _each(self.high), strict=True)
        return _worst((high - low) / 2 for low, high in pairs)

    @property
    def rel_error(self) -> float:
        """Standard error / abs(estimate), infinite at zero; of the worst bin of a histogram."""
        pairs = zip(_each(self.value), _each(self.std_error), strict=True)
        return _worst(error / abs(value) if value else math.inf for value, error in pairs)

    @property
    def worst_std_error(self) -> float:
        """Standard error; of the worst bin of a histogram."""
        return _worst(_each(self.std_error))

    @property
    def measures(self) -> tuple[float, float, float]:
        """The values of ``MEASURES``, in that order."""
        return self.half_width, self.rel_error, self.worst_std_error


class Tally(ABC):
    """Base class of the tallies. ``samples`` counts every draw, hit or not."""

    kind: ClassVar[str]
    samples: int

    def check_like(self, other: Tally) -> None:
        """Check that the two can be merged.

        Raises:
            TallyError: they are of different kinds, or histograms with different edges.
        """
        if type(self) is not type(other):
            raise TallyError(f"{self.kind} and {other.kind} do not add up")

    @abstractmethod
    def merge(self, other: Self) -> Self:
        """The tally of both sets of samples together: exact, commutative and associative."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """A JSON-safe mapping with ``kind``; :func:`from_json` restores an equal tally from it."""

    @abstractmethod
    def estimate(self, confidence: float, scale: float = 1, offset: float = 0) -> Estimate:
        """``offset + scale * x`` with its error, x being what this kind of tally estimates.

        Args:
            confidence: level of the interval, between 0 and 1.
            scale: a finite number; a negative one swaps the ends of the interval.
            offset: a finite number.
        """

    @abstractmethod
    def scarce(self, *, plain: bool) -> int | None:
        """How often the rarest event was seen; None if the estimate does not depend on one.

        A precision target is not judged on too few events.

        Args:
            plain: the target limits the plain standard error, which is zero if an event was
                never seen, or always; an interval is judged otherwise.
        """


@dataclass(frozen=True, slots=True)
class Hits(Tally):
    """How many of ``samples`` draws hit. Estimates the hit probability.

    Standard error: sqrt(p (1 - p) / n). Interval: the score interval without continuity
    correction (Wilson, J. Amer. Statist. Assoc. 22 (1927) 209); it lies inside [0, 1] and has a
    positive width even at zero hits.
    """

    hits: int
    samples: int
    kind: ClassVar[str] = "hits"

    def __post_init__(self) -> None:
        object.__setattr__(self, "hits", _count(self.hits, "hits"))
        object.__setattr__(self, "samples", _count(self.samples, "samples"))
        if self.hits > self.samples:
            raise TallyError(f"{self.hits} hits in {self.samples} samples: more hits than samples")

    def merge(self, other: Hits) -> Hits:
        self.check_like(other)
        return Hits(self.hits + other.hits, self.samples + other.samples)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "hits": self.hits, "samples": self.samples}

    def estimate(self, confidence: float, scale: float = 1, offset: float = 0) -> Estimate:
        p, error, low, high = _proportion(self.hits, self.samples, confidence)
        return _scaled(Estimate(p, error, low, high, confidence), scale, offset)

    def scarce(self, *, plain: bool) -> int:
        return min(self.hits, self.samples - self.hits) if plain else self.hits


@dataclass(frozen=True, slots=True)
class Moments(Tally):
    """Sum and sum of squares of ``samples`` values. Estimates their mean.

    Interval: Student's t with n - 1 degrees of freedom, from the moments of all samples.

    Attributes:
        total: the sum, an integer in units of 2**-1074.
        squares: the sum of squares, an integer in units of 2**-2148.
        samples: the number of values.
    """

    total: int
    squares: int
    samples: int
    kind: ClassVar[str] = "moments"

    def __post_init__(self) -> None:
        for name in ("total", "squares"):
            object.__setattr__(self, name, _integer(getattr(self, name), name))
        object.__setattr__(self, "samples", _count(self.samples, "samples"))
        # Cauchy-Schwarz: n * squares >= total**2 for any real numbers. ``of`` rounds such that
        # this holds exactly, and exact merging preserves it; so a violation is never rounding.
        spread = self.samples * self.squares - self.total**2
        if spread < 0 or (self.samples < 2 and spread) or (self.squares and not self.samples):
            raise TallyError("a negative variance: the sums belong to no set of values")

    @classmethod
    def of(cls, values: ArrayLike) -> Moments:
        """The moments of a 1-d array of floats, one value per sample.

        Corrected two-pass algorithm (Chan, Golub & LeVeque, The American Statistician 37 (1983)
        242): the values are shifted by their mean c. With d = x - c, the sums of d and d**2 are
        rounded, in an order that does not depend on the vector unit; then
        sum(x) = n c + sum(d) and sum(x**2) = n c**2 + 2 c sum(d) + sum(d**2) are formed exactly.
        So neither a large mean nor the number of blocks costs digits of the variance.

        Values whose squares overflow or underflow (above 1e154, below 1e-154) are rescaled first.

        Raises:
            TallyError: the array is not 1-d, is empty, or holds something other than finite real
                numbers.
        """
        import numpy as np

        array = _vector(values)
        count = array.size
        if not count:
            raise TallyError("no values: a block has one value per sample")
        # Overflows and NaNs are handled below.
        with np.errstate(over="ignore", invalid="ignore"):
            centre = _ordered_sum(array) / count
            deviations = array - centre
            first, second = _ordered_sum(deviations), _ordered_sum(deviations * deviations)
        if not (math.isfinite(centre) and math.isfinite(second)):
            _check_finite(array)
            small = cls.of(np.ldexp(array, -_RESCALED))
            return cls(small.total << _RESCALED, small.squares << 2 * _RESCALED, count)
        c, d1 = _units(centre), _units(first)
        # Cauchy-Schwarz again, for d: rounding or underflow may have violated it.
        d2 = max(_square_units(deviations, second), -(-d1 * d1 // count))
        return cls(count * c + d1, count * c * c + 2 * c * d1 + d2, count)

    @property
    def mean(self) -> float:
        """The mean, correctly rounded; NaN if there are no samples."""
        return _ratio(self.total, self.samples << _SUM_BITS)

    @property
    def variance(self) -> float:
        """The sample variance (divided by n - 1), correctly rounded; NaN for fewer than 2."""
        n = self.samples
        if n < 2:
            return math.nan
        return _ratio(n * self.squares - self.total**2, n * (n - 1) << _SQUARES_BITS)

    def merge(self, other: Moments) -> Moments:
        self.check_like(other)
        return Moments(
            self.total + other.total, self.squares + other.squares, self.samples + other.samples
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "samples": self.samples,
            "sum": _to_hex(self.total, _SUM_BITS),
            "sum_squares": _to_hex(self.squares, _SQUARES_BITS),
        }

    @property
    def _spread(self) -> int:
        """Exactly n (n - 1) times the sample variance, in units of 2**-2148."""
        return self.samples * self.squares - self.total**2

    def estimate(self, confidence: float, scale: float = 1, offset: float = 0) -> Estimate:
        n = self.samples
        if not n:
            return Estimate(math.nan, math.nan, math.nan, math.nan, confidence)
        # In exact fractions, rounded once at the end: intermediate values may exceed a double's
        # range, and the half width may be far below the last digit of the mean.
        mean = Fraction(self.total, n << _SUM_BITS) * Fraction(scale) + Fraction(offset)
        value = _ratio(mean.numerator, mean.denominator)
        if n < 2:
            return Estimate(value, math.nan, -math.inf, math.inf, confidence)
        root = _root(self._spread, n * n * (n - 1)) * abs(Fraction(scale)) / (1 << _SUM_BITS)
        half = root * Fraction(student_t(confidence, n - 1))
        ends = (_double(mean - half), _double(mean + half))
        return _apart(Estimate(value, _size(root), *ends, confidence, _size(half)))

    def scarce(self, *, plain: bool) -> int | None:
        # Samples that are all equal show no spread, which tells as little as no hits do.
        return None if self._spread > 0 and self.samples > 1 else 0


@dataclass(frozen=True, slots=True)
class Histogram(Tally):
    """Counts of values in bins, as ``np.histogram`` has them. Estimates each bin's probability.

    Interval: Wilson's (see :class:`Hits`) for each bin by itself, not simultaneous over the bins.

    Attributes:
        edges: n + 1 increasing bin edges; a bin is [low, high), the last one [low, high]. The
            first may be -inf and the last inf: the outer bins are then unbounded.
        counts: n counts, as a list or as the array that ``np.histogram`` returns.
        underflow, overflow: number of values below the first and above the last edge; they count
            as samples, and belong to no bin.
        samples: the number of values.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    underflow: int
    overflow: int
    samples: int
    kind: ClassVar[str] = "histogram"

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", _edges(self.edges))
        object.__setattr__(self, "counts", _counts(self.counts))
        for name in ("underflow", "overflow", "samples"):
            object.__setattr__(self, name, _count(getattr(self, name), name))
        if len(self.counts) != len(self.edges) - 1:
            raise TallyError(f"{len(self.counts)} counts for {len(self.edges)} edges")
        if sum(self.counts) + self.underflow + self.overflow != self.samples:
            raise TallyError(f"the counts do not add up to the {self.samples} samples")

    @classmethod
    def of(cls, values: ArrayLike, edges: ArrayLike) -> Histogram:
        """Bin a 1-d array of values, one per sample.

        Raises:
            TallyError: the array is not 1-d or holds something other than real numbers, or the
                edges do not increase.
        """
        import numpy as np

        array, limits = _vector(values), _edges(edges)
        if np.isnan(array).any():
            raise TallyError("the values hold a NaN")
        counts, _ = np.histogram(array, bins=np.asarray(limits))
        under = int(np.count_nonzero(array < limits[0]))
        over = int(np.count_nonzero(array > limits[-1]))
        return cls(limits, tuple(counts.tolist()), under, over, array.size)

    def check_like(self, other: Tally) -> None:
        # Not super(): dataclass(slots=True) builds a new class, and super() refers to the old one.
        Tally.check_like(self, other)
        if isinstance(other, Histogram) and self.edges != other.edges:
            raise TallyError("histograms of different edges do not add up")

    def merge(self, other: Histogram) -> Histogram:
        self.check_like(other)
        return Histogram(
            self.edges,
            tuple(map(operator.add, self.counts, other.counts)),
            self.underflow + other.underflow,
            self.overflow + other.overflow,
            self.samples + other.samples,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "samples": self.samples,
            "edges": [edge if math.isfinite(edge) else str(edge) for edge in self.edges],
            "counts": list(self.counts),
            "underflow": self.underflow,
            "overflow": self.overflow,
        }

    def estimate(self, confidence: float, scale: float = 1, offset: float = 0) -> Estimate:
        bins = [_proportion(count, self.samples, confidence) for count in self.counts]
        value, error, low, high = zip(*bins, strict=True)
        return _scaled(Estimate(value, error, low, high, confidence), scale, offset)

    def scarce(self, *, plain: bool) -> int | None:
        return min(self.counts) if plain else None


def from_json(data: object) -> Tally:
    """The tally from the mapping that ``to_json`` made; untrusted input is fully validated.

    Raises:
        TallyError: an unknown kind, a missing or unknown key, or an impossible tally.
    """
    if not isinstance(data, Mapping):
        raise TallyError(f"a tally must be a mapping, got {type(data).__name__}")
    fields = {key: value for key, value in data.items() if key != "kind"}
    match data.get("kind"), sorted(fields, key=str):
        case "hits", ["hits", "samples"]:
            return Hits(**fields)
        case "moments", ["samples", "sum", "sum_squares"]:
            total = _from_hex(fields["sum"], _SUM_BITS)
            return Moments(total, _from_hex(fields["sum_squares"], _SQUARES_BITS), data["samples"])
        case "histogram", ["counts", "edges", "overflow", "samples", "underflow"]:
            return Histogram(**{**fields, "edges": _read_edges(fields["edges"])})
    raise TallyError(f"not a tally: kind {data.get('kind')!r} with keys {[*fields]}")


def merged(tallies: Iterable[Tally]) -> Tally | None:
    """The tallies merged into one; None if there are none.

    Raises:
        TallyError: they are of different kinds, or histograms with different edges.
    """
    total: Tally | None = None
    for tally in tallies:
        total = tally if total is None else total.merge(tally)
    return total


def _integer(value: object, name: str) -> int:
    # operator.index accepts numpy's integers and rejects floats, but it accepts bools.
    if isinstance(value, bool):
        raise TallyError(f"{name} must be an integer, got {value!r}")
    try:
        return operator.index(cast("Any", value))
    except TypeError:
        raise TallyError(f"{name} must be an integer, got {value!r}") from None


def _count(value: object, name: str) -> int:
    number = _integer(value, name)
    if not 0 <= number < _SAMPLES_LIMIT:
        raise TallyError(f"{name} must be at least 0 and below 2**127, got {number}")
    return number


def _counts(counts: Any) -> tuple[int, ...]:
    # np.histogram returns an array; with density or weights its elements are floats, which
    # _count rejects.
    listed = counts.tolist() if hasattr(counts, "tolist") and hasattr(counts, "ndim") else counts
    if not isinstance(listed, list | tuple):
        raise TallyError(f"counts must be a list or a 1-d array, got {type(counts).__name__}")
    return tuple(_count(count, "a count") for count in listed)


def _vector(values: ArrayLike) -> NDArray[np.float64]:
    import numpy as np

    array = np.asarray(values)
    if array.ndim != 1:
        raise TallyError(f"values must be 1-d, one per sample, got shape {array.shape}")
    if array.dtype.kind not in "fiub":
        raise TallyError(f"values must be real numbers, got dtype {array.dtype}")
    return array.astype(np.float64, copy=False)


def _edges(edges: ArrayLike | Sequence[object]) -> tuple[float, ...]:
    try:
        limits = tuple(map(_real, cast("Iterable[object]", edges)))
    except (TypeError, OverflowError):
        raise TallyError("edges must be a list of numbers") from None
    rising = all(map(operator.lt, limits, limits[1:]))
    if len(limits) < 2 or not rising or not all(map(math.isfinite, limits[1:-1])):
        raise TallyError(
            "edges must be two or more numbers in increasing order; only the first may be -inf, "
            "and only the last inf"
        )
    return limits


def _read_edges(edges: object) -> object:
    """Edges as ``to_json`` writes them: infinite ends are text, since JSON has no infinity."""
    if not isinstance(edges, list | tuple) or len(edges) < 2:
        return edges
    first = -math.inf if edges[0] == "-inf" else edges[0]
    last = math.inf if edges[-1] == "inf" else edges[-1]
    return (first, *edges[1:-1], last)


def _real(value: object) -> float:
    # float() would also accept text and bools.
    if isinstance(value, bool | str | bytes):
        raise TypeError
    return float(cast("Any", value))


def _ordered_sum(array: NDArray[np.float64]) -> float:
    """The sum with a fixed order of additions (see ``_COLUMNS``); NaN if it overflows."""
    # The rows are added one after the other: numpy reduces the outer axis elementwise.
    whole = array.size - array.size % _COLUMNS
    columns = array[:whole].reshape(-1, _COLUMNS).sum(axis=0)
    try:
        return math.fsum((*columns.tolist(), *array[whole:].tolist()))
    except (OverflowError, ValueError):
        return math.nan


def _units(value: float) -> int:
    """A finite double as an integer in units of 2**-1074, exactly."""
    # The denominator is a power of two of at most 2**1074.
    numerator, denominator = value.as_integer_ratio()
    return numerator << (_SUM_BITS - denominator.bit_length() + 1)


def _ratio(numerator: int, denominator: int) -> float:
    """The quotient, correctly rounded; NaN for a zero denominator, infinite on overflow."""
    try:
        return numerator / denominator if denominator else math.nan
    except OverflowError:
        return math.inf if numerator > 0 else -math.inf


def _double(number: Fraction) -> float:
    return _ratio(number.numerator, number.denominator)


def _size(error: Fraction) -> float:
    """An error as a double; a positive one never becomes zero, which would claim exactness."""
    return max(_double(error), math.ulp(0.0)) if error else 0.0


def _root(numerator: int, denominator: int) -> Fraction:
    """The square root of a fraction, to 64 bits or more."""
    shift = max(0, 128 + denominator.bit_length() - numerator.bit_length())
    shift += shift % 2
    return Fraction(math.isqrt((numerator << shift) // denominator), 1 << shift // 2)


def _check_finite(array: NDArray[np.float64]) -> None:
    """Raise TallyError if a value is NaN or infinite, with the index of the first one."""
    import numpy as np

    for what, found in (("a NaN", np.isnan(array)), ("an infinity", np.isinf(array))):
        if found.any():
            raise TallyError(f"the values hold {what}, first at sample {int(found.argmax())}")


def _square_units(deviations: NDArray[np.float64], second: float) -> int:
    """The sum of the squares of deviations, in units of 2**-2148.

    Args:
        deviations: the values minus their mean, shape (n,).
        second: that sum in double precision; if it is subnormal it has lost digits, and is
            computed again from rescaled deviations.
    """
    import numpy as np

    if second >= deviations.size * sys.float_info.min or not deviations.any():
        return _units(second) << (_SQUARES_BITS - _SUM_BITS)
    exact = _units(_ordered_sum(np.square(np.ldexp(deviations, _RESCALED))))
    return -(-exact >> 2 * _RESCALED - (_SQUARES_BITS - _SUM_BITS))


def _to_hex(number: int, bits: int) -> str:
    """``number * 2**-bits`` as a hexadecimal float of any length, as in ``0x3p-1``."""
    # Without trailing zero bits, so that equal numbers have equal texts.
    zeros = (number & -number).bit_length() - 1 if number else bits
    return f"{number >> zeros:#x}p{zeros - bits:+d}"


def _from_hex(text: object, bits: int) -> int:
    """The inverse of :func:`_to_hex`; TallyError for any other text."""
    mantissa, mark, exponent = text.partition("p") if isinstance(text, str) else ("", "", "")
    try:
        shift = int(exponent) + bits
        number = int(mantissa, 16)
    except ValueError:
        raise TallyError(f"not an exact sum: {text!r:.80}") from None
    # A double is below 2**1024, so a sum of at most 2**127 squares is below 2**(2048 + 127).
    # Without this limit a short text such as "0x1p999999999" would fill the memory.
    if not mark or not 0 <= shift <= bits + 2200 or number.bit_length() > 2 * bits + 2200:
        raise TallyError(f"not an exact sum: {text!r:.80}")
    return number << shift


def _each(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _worst(values: Iterable[float]) -> float:
    """The largest value; a NaN counts as infinite, since an unknown error is not a small one."""
    return max(math.inf if math.isnan(value) else value for value in values)


def _scaled(raw: Estimate, scale: float, offset: float) -> Estimate:
    def place(value: float) -> float:
        return offset + scale * value

    def size(error: float) -> float:
        # Never rounded to zero; 0 * error keeps a NaN.
        return max(abs(scale) * error, math.ulp(0.0)) if error and scale else 0 * error

    low, high = (raw.low, raw.high) if scale >= 0 else (raw.high, raw.low)
    return _apart(
        Estimate(
            _map(place, raw.value),
            _map(size, raw.std_error),
            _map(place, low),
            _map(place, high),
            raw.confidence,
            size(raw.half_width),
        )
    )


def _apart(made: Estimate) -> Estimate:
    """The same estimate, with low < value < high wherever the standard error is positive.

    Beside a large offset or mean the ends may have been rounded to the value itself.
    """
    low, high = made.low, made.high
    if isinstance(made.value, tuple):
        rows = zip(*map(_each, (made.value, made.std_error, low, high)), strict=True)
        low, high = zip(*(_ends_apart(*row) for row in rows), strict=True)
    else:
        low, high = _ends_apart(made.value, made.std_error, low, high)  # type: ignore[arg-type]
    return replace(made, low=low, high=high)


def _ends_apart(value: float, error: float, low: float, high: float) -> tuple[float, float]:
    if not error > 0 or low < value < high:
        return low, high
    return min(low, math.nextafter(value, -math.inf)), max(high, math.nextafter(value, math.inf))


def _map(function: Any, value: float | tuple[float, ...]) -> float | tuple[float, ...]:
    return tuple(map(function, value)) if isinstance(value, tuple) else function(value)


def _proportion(hits: int, samples: int, confidence: float) -> tuple[float, float, float, float]:
    """Hit fraction, its standard error and the ends of Wilson's score interval.

    With p = hits / n the interval is (p + z**2 / 2n) / (1 + z**2 / n) plus and minus
    z sqrt(p (1 - p) / n + z**2 / 4n**2) / (1 + z**2 / n). Without samples: NaN, NaN and [0, 1].
    """
    if not samples:
        return math.nan, math.nan, 0.0, 1.0
    p, z = hits / samples, normal_z(confidence)
    q = (samples - hits) / samples
    slack = z * z / samples
    centre = (p + slack / 2) / (1 + slack)
    half = z * math.sqrt(p * q / samples + slack / samples / 4) / (1 + slack)
    # Exactly 0 and 1 at the extremes, where rounding would leave centre and half slightly apart.
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    high = 1.0 if hits == samples else min(1.0, centre + half)
    return p, math.sqrt(p * q / samples), low, high
