"""What is done beside a step while the runner computes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Planner(Protocol):
    """Runs one job at a time beside whatever its caller does between `start` and `finish`."""

    def is_worth(self, micros: int) -> bool:
        """Whether jobs should be given while something runs that takes so long; else they cost more than they save."""

    def start(self, job: Callable[[], None]) -> None:
        """Have a job done. Returns at once. A job that `finish` was not called for is finished first."""

    def finish(self) -> None:
        """Return when the job is done. What the job has raised is raised here."""

    def close(self) -> None:
        """Let go of everything. Idempotent."""


class InlinePlanner:
    """Does its jobs on the caller's thread: while they are given, or with `late` when they must be done. For programs
    that must do the same each time they run.
    """

    def __init__(self, *, late: bool = False) -> None:
        self._late = late
        self._job: Callable[[], None] | None = None
        self._error: BaseException | None = None

    def is_worth(self, micros: int) -> bool:  # noqa: ARG002 the protocol's signature
        """Always: what is done is what matters here."""
        return True

    def start(self, job: Callable[[], None]) -> None:
        """Do the job, or remember it."""
        self.finish()
        self._job = job
        if not self._late:
            self._work()

    def finish(self) -> None:
        """Do what was remembered, and raise what was raised."""
        self._work()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """There is nothing to let go of."""

    def _work(self) -> None:
        job, self._job = self._job, None
        if job is None:
            return
        try:
            job()
        except BaseException as error:  # noqa: BLE001 it is raised again by `finish`
            self._error = error
