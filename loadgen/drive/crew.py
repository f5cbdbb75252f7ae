"""The parent's end of the load processes: started together, told their orders, let go at one t0, and asked for the
end.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import msgspec

from loadgen.drive import messages
from loadgen.drive.gate import Meters
from loadgen.drive.summary_pipe import SummaryReader
from loadgen.errors import BadInput, Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from loadgen.drive.orders import Orders
    from loadgen.drive.summary import Summary

_MOST_REPORT = 1 << 30
_MOST_SUMMARIES = 1_024
_PIPE_READ = 1 << 20
_GOODBYE_SECONDS = 5.0
_FINISH_SECONDS = 30.0
_HANG_UP_SECONDS = 5.0
_Report = TypeVar("_Report", messages.Ready, messages.Finished, messages.HungUp)


class Member:
    """One load process."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.reports: asyncio.Queue[messages.Report | None] = asyncio.Queue()
        """None: it has died. A process makes few reports, each for a command."""
        self.ended = asyncio.Event()
        """All that it had to send has ended, or it has died."""
        self.died = False
        self._process: asyncio.subprocess.Process | None = None
        self.pid = 0
        """Of the process; 0: not started."""
        self._tasks: list[asyncio.Task[None]] = []
        self._pipe = -1
        self._on_death: Callable[[], None] = lambda: None

    async def start(
        self, cpu: int | None, nice: int, on_summary: Callable[[Summary], None], on_death: Callable[[], None]
    ) -> None:
        """Start the process."""
        self._on_death = on_death
        self._pipe, write = os.pipe()
        os.set_blocking(self._pipe, False)
        arguments = ["-m", "loadgen.drive.process", "--summaries", str(write), "--nice", str(nice)]
        if cpu is not None:
            arguments += ["--cpu", str(cpu)]
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                pass_fds=(write,),
                env={**os.environ, "PYTHONPATH": path},
                limit=_MOST_REPORT,
            )
        finally:
            os.close(write)
        self.pid = self._process.pid
        if self._process.stdout is not None:
            self._tasks.append(asyncio.create_task(self._listen(self._process.stdout)))
        reader = SummaryReader()
        loop = asyncio.get_running_loop()

        def readable() -> None:
            try:
                data = os.read(self._pipe, _PIPE_READ)
            except BlockingIOError:
                return
            if not data:
                loop.remove_reader(self._pipe)
                return
            for summary in reader.feed(data):
                on_summary(summary)

        loop.add_reader(self._pipe, readable)

    def tell(self, command: messages.Command) -> None:
        """Say something; a dead process hears nothing."""
        if self.died or self._process is None or self._process.stdin is None:
            return
        self._process.stdin.write(msgspec.json.encode(command) + b"\n")

    async def report(self, kind: type[_Report], seconds: float) -> _Report | messages.Failed | None:
        """The next report of this kind or a failure; None: it died, or said nothing in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self.died or not self.reports.empty():
                    report = await self.reports.get()
                    if report is None:
                        return None
                    if isinstance(report, kind | messages.Failed):
                        return report
        return None

    async def close(self) -> None:
        """Say goodbye, and see that it is gone."""
        process = self._process
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        asyncio.get_running_loop().remove_reader(self._pipe)
        os.close(self._pipe)
        self._process = None

    async def _listen(self, stdout: asyncio.StreamReader) -> None:
        decoder = msgspec.json.Decoder(messages.Report)
        while line := await stdout.readline():
            report = decoder.decode(line)
            if isinstance(report, messages.Ended):
                self.ended.set()
            else:
                self.reports.put_nowait(report)
        self.died = True
        self.ended.set()
        self.reports.put_nowait(None)
        self._on_death()


class Crew:
    """All load processes of a run. It may do several rounds, one after the other, each with orders of its own."""

    def __init__(
        self,
        procs: int,
        *,
        pin: Sequence[int | None] = (),
        nice: int = 0,
        on_summary: Callable[[Summary], None] | None = None,
    ) -> None:
        """`pin`: the core of each process. `nice`: added to its niceness, where that is permitted."""
        self._members = [Member(number) for number in range(procs)]
        self._pin, self._nice = [*pin, *[None] * procs][:procs], nice
        self.summaries: deque[Summary] = deque(maxlen=_MOST_SUMMARIES)
        """The newest, where there is no `on_summary`."""
        self.on_summary = self.summaries.append if on_summary is None else on_summary
        """May be set anew before each round."""
        self._t0 = 0
        self._closing = False

    async def __aenter__(self) -> Self:
        try:
            for member, cpu in zip(self._members, self._pin, strict=True):
                await member.start(cpu, self._nice, lambda summary: self.on_summary(summary), self._lost)
        except OSError:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    @property
    def procs(self) -> int:
        """How many processes it has."""
        return len(self._members)

    @property
    def pids(self) -> list[int]:
        """Of the processes, in their order."""
        return [member.pid for member in self._members]

    @property
    def died(self) -> set[int]:
        """Numbers of the processes that have died."""
        return {member.number for member in self._members if member.died}

    async def prepare(self, orders: Sequence[Orders], key: str | None = None, timeout: float = 15.0) -> None:
        """Give each process its orders, and wait until all are ready. `timeout`: seconds.

        Raises:
            Unreachable: the target takes no connection.
            BadInput: a process cannot carry out its orders, has died, or says nothing in time.
        """
        if len(orders) != len(self._members):
            raise ValueError(f"{len(orders)} orders for {len(self._members)} processes")
        for member, own in zip(self._members, orders, strict=True):
            member.ended.clear()
            member.tell(messages.Prepare(own, key))
        reports = await asyncio.gather(*(member.report(messages.Ready, timeout) for member in self._members))
        for member, own, report in zip(self._members, orders, reports, strict=True):
            if isinstance(report, messages.Failed) and report.unreachable:
                raise Unreachable(f"{own.host}:{own.port}", report.why)
            if not isinstance(report, messages.Ready):
                why = report.why if report is not None else "died" if member.died else "said nothing in time"
                raise BadInput("--procs", "", f"load process {member.number}", why)

    def start(self, t0_nanos: int) -> None:
        """Let them go: `t0_nanos` of CLOCK_MONOTONIC, a little ahead."""
        self._t0 = t0_nanos
        self._tell(messages.Go(t0_nanos))

    async def wait(self, until: int | None = None) -> bool:
        """Until all that was planned has ended (True), or until `until` microseconds from t0 (False). When a process
        dies, the others stop issuing, so that the end comes soon.
        """
        seconds = None if until is None else max(0.0, (self._t0 + until * 1_000 - time.monotonic_ns()) / 1e9)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for member in self._members:
                    await member.ended.wait()
        return all(member.ended.is_set() for member in self._members)

    def stop(self) -> None:
        """Nothing more is issued; what is under way goes on."""
        self._tell(messages.Stop())

    def abandon(self) -> None:
        """Hang up on all that is open."""
        self._tell(messages.Abandon())

    async def hang_up(self, cls: str, share: float) -> int:
        """Clients of a class go away, this share of those that are open; how many went."""
        self._tell(messages.HangUp(cls, share))
        told = await asyncio.gather(*(each.report(messages.HungUp, _HANG_UP_SECONDS) for each in self._members))
        return sum(each.count for each in told if isinstance(each, messages.HungUp))

    async def finish(self) -> list[Meters]:
        """End the round: what is open is abandoned, the spools are closed. A process that died has meters that say
        so.
        """
        self._tell(messages.Finish())
        reports = await asyncio.gather(*(member.report(messages.Finished, _FINISH_SECONDS) for member in self._members))
        return [
            report.meters if isinstance(report, messages.Finished) else Meters(member.number, died=True)
            for member, report in zip(self._members, reports, strict=True)
        ]

    def _lost(self) -> None:
        """A process has died: the run says nothing any more, and the others stop issuing."""
        if not self._closing:
            self.stop()

    def _tell(self, command: messages.Command) -> None:
        for member in self._members:
            member.tell(command)

    async def _close(self) -> None:
        self._closing = True
        await asyncio.gather(*(member.close() for member in self._members))
