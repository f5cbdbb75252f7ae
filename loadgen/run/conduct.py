"""The run itself: everything that goes on between the first due time and the end of the drain, on the parent's loop.

Load processes send; beside them the parent runs batch jobs, faults, the watching of server and host, and the view.
Nothing here is on the path that is measured.
"""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from loadgen.drive.clock import MonotonicClock
from loadgen.drive.crew import Crew
from loadgen.drive.scribe_live import LiveScribe
from loadgen.faults.context import FaultContext
from loadgen.faults.runner import FaultRunner
from loadgen.jobs.batch_job import JobSettings
from loadgen.jobs.client import Endpoint
from loadgen.jobs.inputs import prepare_jobs
from loadgen.jobs.outputs import needs_outputs
from loadgen.jobs.runner import JobRunner
from loadgen.observe import pause
from loadgen.observe.host import HostWatch
from loadgen.observe.scrape import Scraper
from loadgen.run.processes import orders_for, pins, processes, scribe_beside
from loadgen.run.watch import Watch, expressions

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping

    from loadgen.drive.gate import Meters
    from loadgen.drive.summary import Summary
    from loadgen.faults.link import Link
    from loadgen.faults.runner import FaultLine
    from loadgen.jobs.report import JobReport
    from loadgen.measure.facts import FaultFacts
    from loadgen.observe.live import LiveView
    from loadgen.run.files import RunFolder
    from loadgen.run.prepare import Keys, Prepared
    from loadgen.run.stage import Stage
    from loadgen.spec import Scenario

_LEAD_NANOS: Final = 100_000_000
"""From "all are ready" to `t0`: the word must reach every load process before."""
_TICK_MICROS: Final = 500_000


@dataclass(slots=True)
class Conducted:
    """What happened. Times in microseconds from `t0`, `started_micros` of the wall clock since 1970."""

    started_micros: int = 0
    horizon: int = 0
    stopped: int | None = None
    """When somebody or `--abort` ended the issuing before its time."""
    spools: list[Path] = field(default_factory=list)
    meters: list[Meters] = field(default_factory=list)
    lost_processes: bool = False
    faults: list[FaultFacts] = field(default_factory=list)
    fault_lines: list[FaultLine] = field(default_factory=list)
    jobs: list[JobReport] = field(default_factory=list)
    messages: dict[tuple[str, str], str] = field(default_factory=dict)
    """By (class, reason): the server's words with the first such error."""
    invalid: list[str] = field(default_factory=list)
    """What jobs say against the run."""
    scraper: Scraper | None = None
    host: HostWatch | None = None
    interrupted: bool = False
    aborted: str | None = None


async def conduct(
    prepared: Prepared, folder: RunFolder, keys: Keys, view: LiveView, stage: Stage, links: Mapping[str, Link]
) -> Conducted:
    """Carry the plan out. `links`: the proxies, which stand already.

    Raises:
        Unreachable: the target takes no connection.
        BadInput: a fault that cannot be aimed.
    """
    async with AsyncExitStack() as stack:
        watch = Watch(expressions(prepared.scenario.aborts))
        crew = stage.crew
        if crew is None:
            count = processes(prepared.scenario.procs)
            nice = -10 if stage.experiment else 0
            crew = await stack.enter_async_context(Crew(count, pin=pins(count), nice=nice))

        def feed(summary: Summary) -> None:
            watch.feed(summary)
            view.feed(summary)

        crew.on_summary = feed
        run = _Run(prepared, folder, keys, crew, watch, view)
        await run.prepare(links)
        scribe: AbstractAsyncContextManager[object] = nullcontext()
        if scribe_beside(prepared.scenario.scribe):
            keep = prepared.counting.count is not None or needs_outputs(prepared.scenario)
            scribe = LiveScribe(run.found.spools, keep_text=keep)
        with _signals(run):
            async with scribe:
                return await run.carry_out()


