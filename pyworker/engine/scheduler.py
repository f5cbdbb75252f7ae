"""Who gets how many tokens in the next step, and what a step's result means for each request.

A prefill chunk, a decode and the recomputation of a preempted request are one subtraction: known tokens less computed
tokens. Between two steps a request waits (and holds no blocks) or runs (and holds blocks); it leaves by exactly one
output with `finish`.
"""

from __future__ import annotations

from bisect import insort
from typing import TYPE_CHECKING

from pyworker.engine.budget import ChunkBudget
from pyworker.engine.outcome import checked_row, end_status
from pyworker.engine.outputs import (
    FinishReason,
    RequestOutput,
    SchedulerOutput,
    StepOutputs,
    cancelled_output,
)
from pyworker.engine.queue import ClassOrder, WaitingQueue
from pyworker.engine.request import Request, RequestClass, RequestStatus
from pyworker.engine.validation import check_request
from pyworker.errors import DuplicateAttempt, IntegrityError

if TYPE_CHECKING:
    from pyworker.engine.config import EngineConfig
    from pyworker.engine.metrics import EngineMetrics
    from pyworker.engine.outputs import ModelRunnerOutput, RowResult
    from pyworker.engine.queue import OrderPolicy
    from pyworker.kvcache.manager import KVCacheBlocks, KVCacheManager

_FINISH = {
    RequestStatus.FINISHED_STOPPED: FinishReason.STOP,
    RequestStatus.FINISHED_LENGTH: FinishReason.LENGTH,
    RequestStatus.FINISHED_ERROR: FinishReason.ERROR,
}


