"""The price of a European call option, as the mean discounted payoff under Black and Scholes."""

from __future__ import annotations

import math

import numpy as np

from cluster import Moments, kernel


def black_scholes(
    spot: float, strike: float, rate: float, volatility: float, maturity: float
) -> float:
    """The closed form: F. Black & M. Scholes, Journal of Political Economy 81 (1973) 637."""
    if min(spot, strike, volatility, maturity) <= 0:
        raise ValueError("spot, strike, volatility and maturity must be above 0")
    spread = volatility * math.sqrt(maturity)
    d1 = (math.log(spot / strike) + rate * maturity) / spread + spread / 2
    discounted = strike * math.exp(-rate * maturity)
    return spot * _normal(d1) - discounted * _normal(d1 - spread)


def _normal(x: float) -> float:
    """P(Z < x) of a standard normal Z."""
    return (1 + math.erf(x / math.sqrt(2))) / 2


@kernel(reference=black_scholes, block=2**19)
def call(
    rng: np.random.Generator,
    samples: int,
    spot: float = 100.0,
    strike: float = 105.0,
    rate: float = 0.03,
    volatility: float = 0.2,
    maturity: float = 1.0,
) -> Moments:
    """One price path's end a sample; rate and volatility are per year, maturity in years."""
    drift = (rate - volatility * volatility / 2) * maturity
    shocks = volatility * math.sqrt(maturity) * rng.standard_normal(samples)
    ends = spot * np.exp(drift + shocks)
    return Moments.of(math.exp(-rate * maturity) * np.maximum(ends - strike, 0.0))