class _Run:
    def __init__(
        self, prepared: Prepared, folder: RunFolder, keys: Keys, crew: Crew, watch: Watch, view: LiveView
    ) -> None:
        self._prepared, self._folder, self._keys = prepared, folder, keys
        self._crew, self._watch, self._view = crew, watch, view
        self._scenario = prepared.scenario
        self._clock = MonotonicClock()
        self._issue_end = prepared.scenario.warmup_micros + prepared.scenario.duration
        self._orders = orders_for(prepared, folder, crew.procs)
        self._stop, self._enough = asyncio.Event(), asyncio.Event()
        self._faults: FaultRunner | None = None
        self._jobs: JobRunner | None = None
        self.found = Conducted(spools=[Path(each.spool) for each in self._orders])

    async def prepare(self, links: Mapping[str, Link]) -> None:
        """All that may fail before `t0`."""
        scenario, keys, found = self._scenario, self._keys, self.found
        context = FaultContext(
            target=scenario.target,
            api_key=keys.api,
            admin_url=scenario.admin_url,
            admin_key=keys.admin,
            pids=Path(scenario.pids) if scenario.pids else None,
            links=links,
            hang_up=self._crew.hang_up,
            own_pids=frozenset(self._crew.pids),
        )
        self._faults = FaultRunner(scenario.faults, context, self._clock, on_line=self._on_fault)
        await self._faults.check()
        inputs = prepare_jobs(scenario, self._prepared.plan, self._prepared.wire, self._folder.jobs)
        settings = JobSettings(keep_text=needs_outputs(scenario))
        endpoint = Endpoint.of(scenario.target, keys.api)
        self._jobs = JobRunner(inputs, endpoint, self._clock, self._prepared.plan.window, settings)
        if scenario.metrics_url is not None:
            found.scraper = Scraper(scenario.metrics_url, self._clock)
        found.host = HostWatch(self._clock, server_url(scenario))
        await self._crew.prepare(self._orders, keys.api)

    def _on_fault(self, line: FaultLine) -> None:
        self.found.fault_lines.append(line)
        if line.event == "injected":
            self._view.state.fault(line.fault, line.at)

    def interrupt(self) -> None:
        """The first Ctrl-C ends issuing, the second ends the run."""
        self.found.interrupted = True
        if self._stop.is_set():
            self._enough.set()
            if self._faults is not None:
                self._faults.abandon()
        self._stop.set()

    async def carry_out(self) -> Conducted:
        """From `t0` to the end of the drain."""
        if self._faults is None or self._jobs is None:
            raise RuntimeError("`prepare` comes first")
        t0 = time.monotonic_ns() + _LEAD_NANOS
        self._clock.begin(t0)
        self.found.started_micros = (time.time_ns() + _LEAD_NANOS) // 1_000
        self._crew.start(t0)
        beside = [asyncio.create_task(each) for each in self._watching()]
        faults = asyncio.create_task(self._faults.run())
        jobs = asyncio.create_task(self._jobs.run())
        try:
            await self._until_ended(faults, jobs)
            self._faults.stop()
            await self._drain(jobs)
            self.found.meters = await self._crew.finish()
            self.found.jobs = await self._jobs.finish()
            self.found.faults = await faults
            await jobs
        finally:
            await _end(*beside, faults, jobs)
        self.found.horizon = self._clock.now()
        self.found.lost_processes = bool(self._crew.died)
        self.found.invalid = list(self._jobs.invalid)
        return self.found

    async def _until_ended(self, faults: asyncio.Task[list[FaultFacts]], jobs: asyncio.Task[None]) -> None:
        """All that is planned has ended, or the time is over, or somebody wants it to end."""
        sent = asyncio.create_task(self._crew.wait())
        stop = asyncio.create_task(self._stop.wait())
        over = asyncio.create_task(pause.until(self._clock, self._issue_end))
        work: set[asyncio.Task[Any]] = {sent, faults, jobs}
        while work and not stop.done() and not over.done():
            await asyncio.wait({*work, stop, over}, return_when=asyncio.FIRST_COMPLETED)
            work = {each for each in work if not each.done()}
        if stop.done() and not over.done():
            self.found.stopped = self._clock.now()
        await _end(sent, stop, over)
        self._crew.stop()

    async def _drain(self, jobs: asyncio.Task[None]) -> None:
        """Nothing more is sent; what is open may end within `--drain`, or until somebody has waited enough."""
        self._view.phase("drain")
        limit = self._clock.now() + self._scenario.drain
        sent = asyncio.create_task(self._crew.wait(limit))
        enough = asyncio.create_task(self._enough.wait())
        over = asyncio.create_task(pause.until(self._clock, limit))
        work: set[asyncio.Task[Any]] = {sent, jobs}
        while work and not enough.done() and not over.done():
            await asyncio.wait({*work, enough, over}, return_when=asyncio.FIRST_COMPLETED)
            work = {each for each in work if not each.done()}
        if enough.done() and self._jobs is not None:
            self._jobs.abandon()
        await _end(sent, enough, over)
        self._crew.abandon()

    def _watching(self) -> Iterator[Coroutine[Any, Any, None]]:
        if self.found.scraper is not None:
            yield self.found.scraper.run()
        if self.found.host is not None:
            yield self.found.host.run()
        yield self._abort()
        yield self._tick()

    async def _abort(self) -> None:
        """Apart from the view, which may be slow or fail."""
        due = 0
        while self.found.aborted is None:
            await pause.until(self._clock, due)
            self.found.aborted = self._watch.verdict()
            due = max(due + _TICK_MICROS, self._clock.now())
        self._stop.set()

    async def _tick(self) -> None:
        due = 0
        while True:
            await pause.until(self._clock, due)
            self._view.look(self.found.scraper, self.found.host)
            for job in self._jobs.progress() if self._jobs is not None else ():
                self._view.state.feed_job(job.name, self._clock.now(), job.done)
            self._view.tick(self._clock.now())
            due = max(due + _TICK_MICROS, self._clock.now())


def server_url(scenario: Scenario) -> str:
    """By whose port the server's processes are known: behind a proxy that is the target, by that of its upstream."""
    address = urlsplit(scenario.target).netloc
    for proxy in scenario.proxies:
        if proxy.listen == address and not proxy.upstream.startswith("unix:"):
            return f"http://{proxy.upstream}"
    return scenario.target


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _signals(run: _Run) -> Iterator[None]:
    """Ctrl-C and SIGTERM go to the run while it goes on, and then to whom they went before: to the loop, which lets
    results be written after the first one.
    """
    loop = asyncio.get_running_loop()
    caught = (signal.SIGINT, signal.SIGTERM)
    before = {each: signal.getsignal(each) for each in caught}
    for each in caught:
        loop.add_signal_handler(each, run.interrupt)
    try:
        yield
    finally:
        for each, handler in before.items():
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL if handler is None else handler)
