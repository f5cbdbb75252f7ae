"""Quantiles of Student's t, so that no statistics package is needed at run time.

The distribution function by the regularised incomplete beta function (continued fraction of Lentz, as in Abramowitz and
Stegun 26.5.8), the quantile by bisection on it.
"""

from __future__ import annotations

import math
from functools import lru_cache

_STEPS = 300
_TINY = 1e-300


@lru_cache(maxsize=1024)
def t_quantile(p: float, freedom: int) -> float:
    """Value below which a share `p` of Student's t with so many degrees of freedom lies; 0 < p < 1, freedom >= 1.

    Raises:
        ValueError: out of range.
    """
    if not 0 < p < 1 or freedom < 1:
        raise ValueError("a t quantile wants 0 < p < 1 and at least one degree of freedom")
    if p < 0.5:
        return -t_quantile(1 - p, freedom)
    low, high = 0.0, 1.0
    while _upper_tail(high, freedom) > 1 - p:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if _upper_tail(middle, freedom) > 1 - p else (low, middle)
    return (low + high) / 2


def _upper_tail(t: float, freedom: int) -> float:
    """P(T > t) for t >= 0."""
    return incomplete_beta(freedom / 2, 0.5, freedom / (freedom + t * t)) / 2


def incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b), regularised; a, b > 0 and x in 0..1."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x),
    )
    # The fraction converges fast only on this side; the other is its mirror.
    if x < (a + 1) / (a + b + 2):
        return front * _fraction(a, b, x) / a
    return 1 - front * _fraction(b, a, 1 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    result = d
    for m in range(1, _STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        step = 1.0
        for term in (even, odd):
            d = 1 / _away_from_zero(1 + term * d)
            c = _away_from_zero(1 + term / c)
            step = c * d
            result *= step
        if abs(step - 1) < 1e-15:
            break
    return result


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
