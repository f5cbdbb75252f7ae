"""The native sampler against its numpy model, equal to the bit, in every pair of parameters; and against chance."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pytest
from support.sampler_model import ModelRequest, ModelResult, choose, exp, ln
from support.sampler_model import uniform_by_id as model_uniform

from slackwater._native import kernels, sampling

V = 203
POOL = kernels.Pool(1)
DRAWS = 100_000

FACTORS: dict[str, list[Any]] = {
    "temperature": [1.0, 0.0, 1e-5, 0.4, 7.5, 100.0],
    "top_k": [0, -1, 1, 3, 80, V],
    "top_p": [1.0, 0.02, 0.5, 0.93, 1e-300],
    "min_p": [0.0, 1e-9, 0.02, 0.4, 1.0],
    "frequency_penalty": [0.0, 0.7, -2.0],
    "presence_penalty": [0.0, 1.3, -0.1],
    "repetition_penalty": [1.0, 1.3, 10.0, 0.2],
    "logit_bias": ["none", "few", "many"],
    "allowed_token_ids": ["all", "one", "some"],
    "bad_words": ["none", "single", "started", "other"],
    "min_tokens": [0, 4, 40],
    "logprobs": [None, 0, 5, 20],
    "history": ["none", "prompt", "both"],
    "drafts": [0, 1, 5],
    "grammar": ["none", "wide", "narrow", "with end"],
    "logits": ["model", "flat", "ties", "holes", "steep"],
    "seed": [0, 2**63 + 11],
    "choice_index": [0, 2**32 - 1],
    "position": [0, 4, 2**31 + 5],
}
HELD_BACK = [0, 150, 202]


def covering(factors: dict[str, list[Any]], rng: random.Random) -> list[dict[str, Any]]:
    """Cases in which every two values of two factors meet: greedily, a new case takes as many new pairs as it can."""
    names = list(factors)
    open_pairs = {
        (a, i, b, j)
        for a, b in itertools.combinations(names, 2)
        for i in range(len(factors[a]))
        for j in range(len(factors[b]))
    }
    cases = []
    while open_pairs:
        a, i, b, j = min(open_pairs)
        case = {a: i, b: j}
        for name in rng.sample(names, len(names)):
            if name not in case:
                gains = [
                    sum(_pair(names, name, value, other, case[other]) in open_pairs for other in case)
                    for value in range(len(factors[name]))
                ]
                case[name] = max(range(len(gains)), key=lambda value: (gains[value], rng.random()))
        open_pairs -= {_pair(names, a, case[a], b, case[b]) for a, b in itertools.combinations(names, 2)}
        cases.append({name: factors[name][value] for name, value in case.items()})
    return cases


def _pair(names: list[str], a: str, i: int, b: str, j: int) -> tuple[str, int, str, int]:
    return (a, i, b, j) if names.index(a) < names.index(b) else (b, j, a, i)


CASES = covering(FACTORS, random.Random(8))


@dataclass
class Case:
    """One row, for the model and for the sampler."""

    logits: np.ndarray
    request: ModelRequest
    position: int
    drafts: list[int]
    allowed: np.ndarray | None

    @classmethod
    def of(cls, values: dict[str, Any], rng: np.random.Generator) -> Case:
        def ids(count: int) -> list[int]:
            return [int(v) for v in rng.integers(0, V, count)]

        prompt = ids(12) * 2 if values["history"] != "none" else []
        output = ids(9) + prompt[:3] if values["history"] == "both" else []
        drafts = (ids(3) * 2)[: values["drafts"]]
        before = output + drafts
        bad_words = {
            "none": [],
            "single": [[v] for v in ids(6)],
            "started": [[*before[-size:], v] for size in (1, 2, 7) for v in ids(20)] if before else [],
            "other": [[*ids(2), v] for v in ids(5)],
        }
        common = {name: values[name] for name in list(FACTORS)[:7]}
        request = ModelRequest(
            **common,
            logit_bias={
                "none": [],
                "few": [(v, float(b)) for v, b in zip(ids(4), rng.normal(0, 4, 4), strict=True)],
                "many": [(v, float(b)) for v, b in zip(ids(300), rng.uniform(-100, 100, 300), strict=True)],
            }[values["logit_bias"]],
            allowed_token_ids={"all": None, "one": ids(1), "some": ids(60)}[values["allowed_token_ids"]],
            bad_words=bad_words[values["bad_words"]],
            min_tokens=values["min_tokens"],
            held_back_ids=HELD_BACK,
            logprobs=values["logprobs"],
            seed=values["seed"],
            choice_index=values["choice_index"],
            prompt_ids=prompt,
            output_ids=output,
        )
        return cls(_logits(values["logits"], rng), request, values["position"], drafts, _mask(values["grammar"], rng))


def _logits(shape: str, rng: np.random.Generator) -> np.ndarray:
    row = {
        "model": lambda: rng.normal(0, 4, V),
        "flat": lambda: np.full(V, 1.5),
        "ties": lambda: rng.integers(-3, 4, V) * 1.0,
        "holes": lambda: np.where(rng.random(V) < 0.6, -np.inf, rng.normal(0, 2, V)),
        "steep": lambda: -0.4 * rng.permutation(V),
    }[shape]()
    return np.asarray(row, dtype=np.float32)


def _mask(grammar: str, rng: np.random.Generator) -> np.ndarray | None:
    if grammar == "none":
        return None
    allowed = rng.random(V) < {"wide": 0.9, "narrow": 0.02, "with end": 0.3}[grammar]
    allowed[HELD_BACK] = grammar == "with end"
    return allowed


def run(cases: list[Case]) -> list[ModelResult]:
    """All cases in one batch; bits past the vocabulary are set."""
    rows, masks = [], []
    for case in cases:
        mask = -1
        if case.allowed is not None:
            mask = len(masks)
            bits = np.ones(-(-V // 32) * 32, dtype=bool)
            bits[:V] = case.allowed
            masks.append(np.packbits(bits, bitorder="little").view(np.int32))
        sampler = sampling.RequestSampler(V, **asdict(case.request))
        rows.append((sampler, case.position, case.drafts, mask))
    found = sampling.sample(np.stack([case.logits for case in cases]), rows, np.stack(masks) if masks else None, POOL)
    return [ModelResult(row.token_id, row.error, row.logprob, row.top_ids, row.top_logprobs) for row in found]


def expected(case: Case) -> ModelResult:
    return choose(case.logits, case.request, case.position, case.drafts, case.allowed)


def test_all_pairs_are_covered() -> None:
    assert len(CASES) < 120
    pairs = {(a, str(c[a]), b, str(c[b])) for c in CASES for a, b in itertools.combinations(FACTORS, 2)}
    assert len(pairs) == sum(len(x) * len(y) for x, y in itertools.combinations(FACTORS.values(), 2))


@pytest.mark.parametrize("isa", kernels.available_isas())
def test_every_instruction_set_draws_the_tokens_of_the_model(isa: str) -> None:
    # As it is installed: what the optimiser makes of a test's build says nothing about a release's.
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 2, (300, 512)).astype(np.float32)
    rows = [(sampling.RequestSampler(512, seed=row), row, [], -1) for row in range(300)]
    kernels.set_isa(isa)
    try:
        found = sampling.sample(logits.copy(), rows, None, POOL)
    finally:
        kernels.set_isa("auto")
    want = [choose(logits[row], ModelRequest(seed=row), row, []).token_id for row in range(300)]
    assert [row.token_id for row in found] == want


@pytest.mark.parametrize("seed", range(12))
def test_every_pair_of_parameters_gives_the_tokens_of_the_model(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cases = [Case.of(values, rng) for values in CASES]
    got, want = run(cases), [expected(case) for case in cases]
    assert [index for index in range(len(cases)) if got[index] != want[index]] == []
    assert sum(row.error is None for row in got) > len(cases) / 2


@pytest.mark.parametrize(
    "parameters", [{}, {"top_k": 700}, {"top_p": 0.9}, {"top_k": 20_000, "top_p": 0.99, "min_p": 1e-6}], ids=str
)
def test_long_rows_give_the_tokens_of_the_model(parameters: dict[str, Any]) -> None:
    width = 32_005
    rng = np.random.default_rng(2)
    logits = rng.normal(0, 3, width).astype(np.float32)
    logits[rng.integers(0, width, 9000)] = 2.5
    request = ModelRequest(seed=5, logprobs=20, **parameters)
    sampler = sampling.RequestSampler(width, **asdict(request))
    found = sampling.sample(logits[None].copy(), [(sampler, 3, [], -1)], None, POOL)[0]
    got = ModelResult(found.token_id, found.error, found.logprob, found.top_ids, found.top_logprobs)
    assert got == choose(logits, request, 3, [])


def test_a_resumed_request_goes_on_as_if_unbroken() -> None:
    rng = np.random.default_rng(4)
    request = ModelRequest(
        seed=9, frequency_penalty=0.5, repetition_penalty=1.2, top_p=0.9, bad_words=[[1, 2], [3]], prompt_ids=[1, 2, 3]
    )
    rows = rng.normal(0, 2, (30, V)).astype(np.float32)

    def go_on(output: list[int]) -> list[int]:
        sampler = sampling.RequestSampler(V, **asdict(replace(request, output_ids=output)))
        output = list(output)
        for position in range(len(output), 30):
            found = sampling.sample(rows[position : position + 1].copy(), [(sampler, position, [], -1)], None, POOL)
            token = found[0].token_id
            assert token is not None
            sampler.extend([token])
            output.append(token)
        return output

    whole = go_on([])
    assert all(go_on(whole[:cut]) == whole for cut in range(30))


LOGITS = np.array([2.0, 1.0, 0.0, -1.0, 1.5, 2.0, -3.0, 0.5], dtype=np.float32)


@pytest.mark.parametrize(
    ("parameters", "kept"),
    [
        ({}, range(8)),
        ({"temperature": 0.5}, range(8)),
        ({"temperature": 3.0}, range(8)),
        ({"top_k": 3}, [0, 5, 4]),
        ({"top_p": 0.6}, [0, 5, 4]),
        ({"min_p": 0.3}, [0, 5, 4, 1]),
        # Of what top_k leaves; of the whole row it would take a fourth one to reach 0.8.
        ({"top_k": 5, "top_p": 0.8}, [0, 5, 4]),
        ({"logit_bias": [(6, 4.0)]}, range(8)),
        ({"repetition_penalty": 1.5, "output_ids": [0, 3], "presence_penalty": 0.5}, range(8)),
        ({"allowed_token_ids": [2, 3, 5]}, [2, 3, 5]),
    ],
    ids=str,
)
def test_draws_follow_the_distribution(parameters: dict[str, Any], kept: Any) -> None:
    logits = LOGITS.astype(np.float64)
    if "logit_bias" in parameters:
        logits[6] += 4.0
    if "output_ids" in parameters:
        logits[0], logits[3] = 2.0 / 1.5 - 0.5, -1.0 * 1.5 - 0.5
    weights = np.zeros(8)
    weights[list(kept)] = np.exp(logits / parameters.get("temperature", 1.0))[list(kept)]
    expected = weights / weights.sum() * DRAWS
    sampler = sampling.RequestSampler(8, **{"seed": 77, **parameters})
    rows = [(sampler, position, (), -1) for position in range(DRAWS)]
    found = sampling.sample(np.tile(LOGITS, (DRAWS, 1)), rows, None, POOL)
    counts = np.bincount([row.token_id for row in found], minlength=8)
    possible = expected > 0
    assert not counts[~possible].any()
    statistic = float(((counts - expected)[possible] ** 2 / expected[possible]).sum())
    # The 99.9 % quantile of chi-square, by degrees of freedom.
    assert statistic < {2: 13.8, 3: 16.3, 7: 24.3}[int(possible.sum()) - 1]


def test_far_candidates_win_as_often_as_they_should() -> None:
    """One of 2^16 whose logits lie 9 below one other: the skipping of hopeless words must not cost them a draw."""
    width, draws = 2**16 + 1, 600
    row = np.full(width, -9.0, dtype=np.float32)
    row[width // 2] = 0.0
    sampler = sampling.RequestSampler(width, seed=3)
    wins = 0
    for position in range(draws):
        found = sampling.sample(row[None].copy(), [(sampler, position, (), -1)], None, POOL)
        wins += found[0].token_id == width // 2
    chance = 1 / (1 + (width - 1) * math.exp(-9))
    assert abs(wins - draws * chance) < 4 * math.sqrt(draws * chance * (1 - chance))


def test_other_seeds_choices_and_positions_draw_other_tokens() -> None:
    keys = [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (1 + 2**63, 0, 0)]
    rows = [(sampling.RequestSampler(5000, seed=s, choice_index=c), t, (), -1) for s, c, t in keys]
    found = sampling.sample(np.zeros((5, 5000), dtype=np.float32), rows, None, POOL)
    assert len({row.token_id for row in found}) == len(keys)


def test_the_models_own_functions_are_right() -> None:
    x = np.linspace(-20, 0, 4001, dtype=np.float32)
    assert np.allclose(exp(x), np.exp(x.astype(np.float64)), rtol=2e-7, atol=0)
    u = model_uniform(1, np.arange(4000), position=0, choice=0).astype(np.float32)
    edges = np.array([2.0**-24, 0.5, 1 - 2.0**-24], dtype=np.float32)
    for values in (u, edges, -np.log(u.astype(np.float64)).astype(np.float32)):
        exact = np.log(values.astype(np.float64))
        assert np.allclose(ln(values), exact, rtol=3e-7, atol=6e-8)
    assert np.allclose(ln(edges), np.log(edges.astype(np.float64)), rtol=2e-7, atol=0)


def test_arrays_of_another_shape_are_refused() -> None:
    sampler = sampling.RequestSampler(V)
    row = np.zeros((1, V), dtype=np.float32)
    with pytest.raises(kernels.KernelError, match="logits is not C-contiguous"):
        sampling.sample(np.asfortranarray(np.zeros((2, V), dtype=np.float32)), [(sampler, 0, (), -1)] * 2, None, POOL)
    with pytest.raises(kernels.KernelError, match="a row of masks has 6 elements, expected 7"):
        sampling.sample(row, [(sampler, 0, (), 0)], np.zeros((1, 6), dtype=np.int32), POOL)
    with pytest.raises(kernels.KernelError, match="masks has 0 elements, expected 7"):
        sampling.sample(row, [(sampler, 0, (), 0)], None, POOL)
    with pytest.raises(kernels.KernelError, match="a row of logits has 202 elements, expected 203"):
        sampling.sample(row[:, 1:].copy(), [(sampler, 0, (), -1)], None, POOL)
    with pytest.raises(OverflowError):
        sampling.RequestSampler(V, held_back_ids=[-1])
