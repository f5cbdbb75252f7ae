"""The decodes of the next step, planned while a step runs.

What a running step will give is mostly known: one token for each row that comes to its end, after which the row needs
one more, unless it has reached its `max_tokens`, its context or its credit. So room for it can be made early. Which of
these rows are still there, and what their tokens are, is looked at when the step has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyworker.engine.request import RequestStatus

if TYPE_CHECKING:
    from pyworker.engine.config import EngineConfig
    from pyworker.engine.outputs import SchedulerOutput
    from pyworker.engine.request import Request
    from pyworker.kvcache.manager import KVCacheManager


class Ahead:
    """Rows that are expected to decode in the next step, each with a slot for its token.

    Planning changes nothing of a request but that its block table may grow, so it may be done while the requests are
    read by a runner.
    """

    def __init__(self, config: EngineConfig, kv_cache: KVCacheManager) -> None:
        self._max_model_len = config.max_model_len
        self._kv_cache = kv_cache
        self._rows: list[Request] = []

    def plan(self, out: SchedulerOutput, num_running: int) -> None:
        """Plan what follows `out`. Nothing is planned where blocks are so few that somebody may have to give way: who
        that is, is decided when it is known who is left.
        """
        self._rows = []
        # Each row takes one block at most, now or as a decode that nobody foresaw: all that may come can have it.
        if self._kv_cache.num_free < 2 * num_running:
            return
        for name, num_tokens in out.num_scheduled_tokens.items():
            request = out.requests[name]
            if self._goes_on(request, num_tokens - len(out.drafts.get(name, ()))) and (
                self._kv_cache.allocate_slots(request, num_tokens, lookahead=1) is not None
            ):
                self._rows.append(request)

    def take(self) -> list[Request]:
        """Those of the planned rows that have come out as expected; the plan is gone afterwards.

        Each runs, has credit, lacks the newest of its tokens and has room for it.
        """
        rows, self._rows = self._rows, []
        return [request for request in rows if self._is_ready(request)]

    def has_any(self) -> bool:
        """Whether a step will follow, as far as can be seen now."""
        return any(map(self._is_ready, self._rows))

    def forget(self) -> None:
        """Drop the plan. What was reserved stays with the requests, which will need it."""
        self._rows = []

    def _goes_on(self, request: Request, num_known: int) -> bool:
        num_output, num_tokens = len(request.output_ids), request.num_tokens
        return (
            request.status is RequestStatus.RUNNING
            and request.num_computed_tokens + num_known == num_tokens
            and num_output + 1 < min(request.credit_up_to, request.params.max_tokens)
            and num_tokens + 1 < self._max_model_len
        )

    @staticmethod
    def _is_ready(request: Request) -> bool:
        num_output = len(request.output_ids)
        num_tokens = len(request.prompt_ids) + num_output
        return (
            request.status is RequestStatus.RUNNING
            and num_tokens - request.num_computed_tokens == 1
            and num_output < request.credit_up_to
        )
