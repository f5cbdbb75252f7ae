"""Who gives up blocks and rows when another one needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from pyworker.engine.outputs import SchedulerOutput
    from pyworker.engine.request import Request


def standing(request: Request) -> tuple[int, int]:
    """Place among those that run: by class, inside a class the oldest first; the last one yields first."""
    return request.klass.rank, request.arrival


def all_yielding(
    running: Sequence[Request], request: Request, out: SchedulerOutput, keep: Request | None = None
) -> list[Request]:
    """Running requests that give way to one that can go on: not in this step, and offline where that one is not, or
    without credit. `keep` never does.
    """
    if not request.has_credit:
        return []
    return [
        other
        for other in running
        if other is not keep
        and other.request_id not in out.num_scheduled_tokens
        and (not other.has_credit or (other.is_offline and not request.is_offline))
    ]


def first_to_yield(able: Sequence[Request], parked: Container[str]) -> Request | None:
    """Offline rows, of these those without credit first and those that are parked last; then the lowest class, then the
    youngest.
    """
    return max(
        able,
        key=lambda row: (row.is_offline, not row.has_credit, row.request_id not in parked, standing(row)),
        default=None,
    )


def last_from(running: Sequence[Request], request: Request, out: SchedulerOutput) -> Request:
    """The last of all that stand behind this running request and are not in this step, or else itself."""
    for other in reversed(running):
        if other is request or other.request_id not in out.num_scheduled_tokens:
            return other
    return request
