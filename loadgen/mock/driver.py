"""Runs an engine by the clock: hands it requests, wakes it when it is due, and deals out what comes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.drive.clock import Clock
    from loadgen.mock.kv import KvEvent
    from loadgen.mock.work import Emission, MockEngine, Work


class Driver:
    """One engine, one alarm. All calls from the event loop."""

    def __init__(
        self,
        engine: MockEngine,
        clock: Clock,
        *,
        most_waiting: int = 10_000,
        on_kv_events: Callable[[list[KvEvent]], None] | None = None,
    ) -> None:
        """`most_waiting`: requests beyond it are refused by `is_full`."""
        self.engine, self.clock = engine, clock
        self._most_waiting = most_waiting
        self._on_kv_events = on_kv_events
        self._sinks: dict[Work, Callable[[Emission], None]] = {}
        self._alarm = clock.alarm(self._fire)
        self._set: int | None = None

    @property
    def is_full(self) -> bool:
        """Whether no more may wait."""
        return self.engine.load().waiting >= self._most_waiting

    def submit(self, work: Work, sink: Callable[[Emission], None]) -> str | None:
        """Take a request; `sink` gets all that comes of it. A text says why it cannot be taken."""
        why = self.engine.submit(work, self.clock.now())
        if why is None:
            self._sinks[work] = sink
            self._rearm()
        return why

    def cancel(self, work: Work) -> None:
        """Forget a request. Idempotent."""
        if self._sinks.pop(work, None) is not None:
            self.engine.cancel(work, self.clock.now())
            self._rearm()

    def close(self) -> None:
        """Stop waking."""
        self._alarm.close()
        self._sinks.clear()

    def _fire(self) -> None:
        self._set = None
        for emission in self.engine.advance(self.clock.now()):
            sink = self._sinks.get(emission.work)
            if emission.finish is not None:
                self._sinks.pop(emission.work, None)
            if sink is not None:
                sink(emission)
        if self._on_kv_events is not None and (events := self.engine.take_kv_events()):
            self._on_kv_events(events)
        self._rearm()

    def _rearm(self) -> None:
        due = self.engine.due()
        if due == self._set:
            return
        self._set = due
        if due is None:
            self._alarm.cancel()
        else:
            self._alarm.set(due)
