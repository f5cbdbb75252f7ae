"""The closed pool's decisions, and all jobs of a run together."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from support import loadgen_jobs as rig

from loadgen.drive.clock import MonotonicClock
from loadgen.jobs.pool import Stock
from loadgen.jobs.runner import JobRunner

if TYPE_CHECKING:
    from pathlib import Path

SECOND = 1_000_000
LONG = (0, 3_600 * SECOND)


def test_two_jobs_and_a_minute_of_work_are_kept() -> None:
    stock = Stock()
    stock.look(0, 0, [])
    assert stock.wants_more
    stock.look(0, 0, [100])
    assert stock.wants_more
    stock.look(0, 0, [100, 100])
    assert not stock.wants_more
    # 2 items a second: 120 are a minute's work.
    stock.look(10 * SECOND, 20, [80, 100])
    assert stock.rate == 2.0
    assert not stock.wants_more
    stock.look(40 * SECOND, 80, [20, 100])
    assert not stock.wants_more
    stock.look(41 * SECOND, 82, [18, 100])
    assert stock.wants_more
    assert stock.dry == []


def test_the_rate_is_that_of_the_last_minute_and_jobs_are_bounded() -> None:
    stock = Stock()
    for second in range(200):
        stock.look(second * SECOND, 10 * second if second < 100 else 1_000 + second, [50, 50])
    assert stock.rate == 1.0
    stock.look(200 * SECOND, 1_200, [1] * 16)
    assert not stock.wants_more


def test_running_dry_is_seen_inside_the_window_only() -> None:
    stock = Stock()
    for second, left in enumerate([0, 5, 5, 0, 0, 3, 0, 2]):
        stock.look(second * SECOND, 0, [left] if left else [])
    # Before the first job there was nothing to run out of; what a look sees may have been so since the one before.
    assert stock.dry == [(2 * SECOND, 4 * SECOND), (5 * SECOND, 6 * SECOND)]
    assert stock.dry_inside(LONG) == 3 * SECOND
    assert stock.dry_inside((3 * SECOND, 5 * SECOND + 1)) == SECOND + 1
    assert stock.dry_inside((6 * SECOND, 7 * SECOND)) == 0


def test_a_job_that_ends_is_replaced_and_the_pool_does_not_run_dry(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig.serving() as server:
            rig.hold(server, after=30)
            jobs = rig.inputs(tmp_path, 20, pool_closed=True)
            assert len(jobs) == 32
            runner = JobRunner(jobs, rig.endpoint(server), clock_from_now(), LONG, rig.SETTINGS)
            task = asyncio.create_task(runner.run())
            while sum(each.status == "in_progress" for each in runner.progress()) < 2 or len(runner.progress()) < 3:
                await asyncio.sleep(0.002)
            reports = await runner.finish()
            await task
            assert runner.invalid == []
            assert [each.facts.name for each in reports] == [f"eval-{n + 1}" for n in range(len(reports))]
            assert [each.facts.reason for each in reports[:3]] in (
                [None, "cancelled", "cancelled"],
                ["cancelled", None, "cancelled"],
            )
            assert sum(each.facts.completed for each in reports) == 30
            assert [sentence for each in reports for sentence in each.violations] == []

    rig.go(main())


def test_a_pool_whose_jobs_are_used_up_or_fail_is_not_valid(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig.serving() as server:
            jobs = rig.inputs(tmp_path, 5, pool_closed=True)[:3]
            window = (0, 500_000)
            runner = JobRunner(jobs, rig.endpoint(server), clock_from_now(), window, rig.SETTINGS)
            await runner.run()
            assert len(await runner.finish()) == 3
            [why] = runner.invalid
            assert why.startswith("eval: the closed pool had nothing to do for 0.")
            assert why.endswith(" s of the window; all planned jobs were used up")
        jobs = rig.inputs(tmp_path, 5, pool_closed=True)
        runner = JobRunner(jobs, rig.endpoint(server), clock_from_now(), window, replace(rig.SETTINGS, patience=1_000))
        await runner.run()
        reports = await runner.finish()
        assert 2 <= len(reports) < 32
        assert all(each.facts.reason is not None for each in reports)
        assert len(runner.invalid) == 1

    rig.go(main())


def test_jobs_begin_when_they_are_due_and_end_with_the_run(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig.serving() as server:
            rig.hold(server, after=30)
            [job] = rig.inputs(tmp_path, 200)
            first, never = replace(job, at=20_000), replace(job, name="never", at=3_600 * SECOND)
            clock = clock_from_now()
            runner = JobRunner([first, never], rig.endpoint(server), clock, LONG, rig.SETTINGS)
            task = asyncio.create_task(runner.run())
            while not any(each.done for each in runner.progress()):
                await asyncio.sleep(0.002)
            [progress] = runner.progress()
            assert progress.submitted is not None
            assert progress.submitted >= 20_000
            assert progress.status == "in_progress"
            [report] = await runner.finish()
            await task
            assert report.facts.reason == "cancelled"
            assert report.facts.completed == 30
            assert await runner.finish() == [report]

    rig.go(main())


def test_an_abandoned_run_still_tells(tmp_path: Path) -> None:
    async def main() -> None:
        async with rig.serving() as server:
            rig.hold(server, after=30)
            runner = JobRunner(rig.inputs(tmp_path, 200), rig.endpoint(server), clock_from_now(), LONG, rig.SETTINGS)
            task = asyncio.create_task(runner.run())
            while not any(each.done for each in runner.progress()):
                await asyncio.sleep(0.002)
            runner.abandon()
            [report] = await runner.finish()
            await task
            assert report.facts.reason == "the run ended before it did"
            assert (report.facts.unfinished, report.facts.finished) == (200, None)

    rig.go(main())


def clock_from_now() -> MonotonicClock:
    return MonotonicClock(MonotonicClock().now() * 1_000)
