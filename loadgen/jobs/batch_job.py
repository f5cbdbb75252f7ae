"""One job through the Files and Batches API, from its upload to what its files say. A task of the parent.

A server that does not answer is asked again until the settings' patience ends; then the job has failed, with a reason.
Whatever happens there is a report.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from loadgen.jobs.answer import ApiRefused, NoAnswer
from loadgen.jobs.batch_object import wrong_step
from loadgen.jobs.client import ApiClient, Endpoint
from loadgen.jobs.collect import Collector
from loadgen.jobs.files_api import DAY, BatchApi, window_text
from loadgen.jobs.report import JobReport
from loadgen.jobs.summary import Ending, facts_of
from loadgen.jobs.waiting import Waiter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from loadgen.drive.clock import Clock
    from loadgen.jobs.batch_object import BatchObject
    from loadgen.jobs.inputs import JobInput, Part

_MOST_POINTS = 1 << 16
"""Of a curve; beyond it every second one is dropped."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class JobSettings:
    """Times in microseconds. `patience`: without a good answer, until a job is given up; `farewell`: the same once the
    run is over; `settle`: from the end of a batch until it is looked at again; `run_id`: what tells this run's jobs
    from those of another run of the same plan.
    """

    poll: int = 1_000_000
    patience: int = 60_000_000
    farewell: int = 30_000_000
    settle: int = 2_000_000
    run_id: str = ""
    keep_text: bool = False
    keep_remote: bool = False
    """Leave the files on the server."""


class JobProgress(NamedTuple):
    """For the live view. Times in microseconds; `deadline` from `submitted`."""

    name: str
    cls: str
    items: int
    done: int
    submitted: int | None
    deadline: int | None
    status: str


