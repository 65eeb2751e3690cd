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
    """The t with P(abs(T) < t) = confidence.

    Newton's iteration on the cumulative distribution, from Hill's expansion about the normal
    quantile (Comm. ACM 13 (1970) 619); above 1e5 degrees the expansion alone is good to 1e-12,
    where the difference of the gamma functions is not.
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
    """P(abs(T) >= abs(z)) of Student's t; without a number of degrees, of the normal distribution.

    Fewer than one degree count as one; of a broken number the whole ones count.
    """
    if freedom > 1000 or not math.isfinite(z):
        return math.erfc(abs(z) / math.sqrt(2))
    square = z * z
    if not square or math.isinf(square):  # so far out or in that no digit of it is left
        return 0.0 if square else 1.0
    return max(0.0, 1.0 - _t_inside(abs(z), max(1, int(freedom))))


def _t_density(t: float, freedom: int) -> float:
    half = (freedom + 1) / 2
    norm = math.lgamma(half) - math.lgamma(freedom / 2) - math.log(freedom * math.pi) / 2
    return math.exp(norm - half * math.log1p(t * t / freedom))


def _t_inside(t: float, freedom: int) -> float:
    """P(abs(T) < t) = 1 - I_x(freedom / 2, 1 / 2) at x = freedom / (freedom + t**2).

    The incomplete beta function by its continued fraction (DLMF 8.17.22), evaluated by Lentz's
    method, on the side of its argument where the fraction converges fast.
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
