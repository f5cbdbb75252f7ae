"""Who got what was promised: each offered request is good, bad, or not judged; nothing offered disappears.

Two kinds of promise, never mixed in one number. Per request (`ttft<=500ms&tpot<=50ms`): gives attainment. Of the whole
class (`p99.ttft<=1s`): gives pass or fail, with requests that failed counted as endlessly slow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loadgen.errors import BadInput
from loadgen.measure import metrics
from loadgen.stats.quantile import estimate_sorted

if TYPE_CHECKING:
    from loadgen.measure.columns import Bools, Columns, Floats
    from loadgen.spec import Slo, SloTerm

CENSORED_AT_MOST = 0.01
"""Above this share of offered requests the run says nothing: it is INVALID."""
_BAD = ("error", "refused", "shed", "timeout")


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Per offered request. `good` implies `counted`. Not counted are `censored` ones and hang-ups that were asked for.

    `cut`: open at the end of the drain with its deadline passed. `unmeasured`: counted as bad, though only because the
    records do not hold what the SLO asks for (`--tokens sample`).
    """

    good: Bools
    counted: Bools
    censored: Bools
    cut: Bools
    unmeasured: Bools

    def value(self) -> float | None:
        """Attainment: good / counted; `None` without any."""
        total = int(np.count_nonzero(self.counted))
        return int(np.count_nonzero(self.good)) / total if total else None

    def shares(self) -> Floats:
        """1 good, 0 bad, NaN not counted; f64[n]."""
        return np.where(self.counted, self.good.astype(np.float64), np.nan)


def targets(slo: Slo) -> tuple[float | None, float | None]:
    """Per-request bounds of TTFT and TPOT in microseconds, the strictest of each."""
    bounds: dict[str, float] = {}
    for term in slo.per_request:
        bounds[term.metric] = min(term.bound, bounds.get(term.metric, np.inf))
    return bounds.get("ttft"), bounds.get("tpot")


def check(slo: Slo, where: str) -> None:
    """Whether the SLO can be judged at all.

    Raises:
        BadInput: `late` without the two bounds that make a token's deadline, or a quantile out of range.
    """
    uses_late = any(term.metric == "late" for term in (*slo.per_request, *slo.population))
    if uses_late and None in targets(slo):
        raise BadInput(where, "slo", "late", "a token's deadline wants ttft<=... and tpot<=... beside it")
    for term in slo.population:
        if term.quantile is None or not 0 < term.quantile < 1:
            raise BadInput(where, "slo", term.metric, "a promise for the population wants a quantile such as p99")


def value_of(at: Columns, metric: str, slo: Slo) -> Floats:
    """A metric of each request, f64[n], microseconds; `late` and `stalled` by the SLO's own bounds, NaN without them.

    Raises:
        KeyError: no such metric.
    """
    if metric in ("late", "stalled"):
        first, pace = targets(slo)
        if first is None or pace is None:
            return np.full(len(at), np.nan)
        found = metrics.lateness(at, first, pace)
        return found.late if metric == "late" else np.where(np.isnan(found.late), np.nan, found.stalled)
    return metrics.PER_REQUEST[metric](at)


def judge(at: Columns, slo: Slo, horizon: int, *, exact: bool) -> Judged:
    """Each request of one class. `horizon`: end of the drain; `exact`: lengths were forced, so they must be right."""
    met, unmeasured = np.ones(len(at), dtype=np.bool_), np.zeros(len(at), dtype=np.bool_)
    for term in slo.per_request:
        holds, unknown = _term(at, term, slo)
        met &= holds
        unmeasured |= unknown
    whole = at.is_("ok") & _right_length(at, exact=exact)
    censored, cut = _open(at, slo, horizon)
    counted = ~censored & ~at.is_("cancelled")
    return Judged(whole & met, counted, censored, cut, whole & ~met & unmeasured)


def _right_length(at: Columns, *, exact: bool) -> Bools:
    got = metrics.out_tokens(at)
    right: Bools = (got == at.out_want) if exact else ((got > 0) & (got <= at.out_want))
    return right


def _term(at: Columns, term: SloTerm, slo: Slo) -> tuple[Bools, Bools]:
    """Whether it holds, and where it is not known."""
    values = value_of(at, term.metric, slo)
    holds = np.nan_to_num(values, nan=np.inf) <= term.bound
    missing = np.isnan(values)
    if term.metric == "tpot":
        # One token has no time between tokens, and so no promise about it to break.
        single = metrics.out_tokens(at) == 1
        return holds | (missing & single), missing & ~single
    if term.metric == "max_gap":
        single = (at.chunks > 0) & (at.visible >= 0) & (at.chunks - at.visible == 1)
        return holds | (missing & single), missing & ~single
    return holds, missing


def _open(at: Columns, slo: Slo, horizon: int) -> tuple[Bools, Bools]:
    """Which requests are censored and which cut, judged by this SLO's deadline and not by the one of the day.

    A promise that is broken already is broken, whatever comes after: no first token by its deadline, or too late a one.
    """
    was_cut, was_censored = at.is_("cut"), at.is_("censored")
    unfinished = was_cut | was_censored
    # Never sent, or judged without any deadline: what was recorded stands.
    deadlines, known = _deadlines(at, slo)
    judged = unfinished & known & ~np.isnan(at.sent)
    seen_until = np.where(np.isnan(at.end), float(horizon), at.end)
    passed = seen_until > deadlines
    return np.where(judged, ~passed, was_censored), np.where(judged, passed, was_cut)


def _deadlines(at: Columns, slo: Slo) -> tuple[Floats, Bools]:
    """Moment from which an open request has surely failed, f64[n], and whether the SLO gives one."""
    first, pace = targets(slo)
    moments = np.full(len(at), np.inf)
    if first is not None:
        begun = metrics.ttft(at)
        late = ~(begun <= first)
        # Not begun in time: failed at that moment. Begun in time: the last token's deadline, if there is a pace.
        rest = at.due + first + (at.out_want - 1) * pace if pace is not None else moments
        moments = np.where(late, at.due + first, rest)
    for term in slo.per_request:
        if term.metric == "e2e":
            moments = np.minimum(moments, at.due + term.bound)
    given = first is not None or any(term.metric == "e2e" for term in slo.per_request)
    return moments, np.full(len(at), given)


@dataclass(frozen=True, slots=True)
class Promise:
    """A term for the population. `passed` is `None`, with the reason, where nothing can be said."""

    term: SloTerm
    value: float | None
    passed: bool | None
    count: int
    needed: int


def with_failures(at: Columns, metric: str, slo: Slo, judged: Judged) -> Floats:
    """A metric of all counted requests, f64[m], in which those without an answer are endlessly slow, not absent."""
    values = value_of(at, metric, slo)
    failed = judged.cut | ~at.is_("ok")
    values = np.where(failed & judged.counted, np.inf, values)
    return values[judged.counted & ~np.isnan(values)]


def promise(at: Columns, term: SloTerm, slo: Slo, judged: Judged) -> Promise:
    """One population term, whose quantile is not `None`."""
    values = np.sort(with_failures(at, term.metric, slo, judged))
    found = estimate_sorted(values, term.quantile or 0.5)
    passed = None if found.value is None else found.value <= term.bound
    return Promise(term, found.value, passed, found.count, found.needed)


def bad_outcomes() -> tuple[str, ...]:
    """Outcomes that are always bad."""
    return _BAD
