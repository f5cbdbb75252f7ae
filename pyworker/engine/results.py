"""What a step's result means for each request: it advances, emits, ends, or is parked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyworker.engine.outcome import INTERNAL, append_tokens, checked_row, failed, new_prompt_logprobs
from pyworker.engine.outputs import FinishReason, RequestOutput
from pyworker.engine.request import RequestStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyworker.engine.config import EngineConfig
    from pyworker.engine.metrics import EngineMetrics
    from pyworker.engine.outputs import ModelRunnerOutput, RowResult, SchedulerOutput
    from pyworker.engine.policies import Policies
    from pyworker.engine.request import Request
    from pyworker.engine.roster import Roster
    from pyworker.kvcache.manager import KVCacheManager

_FINISH = {
    RequestStatus.FINISHED_STOPPED: FinishReason.STOP,
    RequestStatus.FINISHED_LENGTH: FinishReason.LENGTH,
    RequestStatus.FINISHED_ERROR: FinishReason.ERROR,
}
_NO_DRAFTS: tuple[int, ...] = ()


class Results:
    """Takes what the runner made of a step into the books."""

    def __init__(
        self,
        config: EngineConfig,
        kv_cache: KVCacheManager,
        metrics: EngineMetrics,
        policies: Policies,
        roster: Roster,
    ) -> None:
        self._config = config
        self._kv_cache = kv_cache
        self._metrics = metrics
        self._grammar = policies.grammar
        self._speculator = policies.speculator
        self._roster = roster

    def apply(self, out: SchedulerOutput, result: ModelRunnerOutput) -> list[RequestOutput]:
        """The outputs of a step's requests, less those that were parked and those that have ended meanwhile."""
        outputs = []
        for request_id in out.num_scheduled_tokens:
            request = out.requests[request_id]
            if self._roster.is_live(request):
                output = self._apply_row(request, out, result.rows.get(request_id))
                if output is not None:
                    outputs.append(output)
        for parked in result.parked:
            live = (out.requests[name] for name in parked.num_tokens if name in out.requests)
            running = [request for request in live if self._roster.is_running(request)]
            self._roster.parking.park(parked, running, out)
        self._kv_cache.unpin(source for source, _ in out.block_copies)
        self._count(out, outputs)
        return outputs

    def _apply_row(self, request: Request, out: SchedulerOutput, found: RowResult | None) -> RequestOutput | None:
        """What a row's result changes in its request, and the output that says so; none where the row was parked."""
        num_tokens, drafts = out.num_scheduled_tokens[request.request_id], _drafts(out, request)
        row = checked_row(request, num_tokens, drafts, found, self._config.vocab_size)
        if row.parked:
            return None
        output = RequestOutput(
            request.request_id, request.attempt, len(request.output_ids), num_cached_tokens=request.num_cached_tokens
        )
        if row.error is not None:
            return self._failed(request, output, row.error, row.message)
        kept = append_tokens(request, row.token_ids, self._config, self._grammar)
        if not kept.allowed:
            return self._failed(request, output, INTERNAL, "a token came that the grammar does not allow")
        if request.params.prompt_logprobs is not None:
            output.prompt_logprobs = new_prompt_logprobs(request, row)
        request.num_computed_tokens += num_tokens - len(drafts) + max(0, kept.num_tokens - 1)
        self._kv_cache.cache_blocks(request)
        output.token_ids = row.token_ids[: kept.num_tokens]
        output.logprobs = row.logprobs[: kept.num_tokens]
        if self._speculator is not None and output.token_ids:
            # What a grammar forces tells nothing of guesses, and is no debt of theirs.
            guesses = _NO_DRAFTS if request.request_id in out.forced else drafts
            self._speculator.observe(request, guesses, output.token_ids)
        if kept.status is not None:
            output.finish = _FINISH[kept.status]
            self._roster.drop(request, kept.status)
        return output

    def _failed(self, request: Request, output: RequestOutput, code: str, message: str) -> RequestOutput:
        """End a request. Where its grammar has broken its own bounds, that is the reason."""
        if self._grammar is not None and request.params.grammar is not None:
            state = self._grammar.poll(request)
            if state not in (None, "ready"):
                code, message = state, self._grammar.message(request.request_id)
        self._roster.drop(request, RequestStatus.FINISHED_ERROR)
        return failed(output, code, message)

    def _count(self, out: SchedulerOutput, outputs: Sequence[RequestOutput]) -> None:
        self._metrics.observe_step(len(out.num_scheduled_tokens))
        self._metrics.add("generation_tokens", sum(len(output.token_ids) for output in outputs))
        if not out.drafts:
            return
        for output in outputs:
            drafts = out.drafts.get(output.request_id)
            if drafts and output.error_code is None and output.request_id not in out.forced:
                self._metrics.add("draft_tokens", len(drafts))
                self._metrics.add("accepted_draft_tokens", max(0, len(output.token_ids) - 1))


def _drafts(out: SchedulerOutput, request: Request) -> Sequence[int]:
    return out.drafts.get(request.request_id, _NO_DRAFTS) if out.drafts else _NO_DRAFTS
