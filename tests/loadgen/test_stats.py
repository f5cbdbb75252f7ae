"""Quantiles, intervals, warm-up, overload and comparisons against scipy, by hand, and by short simulations.

`LOADGEN_LONG=1` runs the simulations of the design page's section 18 in full length.
"""

from __future__ import annotations

import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from loadgen.stats.batch_means import mean_interval, rate_interval, t_interval
from loadgen.stats.overload import block_means, in_flight, trend
from loadgen.stats.paired import compare, over_runs, sign_flip
from loadgen.stats.quantile import estimate, interval_ranks, rank_of, samples_needed
from loadgen.stats.student import t_quantile
from loadgen.stats.warmup import mser5, per_second

LONG = bool(os.environ.get("LOADGEN_LONG"))
RUNS, GROUPS = (500, 200) if LONG else (120, 60)


def test_samples_needed() -> None:
    assert [samples_needed(q) for q in (0.95, 0.99, 0.999)] == [59, 299, 2995]


@pytest.mark.parametrize("p", [0.6, 0.9, 0.975, 0.995, 0.9999, 0.02])
@pytest.mark.parametrize("freedom", [1, 2, 5, 9, 30, 299, 10_000])
def test_t_quantile_equals_scipy(p: float, freedom: int) -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    assert t_quantile(p, freedom) == pytest.approx(float(stats.t.ppf(p, freedom)), rel=1e-9)


@pytest.mark.parametrize("q", [0.01, 0.5, 0.9, 0.99, 0.999])
@pytest.mark.parametrize("count", [1, 7, 59, 299, 1000, 4999, 5001, 123_457, 3_000_000])
def test_interval_ranks_equal_scipys_binomial(q: float, count: int) -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    want = int(stats.binom.ppf(0.025, count, q)), int(stats.binom.ppf(0.975, count, q)) + 1
    assert interval_ranks(q, count) == want


@given(st.permutations(list(range(300))), st.sampled_from([0.5, 0.9, 0.99]))
@settings(max_examples=20, deadline=None)
def test_quantile_knows_no_order(values: list[int], q: float) -> None:
    found = estimate(np.asarray(values, dtype=np.float64), q)
    assert found.value == math.ceil(q * 300) - 1
    assert found.low is not None
    assert found.low <= found.value


def test_rank_is_not_pushed_up_by_floating_point() -> None:
    assert rank_of(0.07, 100) == 7
    assert rank_of(0.99, 1) == 1
    assert rank_of(0.0, 5) == 1


def test_too_few_samples_have_no_value() -> None:
    found = estimate(np.arange(298.0), 0.99)
    assert (found.value, found.low, found.high, found.count, found.needed) == (None, None, None, 298, 299)
    assert estimate(np.arange(299.0), 0.99).value == 296.0


def test_infinite_values_are_the_greatest() -> None:
    values = np.concatenate((np.arange(95.0), np.full(5, np.inf)))
    assert estimate(values, 0.95).value == 94.0
    assert estimate(values, 0.96).value == np.inf


def test_t_interval_by_hand() -> None:
    found = t_interval(np.asarray([1.0, 2.0, 3.0]))
    assert found.value == 2.0
    assert found.low == pytest.approx(2 - 4.302652729911275 / math.sqrt(3))
    assert t_interval(np.asarray([5.0])).low is None


def test_mean_of_unequal_batches_is_the_mean_of_all() -> None:
    times = np.asarray([0.0, 1.0, 2.0, 95.0])
    values = np.asarray([1.0, 1.0, 1.0, 5.0])
    found = mean_interval(times, values, (0.0, 100.0), batches=2)
    assert found is not None
    assert found.value == 2.0
    assert found.low is not None
    # An empty batch gives the value and no interval.
    thin = mean_interval(times, values, (0.0, 100.0), batches=10)
    assert thin is not None
    assert (thin.value, thin.low, thin.count) == (2.0, None, 2)
    assert mean_interval(times, values, (200.0, 300.0)) is None


def test_rate_counts_the_window_only() -> None:
    times = np.asarray([-1.0, 0.0, 5.0, 10.0, 11.0]) * 1e6
    found = rate_interval(times, np.ones(5), (0.0, 10e6))
    assert found is not None
    assert found.value == pytest.approx(0.3)


def test_mser_cuts_the_ramp() -> None:
    rng = np.random.Generator(np.random.Philox(1))
    series = np.concatenate((np.linspace(50.0, 1.0, 40), np.ones(160))) + rng.normal(0, 0.05, 200)
    cut = mser5(series)
    assert cut is not None
    assert 35 <= cut.seconds <= 45
    assert cut.steady
    level = mser5(rng.normal(10, 1, 200))
    assert level is not None
    assert level.steady


