"""Sampled tokens: the right distribution, the right order of steps, and nothing but (seed, position) decides."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pyworker.engine.outputs import RowResult
from pyworker.engine.request import Request, SamplingParams
from pyworker.runner.philox import philox4x32
from pyworker.runner.sampler import SamplingRow, sample

ROW = SamplingRow(position=0, choice_index=0, seed=1, temperature=1.0, top_p=1.0, banned_ids=())
LOGITS = np.array([2.0, 1.0, 0.0, -1.0, 1.5, 2.0, -3.0, 0.5], dtype=np.float32)
DRAWS = 20_000


def draw(logits: np.ndarray, rows: list[SamplingRow]) -> list[int]:
    results = sample(np.broadcast_to(logits, (len(rows), len(logits))), rows)
    assert all(result.error is None for result in results)
    return [result.token_ids[0] for result in results]


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64))
    return weights / weights.sum()


def chi_square(tokens: list[int], expected: np.ndarray) -> float:
    counts = np.bincount(tokens, minlength=len(expected))
    assert counts[expected == 0].sum() == 0
    kept = expected > 0
    want = expected[kept] * len(tokens)
    return float(((counts[kept] - want) ** 2 / want).sum())


def positions(row: SamplingRow) -> list[SamplingRow]:
    return [replace(row, position=position) for position in range(DRAWS)]


# Bounds: the 99.9 % quantile of chi-square with 7, 7 and 2 degrees of freedom.
@pytest.mark.parametrize(
    ("row", "expected", "bound"),
    [
        (ROW, softmax(LOGITS), 24.3),
        (replace(ROW, temperature=0.5), softmax(LOGITS / 0.5), 24.3),
        (replace(ROW, top_p=0.6), softmax(np.where(LOGITS >= 1.5, LOGITS, -np.inf)), 13.8),
    ],
    ids=["plain", "temperature", "top_p"],
)  # fmt: skip
def test_draws_follow_the_distribution(row: SamplingRow, expected: np.ndarray, bound: float) -> None:
    assert chi_square(draw(LOGITS, positions(row)), expected) < bound


def test_other_seeds_and_choices_draw_other_tokens() -> None:
    flat = np.zeros(1000, dtype=np.float32)
    rows = [ROW, replace(ROW, seed=2), replace(ROW, choice_index=1), replace(ROW, position=1), replace(ROW, seed=2**63)]
    assert len(set(draw(flat, rows))) == len(rows)


def test_a_row_is_the_same_in_any_company() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(9, 500)).astype(np.float32)
    rows = [replace(ROW, seed=index, top_p=0.5 + index / 18) for index in range(9)]
    together = sample(logits, rows)
    assert together == [sample(logits[i : i + 1], rows[i : i + 1])[0] for i in range(9)]
    assert together[::-1] == sample(logits[::-1], rows[::-1])


def naive(logits: np.ndarray, row: SamplingRow) -> int:
    """The rule as the design states it, candidate by candidate and with nothing skipped."""
    z = [float(value) / row.temperature for value in logits]
    z = [value - max(z) for value in z]
    order = sorted(range(len(z)), key=lambda v: (-z[v], v))
    total, mass, allowed = sum(math.exp(value) for value in z), 0.0, set()
    for v in order:
        if allowed and mass >= row.top_p * total:
            break
        allowed.add(v)
        mass += math.exp(z[v])
    scores = {}
    for v in sorted(allowed):
        counter = np.array([[v >> 2, row.position, row.choice_index, 0]], dtype=np.uint32)
        u = ((int(philox4x32(row.seed, counter)[0, v & 3]) >> 9) + 0.5) * 2.0**-23
        scores[v] = z[v] - math.log(-math.log(u))
    return max(scores, key=lambda v: (scores[v], -v))


@given(
    logits=arrays(np.float32, 40, elements=st.sampled_from([-60.0, -21.0, -19.0, -2.0, -1.0, 0.0, 0.25, 1.0])),
    seed=st.integers(0, 2**64 - 1),
    position=st.integers(0, 2**32 - 1),
    temperature=st.sampled_from([1e-4, 0.1, 0.7, 1.0, 2.0, 100.0]),
    top_p=st.sampled_from([1e-6, 0.3, 0.9, 0.999, 1.0]),
)
def test_agrees_with_the_naive_rule(
    logits: np.ndarray, seed: int, position: int, temperature: float, top_p: float
) -> None:
    row = replace(ROW, seed=seed, position=position, temperature=temperature, top_p=top_p)
    assert draw(logits, [row]) == [naive(logits, row)]


def test_top_p_stops_as_soon_as_it_is_reached() -> None:
    """Of four equal candidates the two lower ids make up exactly one half."""
    rows = [replace(row, top_p=0.5) for row in positions(ROW)[:200]]
    assert set(draw(np.zeros(4, dtype=np.float32), rows)) == {0, 1}


def test_greedy_takes_the_lowest_id_of_equals() -> None:
    greedy = replace(ROW, temperature=0.0)
    assert draw(LOGITS, [greedy, replace(greedy, temperature=9e-6, top_p=0.1)]) == [0, 0]


def test_end_of_text_is_banned_until_min_tokens() -> None:
    params = SamplingParams(max_tokens=9, min_tokens=2, temperature=0.0)
    request = Request("a", 0, [1], params, output_ids=[4])
    at_one = SamplingRow.of(request, (0,))
    request.output_ids.append(4)
    at_two = SamplingRow.of(request, (0,))
    ignoring = SamplingRow.of(Request("b", 0, [1], replace(params, ignore_eos=True)), (0,))
    assert draw(LOGITS, [at_one, at_two, ignoring]) == [5, 0, 0]
    assert (at_one.position, at_two.position) == (1, 2)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_is_not_finite_is_an_error_and_its_neighbours_go_on(bad: float, temperature: float) -> None:
    logits = np.stack([LOGITS, LOGITS, LOGITS])
    logits[1, 3] = bad
    row = replace(ROW, temperature=temperature, position=3)
    good = draw(LOGITS, [row])
    error = RowResult(error="numerics_error", message="logits of output position 3 are not finite")
    assert sample(logits, [row] * 3) == [RowResult(token_ids=good), error, RowResult(token_ids=good)]


def test_minus_infinity_is_never_drawn() -> None:
    logits = LOGITS.copy()
    logits[[0, 5]] = -np.inf
    assert not {0, 5} & set(draw(logits, positions(ROW)[:2000]))
