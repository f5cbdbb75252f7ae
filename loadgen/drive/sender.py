"""Sends what is due, when it is due: never before, and whatever has become of the requests before it.

The order of open requests is fixed before the run (`Schedule.open`). Beside it are lanes, in which a slot takes the
next request when it is free: closed loops, and jobs that stream. Deadlines, hang-ups, retries and later turns wait in
a heap. One alarm rings for whatever is first.
"""

from __future__ import annotations

import heapq
from array import array
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Protocol

from loadgen.drive.exchange import Exchange
from loadgen.drive.live_turns import LiveTurns
from loadgen.drive.retry import is_retried, wait_of
from loadgen.drive.schedule import Lane, Request
from loadgen.drive.spool import End
from loadgen.drive.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadgen.drive.clock import Alarm, Clock
    from loadgen.drive.schedule import ClassRules, Schedule


_AFTER_REFUSAL = 100_000
"""Microseconds until a slot tries again at a target that takes no connection: else it would burn its plan in a
second.
"""


class Pool(Protocol):
    """Where exchanges go out."""

    def send(self, exchange: Exchange, *, fresh: bool = False) -> None:
        """Send, now or as soon as a connection stands."""

    def hang_up(self, exchange: Exchange, kind: End) -> None:
        """Close its connection, and end it."""


class _Open:
    """A request that was issued and has not ended. `exchange` is None while it waits: for its class's cap, or to be
    tried again. `attempt`: the last one; `next`: which comes when it is sent.
    """

    __slots__ = ("attempt", "exchange", "lane", "next", "request")

    def __init__(self, request: Request, lane: Lane | None) -> None:
        self.request, self.lane = request, lane
        self.attempt = self.next = 0
        self.exchange: Exchange | None = None


