"""Mergeable statistics: what a block returns, how two of them add up, what they estimate.

Merging is exact, in integers, so neither the order nor the partition of the blocks can matter:
counts are integers, and a sum of floats is kept as the integer it is in units of a power of two.
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

# Every finite double is an integer multiple of 2**-1074, every product of two of 2**-2148.
_SUM_BITS = 1074
_SQUARES_BITS = 2 * _SUM_BITS
# Values are squared in these units where their own squares leave the range of the doubles.
_RESCALED = 600
# Rows of this many columns are added elementwise, which fixes the order of every float addition
# whatever vector unit numpy found; the columns are then added exactly by fsum.
_COLUMNS = 256
# Larger than any count of samples that the format allows; refuses nonsense before it is added.
_MOST_SAMPLES = 1 << 127

# What a precision target may ask of an estimate, in the order of ``Estimate.measures``.
MEASURES = ("half_width", "rel_error", "std_error")


class TallyError(ValueError):
    """A tally that cannot be: refused where it is made, and again where it is received."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its error.

    Attributes:
        value: the estimate, scaled; a tuple (one a bin) for a Histogram.
        std_error: standard error of ``value``, in its unit and shape.
        low, high: ends of the confidence interval.
        confidence: the probability with which such intervals cover, 0 to 1.
        half: half the interval as it was computed, before its ends were rounded to doubles, which
            beside a large value have few digits for it; None: as the ends say.
    """

    value: float | tuple[float, ...]
    std_error: float | tuple[float, ...]
    low: float | tuple[float, ...]
    high: float | tuple[float, ...]
    confidence: float
    half: float | None = None

    @property
    def half_width(self) -> float:
        """Half the interval; of the widest bin where there are several."""
        if self.half is not None:
            return _worst([self.half])
        pairs = zip(_each(self.low), _each(self.high), strict=True)
        return _worst((high - low) / 2 for low, high in pairs)

    @property
    def rel_error(self) -> float:
        """Standard error / abs(estimate); of the worst bin; infinite at zero."""
        pairs = zip(_each(self.value), _each(self.std_error), strict=True)
        return _worst(error / abs(value) if value else math.inf for value, error in pairs)

    @property
    def worst_std_error(self) -> float:
        """Standard error; of the worst bin where there are several."""
        return _worst(_each(self.std_error))

    @property
    def measures(self) -> tuple[float, float, float]:
        """What it has of each of ``MEASURES``."""
        return self.half_width, self.rel_error, self.worst_std_error


class Tally(ABC):
    """What all kinds of tally share. ``samples`` counts every draw, hit or not."""

    kind: ClassVar[str]
    samples: int

    def check_like(self, other: Tally) -> None:
        """Raise TallyError unless the two can be merged."""
        if type(self) is not type(other):
            raise TallyError(f"{self.kind} and {other.kind} do not add up")

    @abstractmethod
    def merge(self, other: Self) -> Self:
        """The tally of both sets of samples; exact, commutative and associative."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """A JSON-safe mapping with ``kind``, from which :func:`from_json` makes an equal tally."""

    @abstractmethod
    def estimate(self, confidence: float, scale: float = 1, offset: float = 0) -> Estimate:
        """``offset + scale * x`` with its interval, x being what this kind of tally estimates."""

    @abstractmethod
    def scarce(self, *, plain: bool) -> int | None:
        """How many of the rarest event were seen, or None where no count of events matters.

        A precision target is not judged on too few events. With ``plain`` it is the plain
        standard error that is judged, which is blind to events that were not seen at all.
        """


@dataclass(frozen=True, slots=True)
class Hits(Tally):
    """How many of ``samples`` draws hit. Estimates the hit probability.

    Interval: Wilson, JASA 22 (1927) 209, the score interval without continuity correction; it
    stays inside [0, 1] and has width at zero hits. Standard error: sqrt(p (1 - p) / n).
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

    Attributes:
        total: the sum, an integer in units of 2**-1074.
        squares: the sum of squares, an integer in units of 2**-2148.
        samples: how many values.

    Interval: Student's t over the pooled moments, n - 1 degrees of freedom.
    """

    total: int
    squares: int
    samples: int
    kind: ClassVar[str] = "moments"

    def __post_init__(self) -> None:
        for name in ("total", "squares"):
            object.__setattr__(self, name, _integer(getattr(self, name), name))
        object.__setattr__(self, "samples", _count(self.samples, "samples"))
        # n * squares >= total**2 for every set of numbers, equal for a single one, and ``of``
        # rounds so that it stays so: exact here, and therefore exact in every merge.
        spread = self.samples * self.squares - self.total**2
        if spread < 0 or (self.samples < 2 and spread) or (self.squares and not self.samples):
            raise TallyError("a negative variance: the sums belong to no set of values")

    @classmethod
    def of(cls, values: ArrayLike) -> Moments:
        """The moments of a 1-d array of floats, one value a sample.

        The values are taken about their mean c: with d = x - c, the sums of d and d**2 are
        rounded once, in an order that no vector unit changes, and sum(x) = n c + sum(d) and
        sum(x**2) = n c**2 + 2 c sum(d) + sum(d**2) are then formed exactly. So neither a large
        mean nor the number of blocks costs digits of the variance (Chan, Golub & LeVeque, The
        American Statistician 37 (1983) 242, the corrected two-pass algorithm).

        Where squares leave the range of the doubles, above 1e154 or below 1e-154, they are taken
        in other units.

        Raises:
            TallyError: not 1-d, no values, not real numbers, a NaN or an infinity.
        """
        import numpy as np

        array = _vector(values)
        count = array.size
        if not count:
            raise TallyError("no values: a block has one value a sample")
        # An overflow or a NaN is looked into below.
        with np.errstate(over="ignore", invalid="ignore"):
            centre = _ordered_sum(array) / count
            deviations = array - centre
            first, second = _ordered_sum(deviations), _ordered_sum(deviations * deviations)
        if not (math.isfinite(centre) and math.isfinite(second)):
            _check_finite(array)
            small = cls.of(np.ldexp(array, -_RESCALED))
            return cls(small.total << _RESCALED, small.squares << 2 * _RESCALED, count)
        c, d1 = _units(centre), _units(first)
        # The sum of d**2 is at least sum(d)**2 / n: rounding, or underflow, may have lost that.
        d2 = max(_square_units(deviations, second), -(-d1 * d1 // count))
        return cls(count * c + d1, count * c * c + 2 * c * d1 + d2, count)

    @property
    def mean(self) -> float:
        """The mean, correctly rounded; NaN of no samples."""
        return _ratio(self.total, self.samples << _SUM_BITS)

    @property
    def variance(self) -> float:
        """The sample variance (n - 1 in the denominator), correctly rounded; NaN below 2."""
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
        """N (n - 1) times the sample variance, exactly, in units of 2**-2148."""
        return self.samples * self.squares - self.total**2

    def estimate(self, confidence: float, scale: float = 1, offset: float = 0) -> Estimate:
        n = self.samples
        if not n:
            return Estimate(math.nan, math.nan, math.nan, math.nan, confidence)
        # All of it in fractions, rounded once: a double's range and digits limit nothing before.
        mean = Fraction(self.total, n << _SUM_BITS) * Fraction(scale) + Fraction(offset)
        value = _ratio(mean.numerator, mean.denominator)
        if n < 2:
            return Estimate(value, math.nan, -math.inf, math.inf, confidence)
        root = _root(self._spread, n * n * (n - 1)) * abs(Fraction(scale)) / (1 << _SUM_BITS)
        half = root * Fraction(student_t(confidence, n - 1))
        ends = (_double(mean - half), _double(mean + half))
        return _apart(Estimate(value, _size(root), *ends, confidence, _size(half)))

    def scarce(self, *, plain: bool) -> int | None:
        # Values that were all equal say nothing of the spread: as blind as no hits at all.
        return None if self._spread > 0 and self.samples > 1 else 0


@dataclass(frozen=True, slots=True)
class Histogram(Tally):
    """Counts of values in bins. Estimates each bin's probability; bins are numpy's.

    Attributes:
        edges: n + 1 increasing bin edges; a bin is [low, high), the last one [low, high]. The
            first may be -inf and the last inf: such an open bin is a bin like any other, with
            the probability of all that lies beyond its finite edge.
        counts: n counts, as a list or as the array that np.histogram returns.
        underflow, overflow: values below the first and above the last edge: part of the samples,
            of no bin.

    Interval: Wilson, bin by bin (not simultaneous over the bins).
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
        """Bin a 1-d array of values, one a sample.

        Raises:
            TallyError: not 1-d, not real numbers, a NaN, or edges that do not increase.
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
        # Not super(): a dataclass with slots is another class than the one that super() closes on.
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
    """The tally that ``to_json`` wrote; nothing that arrives is believed.

    Raises:
        TallyError: unknown kind, a key too few or too many, or an impossible tally.
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
    """All of them as one; None where there are none."""
    total: Tally | None = None
    for tally in tallies:
        total = tally if total is None else total.merge(tally)
    return total


