"""The metrics of single requests: arrays of microseconds, one number a request, NaN where it has none.

Everything counts from `due`, the moment at which the user wanted an answer; the `wire_` forms count from sending.
The two differ by what the client and its limits made the request wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.measure.columns import Bools, Columns, Floats, Ints


def out_tokens(at: Columns) -> Floats:
    """Tokens delivered: as the best source counts them, else by chunk; 0 where nothing came."""
    counted = _per_request(np.add, at.tokens.astype(np.float64), at, 0.0)
    return np.where(np.isnan(at.out_got), counted, at.out_got)


def first_token(at: Columns) -> Floats:
    """`t_1` from `t0`."""
    return np.where(at.chunks > 0, at.sent + _of_chunk(at, 0), at.first)


def last_token(at: Columns) -> Floats:
    """`t_n`. Without stamps (`--tokens sample`) the end of an answer, which follows its last token at once."""
    whole = np.where(at.is_("ok"), at.end, np.nan)
    return np.where(at.chunks > 0, at.sent + _of_chunk(at, -1), np.where(np.isnan(at.first), np.nan, whole))


def lag(at: Columns) -> Floats:
    """`sent - due`."""
    return at.sent - at.due


def ttft(at: Columns) -> Floats:
    """`t_1 - due`."""
    return first_token(at) - at.due


def wire_ttft(at: Columns) -> Floats:
    """`t_1 - sent`."""
    return first_token(at) - at.sent


def ttfo(at: Columns) -> Floats:
    """First token of the answer itself, after reasoning, minus `due`."""
    found = np.full(len(at), np.nan)
    seen = (at.visible >= 0) & (at.chunks > 0)
    found[seen] = at.stamps[(at.begin[:-1] + at.visible)[seen]]
    # Without stamps only the first token's time is kept; it is the answer's if that began at once.
    bare = (at.visible == 0) & (at.chunks == 0)
    return np.where(bare, ttft(at), at.sent + found - at.due)


def tpot(at: Columns) -> Floats:
    """`(t_n - t_1) / (n - 1)` for n > 1."""
    count = out_tokens(at)
    return np.where(count > 1, (last_token(at) - first_token(at)) / np.maximum(count - 1, 1), np.nan)


def max_gap(at: Columns) -> Floats:
    """Longest time between two successive visible chunks of a request."""
    chunk_gaps, owner = visible_gaps(at)
    longest = np.full(len(at), -np.inf)
    np.maximum.at(longest, owner, chunk_gaps)
    return np.where(np.isinf(longest), np.nan, longest)


def _ended(at: Columns) -> Floats:
    """The end of a whole answer: a refusal is quick, and must not pass for a fast one."""
    return np.where(at.is_("ok"), at.end, np.nan)


def e2e(at: Columns) -> Floats:
    """`end - due` of whole answers."""
    return _ended(at) - at.due


def wire_e2e(at: Columns) -> Floats:
    """`end - sent` of whole answers."""
    return _ended(at) - at.sent


def norm_e2e(at: Columns) -> Floats:
    """`e2e` a token."""
    count = out_tokens(at)
    return np.where(count > 0, e2e(at) / np.maximum(count, 1), np.nan)


def refuse_time(at: Columns) -> Floats:
    """Of shed requests, from `due` to the refusal."""
    at_once = np.where(np.isnan(at.end), at.hdr, at.end)
    return np.where(at.is_("shed"), at_once - at.due, np.nan)


PER_REQUEST: dict[str, Callable[[Columns], Floats]] = {
    "lag": lag,
    "ttft": ttft,
    "wire_ttft": wire_ttft,
    "ttfo": ttfo,
    "tpot": tpot,
    "max_gap": max_gap,
    "e2e": e2e,
    "wire_e2e": wire_e2e,
    "norm_e2e": norm_e2e,
    "refuse_time": refuse_time,
}
"""By the names that expressions and reports use."""


def visible_gaps(at: Columns) -> tuple[Floats, Ints]:
    """`gap`: times between successive visible chunks, and the place of the request that each belongs to."""
    owner = np.repeat(np.arange(len(at)), at.chunks)
    place = np.arange(len(at.stamps)) - at.begin[owner]
    # A gap ends at a chunk that has another visible one before it.
    ends = np.flatnonzero((at.visible[owner] >= 0) & (place > at.visible[owner]))
    return at.stamps[ends] - at.stamps[ends - 1], owner[ends]


def gap(at: Columns) -> Floats:
    """All of them, pooled."""
    return visible_gaps(at)[0]


def token_ends(at: Columns) -> Ints:
    """Tokens delivered up to and with each chunk, i64[chunks].

    Where the request's total is known from another source than its chunks, the chunks' own counts are stretched to it:
    a server that sends four tokens in a chunk and says so only in `usage` is measured right on the whole.
    """
    owner = np.repeat(np.arange(len(at)), at.chunks)
    running = np.cumsum(at.tokens)
    before = np.concatenate(([0], running))[at.begin]
    ends = (running - before[:-1][owner]).astype(np.float64)
    counted = np.diff(before).astype(np.float64)
    total = out_tokens(at)
    factor = np.where(counted > 0, total / np.maximum(counted, 1), 1.0)
    return np.floor(ends * factor[owner] + 0.5).astype(np.int64)


def _token_counts(at: Columns) -> Ints:
    ends = token_ends(at)
    counts = np.diff(ends, prepend=0)
    starts = at.begin[:-1][at.chunks > 0]
    counts[starts] = ends[starts]
    return counts


def token_times(at: Columns) -> tuple[Floats, Ints]:
    """Time of every token from `t0`, f64[tokens], and the place of its request."""
    counts = _token_counts(at)
    owner = np.repeat(np.arange(len(at)), at.chunks)
    return np.repeat(at.sent[owner] + at.stamps, counts), np.repeat(owner, counts)


def delivery_times(at: Columns) -> Floats:
    """Time of every token from `t0`, f64[tokens], for throughput. Where no stamps were kept (`--tokens sample`), an
    answer's tokens are spread evenly from its first to its end: they came, and must not be missing from a rate.
    """
    bare = (at.chunks == 0) & ~np.isnan(at.first)
    count = np.where(bare, out_tokens(at), 0.0).astype(np.int64)
    pace = (np.where(np.isnan(at.end), at.first, at.end) - at.first) / np.maximum(count - 1, 1)
    owner = np.repeat(np.arange(len(at)), count)
    place = np.arange(len(owner)) - (np.cumsum(count) - count)[owner]
    return np.concatenate((token_times(at)[0], at.first[owner] + place * pace[owner]))


def tbt(at: Columns) -> Floats:
    """Gaps in the token view, pooled: a chunk of k tokens after gap g gives g once and k - 1 zeros."""
    times, owner = token_times(at)
    within: Floats = np.diff(times)[np.diff(owner) == 0]
    return within


POOLED: dict[str, Callable[[Columns], Floats]] = {"gap": gap, "tbt": tbt}
"""Many numbers a request, so they have quantiles but no paired or per-request form."""


@dataclass(frozen=True, slots=True, eq=False)
class Lateness:
    """`late`: share of a request's tokens after their deadline, NaN without stamps. `stalled`: its reader ran dry."""

    late: Floats
    stalled: Bools


