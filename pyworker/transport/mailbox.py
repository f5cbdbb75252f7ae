"""The two bounded queues between the thread that owns the link and the thread that owns the engine.

Everything carries the generation of its link, a number of this process: what an ended link has left behind is dropped
by whoever meets it.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from pyworker.runner.safepoint import Yield

if TYPE_CHECKING:
    from pyworker.engine.request import Request
    from pyworker.runner.safepoint import Safepoint
    from pyworker.wire.frame import Parts

_CANCELS_PER_SUBMIT: Final = 4
"""A router that sends more cancels than this many times the waiting requests has lost count."""


class Stop(IntEnum):
    """How soon the worker shall end; it only ever grows."""

    NO = 0
    DRAIN = 1
    NOW = 2


@dataclass(frozen=True, slots=True)
class CancelOrder:
    """Stop this attempt of a request."""

    request_id: str
    attempt: int


@dataclass(slots=True)
class Batch:
    """What the engine's thread has to do before its next step.

    `reset`: another link has begun, and all requests of earlier ones must go. `orders` are in the order of the link;
    `credits` are the newest output positions by (request id, attempt), to be applied after them. `ask_blocks`: the
    router wants to know what the prefix cache holds.
    """

    generation: int
    reset: bool
    orders: list[Request | CancelOrder]
    credits: dict[tuple[str, int], int]
    stop: Stop
    ask_blocks: bool = False


class Inbox:
    """From the link to the engine. At most `capacity` requests wait in it.

    While one that somebody waits for is in it, the `safepoint` asks offline rows to leave the step in progress. It is
    raised and cleared with the queue's lock held, so that no wake-up is lost and none comes late.
    """

    def __init__(self, capacity: int, safepoint: Safepoint | None = None) -> None:
        self._capacity = capacity
        self._safepoint = safepoint
        self._changed = threading.Condition()
        self._orders: list[Request | CancelOrder] = []
        self._num_submits = 0
        self._credits: dict[tuple[str, int], int] = {}
        self._generation = 0
        self._reset = False
        self._asked = False
        self._stop = Stop.NO
        self._stop_is_news = False
        self._idle = False

    @property
    def busy(self) -> bool:
        """Whether the engine's thread has something to do, or is doing it."""
        with self._changed:
            return not self._idle or self._pending()

    @property
    def stop(self) -> Stop:
        """How soon the worker shall end."""
        return self._stop

    def put_submit(self, request: Request) -> bool:
        """Hand over a request. False: the inbox is full."""
        with self._changed:
            if self._num_submits >= self._capacity:
                return False
            self._orders.append(request)
            self._num_submits += 1
            if self._safepoint is not None and not request.is_offline:
                self._safepoint.ask(Yield.OFFLINE_LEAVES)
            self._changed.notify()
            return True

    def put_cancel(self, request_id: str, attempt: int) -> bool:
        """Hand over a cancel. False: there are more than any router in its right mind sends."""
        with self._changed:
            if len(self._orders) - self._num_submits >= self._capacity * _CANCELS_PER_SUBMIT:
                return False
            self._orders.append(CancelOrder(request_id, attempt))
            self._changed.notify()
            return True

    def put_credit(self, request_id: str, attempt: int, up_to: int) -> None:
        """Hand over credit; of several the furthest counts. Only for requests that were put in."""
        with self._changed:
            key = request_id, attempt
            self._credits[key] = max(up_to, self._credits.get(key, 0))
            self._changed.notify()

    def put_ask(self) -> None:
        """Hand over the question what the prefix cache holds; asked twice it is answered once."""
        with self._changed:
            self._asked = True
            self._changed.notify()

    def reset(self, generation: int) -> None:
        """Another link begins, or none for now: all requests go."""
        with self._changed:
            self._orders.clear()
            self._credits.clear()
            self._num_submits = 0
            self._generation = generation
            self._reset, self._asked = True, False
            self._changed.notify()

    def end(self, stop: Stop) -> None:
        """Ask the engine's thread to come to an end."""
        with self._changed:
            self._stop = max(self._stop, stop)
            self._stop_is_news = True
            self._changed.notify()

    def take(self, timeout: float) -> Batch:
        """All that is there, waited for at most `timeout` seconds. Called by the engine's thread between two steps."""
        with self._changed:
            if timeout > 0 and not self._pending():
                self._idle = True
                self._changed.wait(timeout)
            self._idle = False
            if self._safepoint is not None:
                self._safepoint.clear()
            batch = Batch(self._generation, self._reset, self._orders, self._credits, self._stop, self._asked)
            self._orders, self._credits, self._num_submits = [], {}, 0
            self._reset = self._stop_is_news = self._asked = False
            return batch

    def _pending(self) -> bool:
        return bool(self._orders or self._credits or self._reset or self._asked or self._stop_is_news)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message that only lacks its sequence number, and the requests (id, attempt) that it ends."""

    generation: int
    parts: Parts
    ended: list[tuple[str, int]] = field(default_factory=list)


class Outbox:
    """From the engine to the link. Never makes the engine wait: where it overflows the link is closed."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._messages: deque[Outgoing] = deque()
        self._overflowed: int | None = None

    def put(self, message: Outgoing) -> None:
        """Add a message, or mark the link as one that cannot keep up: then nothing more is added for this link, so
        that what is sent has no gap.
        """
        if message.generation == self._overflowed:
            return
        if len(self._messages) >= self._capacity:
            self._overflowed = message.generation
        else:
            self._messages.append(message)

    def take(self) -> Outgoing | None:
        """The oldest message, if there is one. Called by the link's thread."""
        return self._messages.popleft() if self._messages else None

    def overflowed(self, generation: int) -> bool:
        """Whether a message of this link was left out."""
        return self._overflowed == generation