def _integer(value: object, name: str) -> int:
    # numpy's integers index; its floats, and Python's bools, must not pass as counts.
    if isinstance(value, bool):
        raise TallyError(f"{name} must be an integer, got {value!r}")
    try:
        return operator.index(cast("Any", value))
    except TypeError:
        raise TallyError(f"{name} must be an integer, got {value!r}") from None


def _count(value: object, name: str) -> int:
    number = _integer(value, name)
    if not 0 <= number < _MOST_SAMPLES:
        raise TallyError(f"{name} must be at least 0 and below 2**127, got {number}")
    return number


def _counts(counts: Any) -> tuple[int, ...]:
    # What np.histogram returns; with density or weights they are no integers, and no counts.
    listed = counts.tolist() if hasattr(counts, "tolist") and hasattr(counts, "ndim") else counts
    if not isinstance(listed, list | tuple):
        raise TallyError(f"counts must be a list or a 1-d array, got {type(counts).__name__}")
    return tuple(_count(count, "a count") for count in listed)


def _vector(values: ArrayLike) -> NDArray[np.float64]:
    import numpy as np

    array = np.asarray(values)
    if array.ndim != 1:
        raise TallyError(f"values must be 1-d, one a sample, got shape {array.shape}")
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
    """Edges as ``to_json`` writes them, where an open end is text: JSON has no infinity."""
    if not isinstance(edges, list | tuple) or len(edges) < 2:
        return edges
    first = -math.inf if edges[0] == "-inf" else edges[0]
    last = math.inf if edges[-1] == "inf" else edges[-1]
    return (first, *edges[1:-1], last)