class GaveUp(Exception):
    """The job cannot go on; `why` in words."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(why)


@dataclass(slots=True)
class Running:
    """One batch of the job. `answered`: when there last was a good answer."""

    part: Part
    file_id: str = ""
    batch: BatchObject | None = None
    answered: int = 0

    @property
    def is_open(self) -> bool:
        """It was made and has not ended."""
        return self.batch is not None and not self.batch.is_over

    @property
    def done(self) -> int:
        """Items that are done, whether well or not."""
        return 0 if self.batch is None else self.batch.counts.completed + self.batch.counts.failed


@dataclass(slots=True, eq=False)
class BatchJob:
    """See the module. `run` once; `report` at any time."""

    job: JobInput
    endpoint: Endpoint
    clock: Clock
    settings: JobSettings = JobSettings()
    submitted: int | None = None
    finished: int | None = None
    reason: str | None = None
    judge: Literal["server", "client"] = "client"
    retries: int = 0
    curve: list[tuple[int, int]] = field(default_factory=list)
    parts: list[Running] = field(default_factory=list)
    is_over: bool = False
    _collector: Collector = field(init=False)
    _waiter: Waiter | None = None
    _stopped: int | None = None
    _gave_up: bool = False
    _begun: int = 0

    def __post_init__(self) -> None:
        self.parts = [Running(part) for part in self.job.parts]
        self._collector = Collector(self.job, self.settings.keep_text or self.job.keep_text)

    @property
    def done(self) -> int:
        """Items of all its batches that are done, as last seen."""
        return sum(running.done for running in self.parts)

    @property
    def left(self) -> int:
        """Items that are to be done, as last seen."""
        return self.job.num_items - self.done

    @property
    def has_ended(self) -> bool:
        """Whether the server has nothing to do for it any more, though its results may not have been read."""
        return all(running.batch is not None and running.batch.is_over for running in self.parts)

    @property
    def status(self) -> str:
        """Of the batch that is furthest from its end."""
        if self.is_over:
            return "failed" if self.reason else "ended"
        made = [running.batch.status for running in self.parts if running.batch is not None]
        order = ("cancelling", "validating", "in_progress", "finalizing")
        return next((status for status in order if status in made), made[-1] if made else "uploading")

    def progress(self) -> JobProgress:
        """Where it stands."""
        job = self.job
        return JobProgress(job.name, job.cls, job.num_items, self.done, self.submitted, job.deadline, self.status)

    def stop(self) -> None:
        """Cancel it. `run` then reads what was done and ends soon."""
        if self._stopped is None:
            self._stopped = self.clock.now()
            if self._waiter is not None:
                self._waiter.wake()

    async def run(self) -> JobReport:
        """From the upload to the end. Raises nothing for what a server or the disk does."""
        self._begun = self.clock.now()
        calls = BatchApi(ApiClient(self.endpoint), self.job.headers)
        # A long upload or download must not hold the polls up.
        polls = BatchApi(ApiClient(self.endpoint), self.job.headers)
        try:
            with Waiter(self.clock) as self._waiter:
                try:
                    await self._submit(calls)
                    await self._watch(polls, calls)
                except GaveUp as error:
                    self.reason, self._gave_up = error.why, True
                    await self._farewell(calls)
                await self._collect(calls)
                await self._look_again(calls)
        except asyncio.CancelledError:
            self.reason = self.reason or "the run ended before it did"
            raise
        except OSError as error:
            self.reason = f"its files could not be written: {error.strerror or error}"
        finally:
            self.is_over = True
            self._waiter = None
            await calls.close()
            await polls.close()
        return self.report()

    def report(self) -> JobReport:
        """What is known so far."""
        begun = self._begun if self.submitted is None else self.submitted
        ending = Ending(begun, self.finished, self.judge, self.retries, self.reason)
        return facts_of(self.job, self._collector.ledger, ending, tuple(self.curve), self._collector.usage_agrees)

    async def _submit(self, calls: BatchApi) -> None:
        """All files first: the job begins with its first batch."""
        for running in self.parts:
            file = running.part.file
            running.file_id = await self._insist("the upload", lambda file=file: calls.upload(file))  # type: ignore[misc]
        self.submitted = self.clock.now()
        window = window_text(self.job.deadline)
        for number, running in enumerate(self.parts, 1):
            running.batch, window = await self._create(calls, running, number, window)
            running.answered = self.clock.now()
        self.judge = (
            "server" if self.job.deadline is not None and window == window_text(self.job.deadline) else "client"
        )

    async def _create(self, calls: BatchApi, running: Running, number: int, window: str) -> tuple[BatchObject, str]:
        """The batch, and the window that was taken: a server that knows no other gets a day."""
        job = self.job
        metadata = {"job": job.name, "part": f"{number}/{len(self.parts)}"}

        def create(window: str) -> Awaitable[BatchObject]:
            key = f"slackwater-loadgen-{self.settings.run_id}-{job.name}-{number}-{window}"
            return calls.create(running.file_id, job.endpoint, window, metadata, key)

        try:
            return await self._insist("the batch", lambda: create(window)), window
        except _Refused as error:
            if window == DAY or error.status not in (400, 422):
                raise
            return await self._insist("the batch", lambda: create(DAY)), DAY

    async def _watch(self, polls: BatchApi, calls: BatchApi) -> None:
        """Looks at every batch once a poll's time until all are over. The times are a grid from the submission on."""
        every, told, begin = self.settings.poll, False, self.submitted or 0
        while any(running.is_open for running in self.parts):
            if self._stopped is not None and not told:
                await self._cancel(calls)
                told = True
            await self._wait(self.clock.now() + every - (self.clock.now() - begin) % every)
            for running in self.parts:
                if running.batch is not None and running.is_open:
                    running.batch = await self._look(polls, running, running.batch)
            self._note_progress()
        if all(
            running.batch is not None and running.batch.status in ("completed", "expired") for running in self.parts
        ):
            self.finished = self.clock.now()
        else:
            self.reason = next(filter(None, map(_why, self.parts)), None)

    async def _look(self, polls: BatchApi, running: Running, before: BatchObject) -> BatchObject:
        now = self.clock.now()
        try:
            seen = await polls.get(before.id)
        except ApiRefused as error:
            if not error.may_pass:
                raise GaveUp(f"the server does not know its batch any more: {error}") from error
            self._bear(str(error), running.answered)
            return before
        except NoAnswer as error:
            self._bear(error.why, running.answered)
            return before
        wrong = wrong_step(before, seen)
        if wrong is not None:
            self._collector.ledger.say("steps", wrong)
        running.answered = now
        if self._stopped is not None and not seen.is_over and now - self._stopped > self.settings.farewell:
            raise GaveUp("it was not cancelled in time")
        return seen

    def _note_progress(self) -> None:
        self.curve.append((self.clock.now(), sum(each.batch.counts.completed for each in self.parts if each.batch)))
        if len(self.curve) > _MOST_POINTS:
            del self.curve[1::2]

    async def _cancel(self, calls: BatchApi) -> None:
        for running in self.parts:
            if running.is_open and running.batch is not None:
                batch_id = running.batch.id
                await self._insist("the cancelling", lambda batch_id=batch_id: calls.cancel(batch_id))  # type: ignore[misc]

    async def _farewell(self, calls: BatchApi) -> None:
        """A job that is given up leaves nothing running behind it, as far as one call each can tell."""
        for running in self.parts:
            if running.is_open and running.batch is not None:
                try:
                    await calls.cancel(running.batch.id)
                except (NoAnswer, ApiRefused):
                    return

    async def _collect(self, calls: BatchApi) -> None:
        for number, running in enumerate(self.parts, 1):
            batch = running.batch
            if batch is None or not batch.is_over:
                continue
            for name, file_id in (("out", batch.output_file_id), ("err", batch.error_file_id)):
                path = self._collector.path(number, name)
                if file_id is None:
                    continue
                try:
                    await self._insist("the result", lambda file_id=file_id, path=path: calls.download(file_id, path))  # type: ignore[misc]
                except GaveUp as error:
                    self._collector.unread(batch, error.why)
                else:
                    self._collector.add(number, file_id, path)
            await self._collector.read(number, running.part, batch)

    async def _look_again(self, calls: BatchApi) -> None:
        """Nothing may change any more. Then our files go."""
        made = [(number, each, each.batch) for number, each in enumerate(self.parts, 1) if each.batch is not None]
        over = [entry for entry in made if entry[2].is_over]
        if over:
            await self._wait(self.clock.now() + self.settings.settle)
        for number, running, batch in over:
            await self._collector.look_again(calls, number, batch)
            if not self.settings.keep_remote:
                for file_id in (running.file_id, *self._collector.ids(number)):
                    await calls.forget(file_id)

    async def _insist(self, what: str, call: Callable[[], Awaitable[_T]]) -> _T:
        """Make a call until it succeeds.

        Raises:
            GaveUp: the server refuses it, or did not answer for too long.
        """
        since: int | None = None
        while True:
            if self._stopped is not None and self.submitted is None and not self._gave_up:
                raise GaveUp("the run ended before it was submitted")
            try:
                return await call()
            except ApiRefused as error:
                if not error.may_pass:
                    raise _Refused(f"{what} failed: {error}", error.status) from error
                why = str(error)
            except NoAnswer as error:
                why = error.why
            # From the first failure on: the call itself may have taken long.
            since = self.clock.now() if since is None else since
            self._bear(f"{what} failed: {why}", since)
            await self._wait(self.clock.now() + self.settings.poll)

    def _bear(self, why: str, since: int) -> None:
        """One failure more, unless there were too many."""
        self.retries += 1
        most = self.settings.patience if self._stopped is None else min(self.settings.patience, self.settings.farewell)
        waited = self.clock.now() - max(since, self._stopped or 0)
        if waited >= most or self._gave_up:
            raise GaveUp(f"{why} (for {waited / 1e6:.1f} s)")

    async def _wait(self, due: int) -> None:
        if self._waiter is not None:
            await self._waiter.until(due)


class _Refused(GaveUp):
    """The server said no, so that asking again is of no use."""

    def __init__(self, why: str, status: int) -> None:
        self.status = status
        super().__init__(why)


def _why(running: Running) -> str | None:
    batch = running.batch
    if batch is None or batch.status in ("completed", "expired"):
        return None
    return f"batch {batch.id} failed: {batch.first_error}" if batch.status == "failed" else "cancelled"
