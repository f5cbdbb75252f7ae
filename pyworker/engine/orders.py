"""What the engine is told while a step runs: it waits only where it would take something from that step."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from pyworker.errors import DuplicateAttempt, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyworker.engine.outputs import SchedulerOutput
    from pyworker.engine.request import Request
    from pyworker.engine.scheduler import Scheduler


class Orders:
    """Passes orders on to the scheduler.

    Taking a request in, granting credit and asking for a cancel leave the rows of a running step alone. A higher
    attempt of a request that is in it would take its blocks; it waits until the step has ended, and so does all that is
    said of this request afterwards.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._running: SchedulerOutput | None = None
        self._late: list[Callable[[], object]] = []
        self._late_ids: set[str] = set()

    def defer(self, out: SchedulerOutput) -> None:
        """This step begins."""
        self._running = out

    def settle(self) -> None:
        """The step has ended, and its result is known: pass on what had to wait."""
        self._running = None
        late, self._late = self._late, []
        self._late_ids.clear()
        for order in late:
            with suppress(InvalidRequest, DuplicateAttempt):  # the first was told, the second changes nothing
                order()

    def add(self, request: Request) -> None:
        """Take a request.

        Raises:
            DuplicateAttempt: this very attempt is here.
            InvalidRequest: no engine with this model would take it.
        """
        name = request.request_id
        known = None if self._running is None else self._running.requests.get(name)
        if name not in self._late_ids and (known is None or known.attempt >= request.attempt):
            self._scheduler.add(request)
            return
        self._late_ids.add(name)
        self._late.append(partial(self._scheduler.add, request))
        self._scheduler.check_new(request)

    def grant(self, request_id: str, up_to: int) -> None:
        """Let a request go on to this output position."""
        self._pass_on(request_id, partial(self._scheduler.grant, request_id, up_to))

    def cancel(self, request_id: str) -> None:
        """End a request at the next step boundary."""
        self._pass_on(request_id, partial(self._scheduler.cancel, request_id))

    def _pass_on(self, request_id: str, order: Callable[[], object]) -> None:
        if request_id in self._late_ids:
            self._late.append(order)
        else:
            order()
