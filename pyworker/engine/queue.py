"""Who waits, and who is next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pyworker.engine.request import RequestStatus

if TYPE_CHECKING:
    from pyworker.engine.request import Request

PATIENCE_MICROS = 10_000_000
"""A request without a deadline is treated as if it were due so long after it came; else a stream of others that have
one could keep it waiting for ever."""


def due_micros(request: Request) -> int:
    """The moment by which a request should be under way. Of two, the one with the earlier moment has less slack."""
    if request.deadline_micros is not None:
        return request.deadline_micros
    return (request.queued_micros or 0) + PATIENCE_MICROS


class OrderPolicy(Protocol):
    """The order of waiting requests."""

    def key(self, request: Request, now: int) -> tuple[int, ...]:
        """Smaller goes first; equal keys go by arrival. `now` in microseconds."""


class ClassOrder:
    """By class; in a class first those whose clients have already seen tokens, then by slack, then by arrival.

    Tokens have been seen of the preempted ones and the resumed ones.
    """

    is_steady = True
    """The order of those that wait changes only when one comes or goes."""

    def key(self, request: Request, now: int) -> tuple[int, ...]:  # noqa: ARG002 the protocol's signature
        """The class's rank; then 0 for a request that was under way before, 1 for a fresh one; then when it is due."""
        under_way = request.status is RequestStatus.PREEMPTED or bool(request.output_ids)
        return (request.klass.rank, 0 if under_way else 1, due_micros(request))


class WaitingQueue:
    """Requests that hold no blocks, in the order of a policy."""

    def __init__(self, policy: OrderPolicy) -> None:
        self._policy = policy
        self._is_steady = bool(getattr(policy, "is_steady", False))
        self._requests: dict[str, Request] = {}
        self._ordered: list[Request] | None = None

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: Request) -> None:
        """Let a request wait."""
        self._requests[request.request_id] = request
        self._ordered = None

    def remove(self, request: Request) -> None:
        """Take a request out. Does nothing if it does not wait."""
        if self._requests.get(request.request_id) is request:
            del self._requests[request.request_id]
            self._leave_order(request)

    def in_order(self, now: int) -> list[Request]:
        """All that wait, next one first; not to be changed. Those seen for the first time have come now."""
        if self._ordered is not None and self._is_steady:
            return self._ordered
        for request in self._requests.values():
            if request.queued_micros is None:
                request.queued_micros = now
        key = self._policy.key
        self._ordered = sorted(self._requests.values(), key=lambda request: (key(request, now), request.arrival))
        return self._ordered

    def _leave_order(self, request: Request) -> None:
        """Take a request out of the order that is kept, which somebody may be walking through: of a copy."""
        if self._ordered is not None:
            self._ordered = self._ordered.copy()
            self._ordered.remove(request)