class Scheduler:
    """Continuous batching over a paged KV cache. No clock, no torch, no IO: equal calls give equal answers."""

    def __init__(
        self,
        config: EngineConfig,
        kv_cache: KVCacheManager,
        metrics: EngineMetrics,
        policy: OrderPolicy | None = None,
    ) -> None:
        self._config = config
        self._kv_cache = kv_cache
        self._metrics = metrics
        self._waiting = WaitingQueue(policy or ClassOrder())
        self._running: list[Request] = []  # by class, inside a class the oldest first; the last one yields first
        self._requests: dict[str, Request] = {}
        self._cancelled: dict[str, None] = {}  # a set that keeps its order
        self._outputs: list[RequestOutput] = []  # made outside a step, not handed out yet
        self._finished_ids: list[str] = []  # not told to the runner yet
        self._arrivals = 0

    @property
    def num_running(self) -> int:
        """Requests that hold blocks."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Requests that hold none."""
        return len(self._waiting)

    def add(self, request: Request) -> bool:
        """Take a request. False: a higher attempt of it is here already, and this one is ignored.

        A lower attempt that is here is dropped without an output, even if the new one is then refused.

        Raises:
            DuplicateAttempt: this very attempt is here.
            InvalidRequest: no engine with this model would take it.
        """
        known = self._requests.get(request.request_id)
        if known is not None:
            if known.attempt == request.attempt:
                raise DuplicateAttempt(request.request_id, request.attempt)
            if known.attempt > request.attempt:
                return False
            self._drop(known, RequestStatus.FINISHED_CANCELLED)
        check_request(request, self._config)
        self._arrivals += 1
        request.arrival = self._arrivals
        self._requests[request.request_id] = request
        self._waiting.add(request)
        return True

    def cancel(self, request_id: str) -> None:
        """End a request at the next step boundary; its output says `cancelled`. Unknown ids are ignored."""
        if request_id in self._requests:
            self._cancelled[request_id] = None

    def grant(self, request_id: str, up_to: int) -> None:
        """Let a request produce tokens up to this output position. Credit never shrinks; unknown ids are ignored."""
        request = self._requests.get(request_id)
        if request is not None:
            request.credit_up_to = max(request.credit_up_to, up_to)

    def schedule(self, now: int) -> SchedulerOutput:
        """Choose the next step's rows: decodes, then chunks of what runs, then what waits. `now` in microseconds."""
        self._end_cancelled()
        out = SchedulerOutput()
        self._schedule_decodes(out)
        budget = ChunkBudget(self._config, len(out.num_scheduled_tokens))
        self._schedule_chunks(out, budget)
        self._schedule_waiting(out, budget, now)
        if out.num_scheduled_tokens:
            out.finished_ids, self._finished_ids = self._finished_ids, []
            _online_first(out)
        return out

    def update_from_output(self, out: SchedulerOutput, result: ModelRunnerOutput) -> StepOutputs:
        """Take a step's result: advance, append, find stops, free. Outputs made since the last step come first."""
        steps = StepOutputs(self.take_outputs(), max(1, result.step_micros))
        self._metrics.observe_step(len(out.num_scheduled_tokens))
        for request_id, num_tokens in out.num_scheduled_tokens.items():
            request = out.requests[request_id]
            if self._requests.get(request_id) is request:
                steps.outputs.append(self._apply(request, num_tokens, result.rows.get(request_id)))
        return steps

    def take_outputs(self) -> list[RequestOutput]:
        """Outputs that came about outside a step, each handed out once."""
        taken, self._outputs = self._outputs, []
        return taken

    def check(self) -> None:
        """Compare all books; meant for every moment at which nothing can be scheduled.

        Raises:
            IntegrityError: blocks or requests do not add up.
        """
        counts: dict[str, object] = {
            "requests": len(self._requests),
            "running": len(self._running),
            "waiting": len(self._waiting),
        }
        if len(self._requests) != len(self._running) + len(self._waiting):
            raise IntegrityError("a request neither runs nor waits, or does both", counts)
        if any(not request.block_table for request in self._running):
            raise IntegrityError("a running request holds no blocks", counts)
        self._kv_cache.check(self._requests.values())

    def _end_cancelled(self) -> None:
        cancelled, self._cancelled = self._cancelled, {}
        for request_id in cancelled:
            request = self._requests[request_id]
            self._drop(request, RequestStatus.FINISHED_CANCELLED)
            self._outputs.append(cancelled_output(request_id, request.attempt, len(request.output_ids)))

    def _schedule_decodes(self, out: SchedulerOutput) -> None:
        """One token for each running request that lacks only that one and has credit; others yield blocks to it.

        First those that may not go on anyway, then the lowest class, in both the youngest first. Whoever stands after a
        request has no place in the step yet when that request needs a block, so a victim never has to be taken out.
        """
        for request in list(self._running):
            if request.status is not RequestStatus.RUNNING or not request.has_credit:
                continue
            if request.num_tokens - request.num_computed_tokens != 1:
                continue
            while self._kv_cache.allocate_slots(request, 1) is None:
                victim = self._last_stalled(out) or self._running[-1]
                self._preempt(victim)
                if victim is request:
                    break
            else:
                self._plan(out, request, 1)

    def _schedule_chunks(self, out: SchedulerOutput, budget: ChunkBudget) -> None:
        for request in self._running:
            if request.request_id in out.num_scheduled_tokens:
                continue
            num_tokens = budget.fit(_wanted(request, request.num_computed_tokens))
            # The blocks have been there since the request was let in, so this cannot fail.
            if num_tokens and self._kv_cache.allocate_slots(request, num_tokens) is not None:
                budget.spend(num_tokens)
                self._plan(out, request, num_tokens)

    def _schedule_waiting(self, out: SchedulerOutput, budget: ChunkBudget, now: int) -> None:
        """Let requests in, in order, until the first that does not fit: nobody overtakes for being small.

        Those without credit can only compute in advance. They are passed over where there is no room, and hold up none.
        """
        for request in self._waiting.in_order(now):
            if len(self._running) >= self._config.max_num_seqs and self._last_stalled(out) is None:
                return
            if request.status is RequestStatus.PREEMPTED and not request.has_credit:
                continue  # it would only compute again what it cannot go on from
            cached, num_cached = self._kv_cache.get_computed_blocks(request)
            wanted = _wanted(request, num_cached)
            num_tokens = budget.fit(wanted)
            if wanted and not num_tokens:
                return
            # Room for all known tokens at once, so that two half-computed prompts cannot wait for each other.
            rest = request.num_tokens - num_cached - num_tokens
            if num_tokens and self._make_room(out, request, num_tokens, rest, cached):
                self._start(request, num_cached)
                budget.spend(num_tokens)
                self._plan(out, request, num_tokens)
                out.new_requests.append(request.request_id)
            elif request.has_credit:
                return

    def _make_room(
        self, out: SchedulerOutput, request: Request, num_tokens: int, rest: int, cached: KVCacheBlocks
    ) -> bool:
        """A row and blocks for a waiting request; if it has credit, those without must yield theirs."""
        while len(self._running) >= self._config.max_num_seqs or (
            self._kv_cache.allocate_slots(request, num_tokens, rest, cached) is None
        ):
            stalled = self._last_stalled(out) if request.has_credit else None
            if stalled is None:
                return False
            self._preempt(stalled)
        return True

    def _start(self, request: Request, num_cached: int) -> None:
        self._waiting.remove(request)
        insort(self._running, request, key=_standing)
        request.num_computed_tokens = num_cached
        if request.status is RequestStatus.WAITING:
            request.num_cached_tokens = num_cached
            self._metrics.add("prompt_tokens", len(request.prompt_ids))
            self._metrics.add("prefix_cache_queries", request.num_tokens)
            self._metrics.add("prefix_cache_hits", num_cached)
        request.status = RequestStatus.RUNNING

    def _last_stalled(self, out: SchedulerOutput) -> Request | None:
        """The last running request whose client has not said that it may go on, and that is not in this step."""
        for request in reversed(self._running):
            if not request.has_credit and request.request_id not in out.num_scheduled_tokens:
                return request
        return None

    def _preempt(self, request: Request) -> None:
        """Take a running request's blocks; its tokens stay. The blocks keep their content until others need them."""
        self._metrics.add("preemptions", 1)
        self._stop_running(request)
        request.status = RequestStatus.PREEMPTED
        request.num_computed_tokens = 0
        self._waiting.add(request)

    def _drop(self, request: Request, status: RequestStatus) -> None:
        """Remove a request for good, whether it runs or waits."""
        if request.status is RequestStatus.RUNNING:
            self._stop_running(request)
        self._waiting.remove(request)
        del self._requests[request.request_id]
        self._cancelled.pop(request.request_id, None)
        request.status = status

    def _stop_running(self, request: Request) -> None:
        self._running.remove(request)
        self._kv_cache.free(request)
        self._finished_ids.append(request.request_id)

    def _plan(self, out: SchedulerOutput, request: Request, num_tokens: int) -> None:
        out.num_scheduled_tokens[request.request_id] = num_tokens
        out.requests[request.request_id] = request

    def _apply(self, request: Request, num_tokens: int, found: RowResult | None) -> RequestOutput:
        output = RequestOutput(request.request_id, request.attempt, len(request.output_ids))
        output.num_cached_tokens = request.num_cached_tokens
        row = checked_row(request, num_tokens, found, self._config.vocab_size)
        if row.error is not None:
            output.finish, output.error_code, output.error_message = FinishReason.ERROR, row.error, row.message
            self._drop(request, RequestStatus.FINISHED_ERROR)
            return output
        request.num_computed_tokens += num_tokens
        request.output_ids.extend(row.token_ids)
        self._kv_cache.cache_blocks(request)
        output.token_ids = list(row.token_ids)
        self._metrics.add("generation_tokens", len(row.token_ids))
        status = end_status(request, self._config) if row.token_ids else None
        if status is not None:
            output.finish = _FINISH[status]
            self._drop(request, status)
        return output


def _standing(request: Request) -> tuple[int, int]:
    return request.klass.rank, request.arrival


def _wanted(request: Request, num_computed: int) -> int:
    """Tokens to compute; without credit all but the last, whose computation would produce a token."""
    return request.num_tokens - num_computed - (0 if request.has_credit else 1)


def _online_first(out: SchedulerOutput) -> None:
    rows = out.num_scheduled_tokens.items()
    out.num_scheduled_tokens = dict(sorted(rows, key=lambda row: out.requests[row[0]].klass is RequestClass.OFFLINE))