class Sender:
    """Carries out a schedule."""

    def __init__(
        self,
        schedule: Schedule,
        rules: Sequence[ClassRules],
        clock: Clock,
        pool: Pool,
        on_end: Callable[[Exchange], None],
        turns: LiveTurns | None = None,
    ) -> None:
        """`on_end` gets every exchange that ends, each attempt of a request its own, and those that were never sent."""
        self._schedule, self._rules = schedule, rules
        self._clock, self._pool, self._on_end = clock, pool, on_end
        self._turns = LiveTurns() if turns is None else turns
        self._alarm: Alarm | None = None
        self._armed: int | None = None
        self._at = 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._sequence = 0
        self._open: dict[int, _Open] = {}
        self._waiting: list[deque[tuple[_Open, int]]] = [deque() for _ in rules]
        self._pending = 0
        """Retries and later turns that wait for their time."""
        self._stopped = self._abandoned = False
        self.on_done: Callable[[], None] = lambda: None
        """Told when nothing is under way and nothing will come; perhaps more than once."""
        self.tallies = [Tally() for _ in rules]
        self.lags: array[int] = array("q")
        """Microseconds from due to the pool, of open requests that no cap of their own held back."""
        self.window_lags: array[int] = array("q")
        """Those of requests due in the window."""
        self.dry: set[int] = set()
        """Classes whose lanes had nothing left to send before their time was up."""

    def start(self) -> None:
        """Begin; t0 lies ahead or is now."""
        self._alarm = self._clock.alarm(self._ring)
        for number, lane in enumerate(self._schedule.lanes):
            self._later(lane.start, partial(self._fill, number))
        self._arm()

    def close(self) -> None:
        """Give the alarm back."""
        if self._alarm is not None:
            self._alarm.close()
            self._alarm = None

    @property
    def is_done(self) -> bool:
        """Whether nothing is under way, and nothing will come by itself."""
        if self._open or self._pending:
            return False
        if self._stopped:
            return True
        lanes = self._schedule.lanes
        return self._at >= len(self._schedule.open) and all(lane.next >= len(lane.requests) for lane in lanes)

    def stop(self) -> None:
        """Issue nothing more; what was due goes on, behind a class's cap too. What was planned and is not sent ends as
        `UNSENT`.
        """
        if self._stopped:
            return
        self._stopped = True
        for request in self._schedule.open[self._at :]:
            self._unsent(request, request.due, 0)
        self._at = len(self._schedule.open)
        for lane in self._schedule.lanes:
            lane.next = len(lane.requests)  # a slot's request has no due time until it is taken: it was never offered
        self._settle()

    def abandon(self) -> None:
        """The drain is over: hang up on all that is still open."""
        self.stop()
        self._abandoned = True
        for waiting in self._waiting:
            for opened, due in waiting:
                del self._open[opened.request.id]
                self._unsent(opened.request, due, opened.next)
            waiting.clear()
        for opened in list(self._open.values()):
            if opened.exchange is not None:
                self._pool.hang_up(opened.exchange, End.OPEN)
        for _, _, call in sorted(self._heap):
            call()  # a retry that waits ends as never sent
        self._heap.clear()
        self._settle()

    def hang_up(self, cls: int, share: float) -> int:
        """Clients of a class go away, this share of those that are open, oldest first. How many."""
        mine = [each for each in self._open.values() if each.request.cls == cls and each.exchange is not None]
        leaving = mine[: max(1, round(len(mine) * share))]  # of few at least one, or nothing would have happened
        for opened in leaving:
            if opened.exchange is not None:
                self._pool.hang_up(opened.exchange, End.CANCELLED)
        return len(leaving)

    def _ring(self) -> None:
        """Everything that is due now goes out."""
        self._armed = None
        now = self._clock.now()
        heap = self._heap
        while heap and heap[0][0] <= now:
            heapq.heappop(heap)[2]()
        requests = self._schedule.open
        while self._at < len(requests) and requests[self._at].due <= now:
            request = requests[self._at]
            self._at += 1
            self._issue(request, request.due, None)
        self._settle()

    def _settle(self) -> None:
        self._arm()
        if self.is_done:
            self.on_done()

    def _issue(self, request: Request, due: int, lane: Lane | None) -> None:
        tally, rules = self.tallies[request.cls], self._rules[request.cls]
        tally.due += 1
        opened = self._open[request.id] = _Open(request, lane)
        if rules.timeout is not None:
            # From due on: what a cap makes a request wait is part of its time.
            self._later(due + rules.timeout, partial(self._time_out, opened, due))
        if self._is_full(request.cls):
            self._waiting[request.cls].append((opened, due))
            return
        sent = self._send(opened, due)
        if lane is None:
            lag = (sent if sent >= 0 else self._clock.now()) - due
            self.lags.append(lag)
            begin, end = self._schedule.window
            if begin <= due <= end:
                self.window_lags.append(lag)

    def _is_full(self, cls: int) -> bool:
        most = self._rules[cls].inflight
        return most is not None and self.tallies[cls].active >= most

    def _send(self, opened: _Open, due: int) -> int:
        request, tally = opened.request, self.tallies[opened.request.cls]
        exchange = Exchange(request.id, due, request.payload, self._ended, tally)
        exchange.attempt, exchange.slow = opened.next, request.slow
        opened.exchange, opened.attempt = exchange, opened.next
        tally.active += 1
        tally.sent += 1
        if request.cancel_after is not None:
            self._later(self._clock.now() + request.cancel_after, partial(self._cut, exchange, End.CANCELLED))
        self._pool.send(exchange, fresh=self._rules[request.cls].fresh)
        return exchange.sent

    def _time_out(self, opened: _Open, due: int) -> None:
        if self._open.get(opened.request.id) is not opened:
            return
        if opened.exchange is not None:
            self._cut(opened.exchange, End.TIMEOUT)
            return
        waiting = self._waiting[opened.request.cls]
        if (opened, due) in waiting:
            waiting.remove((opened, due))
        self._give_up(opened, due)

    def _give_up(self, opened: _Open, due: int) -> None:
        """Its time is up, and it is on no connection."""
        exchange = Exchange(opened.request.id, due, b"", self._ended, self.tallies[opened.request.cls])
        exchange.attempt = opened.attempt
        exchange.finish(End.TIMEOUT, self._clock.now())

    def _cut(self, exchange: Exchange, kind: End) -> None:
        if exchange.is_open:
            self._pool.hang_up(exchange, kind)

    def _ended(self, exchange: Exchange) -> None:
        opened = self._open[exchange.id]
        request, rules = opened.request, self._rules[opened.request.cls]
        tally = self.tallies[request.cls]
        if opened.exchange is not None:
            tally.active -= 1
        retried = rules.retry and not self._stopped and is_retried(exchange)
        exchange.is_retried = retried
        tally.end(
            exchange.end_kind,
            exchange.status,
            (exchange.due, exchange.end),
            (exchange.marks, exchange.stamps),
            retried=retried,
            told_when=b"retry-after" in exchange.kept_headers,
        )
        if retried:
            self._retry(opened, exchange)
        else:
            del self._open[request.id]
        self._on_end(exchange)
        if not retried:
            self._go_on(opened, exchange)
        self._next_waiting(request.cls)
        self._settle()

    def _go_on(self, opened: _Open, exchange: Exchange) -> None:
        """The session's next turn, or the next request of the slot."""
        turn = None if self._stopped else self._turns.after(opened.request, exchange)
        lane = opened.lane
        if turn is None and lane is not None and exchange.end_kind is End.REFUSED:
            self._wait_then(exchange.end + _AFTER_REFUSAL, lambda: self._fill_one(lane))
        elif turn is None and lane is not None:
            self._fill_one(lane)
        if turn is None:
            return
        due = exchange.end + turn.think

        def begin() -> None:
            if not self._stopped:
                self._issue(turn.request, due, lane)

        self._wait_then(due, begin)

    def _next_waiting(self, cls: int) -> None:
        waiting = self._waiting[cls]
        while waiting and not self._is_full(cls):
            opened, due = waiting.popleft()
            limit = self._rules[cls].timeout
            if limit is not None and self._clock.now() >= due + limit:
                self._give_up(opened, due)
            else:
                self._send(opened, due)

    def _fill(self, number: int) -> None:
        lane = self._schedule.lanes[number]
        for _ in range(lane.slots):
            self._fill_one(lane)

    def _fill_one(self, lane: Lane) -> None:
        now = self._clock.now()
        if lane.stop is not None and now > lane.stop:
            lane.next = len(lane.requests)
        elif self._stopped:
            return
        elif lane.next < len(lane.requests):
            request = lane.requests[lane.next]
            lane.next += 1
            self._issue(request, now, lane)  # a slot's request is due when the slot is free
        elif lane.stop is not None and lane.requests:
            self.dry.add(lane.requests[0].cls)

    def _retry(self, opened: _Open, before: Exchange) -> None:
        opened.exchange, opened.next = None, before.attempt + 1

        def again() -> None:
            if self._open.get(before.id) is not opened:
                return  # its time was up meanwhile
            if self._abandoned:
                del self._open[before.id]
                self._unsent(opened.request, before.due, opened.next)
            elif self._is_full(opened.request.cls):
                self._waiting[opened.request.cls].append((opened, before.due))
            else:
                self._send(opened, before.due)

        self._wait_then(self._clock.now() + wait_of(before), again)

    def _unsent(self, request: Request, due: int, attempt: int) -> None:
        tally = self.tallies[request.cls]
        exchange = Exchange(request.id, due, b"", self._on_end, tally)
        exchange.attempt = attempt
        tally.ended["unsent"] = tally.ended.get("unsent", 0) + 1
        exchange.finish(End.UNSENT, self._clock.now())

    def _wait_then(self, when: int, call: Callable[[], None]) -> None:
        """As `_later`, for what must have happened before all is done."""
        self._pending += 1

        def now() -> None:
            self._pending -= 1
            call()

        self._later(when, now)

    def _later(self, when: int, call: Callable[[], None]) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (when, self._sequence, call))

    def _arm(self) -> None:
        if self._alarm is None:
            return
        first = self._heap[0][0] if self._heap else None
        if self._at < len(self._schedule.open):
            due = self._schedule.open[self._at].due
            first = due if first is None or due < first else first
        if first != self._armed and first is not None:
            self._armed = first
            self._alarm.set(first)
