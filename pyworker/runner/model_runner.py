"""Computes one step: builds the flat batch, runs the model on a backend, samples a token for each finished row."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pyworker.engine.outputs import ModelRunnerOutput, RowResult
from pyworker.errors import BackendBroken
from pyworker.runner.backends.base import BLOCK_SIZE
from pyworker.runner.batch import BatchBuilder
from pyworker.runner.sampler import SamplingRow, sample

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from pyworker.engine.interface import EngineHost
    from pyworker.engine.outputs import SchedulerOutput
    from pyworker.models.registry import Model
    from pyworker.runner.backends.base import Backend
    from pyworker.runner.batch import Batch
    from pyworker.runner.memory import Limits, MemoryPlan


class TorchModelRunner:
    """A `ModelRunner` over a model and a backend. Owns the KV cache; called from one thread."""

    def __init__(
        self, model: Model, backend: Backend, plan: MemoryPlan, limits: Limits, eos_ids: tuple[int, ...]
    ) -> None:
        self._model = model
        self._backend = backend
        self._plan = plan
        self._eos_ids = eos_ids
        self._kv = backend.kv_cache(model.kv_spec, plan.num_blocks)
        max_model_len = limits.max_model_len or model.max_model_len
        max_blocks = min(-(-max_model_len // BLOCK_SIZE), plan.num_blocks)
        self._builder = BatchBuilder(limits.max_num_seqs, limits.max_num_batched_tokens, max_blocks)

    def execute(self, out: SchedulerOutput, host: EngineHost) -> ModelRunnerOutput:
        """Compute the scheduled tokens of every request. A row whose known tokens are all computed yields one token.

        Raises:
            BackendBroken: nothing that is in memory can be trusted any more; the process must end.
        """
        started = time.perf_counter_ns()
        batch = self._builder.build(out)
        rows = {request_id: RowResult() for request_id in out.num_scheduled_tokens}
        if batch.num_tokens:
            logits = self._forward(batch, host)
            plan = [SamplingRow.of(out.requests[request_id], self._eos_ids) for request_id in batch.logit_ids]
            rows.update(zip(batch.logit_ids, sample(logits, plan), strict=True))
        return ModelRunnerOutput(rows, step_micros=(time.perf_counter_ns() - started) // 1000)

    def _forward(self, batch: Batch, host: EngineHost) -> NDArray[np.float32]:
        try:
            with self._backend.step():
                return self._model.forward(self._backend, batch, self._kv, host.progress)
        except self._backend.fatal as error:
            raise BackendBroken(self._backend.name, str(error)) from error

    def memory_bytes(self) -> Mapping[str, int]:
        """Bytes of the memory plan by part."""
        return self._plan.parts

    def close(self) -> None:
        """Drop the cache; the runner cannot be used afterwards."""
        self._kv = None
