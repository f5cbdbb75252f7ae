"""The wire's words into the engine's and back. The only file that knows both."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

from pyworker.engine.outputs import FinishReason
from pyworker.engine.request import Request, RequestClass, SamplingParams
from pyworker.wire import messages as wire

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyworker.engine.interface import EngineCapabilities, EngineStats
    from pyworker.engine.outputs import RequestOutput

_logger = logging.getLogger(__name__)

_CLASSES = {kind: RequestClass(kind.value) for kind in wire.RequestClass}
_FINISHES = {reason: wire.Finish(reason.value) for reason in FinishReason}
_METRICS = frozenset(name.value for name in wire.MetricName)


def to_request(submit: wire.Submit, ids: Sequence[int], now_micros: int) -> Request:
    """The request of a `Submit`; its deadline is put on the clock of `now_micros`."""
    num_prompt = len(ids) - submit.num_output_tokens
    remaining, params = submit.remaining_micros, submit.params
    return Request(
        request_id=submit.request_id,
        attempt=submit.attempt,
        prompt_ids=list(ids[:num_prompt]),
        output_ids=list(ids[num_prompt:]),
        choice_index=submit.choice_index,
        klass=_CLASSES[submit.class_],
        salt=submit.salt,
        deadline_micros=None if remaining is None else now_micros + remaining,
        credit_up_to=submit.credit_up_to,
        params=SamplingParams(
            max_tokens=params.max_tokens,
            min_tokens=params.min_tokens,
            temperature=params.temperature,
            top_p=params.top_p,
            seed=params.seed,
            ignore_eos=params.ignore_eos,
        ),
    )


def to_step_outputs(outputs: Sequence[RequestOutput], step_micros: int) -> tuple[wire.StepOutputs, list[int]]:
    """One step's message without its sequence number, and its ids."""
    rows = [_row(output) for output in outputs]
    ids = [token for output in outputs for token in output.token_ids]
    return wire.StepOutputs(seq=0, step_micros=step_micros, outputs=rows), ids


def to_ready(what: EngineCapabilities) -> wire.Ready:
    """READY without its sequence number."""
    return wire.Ready(
        seq=0,
        model_name=what.model_name,
        weights_hash=what.weights_hash,
        text_hash=what.text_hash,
        vocab_size=what.vocab_size,
        block_size=what.block_size,
        num_blocks=what.num_blocks,
        max_model_len=what.max_model_len,
        slots=what.slots,
        dtype=what.dtype,
        numerics=what.numerics,
        kv_layout=what.kv_layout,
        features=list(what.features),
    )


def to_worker_stats(stats: EngineStats) -> wire.WorkerStats:
    """Statistics without their sequence number. What the wire has no name for, or is no number, is left out."""
    metrics = []
    for name, label, value in stats.metrics:
        if name in _METRICS and math.isfinite(value):
            metrics.append(wire.Metric(name=wire.MetricName(name), label=label, value=float(value)))
        else:
            _logger.debug("metric %s = %r has no place on the wire", name, value)
    return wire.WorkerStats(
        seq=0,
        num_running=stats.num_running,
        num_waiting=stats.num_waiting,
        kv_blocks_used=stats.kv_blocks_used,
        kv_blocks_total=stats.kv_blocks_total,
        metrics=metrics,
    )


def _row(output: RequestOutput) -> wire.RequestOutput:
    error = None
    if output.finish is FinishReason.ERROR:
        error = wire.RequestFailure(code=output.error_code or "internal", message=output.error_message)
    return wire.RequestOutput(
        request_id=output.request_id,
        attempt=output.attempt,
        start=output.start,
        num_tokens=len(output.token_ids),
        num_cached_tokens=output.num_cached_tokens,
        finish=None if output.finish is None else _FINISHES[output.finish],
        error=error,
    )
