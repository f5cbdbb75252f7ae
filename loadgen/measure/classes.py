"""All figures of one class over the window, as a node of the result tree."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from loadgen import result as tree
from loadgen import slo_text
from loadgen.measure import metrics
from loadgen.measure.columns import OUTCOMES, SOURCES
from loadgen.measure.recovery import recovery
from loadgen.measure.sessions import session_lateness
from loadgen.measure.slo import Judged, judge, promise, value_of
from loadgen.measure.steps import Response, response
from loadgen.spec import Slo
from loadgen.stats import batch_means, overload
from loadgen.stats.quantile import estimate_sorted

if TYPE_CHECKING:
    from loadgen.measure.columns import Columns, Floats
    from loadgen.measure.facts import ClassFacts, RunFacts

QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
_NAMES = (*metrics.PER_REQUEST, *metrics.POOLED)


def class_result(at: Columns, facts: ClassFacts, run: RunFacts, window: tuple[int, int]) -> tree.ClassResult:
    """`at`: all requests of the class, whatever their phase; what is due in the window is chosen here."""
    judged_all = judge(at, facts.slo, run.horizon, exact=facts.exact)
    mask = due_within(at, window)
    inside = at.where(mask)
    judged = Judged(*(getattr(judged_all, name)[mask] for name in ("good", "counted", "censored", "cut", "unmeasured")))
    seconds = (window[1] - window[0]) / 1e6
    flying, ttft = _trends(at, inside, window, closed=facts.closed)
    shares = judged_all.shares()
    return tree.ClassResult(
        online=facts.online,
        closed=facts.closed,
        offered=len(inside),
        planned=facts.planned,
        outcomes=outcomes(inside),
        reasons=dict(sorted(Counter(inside.reason[inside.reason != ""].tolist()).items())),
        messages=dict(facts.messages),
        offered_per_s=len(inside) / seconds if seconds > 0 else None,
        completed_per_s=_rate(at.end[at.is_("ok")], window),
        tokens_per_s=_rate(metrics.delivery_times(at), window),
        concurrency=_concurrency(at, window),
        attainment=_attainment(inside, judged, facts, window) if facts.slo.per_request else None,
        population=[_population(inside, judged, facts, number) for number in range(len(facts.slo.population))],
        metrics={name: metric_result(inside, name, facts, judged, window) for name in _names(facts)},
        tokens=_tokens(inside, facts, _of_ideal(at, facts, run)),
        new_connections=int(np.count_nonzero(inside.conn == "new")),
        in_flight_trend=flying,
        ttft_trend=ttft,
        overloaded=bool(flying and flying.grows),
        recovery={each.name: _recovery(each.at, at.due, shares, run.horizon) for each in run.faults},
        steps=[_step(response(each, run.offline_curve, at.due, shares)) for each in facts.steps],
        sessions=_sessions(at, facts, window) if facts.live else None,
    )


def due_within(at: Columns, window: tuple[int, int]) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """By due time and nothing else: a slow request belongs to when it was asked, not to when it ended."""
    return (at.due >= window[0]) & (at.due <= window[1])


def outcomes(at: Columns) -> dict[str, int]:
    """All outcomes with their numbers, zeros included; their sum is the number of requests."""
    counts = np.bincount(at.outcome, minlength=len(OUTCOMES))
    return {name: int(counts[number]) for number, name in enumerate(OUTCOMES)}


def metric_result(
    at: Columns,
    name: str,
    facts: ClassFacts,
    judged: Judged,
    window: tuple[int, int],
) -> tree.MetricResult:
    """One metric over the requests that have it."""
    if name in metrics.POOLED:
        known = metrics.POOLED[name](at)
        return _described(known, 0, None)
    values = value_of(at, name, facts.slo)
    has = ~np.isnan(values)
    missing = 0 if name == "refuse_time" else int(np.count_nonzero(judged.counted & ~has))
    return _described(values[has], missing, batch_means.mean_interval(at.due[has], values[has], window))


def _described(known: Floats, missing: int, mean: batch_means.Interval | None) -> tree.MetricResult:
    ordered = np.sort(known)
    if mean is None and len(known):
        # Pooled values of one request hang together, so there is a mean and no interval.
        mean = batch_means.Interval(float(known.mean()), None, None, 0)
    return tree.MetricResult(
        count=len(known),
        missing=missing,
        mean=interval(mean),
        least=float(ordered[0]) if len(known) else None,
        greatest=float(ordered[-1]) if len(known) else None,
        quantiles=[_quantile(ordered, q) for q in QUANTILES],
    )


def _quantile(ordered: Floats, q: float) -> tree.Quantile:
    found = estimate_sorted(ordered, q)
    return tree.Quantile(found.q, found.value, found.low, found.high, found.count, found.needed)


def interval(found: batch_means.Interval | None) -> tree.Interval | None:
    """As a node of the tree."""
    return None if found is None else tree.Interval(found.value, found.low, found.high, found.count)


def _names(facts: ClassFacts) -> tuple[str, ...]:
    bounds = {each.metric for each in facts.slo.per_request}
    return (*_NAMES, "late") if {"ttft", "tpot"} <= bounds else _NAMES


def _sessions(at: Columns, facts: ClassFacts, window: tuple[int, int]) -> tree.Sessions | None:
    """Of the sessions whose first turn is due in the window, with all of their turns."""
    begun = at.session[due_within(at, window) & (at.turn == 0)]
    found = session_lateness(at.where(np.isin(at.session, begun)), facts.slo)
    if found is None:
        return None
    ordered = np.sort(found.whole)
    return tree.Sessions(
        begun=len(found.late),
        failed=len(found.late) - len(ordered),
        late=int(np.count_nonzero(found.late > 0)),
        mean=float(ordered.mean()) if len(ordered) else None,
        quantiles=[_quantile(ordered, q) for q in QUANTILES],
    )


def _attainment(at: Columns, judged: Judged, facts: ClassFacts, window: tuple[int, int]) -> tree.Attainment:
    seconds = (window[1] - window[0]) / 1e6
    shares = judged.shares()
    counted = ~np.isnan(shares)
    late, stalled = (value_of(at, name, facts.slo) for name in ("late", "stalled"))
    tokens = metrics.out_tokens(at)
    known = ~np.isnan(late)
    return tree.Attainment(
        slo=slo_text.show(Slo(facts.slo.per_request)),
        value=judged.value(),
        interval=interval(batch_means.mean_interval(at.due[counted], shares[counted], window)),
        offered=len(at),
        counted=int(np.count_nonzero(judged.counted)),
        good=int(np.count_nonzero(judged.good)),
        censored=int(np.count_nonzero(judged.censored)),
        cut=int(np.count_nonzero(judged.cut)),
        unmeasured=int(np.count_nonzero(judged.unmeasured)),
        goodput=float(np.count_nonzero(judged.good)) / seconds if seconds > 0 else None,
        good_tokens_per_s=float(tokens[judged.good].sum()) / seconds if seconds > 0 else None,
        late_tokens=float(np.average(late[known], weights=tokens[known])) if tokens[known].sum() else None,
        stalled=float(stalled[known].mean()) if known.any() else None,
    )


def _population(at: Columns, judged: Judged, facts: ClassFacts, number: int) -> tree.PopulationSlo:
    term = facts.slo.population[number]
    found = promise(at, term, facts.slo, judged)
    infinite = found.value is not None and math.isinf(found.value)
    return tree.PopulationSlo(
        slo=slo_text.show(Slo((), (term,))),
        value=None if infinite else found.value,
        infinite=infinite,
        passed=found.passed,
        count=found.count,
        needed=found.needed,
    )


def _rate(times: Floats, window: tuple[int, int]) -> tree.Interval | None:
    known = times[~np.isnan(times)]
    return interval(batch_means.rate_interval(known, np.ones(len(known)), window))


def _concurrency(at: Columns, window: tuple[int, int]) -> float | None:
    length = float(window[1] - window[0])
    if length <= 0:
        return None
    return float(overload.in_flight(at.due, at.end, window, block=length)[0])


def _trends(
    at: Columns,
    inside: Columns,
    window: tuple[int, int],
    *,
    closed: bool,
) -> tuple[tree.Trend | None, tree.Trend | None]:
    """Of requests in flight, and of TTFT. A closed loop cannot be asked for too much."""
    ttft = overload.trend(overload.block_means(inside.due, metrics.ttft(inside), window), overload.BLOCK / 1e6)
    if closed:
        return None, _trend(ttft)
    return _trend(overload.trend(overload.in_flight(at.due, at.end, window), overload.BLOCK / 1e6)), _trend(ttft)


def _trend(found: overload.Trend | None) -> tree.Trend | None:
    if found is None:
        return None
    return tree.Trend(found.slope, found.low, found.high, found.rise, found.mean, found.grows)


def _of_ideal(at: Columns, facts: ClassFacts, run: RunFacts) -> float | None:
    """Cached tokens over those of the best cache, both over the planned window: the ideal is not known of a part."""
    whole = at.where(due_within(at, run.window) & at.is_("ok"))
    if not facts.ideal_cached_tokens or np.isnan(whole.cached).all():
        return None
    return float(np.nansum(whole.cached)) / facts.ideal_cached_tokens


def _tokens(at: Columns, facts: ClassFacts, of_ideal: float | None) -> tree.Tokens:
    whole = at.where(at.is_("ok"))
    got = metrics.out_tokens(whole)
    by_source = Counter(int(each) for each in whole.source)
    names = {number: SOURCES[number] if number >= 0 else "unknown" for number in by_source}
    counted = np.add.reduceat(whole.tokens, whole.begin[:-1][whole.chunks > 0]) if whole.chunks.any() else np.zeros(0)
    better = whole.source[whole.chunks > 0] != SOURCES.index("chunks")
    cached = None if np.isnan(whole.cached).all() else int(np.nansum(whole.cached))
    return tree.Tokens(
        sources={names[each]: number / len(whole) for each, number in sorted(by_source.items())},
        in_want=int(np.nansum(whole.in_want)),
        in_got=None if np.isnan(whole.in_got).any() else int(whole.in_got.sum()),
        out_want=int(whole.out_want.sum()),
        out_got=int(got.sum()),
        wrong_length=int(np.count_nonzero((got != whole.out_want) if facts.exact else (got > whole.out_want))),
        chunks_disagree=int(np.count_nonzero(better & (counted != got[whole.chunks > 0]))),
        cached=cached,
        cached_of_ideal=of_ideal,
    )


def _recovery(at: int, due: Floats, shares: Floats, until: int) -> tree.Recovery:
    found = recovery(at, due, shares, until)
    never = found is not None and math.isinf(found)
    return tree.Recovery(micros=None if never else found, never=never)


def _step(found: Response) -> tree.StepResult:
    times = {"yield_time": found.yield_time, "fill_time": found.fill_time, "recovered": found.recovered}
    never = [name for name, value in times.items() if value is not None and math.isinf(value)]
    finite = {name: None if name in never else value for name, value in times.items()}
    return tree.StepResult(at=found.at, before=found.before, after=found.after, **finite, never=never)
