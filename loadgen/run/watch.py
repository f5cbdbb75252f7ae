"""`--abort`: expressions that are judged once a second on what load processes tell, and end a run that is hopeless.

Counts are exact and of the whole run so far; quantiles and attainment are of the last 30 s, and approximate.
"""

from __future__ import annotations

import operator
from collections import deque
from typing import TYPE_CHECKING, Final

import numpy as np

from loadgen.errors import BadInput
from loadgen.measure.expr import ALL, parse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from loadgen.drive.summary import ClassTally, Summary
    from loadgen.measure.expr import Expr

SPAN_MICROS: Final = 30_000_000
_LEAST: Final = 20
"""Answers of the last 30 s below which no quantile is judged: the first slow answer must not end a run."""
_COUNTS: Final = {
    "errors": "error",
    "refused": "refused",
    "shed": "shed",
    "timeouts": "timeout",
    "cancelled": "cancelled",
}
_TIMES: Final = ("ttft", "tpot", "e2e")
_COMPARE: Final = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
    ">": operator.gt,
    "==": operator.eq,
    "!=": operator.ne,
}


def expressions(texts: Sequence[str]) -> list[Expr]:
    """Those of `--abort`.

    Raises:
        BadInput: one that only records can tell.
    """
    found = [parse(text, "--abort") for text in texts]
    for each in found:
        if each.metric not in (*_COUNTS, *_TIMES, "offered") or each.part != "window":
            known = ", ".join((*_TIMES, *_COUNTS, "offered"))
            raise BadInput("--abort", "", str(each), f"is not known while a run goes on; these are: {known}")
    return found


class Watch:
    """Feed it the summaries of all load processes."""

    def __init__(self, abort: Sequence[Expr]) -> None:
        self._abort = abort
        self._latest: dict[int, Summary] = {}
        self._recent: deque[Summary] = deque()

    def feed(self, summary: Summary) -> None:
        """One second of one process."""
        self._latest[summary.process] = summary
        self._recent.append(summary)
        while self._recent and self._recent[0].at < summary.at - SPAN_MICROS:
            self._recent.popleft()

    def verdict(self) -> str | None:
        """The first expression that holds, with its value; None: go on."""
        for each in self._abort:
            value = self._value(each)
            if value is not None and _COMPARE[each.op](value, each.value):
                return f"{each} holds: {value:g}"
        return None

    def _value(self, figure: Expr) -> float | None:
        if figure.metric in _TIMES:
            return self._time(figure)
        tallies = [tally for each in self._latest.values() for tally in _of(each, figure.cls)]
        if figure.metric == "offered":
            return float(sum(tally.due for tally in tallies))
        return float(sum(tally.ended.get(_COUNTS[figure.metric], 0) for tally in tallies))

    def _time(self, figure: Expr) -> float | None:
        parts: list[NDArray[np.int64]] = [
            np.frombuffer(getattr(tally, figure.metric), dtype=np.int64)
            for each in self._recent
            for tally in _of(each, figure.cls)
        ]
        values = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
        values = values[values >= 0]
        if len(values) < _LEAST:
            return None
        if figure.quantile is None:
            return float(values.mean())
        return float(np.quantile(values, figure.quantile, method="higher"))


def _of(summary: Summary, cls: str) -> list[ClassTally]:
    return [tally for name, tally in summary.classes.items() if cls in (ALL, name)]
