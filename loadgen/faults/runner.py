"""Injects the faults of a run at their times, has each prove itself, and heals all of them whatever happens.

A fault that fails ends nothing: the run goes on, and its facts say that the fault was not proved.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Literal

import msgspec

from loadgen.errors import LoadgenError
from loadgen.faults.base import FaultNotSeen, Value, wait_until
from loadgen.faults.context import Maker
from loadgen.faults.process import Stop
from loadgen.measure.facts import FaultFacts

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from loadgen.drive.clock import Clock
    from loadgen.faults.base import Fault, Proof
    from loadgen.faults.context import FaultContext
    from loadgen.spec import FaultSpec

Event = Literal["injected", "seen", "not_seen", "healed", "not_healed", "skipped"]


class FaultLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `faults.jsonl`. `at`: microseconds from `t0`. `figures`: the proof's."""

    fault: str
    kind: str
    event: Event
    at: int
    what: str = ""
    figures: dict[str, Value] = {}

    def encoded(self) -> bytes:
        """With its newline."""
        return msgspec.json.encode(self) + b"\n"


class _Story:
    """What became of one fault."""

    def __init__(self, spec: FaultSpec) -> None:
        self.spec = spec
        self.fault: Fault | None = None
        self.at: int | None = None
        self.until: int | None = None
        self.proved = False
        self.why = "the run ended before it was due"
        self.heal_due = False

    def facts(self) -> FaultFacts:
        """As a report wants it."""
        return FaultFacts(
            name=self.spec.name,
            at=self.spec.at if self.at is None else self.at,
            until=self.until,
            proved=self.proved,
            kind=self.spec.kind,
            why=self.why,
        )


class FaultRunner:
    """Used once: `check` before the run, `run` beside it, `stop` at its end."""

    def __init__(
        self,
        specs: Sequence[FaultSpec],
        context: FaultContext,
        clock: Clock,
        on_line: Callable[[FaultLine], None],
    ) -> None:
        self._clock, self._on_line = clock, on_line
        self._maker = Maker(context, clock)
        self._stories = [_Story(spec) for spec in specs]
        self._stopped = asyncio.Event()

    async def check(self) -> None:
        """Can all of them be tried? Nothing is touched.

        Raises:
            BadInput, BadData, Unreachable: one cannot.
        """
        await self._maker.check([story.spec for story in self._stories])

    async def run(self) -> list[FaultFacts]:
        """Until the last fault is healed, or `stop`. When cancelled, all are healed before it ends."""
        async with asyncio.TaskGroup() as group:
            for story in self._stories:
                group.create_task(self._one(story))
        return self.facts()

    def facts(self) -> list[FaultFacts]:
        """In the order of the scenario, as far as they have come."""
        return [story.facts() for story in self._stories]

    def stop(self) -> None:
        """Inject nothing more, and heal what is on."""
        self._stopped.set()

    def abandon(self) -> None:
        """The program ends now: whatever stands goes on, and nobody looks whether it does. Idempotent."""
        self.stop()
        for story in self._stories:
            if isinstance(story.fault, Stop):
                story.fault.abandon()

    async def _one(self, story: _Story) -> None:
        await self._until(story.spec.at)
        if self._stopped.is_set():
            self._say(story, "skipped", story.why)
            return
        try:
            await self._inject_and_prove(story)
            if story.at is not None and story.spec.duration is not None:
                await self._until(story.at + story.spec.duration)
        finally:
            # A cancellation must not leave a process stopped or a link dark.
            await _finished(self._heal(story))

    async def _inject_and_prove(self, story: _Story) -> None:
        story.at = self._clock.now()
        try:
            story.fault = await self._maker.make(story.spec)
            story.at = self._clock.now()
            await story.fault.inject()
            self._say(story, "injected")
            proof = await self._proof(story.fault, story.spec)
        except (LoadgenError, OSError) as error:
            story.why = _text(error)
            self._say(story, "not_seen", story.why)
            return
        story.proved, story.why = True, proof.what
        self._say(story, "seen", proof.what, proof.figures)

    async def _proof(self, fault: Fault, spec: FaultSpec) -> Proof:
        """The proof, or none when the run ends first: what has not shown by then was not seen."""
        looking = asyncio.ensure_future(fault.verify())
        stopping = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait({looking, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not looking.done():
                raise FaultNotSeen(spec.name, "the run ended before it showed")
            return looking.result()
        finally:
            stopping.cancel()
            if not looking.done():
                looking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await looking

    async def _heal(self, story: _Story) -> None:
        if story.fault is None:
            return
        try:
            await story.fault.heal()
        except (LoadgenError, OSError) as error:
            self._say(story, "not_healed", _text(error))
            return
        if _lasts(story.spec):
            story.until = self._clock.now()
            self._say(story, "healed")

    async def _until(self, due: int) -> None:
        waiting = asyncio.ensure_future(wait_until(self._clock, due))
        stopping = asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait({waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (waiting, stopping):
                each.cancel()
            await asyncio.gather(waiting, stopping, return_exceptions=True)

    def _say(self, story: _Story, event: Event, what: str = "", figures: dict[str, Value] | None = None) -> None:
        line = FaultLine(
            fault=story.spec.name,
            kind=story.spec.kind,
            event=event,
            at=self._clock.now(),
            what=what,
            figures=figures or {},
        )
        self._on_line(line)


def _text(error: Exception) -> str:
    return error.why if isinstance(error, FaultNotSeen) else str(error)


def _lasts(spec: FaultSpec) -> bool:
    """Whether it has an end: a kill, a call or a reset is a moment, and what it does stays done."""
    return spec.duration is not None or (spec.kind == "net" and "reset" not in spec.options)


async def _finished(what: Coroutine[None, None, None]) -> None:
    """Run it to its end even when the one who waits is cancelled, and be cancelled then."""
    task = asyncio.ensure_future(what)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled
