"""All batch jobs of a run: begun when they are due, ended when the run ends. Lives in the parent's event loop."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from loadgen.jobs.batch_job import BatchJob, JobSettings
from loadgen.jobs.pool import Pool
from loadgen.jobs.waiting import Waiter

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from loadgen.drive.clock import Clock
    from loadgen.jobs.batch_job import JobProgress
    from loadgen.jobs.client import Endpoint
    from loadgen.jobs.inputs import JobInput
    from loadgen.jobs.report import JobReport


class JobRunner:
    """`run` is a task of the run; `finish` ends it and gives the reports."""

    def __init__(
        self,
        inputs: Sequence[JobInput],
        endpoint: Endpoint,
        clock: Clock,
        window: tuple[int, int],
        settings: JobSettings | None = None,
    ) -> None:
        """`window`: what is measured, in microseconds of `clock`, whose zero is t0."""
        given = settings or JobSettings()
        # The same plan may run again on a server that remembers keys: the jobs of this run are its own.
        self._settings = given if given.run_id else replace(given, run_id=secrets.token_hex(8))
        self._endpoint, self._clock, self._window = endpoint, clock, window
        self._single = [job for job in inputs if not job.pool]
        self._pools = [
            Pool([job for job in inputs if job.pool and job.cls == cls], clock, given.poll, window, self._begin)
            for cls in dict.fromkeys(job.cls for job in inputs if job.pool)
        ]
        self._begun: list[BatchJob] = []
        self._starters: set[asyncio.Task[object]] = set()
        self._tasks: set[asyncio.Task[object]] = set()

    @property
    def invalid(self) -> list[str]:
        """Why figures of closed pools cannot be claimed; after `finish`."""
        return [sentence for pool in self._pools for sentence in pool.invalid()]

    def progress(self) -> list[JobProgress]:
        """Of all jobs that have begun."""
        return [job.progress() for job in self._begun]

    async def run(self) -> None:
        """Until all jobs have ended, or `finish` ends them."""
        for job in self._single:
            self._starters.add(self._task(self._begin_at(job)))
        for pool in self._pools:
            self._starters.add(self._task(pool.run()))
        while self._tasks:
            done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
            self._tasks -= done
            for task in done:
                if not task.cancelled():
                    task.result()

    async def finish(self, within: float = 30.0) -> list[JobReport]:
        """Cancel what is open, wait for it up to `within` seconds, and tell of every job that has begun."""
        for task in self._starters:
            task.cancel()
        for job in self._begun:
            if not job.is_over:
                job.stop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=within)
        await self._cut()
        return [job.report() for job in self._begun]

    def abandon(self) -> None:
        """Drop everything; `finish` then tells what is known."""
        for task in self._tasks:
            task.cancel()

    async def _cut(self) -> None:
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, job: JobInput) -> BatchJob:
        begun = BatchJob(job, self._endpoint, self._clock, self._settings)
        self._begun.append(begun)
        self._task(begun.run())
        return begun

    async def _begin_at(self, job: JobInput) -> None:
        with Waiter(self._clock) as waiter:
            await waiter.until(job.at)
        self._begin(job)

    def _task(self, work: Coroutine[object, object, object]) -> asyncio.Task[object]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        return task