def lateness(at: Columns, ttft_slo: float, tpot_slo: float) -> Lateness:
    """Token i is due at `due + ttft_slo + (i - 1) tpot_slo`, microseconds.

    A buffered reader begins with the first token, though not before the TTFT deadline, and then reads one token each
    `tpot_slo`: unlike `late`, `stalled` forgives a late beginning and nothing after it.
    """
    owner = np.repeat(np.arange(len(at)), at.chunks)
    ends, counts = token_ends(at), _token_counts(at)
    times = at.sent[owner] + at.stamps
    start = at.due + ttft_slo
    over = _beyond(times - start[owner], tpot_slo, ends - counts, counts)
    total = _per_request(np.add, counts.astype(np.float64), at, 0.0)
    late = np.where(total > 0, _per_request(np.add, over, at, 0.0) / np.maximum(total, 1), np.nan)
    begun = np.fmax(start, first_token(at))
    dry = _beyond(times - begun[owner], tpot_slo, ends - counts, counts)
    return Lateness(late, _per_request(np.add, dry, at, 0.0) > 0)


def _beyond(elapsed: Floats, pace: float, first: Ints, counts: Ints) -> Floats:
    """Of a chunk's tokens, `first` and on (from 0), how many have `elapsed > place * pace`."""
    if pace <= 0:
        return np.where(elapsed > 0, counts, 0).astype(np.float64)
    late_places = np.ceil(elapsed / pace)
    return np.clip(late_places - first, 0, counts).astype(np.float64)


def _of_chunk(at: Columns, which: int) -> Floats:
    """Stamp of each request's first (0) or last (-1) chunk, NaN without."""
    found = np.full(len(at), np.nan)
    has = at.chunks > 0
    found[has] = at.stamps[(at.begin[:-1] if which == 0 else at.begin[1:] - 1)[has]]
    return found


def _per_request(fold: np.ufunc, flat: Floats, at: Columns, empty: float) -> Floats:
    """Fold of each request's chunks, f64[n]."""
    found = np.full(len(at), empty)
    has = at.chunks > 0
    if has.any():
        found[has] = fold.reduceat(flat, at.begin[:-1][has])
    return found
