"""Two-sided quantiles of the normal and of Student's t distribution."""

from __future__ import annotations

import math
from functools import lru_cache


@lru_cache(maxsize=64)
def normal_z(confidence: float) -> float:
    """The z with P(abs(Z) < z) = confidence, Z standard normal."""
    from statistics import NormalDist

    return NormalDist().inv_cdf((1 + confidence) / 2)


@lru_cache(maxsize=256)
def student_t(confidence: float, freedom: int) -> float:
    """The t with P(abs(T) < t) = confidence, T of Student's distribution.

    Newton's iteration on the distribution function, started at the expansion in 1 / freedom about
    the normal quantile (Abramowitz & Stegun 26.7.5). Above 1e5 degrees of freedom the expansion
    alone is accurate to 1e-12, while the difference of the log-gamma functions loses digits.

    Args:
        confidence: between 0 and 1.
        freedom: degrees of freedom, at least 1.
    """
    z = normal_z(confidence)
    t = z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    if freedom > 100_000:
        return t
    for _ in range(100):
        step = (_t_inside(t, freedom) - confidence) / (2 * _t_density(t, freedom))
        # The first guess is poor at one or two degrees: a step never crosses zero or runs away.
        t, before = min(max(t - step, t / 2), t * 2), t
        if abs(t - before) <= 1e-14 * t:
            break
    return t


def tail(z: float, freedom: float = math.inf) -> float:
    """The two-sided tail P(abs(T) >= abs(z)) of Student's t.

    Args:
        z: the statistic.
        freedom: degrees of freedom, rounded down to an integer of at least 1; above 1,000 the
            normal distribution is used.
    """
    if freedom > 1000 or not math.isfinite(z):
        return math.erfc(abs(z) / math.sqrt(2))
    square = z * z
    if not square or math.isinf(square):  # the square underflowed or overflowed
        return 0.0 if square else 1.0
    return max(0.0, 1.0 - _t_inside(abs(z), max(1, int(freedom))))


def _t_density(t: float, freedom: int) -> float:
    half = (freedom + 1) / 2
    norm = math.lgamma(half) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    return math.exp(norm - half * math.log1p(t * t / freedom))


def _t_inside(t: float, freedom: int) -> float:
    """P(abs(T) < t) = 1 - I_x(freedom / 2, 1 / 2) at x = freedom / (freedom + t**2).

    I is the regularized incomplete beta function. Its continued fraction converges fast for
    x < (a + 1) / (a + b + 2); above that, I_x(a, b) = 1 - I_(1-x)(b, a) (DLMF 8.17.4) is used.
    """
    a, b = freedom / 2, 0.5
    x, y = freedom / (freedom + t * t), t * t / (freedom + t * t)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(y)
    )
    if x < (a + 1) / (a + b + 2):
        return 1 - front * _beta_fraction(a, b, x) / a
    return front * _beta_fraction(b, a, y) / b


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of I_x(a, b) (DLMF 8.17.22), by Lentz's algorithm."""
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    value = d
    for m in range(1, 10_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / (1 + term * d)
            c = 1 + term / c
            value *= c * d
        if abs(c * d - 1) < 1e-16:
            break
    return value
