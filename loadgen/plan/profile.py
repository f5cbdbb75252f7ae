"""What a source is like: its rate and how it clumps, its lengths, what a cache would find, and what it costs. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from loadgen.plan.prefix import ideal_hits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from loadgen.plan.rows import SourceRow

QUANTILES = (0.5, 0.9, 0.99)
BINS_SECONDS = (1, 10, 60)


class Lengths(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of all rows that tell them."""

    rows: int
    total: int
    mean: float
    p50: float
    p90: float
    p99: float
    most: int


class Arrivals(msgspec.Struct, frozen=True, kw_only=True):
    """`span_seconds`: of the trace, or of the window that was asked for. `dispersion`: variance over mean of the counts
    in bins of 1, 10 and 60 s; 1 is Poisson. None: too few rows.
    """

    span_seconds: float
    rate: float
    """Requests a second."""
    cv: float | None
    """Of the gaps."""
    instants: int
    """Different times: few of them say that the trace was rounded."""
    dispersion: dict[str, float | None]


class Hits(msgspec.Struct, frozen=True, kw_only=True):
    """Leading blocks that a cache would find; `lru` by its size in blocks."""

    block_tokens: int
    blocks: int
    distinct: int
    endless: int
    lru: dict[str, int]


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens a second; shares of `--capacity` where it was given. `uncached`: what an endless cache leaves to
    compute.
    """

    prefill: float
    uncached: float
    decode: float
    prefill_share: float | None
    decode_share: float | None


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Parts that a source does not have are None."""

    source: str
    transforms: str
    rows: int
    sessions: int | None
    groups: int | None
    """Rows of one group begin with the same long text."""
    answers: int
    """Rows with a known right answer."""
    texts: int
    prompt: Lengths | None
    output: Lengths | None
    arrivals: Arrivals | None
    hits: Hits | None
    cost: Cost | None
    more: dict[str, float | str]
    """What only this kind of source has."""


def profile(
    source: str,
    transforms: str,
    rows: Sequence[SourceRow],
    *,
    span: int | None = None,
    cache_blocks: Sequence[int] = (),
    capacity: tuple[float, float] | None = None,
    more: dict[str, float | str] | None = None,
) -> Profile:
    """Of rows after their transforms. `span`: microseconds of the window, where one was asked for. `capacity`: prefill
    and decode tokens a second.
    """
    prompt = _lengths([row.in_tokens for row in rows])
    output = _lengths([row.out_tokens for row in rows])
    times = [row.time for row in rows if row.time is not None]
    arrivals = _arrivals(times, span) if times and len(times) == len(rows) else None
    hits = _hits(rows, cache_blocks)
    return Profile(
        source=source,
        transforms=transforms,
        rows=len(rows),
        sessions=_distinct([row.session for row in rows]),
        groups=_distinct([row.group for row in rows]),
        answers=sum(row.answer is not None for row in rows),
        texts=sum(row.text is not None for row in rows),
        prompt=prompt,
        output=output,
        arrivals=arrivals,
        hits=hits,
        cost=_cost(prompt, output, arrivals, hits, capacity),
        more=more or {},
    )


def _distinct(values: list[str | None]) -> int | None:
    found = {value for value in values if value is not None}
    return len(found) or None


def _lengths(told: list[int | None]) -> Lengths | None:
    values = np.array([value for value in told if value is not None], dtype=np.int64)
    if not len(values):
        return None
    p50, p90, p99 = (float(np.quantile(values, q, method="higher")) for q in QUANTILES)
    total = int(values.sum())
    return Lengths(
        rows=len(values), total=total, mean=total / len(values), p50=p50, p90=p90, p99=p99, most=int(values.max())
    )


def _arrivals(times: list[int], span: int | None) -> Arrivals:
    at = np.sort(np.array(times, dtype=np.int64))
    whole = span if span is not None else int(at[-1] - at[0])
    gaps = np.diff(at)
    cv = float(np.std(gaps) / np.mean(gaps)) if len(gaps) > 1 and np.mean(gaps) > 0 else None
    return Arrivals(
        span_seconds=whole / 1e6,
        rate=len(at) / (whole / 1e6) if whole else float(len(at)),
        cv=cv,
        instants=len(np.unique(at)),
        dispersion={f"{seconds}s": _dispersion(at - at[0], seconds) for seconds in BINS_SECONDS},
    )


def _dispersion(at: NDArray[np.int64], seconds: int) -> float | None:
    counts = np.bincount(at // (seconds * 1_000_000))
    return float(np.var(counts) / np.mean(counts)) if len(counts) > 1 else None


def _hits(rows: Sequence[SourceRow], sizes: Sequence[int]) -> Hits | None:
    prompts = [row.blocks or () for row in rows]
    if not any(prompts):
        return None
    return Hits(
        block_tokens=next((row.block_tokens for row in rows if row.block_tokens is not None), 0),
        blocks=sum(map(len, prompts)),
        distinct=len({block for prompt in prompts for block in prompt}),
        endless=ideal_hits(prompts),
        lru={str(size): ideal_hits(prompts, size) for size in sizes},
    )


def _cost(
    prompt: Lengths | None,
    output: Lengths | None,
    arrivals: Arrivals | None,
    hits: Hits | None,
    capacity: tuple[float, float] | None,
) -> Cost | None:
    if prompt is None or output is None or arrivals is None or not arrivals.span_seconds:
        return None
    prefill, decode = prompt.total / arrivals.span_seconds, output.total / arrivals.span_seconds
    found = 0.0 if hits is None else min(1.0, hits.endless * hits.block_tokens / prompt.total)
    return Cost(
        prefill=prefill,
        uncached=prefill * (1 - found),
        decode=decode,
        prefill_share=None if capacity is None else prefill * (1 - found) / capacity[0],
        decode_share=None if capacity is None else decode / capacity[1],
    )
