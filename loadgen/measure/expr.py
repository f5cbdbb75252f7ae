"""Expressions such as `chat.p99.ttft(during kill1)<=500ms`, read from text; what they come to is worked out elsewhere.

CLASS.[pNN.|mean.]METRIC[(all|during FAULT|after FAULT)] OP VALUE
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, get_args

from loadgen import units
from loadgen.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

Op = Literal["<=", "<", ">=", ">", "==", "!="]
Part = Literal["window", "all", "during", "after"]
Unit = Literal["time", "share", "count", "rate", "ratio"]

ALL: Final = "all"
"""Stands for every class of the run, so no class may be named so."""

SPREAD: Final[Mapping[str, Unit]] = {
    **dict.fromkeys(
        ("ttft", "wire_ttft", "ttfo", "tpot", "tbt", "gap", "max_gap", "e2e", "wire_e2e", "norm_e2e"), "time"
    ),
    **dict.fromkeys(("lag", "refuse_time"), "time"),
    "late": "share",
}
"""Metrics with many values, of which a quantile or the mean is asked for."""

JOB: Final[Mapping[str, Unit]] = {
    "completion": "time",
    "deadline_met": "share",
    "items_per_s": "rate",
    "tail1": "time",
    "retries": "count",
    "wasted": "count",
    "lost": "count",
    "repeated": "count",
    "unknown": "count",
    "harvest": "ratio",
}
"""Figures that only a class of jobs has."""

ONLINE: Final[Mapping[str, Unit]] = {
    "attainment": "share",
    "goodput": "rate",
    "recovery": "time",
    "yield_time": "time",
    "fill_time": "time",
    "interference": "ratio",
    "censored": "share",
    "stalled": "share",
}
"""Figures that only an online class has."""

COMMON: Final[Mapping[str, Unit]] = {
    "tokens_per_s": "rate",
    "requests_per_s": "rate",
    **dict.fromkeys(("offered", "good", "errors", "refused", "shed", "timeouts", "cut", "cancelled"), "count"),
}
"""Figures of any class."""

SINGLE: Final[Mapping[str, Unit]] = {**JOB, **ONLINE, **COMMON}
METRICS: Final[Mapping[str, Unit]] = {**SPREAD, **SINGLE}

_FIGURE = re.compile(r"([a-z][a-z0-9_]*)\.(?:(mean|p[0-9]{1,2}(?:\.[0-9]+)?)\.)?([a-z][a-z0-9_]*)(?:\(([^()]*)\))?")
_OP = re.compile(r"<=|>=|==|!=|<|>")
_PART = re.compile(r"(during|after) +([a-z][a-z0-9_]*)")
_FORM = "CLASS.[pNN.|mean.]METRIC[(all|during FAULT|after FAULT)]"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a run.

    `cls`: a class, or `all`. `quantile`: such as 0.99, of a metric with many values; else None. `mean`: its mean.
    `part`: `window` where nothing is said; `all` counts warm-up and drain too; `during` and `after` belong to `fault`.
    """

    cls: str
    quantile: float | None
    mean: bool
    metric: str
    part: Part
    fault: str | None

    @property
    def unit(self) -> Unit:
        """Of its value: `time` is microseconds, `rate` is per second."""
        return METRICS[self.metric]

    def __str__(self) -> str:
        stat = "mean." if self.mean else f"p{_percent(self.quantile)}." if self.quantile is not None else ""
        part = {"window": "", "all": "(all)"}.get(self.part, f"({self.part} {self.fault})")
        return f"{self.cls}.{stat}{self.metric}{part}"


@dataclass(frozen=True, slots=True)
class Expr(Figure):
    """A figure that must compare so with `value`: microseconds for times, per second for rates, 0 to 1 for shares."""

    op: Op
    value: float

    def __str__(self) -> str:
        shown = (
            f"{self.value:.0f}us"
            if self.unit == "time" and math.isfinite(self.value)
            else repr(self.value).removesuffix(".0")
        )
        # Not super(): a slotted dataclass is made anew, and the bare form would look for the class it replaced.
        return f"{Figure.__str__(self)}{self.op}{shown}"


def parse_figure(text: str, where: str = "--metric") -> Figure:
    """The part of an expression before its operator.

    Raises:
        BadInput: no such form or metric, or a statistic that the metric does not have.
    """
    found = _FIGURE.fullmatch(text.strip())
    if found is None:
        raise BadInput(where, "", text, f"expected {_FORM}, such as chat.p99.ttft")
    cls, stat, metric, part = found.groups()
    if metric not in METRICS:
        raise BadInput(where, "", metric, f"no such metric in {text.strip()!r}", METRICS)
    if metric in SPREAD and stat is None:
        raise BadInput(where, "", text, f"{metric} has many values: ask for {cls}.p99.{metric} or {cls}.mean.{metric}")
    if metric in SINGLE and stat is not None:
        raise BadInput(where, "", text, f"{metric} is one number and has no {stat}: write {cls}.{metric}")
    quantile = None if stat in (None, "mean") else float(stat[1:]) / 100
    if quantile == 0:
        raise BadInput(where, "", text, "a quantile lies between p0 and p100, both left out")
    span, fault = _part(part, text, where)
    if metric == "recovery" and span != "after":
        raise BadInput(where, "", text, "recovery belongs to a fault: write recovery(after NAME)")
    return Figure(cls, quantile, stat == "mean", metric, span, fault)


def parse(text: str, where: str = "--assert") -> Expr:
    """A whole expression.

    Raises:
        BadInput: see `parse_figure`; or no operator, or a value that the metric cannot have.
    """
    found = _OP.search(text)
    if found is None:
        raise BadInput(where, "", text, f"expected {_FORM} OP VALUE, such as chat.attainment>=0.99")
    figure = parse_figure(text[: found.start()], where)
    given = text[found.end() :].strip()
    try:
        value = _value(given, figure.unit)
    except ValueError as error:
        raise BadInput(where, figure.metric, given, str(error)) from error
    op = next(name for name in get_args(Op) if name == found[0])
    return Expr(figure.cls, figure.quantile, figure.mean, figure.metric, figure.part, figure.fault, op, value)


def _part(text: str | None, whole: str, where: str) -> tuple[Part, str | None]:
    if text is None:
        return "window", None
    if text.strip() == "all":
        return "all", None
    found = _PART.fullmatch(text.strip())
    if found is None:
        raise BadInput(where, "", whole, "in brackets stands all, during FAULT or after FAULT")
    return ("during" if found[1] == "during" else "after"), found[2]


def _value(text: str, unit: Unit) -> float:
    if unit == "time":
        return float("inf") if text == "inf" else float(units.duration(text))
    if unit == "share":
        return units.share(text)
    if unit == "rate" and "/" in text:
        return units.rate(text)
    value = float(text[:-1]) / 100 if unit == "ratio" and text.endswith("%") else float(text)
    if not math.isfinite(value):
        raise ValueError("a finite number is wanted")
    if unit == "count" and not value.is_integer():
        raise ValueError("a whole number is wanted")
    if unit in ("count", "rate") and value < 0:
        raise ValueError("it is never below zero")
    return value


def _percent(quantile: float) -> str:
    return f"{quantile * 100:.10g}"
