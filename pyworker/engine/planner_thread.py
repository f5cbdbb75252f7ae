"""A planner with a thread of its own."""

from __future__ import annotations

import threading
import weakref
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    Jobs = SimpleQueue[Callable[[], None] | None]
    Ends = SimpleQueue[BaseException | None]

_LEAST_MICROS = 2_000
"""Two threads take turns at the interpreter. In a step shorter than this, the runner waits for its turn longer than is
saved between two steps."""


class ThreadPlanner:
    """A `Planner` whose jobs run on one thread, which begins with the first of them and ends with `close`.

    A job that the thread has not begun when it must be done is done by the one who waits for it.
    """

    def __init__(self) -> None:
        self._jobs: Jobs = SimpleQueue()
        self._ends: Ends = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pending = False

    def is_worth(self, micros: int) -> bool:
        """From 2 ms on."""
        return micros >= _LEAST_MICROS

    def start(self, job: Callable[[], None]) -> None:
        """Hand a job to the thread; one before it that was never waited for is finished first."""
        self.finish()
        if self._thread is None:
            self._thread = threading.Thread(
                target=_work, args=(self._jobs, self._ends), name="slackwater-planner", daemon=True
            )
            self._thread.start()
            weakref.finalize(self, self._jobs.put, None)
        self._pending = True
        self._jobs.put(job)

    def finish(self) -> None:
        """Wait for the job, or do it now if it has not begun; raise what it has raised."""
        if not self._pending:
            return
        try:
            job = self._jobs.get_nowait()
        except Empty:
            error = self._ends.get()
            self._pending = False
            if error is not None:
                raise error from None
            return
        self._pending = False
        if job is not None:
            job()

    def close(self) -> None:
        """Wait for what has begun, and end the thread."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._jobs.put(None)
            thread.join()


def _work(jobs: Jobs, ends: Ends) -> None:
    """The thread. It knows the queues only, so that a planner that nobody holds any more can end it."""
    while (job := jobs.get()) is not None:
        error: BaseException | None = None
        try:
            job()
        except BaseException as raised:  # noqa: BLE001 it is raised again where the job is waited for
            error = raised
        del job
        ends.put(error)