def _real(value: object) -> float:
    # float() would take text and a bool as well.
    if isinstance(value, bool | str | bytes):
        raise TypeError
    return float(cast("Any", value))


def _ordered_sum(array: NDArray[np.float64]) -> float:
    whole = array.size - array.size % _COLUMNS
    columns = array[:whole].reshape(-1, _COLUMNS).sum(axis=0)
    try:
        return math.fsum((*columns.tolist(), *array[whole:].tolist()))
    except (OverflowError, ValueError):
        return math.nan


def _units(value: float) -> int:
    numerator, denominator = value.as_integer_ratio()
    return numerator << (_SUM_BITS - denominator.bit_length() + 1)


def _ratio(numerator: int, denominator: int) -> float:
    """Correctly rounded; NaN over zero, infinite beyond the doubles: blocks may lie far apart."""
    try:
        return numerator / denominator if denominator else math.nan
    except OverflowError:
        return math.inf if numerator > 0 else -math.inf


def _double(number: Fraction) -> float:
    return _ratio(number.numerator, number.denominator)


def _size(error: Fraction) -> float:
    """An error as a double: one that is not zero is not rounded to zero."""
    return max(_double(error), math.ulp(0.0)) if error else 0.0


def _root(numerator: int, denominator: int) -> Fraction:
    """The square root of a fraction, to 64 bits or more."""
    shift = max(0, 128 + denominator.bit_length() - numerator.bit_length())
    shift += shift % 2
    return Fraction(math.isqrt((numerator << shift) // denominator), 1 << shift // 2)


def _check_finite(array: NDArray[np.float64]) -> None:
    """Raise for a value that has no square at all, naming the first one."""
    import numpy as np

    for what, found in (("a NaN", np.isnan(array)), ("an infinity", np.isinf(array))):
        if found.any():
            raise TallyError(f"the values hold {what}, first at sample {int(found.argmax())}")


def _square_units(deviations: NDArray[np.float64], second: float) -> int:
    """The sum of the squares of deviations, in units of 2**-2148.

    Args:
        deviations: the values less their mean.
        second: that sum as doubles give it; below their normal range its digits are lost.
    """
    import numpy as np

    if second >= deviations.size * sys.float_info.min or not deviations.any():
        return _units(second) << (_SQUARES_BITS - _SUM_BITS)
    exact = _units(_ordered_sum(np.square(np.ldexp(deviations, _RESCALED))))
    return -(-exact >> 2 * _RESCALED - (_SQUARES_BITS - _SUM_BITS))


def _to_hex(number: int, bits: int) -> str:
    """``mantissa * 2**-bits`` as a hexadecimal float of any length, as in ``0x3p-1``."""
    zeros = (number & -number).bit_length() - 1 if number else bits
    return f"{number >> zeros:#x}p{zeros - bits:+d}"


def _from_hex(text: object, bits: int) -> int:
    mantissa, mark, exponent = text.partition("p") if isinstance(text, str) else ("", "", "")
    try:
        shift = int(exponent) + bits
        number = int(mantissa, 16)
    except ValueError:
        raise TallyError(f"not an exact sum: {text!r:.80}") from None
    # A double is below 2**1024, a sum of squares of all samples below 2**(2048 + 127).
    if not mark or not 0 <= shift <= bits + 2200 or number.bit_length() > 2 * bits + 2200:
        raise TallyError(f"not an exact sum: {text!r:.80}")
    return number << shift


def _each(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


def _worst(values: Iterable[float]) -> float:
    """The largest, a NaN counting as infinite: an unknown error is not a small one."""
    return max(math.inf if math.isnan(value) else value for value in values)


def _scaled(raw: Estimate, scale: float, offset: float) -> Estimate:
    def place(value: float) -> float:
        return offset + scale * value

    def size(error: float) -> float:
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
    """The same, with an interval that has a width wherever there is an error.

    Beside a large offset or mean the ends may be rounded to the value itself.
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
    """Hit fraction, its standard error and Wilson's interval; all NaN and [0, 1] at no samples."""
    if not samples:
        return math.nan, math.nan, 0.0, 1.0
    p, z = hits / samples, normal_z(confidence)
    q = (samples - hits) / samples
    slack = z * z / samples
    centre = (p + slack / 2) / (1 + slack)
    half = z * math.sqrt(p * q / samples + slack / samples / 4) / (1 + slack)
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    high = 1.0 if hits == samples else min(1.0, centre + half)
    return p, math.sqrt(p * q / samples), low, high
