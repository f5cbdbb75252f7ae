"""All that the live view shows, folded from what the parts of a run tell the parent. Pure: the time is an argument.

Counts are exact, since load processes tell totals. Latencies are those of the last 30 s and approximate; the result is
computed from the records, never from this.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from loadgen.drive.gate import FLOOR_MICROS, MOST_CPU, MOST_FOREIGN, MOST_STEAL, SHARE_OF_TTFT
from loadgen.observe.live_class import LiveClass, Totals
from loadgen.observe.live_plan import ClassPlan
from loadgen.stats.overload import trend

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadgen.drive.summary import Summary
    from loadgen.observe.host import HostRow
    from loadgen.observe.live_plan import LivePlan

SECOND: Final = 1_000_000
MOST_POINTS: Final = 4_000
"""Seconds that the curves hold: more than an hour."""
_LAG_SECONDS: Final = 30
_OVERLOAD_SECONDS: Final = 60
_BLOCK: Final = 10

Phase = Literal["start", "warm-up", "window", "drain", "end"]


@dataclass(frozen=True, slots=True)
class Point:
    """One second of the whole run. Rates a second; None: nothing is known."""

    at: int
    offered: float
    attainment: float | None
    offline_tokens: float | None


@dataclass(frozen=True, slots=True)
class JobState:
    """`forecast`: when it will be through at the present pace, microseconds from `t0`."""

    name: str
    items: int
    done: int
    failed: int
    deadline: int | None
    forecast: int | None


@dataclass(frozen=True, slots=True)
class ClientState:
    """The worst over the load processes in their newest second. Lags in microseconds, CPU in cores, backlog in
    bytes.
    """

    lag_p99: float = 0.0
    loop_lag_p99: float = 0.0
    cpu: float = 0.0
    backlog: int = 0
    dropped: int = 0


@dataclass(slots=True)
class _Job:
    items: int
    deadline: int | None
    done: int = 0
    failed: int = 0
    points: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=60))


class LiveState:
    """Fed by callbacks, read by the faces of the view."""

    def __init__(self, plan: LivePlan) -> None:
        self.plan = plan
        self.classes = {name: LiveClass(each) for name, each in plan.classes.items()}
        self.points: deque[Point] = deque(maxlen=MOST_POINTS)
        self.faults: list[tuple[str, int]] = []
        """Those that were injected."""
        self.server: dict[str, float | None] = {}
        self.died: set[int] = set()
        self.forced: Phase | None = None
        """The phase, where it is not the one that the plan's times say."""
        self._said: dict[str, str] = {}
        self._jobs = {name: _Job(each.items, each.deadline) for name, each in plan.jobs.items()}
        self._latest: dict[int, Summary] = {}
        self._lags: dict[int, deque[tuple[float, float]]] = {}
        self._open: deque[int] = deque(maxlen=_OVERLOAD_SECONDS)
        self._host: deque[HostRow] = deque(maxlen=MOST_POINTS)
        self._before: tuple[int, Totals, float | None] | None = None

    # What is told.

    def feed(self, summary: Summary) -> None:
        """One second of one load process."""
        self._latest[summary.process] = summary
        lags = self._lags.setdefault(summary.process, deque(maxlen=_LAG_SECONDS))
        lags.append((summary.send_lag_p99, summary.loop_lag_p99))
        for name, tally in summary.classes.items():
            if name not in self.classes:
                self.classes[name] = LiveClass(ClassPlan())
            self.classes[name].feed(summary.process, summary.at, tally)

    def feed_job(self, name: str, at: int, done: int, failed: int = 0) -> None:
        """A job has so many items done (completed and failed together) at `at`."""
        job = self._jobs.setdefault(name, _Job(0, None))
        through = job.items > 0 and job.done >= job.items
        job.done, job.failed = done, failed
        if not through:
            # The last point of a job that is through is when it was.
            job.points.append((at, done))

    def feed_server(self, values: Mapping[str, float | None]) -> None:
        """The newest row of the scraper."""
        self.server = dict(values)

    def feed_host(self, row: HostRow) -> None:
        """The newest row of the host's watch; the same one again changes nothing."""
        if not self._host or self._host[-1].t_micros != row.t_micros:
            self._host.append(row)

    def fault(self, name: str, at: int) -> None:
        """A fault was injected."""
        self.faults.append((name, at))

    def flag(self, name: str, why: str) -> None:
        """Set a flag that the run knows of: `INVALID`, `OVERLOADED`, `DISTURBED`."""
        self._said.setdefault(name, why)

    def advance(self, now: int) -> None:
        """A second has passed: note where the totals stand, and of which moment they are."""
        told = max((each.at for each in self._latest.values()), default=now)
        for each in self.classes.values():
            each.advance(told)
        self._feed_streams(now)
        totals = self.totals(online=True)
        tokens = self._offline_tokens()
        before = self._before
        if before is not None and told <= before[0]:
            return
        self._before = (told, totals, tokens)
        if self.plan.window[0] <= now <= self.plan.window[1]:
            self._open.append(totals.in_flight)
        if before is None:
            return
        seconds = (told - before[0]) / 1e6
        grown = None if tokens is None or before[2] is None else max(0.0, tokens - before[2]) / seconds
        recent = [each.attainment(now)[0] for each in self.classes.values() if each.plan.online]
        known = [share for share in recent if share is not None]
        self.points.append(Point(now, (totals.due - before[1].due) / seconds, min(known) if known else None, grown))

    def _feed_streams(self, now: int) -> None:
        """Jobs whose items the load processes send themselves are told by their class, when it has only one job."""
        for name, each in self.plan.jobs.items():
            alone = sum(other.cls == each.cls for other in self.plan.jobs.values()) == 1
            totals = self.classes[each.cls].totals() if alone and each.cls in self.classes else None
            if totals is not None and totals.sent:
                self.feed_job(name, now, totals.judged, totals.bad)

    def _offline_tokens(self) -> float | None:
        """By the server's counter, else by the events of offline streams; None where there is neither."""
        told = self.server.get("offline_tokens")
        if told is not None:
            return told
        offline = [each.totals() for each in self.classes.values() if not each.plan.online]
        return float(sum(each.marks for each in offline)) if any(each.sent for each in offline) else None

    # What is shown.

    def totals(self, *, online: bool | None = None) -> Totals:
        """Exact counts over all classes, or over those of one kind."""
        return Totals.of(each.totals() for each in self.classes.values() if online in (None, each.plan.online))

    def phase(self, now: int) -> tuple[Phase, int]:
        """The phase, and microseconds left in it at most."""
        begin, end = self.plan.window
        if self.forced is not None:
            return self.forced, max(0, self.plan.horizon - now)
        if now < 0:
            return "start", -now
        if now < begin:
            return "warm-up", begin - now
        if now <= end:
            return "window", end - now
        if now < self.plan.horizon:
            return "drain", self.plan.horizon - now
        return "end", 0

    def jobs(self) -> list[JobState]:
        """In the order of the plan."""
        return [
            JobState(name, job.items, job.done, job.failed, job.deadline, _forecast(job))
            for name, job in self._jobs.items()
        ]

    def client(self) -> ClientState:
        """The last row of the view."""
        told = list(self._latest.values())
        if not told:
            return ClientState()
        return ClientState(
            lag_p99=max(each.send_lag_p99 for each in told),
            loop_lag_p99=max(each.loop_lag_p99 for each in told),
            cpu=max(each.cpu_share for each in told),
            backlog=sum(each.backlog for each in told),
            dropped=sum(each.dropped for each in told),
        )

    def flags(self, now: int) -> dict[str, str]:
        """By flag, why, as it looks now; the last word is the result's."""
        found = dict(self._said)
        for name, why in (
            ("INVALID", self._invalid(now)),
            ("OVERLOADED", self._overloaded()),
            ("DISTURBED", self._disturbed()),
        ):
            if why:
                found.setdefault(name, why)
        return found

    def _invalid(self, now: int) -> str | None:
        if self.died:
            return f"load process {min(self.died)} died"
        medians = [each.quantile("ttft", 0.5, now) for each in self.classes.values() if each.plan.online]
        known = [value for value in medians if value is not None]
        bound = max(FLOOR_MICROS, SHARE_OF_TTFT * (min(known) if known else 0.0))
        for process, lags in self._lags.items():
            # One bad second of many does not make the window's p99: the median of the seconds stands for it.
            for what, place in (("send lag", 0), ("loop lag", 1)):
                usual = float(np.median([each[place] for each in lags]))
                if usual > bound:
                    return f"load process {process}: {what} p99 {usual / 1e3:.1f} ms"
            if self._latest[process].cpu_share > MOST_CPU:
                return f"load process {process}: {self._latest[process].cpu_share:.0%} of a core"
        return None

    def _overloaded(self) -> str | None:
        if len(self._open) < 3 * _BLOCK:
            return None
        held = np.array(self._open, dtype=np.float64)
        whole = len(held) // _BLOCK * _BLOCK
        line = trend(held[-whole:].reshape(-1, _BLOCK).mean(axis=1), _BLOCK)
        return f"{held[-1]:.0f} in flight and growing" if line is not None and line.grows else None

    def _disturbed(self) -> str | None:
        steals = [row.steal for row in self._host if row.steal is not None]
        others = [row.foreign_cpu for row in self._host if row.foreign_cpu is not None]
        if steals and sum(steals) / len(steals) > MOST_STEAL:
            return f"steal {sum(steals) / len(steals):.1%}"
        if others and sum(others) / len(others) > MOST_FOREIGN:
            return f"other processes use {sum(others) / len(others):.0%} of a core"
        return None


def _forecast(job: _Job) -> int | None:
    if job.items and job.done >= job.items:
        return job.points[-1][0] if job.points else None
    if len(job.points) < 2:
        return None
    (begin, before), (end, now) = job.points[0], job.points[-1]
    if now <= before or end <= begin:
        return None
    return end + round((job.items - now) * (end - begin) / (now - before))