def test_mser_equals_the_formula() -> None:
    rng = np.random.Generator(np.random.Philox(3))
    series = rng.normal(0, 1, 100) + np.linspace(3, 0, 100)
    means = series.reshape(-1, 5).mean(axis=1)
    scores = [((means[d:] - means[d:].mean()) ** 2).sum() / (len(means) - d) ** 2 for d in range(len(means) // 2 + 1)]
    cut = mser5(series)
    assert cut is not None
    assert cut.seconds == 5 * int(np.argmin(scores))


def test_mser_says_when_nothing_settles() -> None:
    cut = mser5(np.linspace(0.0, 100.0, 100))
    assert cut is not None
    assert not cut.steady
    assert mser5(np.ones(19)) is None


def test_mser_skips_seconds_without_values() -> None:
    series = np.concatenate((np.full(10, np.nan), np.full(10, 90.0), np.ones(100)))
    cut = mser5(series)
    assert cut is not None
    assert (cut.seconds, cut.steady) == (20, True)


def test_per_second_means() -> None:
    found = per_second(np.asarray([0.0, 500_000.0, 2_100_000.0]), np.asarray([1.0, 3.0, 7.0]), 0.0, 3_000_000.0)
    assert found[[0, 2]].tolist() == [2.0, 7.0]
    assert np.isnan(found[1])


def test_in_flight_by_hand() -> None:
    starts = np.asarray([-5e6, 0.0, 15e6])
    ends = np.asarray([5e6, 10e6, np.nan])
    assert in_flight(starts, ends, (0.0, 20e6)).tolist() == [1.5, 0.5]


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 30)), min_size=1, max_size=20))
@settings(max_examples=50, deadline=None)
def test_in_flight_equals_a_count_at_every_moment(spans: list[tuple[int, int]]) -> None:
    starts = np.asarray([start for start, _ in spans], dtype=np.float64)
    ends = np.asarray([start + length for start, length in spans], dtype=np.float64)
    found = in_flight(starts, ends, (10.0, 50.0), block=10.0)
    moments = np.arange(10, 50) + 0.5
    open_then = ((starts[:, None] < moments) & (moments < ends[:, None])).sum(axis=0)
    assert found == pytest.approx(open_then.reshape(4, 10).mean(axis=1))


def test_overload_needs_slope_and_rise() -> None:
    rng = np.random.Generator(np.random.Philox(5))
    grows = trend(np.linspace(1, 10, 30) + rng.normal(0, 0.3, 30), 10.0)
    level = trend(5 + rng.normal(0, 0.3, 30), 10.0)
    # Certain, and of no account: a rise of 5 % of the mean.
    slight = trend(np.linspace(100, 105, 30), 10.0)
    assert grows is not None
    assert level is not None
    assert slight is not None
    assert (grows.grows, level.grows, slight.grows) == (True, False, False)
    assert grows.slope == pytest.approx(9 / 290, rel=0.1)
    assert trend(np.ones(2), 10.0) is None


def test_block_means_leave_out_part_blocks() -> None:
    found = block_means(np.asarray([1.0, 9.0, 19.0, 25.0]), np.asarray([2.0, 4.0, 6.0, 99.0]), (0.0, 25.0), 10.0)
    assert found.tolist() == [3.0, 6.0]


def test_runs_below_six_have_no_interval() -> None:
    few = over_runs(np.asarray([3.0, 1.0, 2.0]))
    assert (few.lowest, few.median, few.highest, few.interval) == (1.0, 2.0, 3.0, None)
    many = over_runs(np.asarray([1.0, 2.0, 4.0, 1.0, 2.0, 4.0]), logarithm=True)
    assert many.interval is not None
    assert many.interval.value == pytest.approx(2.0)


def test_ratio_is_the_same_both_ways() -> None:
    a, b = np.asarray([1.0, 2.0, 3.0, 4.0]), np.asarray([2.0, 3.0, 7.0, 9.0])
    one, other = compare(a, b), compare(b, a)
    assert one.mean.value * other.mean.value == pytest.approx(1.0)
    assert one.mean.low is not None
    assert other.mean.high is not None
    assert one.mean.low * other.mean.high == pytest.approx(1.0)
    assert one.p == other.p == 2 / 16


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=8))
@settings(max_examples=60, deadline=None)
def test_sign_flips_are_all_of_them(differences: list[int]) -> None:
    count = len(differences)
    hits = 0
    for mask in range(2**count):
        total = sum(each if mask >> bit & 1 else -each for bit, each in enumerate(differences))
        hits += abs(total) >= abs(sum(differences))
    assert sign_flip(np.asarray(differences, dtype=np.float64)) == (hits / 2**count, True)


