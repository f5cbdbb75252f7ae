"""What one load process has to send, as its sender sees it. Times in microseconds from t0."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class ClassRules:
    """How requests of one class are sent."""

    inflight: int | None = None
    fresh: bool = False
    timeout: int | None = None
    """From due on."""
    retry: bool = False


@dataclass(slots=True)
class Request:
    """What the sender must know of a request; the rest is in its payload."""

    id: int
    cls: int
    due: int
    payload: memoryview | bytes
    cancel_after: int | None = None
    slow: int | None = None


@dataclass(slots=True)
class Lane:
    """`slots` at a time from `start` on, until the requests end or the run stops issuing."""

    start: int
    slots: int
    requests: Sequence[Request]
    stop: int | None = None
    """Nothing is begun after this; None: the requests are all there is to do."""
    next: int = 0


@dataclass(slots=True)
class Schedule:
    """All that one load process has to send."""

    open: Sequence[Request]
    """In the order of their due times."""
    lanes: list[Lane] = field(default_factory=list)
    window: tuple[int, int] = (0, 1 << 62)
    """First and last due time that is measured."""
