"""One class as it goes: exact counts from the load processes' totals, and what the last 30 s of answers were like."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from loadgen.drive.summary import ClassTally
    from loadgen.observe.live_plan import ClassPlan

SPAN: Final = 30_000_000
"""Microseconds over which latencies and attainment are shown."""
RATE_SPAN: Final = 5_000_000
MOST_VALUES: Final = 200_000
"""Of each metric; a faster class shows the newest."""
BAD: Final = ("error", "shed", "refused", "timeout")
_NONE: Final = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Totals:
    """Exact, since `t0`. `open` and `unsent` are known at the end only."""

    due: int
    sent: int
    in_flight: int
    ended: dict[str, int]
    marks: int

    @classmethod
    def of(cls, parts: Iterable[ClassTally | Totals]) -> Totals:
        """All of them together, whether of processes or of classes."""
        every = list(parts)
        ended: Counter[str] = Counter()
        for each in every:
            ended.update(each.ended)
        return cls(
            due=sum(each.due for each in every),
            sent=sum(each.sent for each in every),
            in_flight=sum(each.in_flight for each in every),
            ended=dict(ended),
            marks=sum(each.marks for each in every),
        )

    @property
    def bad(self) -> int:
        """Requests that ended and cannot be good."""
        return sum(self.ended.get(name, 0) for name in BAD)

    @property
    def judged(self) -> int:
        """Requests that ended and say something about the server."""
        return self.ended.get("ok", 0) + self.bad


@dataclass(frozen=True, slots=True, eq=False)
class _Slice:
    """What one load process told of one second. `tpot` is -1 where there is none."""

    at: int
    ttft: NDArray[np.int64]
    tpot: NDArray[np.int64]
    good: int
    bad: int


class LiveClass:
    """Fed with every tally of its class."""

    def __init__(self, plan: ClassPlan) -> None:
        self.plan = plan
        self._latest: dict[int, ClassTally] = {}
        self._slices: deque[_Slice] = deque()
        self._held = 0
        self._good = self._seen = 0
        self._points: deque[tuple[int, int, int]] = deque(maxlen=64)
        """(time, due, judged): totals at each tick, for rates."""

    def feed(self, process: int, at: int, tally: ClassTally) -> None:
        """Take one second of one process; `at` in microseconds."""
        before = self._latest.get(process)
        self._latest[process] = tally
        ttft, tpot, e2e = tally.micros("ttft"), tally.micros("tpot"), tally.micros("e2e")
        good = self._count_good(ttft, tpot, e2e)
        self._good += good
        self._seen += len(ttft)
        bad = _bad(tally) - (_bad(before) if before is not None else 0)
        self._slices.append(_Slice(at, ttft, tpot, good, max(0, bad)))
        self._held += len(ttft)
        while self._slices and (self._slices[0].at <= at - SPAN or self._held > MOST_VALUES):
            self._held -= len(self._slices.popleft().ttft)

    def _count_good(self, ttft: NDArray[np.int64], tpot: NDArray[np.int64], e2e: NDArray[np.int64]) -> int:
        met = np.ones(len(ttft), dtype=np.bool_)
        for term in self.plan.terms:
            values = {"ttft": ttft, "tpot": tpot, "e2e": e2e}[term.metric]
            # One token has no pace, and breaks no promise of one: -1 passes.
            met &= values <= term.bound
        return int(np.count_nonzero(met))

    def advance(self, told: int) -> None:
        """Note the totals. `told`: the time of the newest; by the time of looking, a rate would jump with each summary
        that comes a little early or late.
        """
        totals = self.totals()
        if self._points and told <= self._points[-1][0]:
            return
        self._points.append((told, totals.due, totals.judged))
        while len(self._points) > 2 and self._points[1][0] <= told - RATE_SPAN:
            self._points.popleft()

    def totals(self) -> Totals:
        """Over all processes."""
        return Totals.of(self._latest.values())

    def rates(self) -> tuple[float | None, float | None]:
        """Offered and ended requests a second, over about the last 5 s."""
        if len(self._points) < 2 or self._points[-1][0] <= self._points[0][0]:
            return None, None
        (begin, due, judged), (end, due_now, judged_now) = self._points[0], self._points[-1]
        seconds = (end - begin) / 1e6
        return (due_now - due) / seconds, (judged_now - judged) / seconds

    def values(self, metric: str, now: int) -> NDArray[np.int64]:
        """TTFT or TPOT of the answers that ended within 30 s before `now`, microseconds, i64[n]."""
        parts = [each.ttft if metric == "ttft" else each.tpot for each in self._slices if each.at > now - SPAN]
        found = np.concatenate(parts) if parts else _NONE
        return found[found >= 0]

    def quantile(self, metric: str, q: float, now: int) -> float | None:
        """Approximate: of what came within 30 s, by its end."""
        found = self.values(metric, now)
        return float(np.quantile(found, q, method="higher")) if len(found) else None

    def attainment(self, now: int) -> tuple[float | None, float | None]:
        """Of the last 30 s, and of all so far; approximate, since TPOT is. None without an SLO that can be judged."""
        if not self.plan.terms:
            return None, None
        recent = [each for each in self._slices if each.at > now - SPAN]
        good = sum(each.good for each in recent)
        judged = sum(len(each.ttft) + each.bad for each in recent)
        totals = self.totals()
        # Of answers whose summary was dropped nothing is known but their number: they are taken to be like the others.
        share = self._good / self._seen if self._seen else 0.0
        whole = share * totals.ended.get("ok", 0) / totals.judged if totals.judged else None
        return (good / judged if judged else None), whole


def _bad(tally: ClassTally) -> int:
    return sum(tally.ended.get(name, 0) for name in BAD)
