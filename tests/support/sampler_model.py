"""The sampler's rules once more, in numpy and with nothing skipped: sorted candidates, noise for each of them.

Float32 is added, multiplied and divided in the same order as natively, so tokens and logprobs are equal to the bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pyworker.runner.philox import DOMAIN_SAMPLING, philox4x32, uniform

F32 = NDArray[np.float32]

LANES = 16
SUM_CHUNK = 4096
HOPELESS = np.float32(-20.0)
UNIT = np.float32(2.0**30)
NEVER = np.float32(-np.inf)
LN2 = (np.float32(0.693359375), np.float32(-2.12194440e-4))
EXP = [1.98756915e-4, 1.39819995e-3, 8.333452e-3, 4.1665796e-2, 1.6666665e-1, 5.0000001e-1]
LN = [
    7.0376836e-2,
    -1.15146103e-1,
    1.16769987e-1,
    -1.24201408e-1,
    1.42493228e-1,
    -1.66680577e-1,
    2.00007148e-1,
    -2.4999994e-1,
    3.3333331e-1,
]


@dataclass(frozen=True)
class ModelRequest:
    """The parameters of `RequestSampler`, by the same names."""

    seed: int = 0
    choice_index: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: list[tuple[int, float]] = field(default_factory=list)
    allowed_token_ids: list[int] | None = None
    bad_words: list[list[int]] = field(default_factory=list)
    min_tokens: int = 0
    held_back_ids: list[int] = field(default_factory=list)
    logprobs: int | None = None
    prompt_ids: list[int] = field(default_factory=list)
    output_ids: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class ModelResult:
    """A token or an error, and the logprobs that were asked for."""

    token_id: int | None = None
    error: str | None = None
    logprob: float | None = None
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = ()


def choose(
    logits: F32, request: ModelRequest, position: int, drafts: list[int], allowed: NDArray[np.bool_] | None = None
) -> ModelResult:
    """The token of one row `[V]`; `allowed` `[V]` is what a grammar allows."""
    if not np.all(logits <= np.finfo(np.float32).max):
        return ModelResult(error="numerics_error")
    row = processed(logits, request, position, drafts, allowed)
    if row.max() == NEVER:
        return ModelResult(error="grammar_dead_end")
    if request.temperature < 1e-5:
        token = int(row.argmax())
    else:
        z = (row - row.max()) / np.float32(request.temperature)
        token = gumbel(z, survivors(z, request), request, position)
    if request.logprobs is None:
        return ModelResult(token)
    return logprobs_of(logits, token, request.logprobs)


def processed(
    logits: F32, request: ModelRequest, position: int, drafts: list[int], allowed: NDArray[np.bool_] | None
) -> F32:
    """Masks, then bias, then penalties."""
    row = logits.copy()
    output = request.output_ids + drafts
    if allowed is not None:
        row[~allowed] = NEVER
    if request.allowed_token_ids is not None:
        row[[v for v in range(len(row)) if v not in set(request.allowed_token_ids)]] = NEVER
    for words in request.bad_words:
        if len(words) == 1 or output[-len(words) + 1 :] == words[:-1]:
            row[words[-1]] = NEVER
    if allowed is None and position < request.min_tokens:
        row[request.held_back_ids] = NEVER
    for token, bias in request.logit_bias:
        row[token] += np.float32(bias)
    penalise(row, request, output)
    return row


def penalise(row: F32, request: ModelRequest, output: list[int]) -> None:
    """Repetition over prompt and output, frequency and presence over the output."""
    repetition = np.float32(request.repetition_penalty)
    for token in set(request.prompt_ids) | set(output):
        if repetition != 1.0:
            row[token] = row[token] / repetition if row[token] > 0 else row[token] * repetition
        if count := output.count(token):
            row[token] -= np.float32(request.frequency_penalty) * np.float32(count)
            row[token] -= np.float32(request.presence_penalty)


def survivors(z: F32, request: ModelRequest) -> list[int]:
    """Ids that `min_p`, `top_k` and `top_p` leave, in turn."""
    least = ln(np.array([request.min_p], dtype=np.float32))[0] if request.min_p > 0 else NEVER
    ids = [v for v in range(len(z)) if z[v] >= HOPELESS and z[v] >= least]
    ids.sort(key=lambda v: (-z[v], v))
    if request.top_k > 0:
        ids = ids[: request.top_k]
    if request.top_p < 1.0:
        masses = np.rint(exp(z[ids]) * UNIT).astype(np.int64)
        target = np.ceil(np.float64(request.top_p) * np.float64(masses.sum()))
        ids = [v for v, before in zip(ids, masses.cumsum() - masses, strict=True) if before < target]
    return ids


def gumbel(z: F32, ids: list[int], request: ModelRequest, position: int) -> int:
    """The id with the largest score, the lowest of equal ones."""
    candidates = np.array(sorted(ids), dtype=np.int64)
    noise = uniform_by_id(request.seed, candidates, position=position, choice=request.choice_index)
    scores = z[candidates] - ln(-ln(noise.astype(np.float32)))
    return int(candidates[scores.argmax()])


def uniform_by_id(key: int, ids: NDArray[np.int64], *, position: int, choice: int) -> NDArray[np.float64]:
    """The number of each id `[n]`: its word of its counter. It does not depend on which other ids are asked for."""
    counter = np.empty((len(ids), 4), dtype=np.uint32)
    counter[:, 0] = ids >> 2
    counter[:, 1:] = (position, choice, DOMAIN_SAMPLING)
    return uniform(philox4x32(key, counter)[np.arange(len(ids)), ids & 3])


def logprobs_of(logits: F32, token: int, count: int) -> ModelResult:
    """Raw logprobs of a token and of the likeliest `count`."""
    largest = logits.max()
    shifted = logits - largest
    logprobs = shifted - log_sum(shifted)
    order = sorted(np.flatnonzero(logits > NEVER).tolist(), key=lambda v: (-logits[v], v))[:count]
    return ModelResult(token, None, float(logprobs[token]), tuple(order), tuple(float(logprobs[v]) for v in order))


def log_sum(shifted: F32) -> np.float32:
    """`ln sum e^x` in 16 lanes, chunk by chunk."""
    total = np.float32(0)
    for start in range(0, len(shifted), SUM_CHUNK):
        chunk = shifted[start : start + SUM_CHUNK]
        padded = np.full(-(-len(chunk) // LANES) * LANES, NEVER)
        padded[: len(chunk)] = chunk
        lanes = np.add.accumulate(exp(padded).reshape(-1, LANES), axis=0)[-1]
        while len(lanes) > 1:
            lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
        total = total + lanes[0]
    return np.float32(ln(np.array([total]))[0])


def exp(x: F32) -> F32:
    """`e^x` as the kernels compute it."""
    x = np.clip(x, np.float32(-87), np.float32(88))
    n = np.rint(x * np.float32(np.log2(np.e)))
    r = fma(n, -LN2[1], fma(n, -LN2[0], x))
    poly = polynomial(EXP, r)
    value = fma(poly * r, r, r) + np.float32(1)
    scaled: F32 = np.ldexp(value, n.astype(np.int32))
    return scaled


def ln(x: F32) -> F32:
    """The natural logarithm as the kernels compute it."""
    bits = x.view(np.int32)
    above = bits - np.int32(0x3F3504F3)
    f = (bits - (above & np.int32(-0x800000))).view(np.float32) - np.float32(1)
    exponent = (above >> 23).astype(np.float32)
    square = f * f
    rest = polynomial(LN, f) * f * square
    rest = fma(exponent, LN2[1], rest)
    rest = fma(np.float32(-0.5), square, rest)
    return fma(exponent, LN2[0], f + rest)


def polynomial(coefficients: list[float], x: F32) -> F32:
    """Horner's rule, each step rounded once."""
    total = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        total = fma(total, x, np.float32(coefficient))
    return total


def fma(a: F32 | np.float32, b: F32 | np.float32, c: F32 | np.float32) -> F32:
    """`a * b + c` rounded once: the sum is rounded to odd in float64, where the product is exact, then to float32."""
    product, c64 = np.float64(a) * np.float64(b), np.float64(c)
    total = np.asarray(product + c64)
    part = total - product
    rest = (product - (total - part)) + (c64 - part)
    is_even = (total.view(np.int64) & 1) == 0
    neighbour = np.nextafter(total, np.where(rest > 0, np.inf, -np.inf))
    rounded: F32 = np.where((rest != 0) & is_even, neighbour, total).astype(np.float32)
    return rounded
