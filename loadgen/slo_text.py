"""SLO text: `ttft<=500ms&tpot<=50ms` of every request, `p99.ttft<=1s` of the whole class. The two are never mixed."""

from __future__ import annotations

import re
from typing import Final, get_args

from loadgen import texts, units
from loadgen.spec import Slo, SloMetric, SloTerm

_TERM = re.compile(r"(?:p([0-9]{1,2}(?:\.[0-9]+)?)\.)?([a-z0-9_]+) *(<=|==) *(\S+)")
METRICS: Final[tuple[SloMetric, ...]] = get_args(SloMetric)


def parse(text: str) -> Slo:
    """One `slo=` value.

    Raises:
        ValueError: what is expected.
    """
    terms = tuple(_term(part.strip()) for part in text.split("&"))
    per_request = tuple(term for term in terms if term.quantile is None)
    population = tuple(term for term in terms if term.quantile is not None)
    if per_request and population:
        raise ValueError("terms of each request and of the whole class are two SLOs: give slo= twice")
    return checked(Slo(per_request, population))


def join(parts: tuple[Slo, ...]) -> Slo:
    """Several `slo=` as one.

    Raises:
        ValueError: a metric bounded twice.
    """
    per_request = tuple(term for part in parts for term in part.per_request)
    population = tuple(term for part in parts for term in part.population)
    return checked(Slo(per_request, population))


def checked(slo: Slo) -> Slo:
    """The same, if no metric has two bounds."""
    for terms in (slo.per_request, slo.population):
        seen = [(term.quantile, term.metric) for term in terms]
        twice = next((metric for place, metric in enumerate(seen) if metric in seen[:place]), None)
        if twice is not None:
            raise ValueError(f"{twice[1]} has two bounds")
    return slo


def needs_pace(slo: Slo) -> bool:
    """`late` counts from bounds on `ttft` and `tpot`: are they missing?"""
    metrics = {term.metric for term in slo.per_request}
    bounded = {term.metric for term in (*slo.per_request, *slo.population)}
    return "late" in bounded and not {"ttft", "tpot"} <= metrics


def split(slo: Slo) -> tuple[Slo, ...]:
    """As `slo=` values: one of each kind that is there."""
    both = (Slo(per_request=slo.per_request), Slo(population=slo.population))
    return tuple(part for part in both if part.per_request or part.population)


def show(slo: Slo) -> str:
    """Back to text; of one kind only, see `split`."""
    return "&".join(_show(term) for term in (*slo.per_request, *slo.population))


def _term(text: str) -> SloTerm:
    found = _TERM.fullmatch(text)
    if found is None:
        raise ValueError(f"expected METRIC<=BOUND, such as ttft<=500ms, and not {text!r}")
    percent, metric, sign, bound = found.groups()
    known = next((name for name in METRICS if name == metric), None)
    if known is None:
        raise ValueError(f"no SLO on {metric}: expected {', '.join(METRICS)}")
    if sign == "==" and (metric, bound) != ("late", "0"):
        raise ValueError("only late==0 has ==; write <=")
    value = units.share(bound) if metric == "late" else float(units.duration(bound))
    if metric != "late" and value <= 0:
        raise ValueError(f"the bound of {metric} must be above zero")
    quantile = float(percent) / 100 if percent else None
    if quantile == 0:
        raise ValueError("a quantile lies above p0")
    return SloTerm(known, value, quantile)


def _show(term: SloTerm) -> str:
    bound = texts.decimal(term.bound) if term.metric == "late" else texts.duration(term.bound)
    percent = f"p{term.quantile * 100:.10g}." if term.quantile is not None else ""
    return f"{percent}{term.metric}<={bound}"
