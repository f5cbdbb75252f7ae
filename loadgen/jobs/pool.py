"""A closed pool: there is always offline work, so that its throughput can be claimed.

The next job is submitted early, so that at least two jobs and a minute of work are open. What cannot be helped is told:
from when to when there was nothing to do.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from loadgen.jobs.waiting import Waiter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadgen.drive.clock import Clock
    from loadgen.jobs.batch_job import BatchJob
    from loadgen.jobs.inputs import JobInput

LEAST_JOBS = 2
AHEAD_MICROS = 60_000_000
_MOST_OPEN = 16
_MOST_FAILED = 2
"""Jobs that fail one after the other before no more are tried."""


@dataclass(slots=True)
class Stock:
    """Decides by looks at the pool. Pure. `looks`: (time, items done) of the last minute. Times in microseconds."""

    ahead: int = AHEAD_MICROS
    looks: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=1_024))
    dry: list[tuple[int, int]] = field(default_factory=list)
    """Spans between two looks of which the second found nothing to do."""
    left: int = 0
    open_jobs: int = 0
    _filled: bool = False

    def look(self, now: int, done: int, left: Sequence[int]) -> None:
        """`done`: items of all jobs so far; `left`: of each job that is open."""
        self.left, self.open_jobs = sum(left), len(left)
        before = self.looks[-1][0] if self.looks else now
        if self.left:
            self._filled = True
        elif self._filled:
            if self.dry and self.dry[-1][1] == before:
                self.dry[-1] = (self.dry[-1][0], now)
            else:
                self.dry.append((before, now))
        self.looks.append((now, done))
        while len(self.looks) > 2 and now - self.looks[1][0] >= self.ahead:
            self.looks.popleft()

    @property
    def rate(self) -> float:
        """Items a second of the last minute, 0 as long as nobody knows."""
        (first, had), (last, has) = (self.looks[0], self.looks[-1]) if self.looks else ((0, 0), (0, 0))
        return (has - had) / ((last - first) / 1e6) if last > first else 0.0

    @property
    def wants_more(self) -> bool:
        """Whether the next job should be submitted now."""
        if self.open_jobs < LEAST_JOBS:
            return True
        return self.open_jobs < _MOST_OPEN and self.left < self.rate * self.ahead / 1e6

    def dry_inside(self, window: tuple[int, int]) -> int:
        """Microseconds of the window in which there was nothing to do."""
        return sum(max(0, min(end, window[1]) - max(begin, window[0])) for begin, end in self.dry)


@dataclass(slots=True, eq=False)
class Pool:
    """Of one class. `begin` starts a job as a task of its own."""

    jobs: Sequence[JobInput]
    clock: Clock
    poll: int
    window: tuple[int, int]
    begin: Callable[[JobInput], BatchJob]
    stock: Stock = field(default_factory=Stock)
    used_up: bool = False
    failing: bool = False
    _begun: list[BatchJob] = field(default_factory=list)

    async def run(self) -> None:
        """Until the window's end; what is open then is for others to end."""
        waiting = deque(self.jobs)
        with Waiter(self.clock) as waiter:
            await waiter.until(self.jobs[0].at)
            while (now := self.clock.now()) < self.window[1]:
                self._look(now)
                while self.stock.wants_more and waiting and not self.failing:
                    self._begun.append(self.begin(waiting.popleft()))
                    self._look(self.clock.now())
                self.used_up = self.stock.wants_more and not waiting
                await waiter.until(min(now + self.poll, self.window[1]))
            self._look(self.clock.now())

    def invalid(self) -> list[str]:
        """Why the throughput of this class cannot be claimed, in sentences."""
        dry = self.stock.dry_inside(self.window)
        begun = self._begun and self.jobs[0].at < self.window[1]
        if begun and not dry:
            return []
        why = "; all planned jobs were used up" if self.used_up else ""
        why = "; its jobs fail" if self.failing else why
        if not begun:
            return [f"{self.jobs[0].cls}: the closed pool never began"]
        return [f"{self.jobs[0].cls}: the closed pool had nothing to do for {dry / 1e6:.1f} s of the window{why}"]

    def _look(self, now: int) -> None:
        open_jobs = [job for job in self._begun if not job.is_over and not job.has_ended]
        self.stock.look(now, sum(job.done for job in self._begun), [job.left for job in open_jobs])
        last = [job for job in self._begun if job.is_over][-_MOST_FAILED:]
        self.failing = len(last) == _MOST_FAILED and all(job.done == 0 for job in last)
