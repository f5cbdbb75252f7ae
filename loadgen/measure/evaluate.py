"""What an expression comes to, from records: `chat.p99.ttft(during kill1)<=500ms`.

A quantile counts failed requests as endlessly slow, so that no assertion is met by survivors alone; a mean is of the
answers that came. A figure that cannot be given fails its expression, with the reason.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from loadgen.measure import metrics
from loadgen.measure.expr import ALL
from loadgen.measure.jobs import figures
from loadgen.measure.recovery import recovery
from loadgen.measure.slo import judge, value_of, with_failures
from loadgen.measure.steps import response
from loadgen.stats.quantile import estimate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadgen.measure.columns import Columns, Floats
    from loadgen.measure.expr import Expr, Figure
    from loadgen.measure.facts import FaultFacts, RunFacts
    from loadgen.measure.jobs import JobFigures
    from loadgen.measure.slo import Judged

_COMPARE = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
    "==": operator.eq,
    "!=": operator.ne,
}
_UNFAILING = ("lag", "refuse_time")
"""Known of failed requests too, so a failure makes them no worse."""
_OUTCOME = {"errors": "error", "refused": "refused", "shed": "shed", "timeouts": "timeout", "cancelled": "cancelled"}
_SUMMED = ("retries", "wasted", "lost", "repeated", "unknown")


@dataclass(frozen=True, slots=True)
class Value:
    """`number` in the figure's unit; `None` with the reason."""

    number: float | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether an expression holds. One whose figure cannot be given does not."""

    text: str
    holds: bool
    value: Value


def evaluate(expr: Expr, at: Columns, facts: RunFacts, window: tuple[int, int], other: Mapping[str, float]) -> Outcome:
    """`other`: figures that want a second run, `harvest` and `interference`, by their whole text.

    Never raises for a class or fault that does not exist: that is a reason, and does not hold.
    """
    value = figure_value(expr, at, facts, window, other)
    holds = value.number is not None and bool(_COMPARE[expr.op](value.number, expr.value))
    return Outcome(str(expr), holds, value)


def figure_value(
    figure: Figure,
    at: Columns,
    facts: RunFacts,
    window: tuple[int, int],
    other: Mapping[str, float],
) -> Value:
    """One number of a run."""
    names = list(facts.classes) if figure.cls == ALL else [figure.cls]
    if figure.cls != ALL and figure.cls not in facts.classes:
        return Value(None, f"there is no class {figure.cls}")
    fault = next((each for each in facts.faults if each.name == figure.fault), None)
    if figure.fault is not None and fault is None:
        return Value(None, f"there is no fault {figure.fault}")
    if figure.metric in ("harvest", "interference"):
        number = other.get(f"{figure.cls}.{figure.metric}")
        return Value(number, None if number is not None else "it wants the same plan run alone")
    job = _of_jobs(figure, at, facts, names)
    if job is not None:
        return job
    if figure.metric in ("recovery", "yield_time", "fill_time"):
        return _response(figure, at, facts, names, fault)
    span = _span(figure, facts, window, fault)
    parts = [_Part.of(name, at, facts, span) for name in names]
    if figure.quantile is not None or figure.mean:
        return _spread(figure, parts)
    return _single(figure, parts, span)


def _span(figure: Figure, facts: RunFacts, window: tuple[int, int], fault: FaultFacts | None) -> tuple[int, int]:
    if figure.part == "all":
        return -(1 << 62), 1 << 62
    if fault is None:
        return window
    if figure.part == "during":
        return fault.at, facts.horizon if fault.until is None else fault.until
    return fault.at if fault.until is None else fault.until, window[1]


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """One class within a span of due time."""

    name: str
    all: Columns
    inside: Columns
    judged: Judged
    facts: RunFacts

    @staticmethod
    def of(name: str, at: Columns, facts: RunFacts, span: tuple[int, int]) -> _Part:
        whole = at.where(at.cls == name)
        inside = whole.where((whole.due >= span[0]) & (whole.due <= span[1]))
        known = facts.classes[name]
        return _Part(name, whole, inside, judge(inside, known.slo, facts.horizon, exact=known.exact), facts)

    def values(self, metric: str, *, failures: bool) -> Floats:
        if metric in metrics.POOLED:
            return metrics.POOLED[metric](self.inside)
        slo = self.facts.classes[self.name].slo
        if failures and metric not in _UNFAILING:
            return with_failures(self.inside, metric, slo, self.judged)
        found = value_of(self.inside, metric, slo)
        return found[~np.isnan(found)]


def _spread(figure: Figure, parts: list[_Part]) -> Value:
    values = np.concatenate([each.values(figure.metric, failures=not figure.mean) for each in parts])
    if not len(values):
        return Value(None, f"nothing has a {figure.metric}")
    if figure.mean or figure.quantile is None:
        return Value(float(values.mean()))
    found = estimate(values, figure.quantile)
    if found.value is None:
        return Value(None, f"{found.count} samples are too few, {found.needed} are needed")
    return Value(found.value)


def _single(figure: Figure, parts: list[_Part], span: tuple[int, int]) -> Value:
    metric = figure.metric
    if metric in ("attainment", "goodput", "good", "censored", "stalled"):
        # Classes without an SLO promise nothing, so they have no share in what was kept.
        parts = [each for each in parts if each.facts.classes[each.name].slo.per_request]
        if not parts:
            return Value(None, "no SLO was given")
    good = sum(int(each.judged.good.sum()) for each in parts)
    counted = sum(int(each.judged.counted.sum()) for each in parts)
    offered = sum(len(each.inside) for each in parts)
    if metric == "attainment":
        return Value(good / counted) if counted else Value(None, "no request counts")
    if metric == "censored":
        return Value(sum(int(each.judged.censored.sum()) for each in parts) / offered if offered else 0.0)
    if metric == "stalled":
        return _stalled(parts)
    if metric in ("good", "offered"):
        return Value(float(good if metric == "good" else offered))
    if metric == "cut":
        return Value(float(sum(int(each.judged.cut.sum()) for each in parts)))
    if metric in _OUTCOME:
        return Value(float(sum(int(each.inside.is_(_OUTCOME[metric]).sum()) for each in parts)))
    return _rate(metric, parts, span, good)


def _stalled(parts: list[_Part]) -> Value:
    values = np.concatenate([each.values("stalled", failures=False) for each in parts])
    return Value(float(values.mean())) if len(values) else Value(None, "it wants bounds on ttft and tpot")


def _rate(metric: str, parts: list[_Part], span: tuple[int, int], good: int) -> Value:
    seconds = (span[1] - span[0]) / 1e6
    if not 0 < seconds < 1e9:
        return Value(None, "a rate wants a span of time, not the whole run")
    if metric == "goodput":
        return Value(good / seconds)
    count = 0
    for each in parts:
        times = metrics.delivery_times(each.all) if metric == "tokens_per_s" else each.all.end[each.all.is_("ok")]
        count += int(np.count_nonzero((times >= span[0]) & (times <= span[1])))
    return Value(count / seconds)


def _response(
    figure: Figure,
    at: Columns,
    facts: RunFacts,
    names: list[str],
    fault: FaultFacts | None,
) -> Value:
    """The worst over the classes: nobody has recovered while one has not."""
    found: list[float] = []
    for name in names:
        known = facts.classes[name]
        if not known.slo.per_request:
            continue
        part = at.where(at.cls == name)
        shares = judge(part, known.slo, facts.horizon, exact=known.exact).shares()
        if figure.metric == "recovery":
            value = None if fault is None else recovery(fault.at, part.due, shares, facts.horizon)
            found += [] if value is None else [value]
            continue
        steps = [response(each, facts.offline_curve, part.due, shares) for each in known.steps]
        times = [each.yield_time if figure.metric == "yield_time" else each.fill_time for each in steps]
        found += [each for each in times if each is not None]
    return Value(max(found)) if found else Value(None, "there is nothing to compare with, or no SLO")


def _of_jobs(figure: Figure, at: Columns, facts: RunFacts, names: list[str]) -> Value | None:
    """Over all jobs of the class; `None`: not a figure of jobs."""
    metric = figure.metric
    jobs = [figures(each, at.where(at.job == each.name)) for each in facts.jobs if each.cls in names]
    is_job = metric in ("completion", "deadline_met", "items_per_s", "tail1", *_SUMMED)
    if metric == "tokens_per_s" and jobs and not any(facts.classes[name].online for name in names):
        is_job = True
    if not is_job:
        return None
    if not jobs:
        return Value(None, f"{figure.cls} has no job")
    if metric == "deadline_met":
        met = [each.deadline_met for each in jobs]
        return Value(None, "no deadline was given") if None in met else Value(float(all(met)))
    return _folded(metric, jobs)


def _folded(metric: str, jobs: list[JobFigures]) -> Value:
    values = [getattr(each, metric) for each in jobs]
    known = [float(each) for each in values if each is not None]
    if len(known) < len(values):
        return Value(None, f"{metric} of a job is not known")
    if metric in _SUMMED:
        return Value(sum(known))
    # Times by the slowest job; rates of jobs that may not overlap are not added: the mean says what a job gets.
    return Value(max(known)) if metric in ("completion", "tail1") else Value(sum(known) / len(known))
