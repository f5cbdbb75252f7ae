"""Arrivals have the distribution that they say (Kolmogorov-Smirnov at 10^4 draws), and depend on their class alone."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from loadgen.errors import BadInput
from loadgen.plan.arrivals import due_times, weibull_shape
from loadgen.plan.rates import Ramp, Sine
from loadgen.spec import Arrivals

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

DRAWS = 10_000
# The 1 % point of the KS statistic for many draws; seeds are fixed, so the test is exact.
LIMIT = 1.63 / math.sqrt(DRAWS)


def distance(values: NDArray[np.float64], law: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> float:
    """The KS statistic of `values` against a distribution function."""
    ordered = law(np.sort(values))
    ranks = np.arange(len(values) + 1) / len(values)
    return float(max(np.max(ranks[1:] - ordered), np.max(ordered - ranks[:-1])))


def exponential(gaps: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 - np.exp(-gaps)


def gaps_of(
    arrivals: Arrivals, seconds: int, cumulative: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> NDArray:
    due = due_times(arrivals, seconds * 1_000_000, 3, "chat", DRAWS + 1)
    assert len(due) == DRAWS + 1
    assert due[0] >= 0
    assert due[-1] < seconds * 1_000_000
    return np.diff(cumulative(due / 1e6))


def test_poisson() -> None:
    gaps = gaps_of(Arrivals("poisson", rate=7.0), 2_000, lambda t: 7 * t)
    assert distance(gaps, exponential) < LIMIT
    assert distance(gaps * 1.1, exponential) > LIMIT


@pytest.mark.parametrize("cv", [0.5, 1.0, 2.0, 4.0])
def test_weibull(cv: float) -> None:
    shape = weibull_shape(cv)
    scale = 1 / math.gamma(1 + 1 / shape)
    gaps = gaps_of(Arrivals("weibull", rate=5.0, cv=cv), 4_000, lambda t: 5 * t)
    # Due times are whole microseconds: at CV 4 a part of the gaps is below one, so ties are spread.
    spread = gaps + np.random.default_rng(1).uniform(0, 5e-6, DRAWS)
    assert distance(spread, lambda x: 1 - np.exp(-((x / scale) ** shape))) < LIMIT + 0.02 * (cv > 3)
    exact_cv = math.sqrt(math.gamma(1 + 2 / shape) / math.gamma(1 + 1 / shape) ** 2 - 1)
    assert exact_cv == pytest.approx(cv, rel=1e-9)


def test_gamma() -> None:
    """Shape 4 (CV 0.5), whose distribution function is a finite sum."""
    gaps = gaps_of(Arrivals("gamma", rate=5.0, cv=0.5), 4_000, lambda t: 5 * t)

    def erlang(x: NDArray[np.float64]) -> NDArray[np.float64]:
        terms = [np.exp(-4 * x) * (4 * x) ** k / math.factorial(k) for k in range(4)]
        return 1 - np.sum(terms, axis=0)

    assert distance(gaps, erlang) < LIMIT
    clumped = gaps_of(Arrivals("gamma", rate=5.0, cv=3.0), 4_000, lambda t: 5 * t)
    assert np.std(clumped) / np.mean(clumped) == pytest.approx(3.0, rel=0.1)


def test_sine_by_time_change() -> None:
    law = Sine(2.0, 12.0, 600.0)
    gaps = gaps_of(Arrivals("sine", span=(2.0, 12.0), period=600_000_000), 3_000, law._sums)
    assert distance(gaps, exponential) < LIMIT


def test_ramp_by_time_change() -> None:
    law = Ramp(1.0, 10.0, 600.0)
    gaps = gaps_of(
        Arrivals("ramp", span=(1.0, 10.0), period=600_000_000), 3_000, lambda t: np.array([law.total(x) for x in t])
    )
    assert distance(gaps, exponential) < LIMIT


def test_step_by_time_change() -> None:
    """Gaps go on over the edges of steps: the rescaled process is Poisson throughout."""
    arrivals = Arrivals("step", levels=((2.0, 3_000_000), (12.0, 3_000_000)))

    def cumulative(t: NDArray[np.float64]) -> NDArray[np.float64]:
        whole, rest = np.divmod(t, 6.0)
        return whole * 42 + np.minimum(rest, 3) * 2 + np.maximum(rest - 3, 0) * 12

    assert distance(gaps_of(arrivals, 3_000, cumulative), exponential) < LIMIT


def test_onoff_is_clumped_and_keeps_its_mean() -> None:
    arrivals = Arrivals("onoff", levels=((20.0, 5_000_000), (1.0, 15_000_000)))
    due = due_times(arrivals, 20_000_000_000, 3, "chat")
    assert len(due) / 20_000 == pytest.approx((20 * 5 + 1 * 15) / 20, rel=0.1)
    counts = np.bincount(due // 1_000_000, minlength=20_000)
    assert np.var(counts) / np.mean(counts) > 5


def test_constant_is_constant() -> None:
    due = due_times(Arrivals("const", rate=100.0), 60_000_000, 0, "chat")
    assert due.tolist() == list(range(0, 60_000_000, 10_000))
    assert set(np.diff(due_times(Arrivals("const", rate=3.0), 60_000_000, 0, "chat"))) == {333_333, 333_334}


def test_poisson_counts_are_not_pinned() -> None:
    """A count that is forced to rate times duration would have no variance; a Poisson one has its mean."""
    counts = [len(due_times(Arrivals("poisson", rate=10.0), 10_000_000, seed, "chat")) for seed in range(400)]
    assert np.var(counts) == pytest.approx(100, rel=0.3)
    assert np.mean(counts) == pytest.approx(100, rel=0.03)


def test_a_stream_belongs_to_its_class_and_seed() -> None:
    arrivals = Arrivals("poisson", rate=10.0)
    chat = due_times(arrivals, 10_000_000, 1, "chat")
    assert chat.tolist() == due_times(arrivals, 10_000_000, 1, "chat").tolist()
    assert chat.tolist() != due_times(arrivals, 10_000_000, 1, "code").tolist()
    assert chat.tolist() != due_times(arrivals, 10_000_000, 2, "chat").tolist()


def test_a_longer_run_begins_alike() -> None:
    arrivals = Arrivals("gamma", rate=100.0, cv=2.0)
    short = due_times(arrivals, 60_000_000, 1, "chat")
    assert due_times(arrivals, 90_000_000, 1, "chat")[: len(short)].tolist() == short.tolist()


@pytest.mark.parametrize(
    "arrivals", [Arrivals("closed", slots=3), Arrivals("trace"), Arrivals("step", levels=((0.0, 1_000_000),))]
)
def test_kinds_without_a_rate(arrivals: Arrivals) -> None:
    with pytest.raises(BadInput):
        due_times(arrivals, 1_000_000, 1, "chat")
