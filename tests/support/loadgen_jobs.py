"""Batch jobs for tests: planned as the run plans them, and a mock to send them to."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadgen.drive.clock import MonotonicClock
from loadgen.jobs.batch_job import BatchJob, JobSettings
from loadgen.jobs.client import Endpoint
from loadgen.jobs.inputs import JobInput, prepare_jobs
from loadgen.mock.options import parse
from loadgen.mock.server import MockServer
from loadgen.plan.build import build
from loadgen.plan.payload import Wire
from loadgen.plan.text import Words
from loadgen.spec import OfflineSpec, Scenario, SourceSpec
from loadgen.units import Dist

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from loadgen.jobs.report import JobReport
    from loadgen.plan.model import Plan

SETTINGS = JobSettings(poll=3_000, patience=5_000_000, settle=1_000, run_id="test", keep_text=True)
IMPATIENT = replace(SETTINGS, patience=40_000)
WIRE = Wire("mock", "mock", "slackwater", "exact", Words())
SLOW = ("--mode", "engine", "--ttft", "5ms", "--tpot", "1ms", "--slots", "4")


def go(work: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(work, 20)

    asyncio.run(bounded())


@asynccontextmanager
async def serving(*flags: str) -> AsyncIterator[MockServer]:
    server = MockServer(parse(flags))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def hold(server: MockServer, after: int) -> None:
    """Items of batches beyond the first `after` never end, so that a job stays open however slow this machine is."""
    app = server.app
    assert app is not None
    run = app.execute

    class Held:
        count = 0

        def execute(
            self, endpoint: str, body: dict[str, Any], done: Callable[[int, dict[str, Any]], None]
        ) -> Callable[[], None]:
            self.count += 1
            return run(endpoint, body, done) if self.count <= after else lambda: None

    app._batches._executor = Held()


def endpoint(server: MockServer, timeout: float = 10.0) -> Endpoint:
    return Endpoint.of(f"http://127.0.0.1:{server.port}", timeout=timeout)


def scenario(items: int = 5, **more: object) -> Scenario:
    given: dict[str, object] = {"input": Dist("fixed", 8), "output": Dist("fixed", 3), "items": items, **more}
    spec = OfflineSpec("eval", SourceSpec("synth"), **given)  # type: ignore[arg-type]
    return Scenario("http://127.0.0.1:1", (), (spec,), lengths="exact", duration=60_000_000, warmup=0)


def planned(asked: Scenario) -> Plan:
    return build(asked, Path("nowhere"))


def inputs(folder: Path, items: int = 5, **more: object) -> list[JobInput]:
    asked = scenario(items, **more)
    return prepare_jobs(asked, planned(asked), WIRE, folder)


async def ran(server: MockServer, job: JobInput, settings: JobSettings = SETTINGS) -> JobReport:
    return await BatchJob(job, endpoint(server), MonotonicClock(), settings).run()