def test_many_pairs_draw_signs_by_the_seed() -> None:
    differences = np.linspace(-1, 1.4, 20)
    first, exact = sign_flip(differences, seed=1)
    assert not exact
    assert sign_flip(differences, seed=1) == (first, False)
    assert sign_flip(differences, seed=2)[0] == pytest.approx(first, abs=0.02)
    assert sign_flip(np.ones(20))[0] < 1e-3


def test_comparing_refuses_what_has_no_ratio() -> None:
    for a, b in (([1.0], [0.0]), ([1.0, 2.0], [1.0]), ([], []), ([math.nan], [1.0])):
        with pytest.raises(ValueError, match=r"want|finite"):
            compare(np.asarray(a), np.asarray(b))


def test_no_difference_is_found_at_the_nominal_rate() -> None:
    """Mistake 4: of 1,000 comparisons of a thing with itself, 2 to 8 % are significant at 5 %."""
    rng = np.random.Generator(np.random.Philox(11))
    a, b = np.exp(rng.normal(0, 0.1, (2, 1000, 10)))
    found = [compare(a[each], b[each]) for each in range(1000)]
    assert 0.02 <= np.mean([each.p <= 0.05 for each in found]) <= 0.08
    outside = [not (each.mean.low or 0) <= 1 <= (each.mean.high or 0) for each in found]
    assert 0.02 <= np.mean(outside) <= 0.08


def _queue(
    rng: np.random.Generator, seconds: float = 1200.0, rate: float = 5.0, use: float = 0.5
) -> NDArray[np.float64]:
    """M/G/1 in seconds: f64[2, n] of arrival and waiting plus service; lognormal service, CV 1."""
    count = int(seconds * rate * 1.2)
    gaps = rng.exponential(1 / rate, count)
    service = rng.lognormal(math.log(use / rate) - math.log(2) / 2, math.sqrt(math.log(2)), count)
    # Lindley: the wait is the walk of service less gap, above its running minimum.
    walk = np.concatenate(([0.0], np.cumsum(service[:-1] - gaps[1:])))
    wait = walk - np.minimum.accumulate(np.minimum(walk, 0.0))
    at = np.cumsum(gaps)
    keep = (at > 60) & (at <= seconds)
    return np.stack((at[keep], (wait + service)[keep]))


@pytest.fixture(scope="module")
def truth() -> tuple[float, float, float]:
    """Mean, share below 0.3 s, and p99 of the endless queue."""
    rng = np.random.Generator(np.random.Philox(99))
    values = np.concatenate([_queue(rng, 40_000.0)[1] for _ in range(10)])
    return float(values.mean()), float((values <= 0.3).mean()), float(np.quantile(values, 0.99))


def test_batch_means_cover(truth: tuple[float, float, float]) -> None:
    rng = np.random.Generator(np.random.Philox(7))
    inside = np.zeros(2)
    for _ in range(RUNS):
        at, values = _queue(rng)
        for place, (each, true) in enumerate(((values, truth[0]), ((values <= 0.3).astype(float), truth[1]))):
            found = mean_interval(at, each, (60.0, 1200.0))
            assert found is not None
            assert found.low is not None
            assert found.high is not None
            inside[place] += found.low <= true <= found.high
    assert (inside / RUNS >= 0.88).all()
    assert (inside / RUNS <= 0.98).all()


def test_intervals_over_runs_cover_p99(truth: tuple[float, float, float]) -> None:
    rng = np.random.Generator(np.random.Philox(8))
    inside = 0
    for _ in range(GROUPS):
        tails = [estimate(_queue(rng)[1], 0.99).value or 0.0 for _ in range(6)]
        spread = over_runs(np.asarray(tails))
        assert spread.interval is not None
        inside += (spread.interval.low or 0) <= truth[2] <= (spread.interval.high or 0)
    assert 0.90 <= inside / GROUPS <= 0.99


def test_overload_is_seen_and_not_imagined() -> None:
    rng = np.random.Generator(np.random.Philox(9))
    said = {0.5: 0, 1.2: 0}
    for use in said:
        for _ in range(20):
            at, values = _queue(rng, 360.0, use=use)
            found = trend(in_flight(at * 1e6, (at + values) * 1e6, (60e6, 360e6)), 10.0)
            assert found is not None
            said[use] += found.grows
    assert said[0.5] <= 3
    assert said[1.2] == 20
