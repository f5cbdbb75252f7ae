"""Cumulative rates of arrivals and their inverses.

A varying rate is made by a change of time: gaps of mean one, laid end to end, are mapped through the inverse of the
cumulative rate. Nothing starts again at the edge of a step, as it would if each step drew its own gaps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.random import Generator
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]


class CumulativeRate(Protocol):
    """Expected arrivals up to a time, in seconds."""

    def total(self, seconds: float) -> float:
        """Arrivals expected in `[0, seconds)`."""

    def inverse(self, expected: Floats) -> Floats:
        """Seconds at which so many arrivals are expected."""


@dataclass(frozen=True, slots=True)
class Constant:
    """`rate` a second, for ever."""

    rate: float

    def total(self, seconds: float) -> float:
        """See `CumulativeRate`."""
        return self.rate * seconds

    def inverse(self, expected: Floats) -> Floats:
        """See `CumulativeRate`."""
        seconds: Floats = expected / self.rate
        return seconds


@dataclass(frozen=True, slots=True)
class Pieces:
    """Constant between `edges` (seconds, ascending, the first is 0); `sums`: arrivals expected up to each edge."""

    edges: Floats
    sums: Floats

    def total(self, seconds: float) -> float:
        """See `CumulativeRate`; not beyond the last edge."""
        return float(np.interp(seconds, self.edges, self.sums))

    def inverse(self, expected: Floats) -> Floats:
        """See `CumulativeRate`. Where the rate is zero, the end of the silence."""
        right = np.searchsorted(self.sums, expected, side="right").clip(1, len(self.sums) - 1)
        below, above = self.sums[right - 1], self.sums[right]
        share = np.divide(expected - below, above - below, out=np.zeros_like(expected), where=above > below)
        seconds: Floats = self.edges[right - 1] + share * (self.edges[right] - self.edges[right - 1])
        return seconds


@dataclass(frozen=True, slots=True)
class Ramp:
    """From `first` to `last` a second in `period` seconds, then steady."""

    first: float
    last: float
    period: float

    def total(self, seconds: float) -> float:
        """See `CumulativeRate`."""
        rising = min(seconds, self.period)
        slope = (self.last - self.first) / self.period
        return self.first * rising + slope * rising**2 / 2 + self.last * max(0.0, seconds - self.period)

    def inverse(self, expected: Floats) -> Floats:
        """See `CumulativeRate`."""
        slope = (self.last - self.first) / self.period
        whole = self.total(self.period)
        inside = np.minimum(expected, whole)
        # The root of first*t + slope*t^2/2 in the form that has no difference of near numbers.
        root = np.sqrt(np.maximum(self.first**2 + 2 * slope * inside, 0.0))
        bottom = self.first + root
        times = np.divide(2 * inside, bottom, out=np.zeros_like(inside), where=bottom > 0)
        if self.last <= 0:
            return np.where(expected > whole, np.inf, times)
        return np.where(expected > whole, self.period + (expected - whole) / self.last, times)


@dataclass(frozen=True, slots=True)
class Sine:
    """Between `low` and `high` a second, beginning at the low point."""

    low: float
    high: float
    period: float

    def total(self, seconds: float) -> float:
        """See `CumulativeRate`."""
        return float(self._sums(np.asarray([seconds]))[0])

    def inverse(self, expected: Floats) -> Floats:
        """See `CumulativeRate`; by bisection, which a rate of zero does not disturb."""
        mean = (self.low + self.high) / 2
        centre = expected / mean
        # The cumulative rate strays from its mean by at most swing/omega, that is, half a period in time.
        below, above = np.maximum(centre - self.period, 0.0), centre + self.period
        for _ in range(60):
            middle = (below + above) / 2
            short = self._sums(middle) < expected
            below, above = np.where(short, middle, below), np.where(short, above, middle)
        return (below + above) / 2

    def _sums(self, seconds: Floats) -> Floats:
        mean, swing = (self.low + self.high) / 2, (self.high - self.low) / 2
        omega = 2 * math.pi / self.period
        return mean * seconds - swing / omega * np.sin(omega * seconds)


def pieces(levels: Iterable[tuple[float, float]], until: float) -> Pieces:
    """Steps of (rate, seconds) up to `until` seconds."""
    edges, sums = [0.0], [0.0]
    for rate, seconds in levels:
        edges.append(edges[-1] + seconds)
        sums.append(sums[-1] + rate * seconds)
        if edges[-1] >= until:
            break
    return Pieces(np.asarray(edges), np.asarray(sums))


def two_states(levels: tuple[tuple[float, int], ...], until: float, rng: Generator) -> Pieces:
    """A Markov-modulated rate: states in turn, each for an exponential time of its mean (microseconds)."""

    def walk() -> Iterable[tuple[float, float]]:
        while True:
            for rate, mean in levels:
                yield rate, float(rng.exponential(mean / 1e6))

    return pieces(walk(), until)


def cycle(levels: tuple[tuple[float, int], ...], until: float) -> Pieces:
    """The steps again and again, each for just its length (microseconds)."""

    def walk() -> Iterable[tuple[float, float]]:
        while True:
            for rate, length in levels:
                yield rate, length / 1e6

    return pieces(walk(), until)
