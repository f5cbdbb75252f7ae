"""Computes one step: builds the flat batch, runs the model on a backend, samples the rows that are due."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from pyworker.engine.outputs import ModelRunnerOutput, RowResult
from pyworker.errors import BackendBroken
from pyworker.runner.backends.base import BLOCK_SIZE
from pyworker.runner.batch import BatchBuilder, by_layer
from pyworker.runner.flow import Flow
from pyworker.runner.footprint import PROMPT_TILE
from pyworker.runner.safepoint import Safepoint
from pyworker.runner.sampler import Sampler, SampleRow
from slackwater._native import kernels

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pyworker.engine.interface import EngineHost
    from pyworker.engine.outputs import SchedulerOutput, TokenLogprobs
    from pyworker.engine.request import Request
    from pyworker.models.registry import Model
    from pyworker.runner.backends.base import Backend, Tensor
    from pyworker.runner.batch import Batch
    from pyworker.runner.memory import Limits, MemoryPlan


class TorchModelRunner:
    """A `ModelRunner` over a model and a backend. Owns the KV cache; called from one thread.

    `safepoint` may be raised from any thread: a step in progress then lets rows go at its next layer.
    """

    def __init__(
        self, model: Model, backend: Backend, plan: MemoryPlan, limits: Limits, eos_ids: tuple[int, ...]
    ) -> None:
        self._model = model
        self._backend = backend
        self._plan = plan
        self._kv = backend.kv_cache(model.kv_spec, plan.num_blocks)
        max_model_len = limits.max_model_len or model.max_model_len
        max_blocks = min(-(-max_model_len // BLOCK_SIZE), plan.num_blocks)
        self._builder = BatchBuilder(limits.max_num_seqs, limits.max_num_batched_tokens, max_blocks)
        self._sampler = Sampler(model.vocab_size, eos_ids, backend.pool or kernels.Pool(1))
        self.safepoint = Safepoint()

    def execute(self, out: SchedulerOutput, host: EngineHost) -> ModelRunnerOutput:
        """Compute the scheduled tokens of every request. A row whose known tokens are all computed yields tokens.

        A step that raises has changed nothing that another one would not write again.

        Raises:
            BackendBroken: nothing that is in memory can be trusted any more; the process must end.
        """
        started = time.perf_counter_ns()
        self._sampler.forget(out.finished_ids)
        batch = self._builder.build(out)
        rows = dict.fromkeys(out.num_scheduled_tokens, _NOTHING)
        result = ModelRunnerOutput(rows)
        if batch.num_tokens:
            flow = Flow(self._backend, batch, by_layer(out.joins), self.safepoint.view, host.progress)
            try:
                with self._backend.step():
                    self._compute(out, flow, batch, rows)
            except self._backend.fatal as error:
                raise BackendBroken(self._backend.name, str(error)) from error
            result.parked = flow.put_back()
        result.step_micros = (time.perf_counter_ns() - started) // 1000
        return result

    def memory_bytes(self) -> Mapping[str, int]:
        """Bytes of the memory plan by part."""
        return self._plan.parts

    def close(self) -> None:
        """Drop the cache; the runner cannot be used afterwards."""
        self._kv = None

    def _compute(self, out: SchedulerOutput, flow: Flow, whole: Batch, rows: dict[str, RowResult]) -> None:
        """Run the layers and fill the rows in."""
        if out.block_copies:
            self._backend.copy_blocks(self._kv, out.block_copies)
        through = self._model.forward(self._backend, flow.batch, self._kv, flow)
        num_through = 0
        if through is not None:
            hidden, batch = through
            num_through = batch.num_seqs
            self._score_prompts(out, hidden, batch, rows)
            self._sample(out, hidden, batch, rows)
        for request_id in whole.seq_ids[num_through:]:
            rows[request_id] = RowResult(parked=True)

    def _sample(self, out: SchedulerOutput, hidden: Tensor, batch: Batch, rows: dict[str, RowResult]) -> None:
        """Tokens for each request whose known tokens are all computed."""
        if not len(batch.logit_rows):
            return
        requests, drafts = out.requests, out.drafts
        due = batch.logit_ids
        if drafts:
            due = [request_id for request_id, count in zip(due, batch.logit_drafts, strict=True) if not count]
        plan = [SampleRow(requests[request_id], drafts.get(request_id, ())) for request_id in due]
        logits = self._model.logits(self._backend, hidden, batch.among_kept(batch.logit_rows))
        for request_id, found in zip(due, self._sampler.sample(logits, plan, out.masks), strict=True):
            scored = rows[request_id]
            if scored.error is None:
                if scored.prompt_logprobs:
                    found.prompt_logprobs = scored.prompt_logprobs
                rows[request_id] = found

    def _score_prompts(self, out: SchedulerOutput, hidden: Tensor, batch: Batch, rows: dict[str, RowResult]) -> None:
        """Log-probabilities of the prompt tokens that follow the rows of this step, where they are asked for."""
        for seq in batch.scored_seqs:
            request_id = batch.seq_ids[seq]
            begin, end = batch.among_kept(batch.seq_starts[seq : seq + 2]).tolist()
            found = self._score(out.requests[request_id], hidden, begin, end)
            if found is None:
                rows[request_id] = RowResult(error="numerics_error", message="the prompt's logits are not finite")
            elif found:
                rows[request_id] = RowResult(prompt_logprobs=found)

    def _score(self, request: Request, hidden: Tensor, begin: int, end: int) -> list[TokenLogprobs] | None:
        """What rows `begin..end` of one request say of the prompt tokens after them, a tile of rows at a time.

        `None`: a row is not finite.
        """
        first, num_top = request.num_computed_tokens, request.params.prompt_logprobs or 0
        count = min(end - begin, len(request.prompt_ids) - 1 - first)
        found: list[TokenLogprobs] = []
        for tile in range(0, count, PROMPT_TILE):
            stop = min(count, tile + PROMPT_TILE)
            picked = np.arange(begin + tile, begin + stop, dtype=np.int32)
            follow = request.prompt_ids[first + 1 + tile : first + 1 + stop]
            # The logits are handed on and not kept: their memory is the next tile's.
            part = self._sampler.prompt_logprobs(self._model.logits(self._backend, hidden, picked), follow, num_top)
            if part is None:
                return None
            found += part
        return found


_NOTHING = RowResult()
"""A row of which no result was asked. Nobody changes it."""
