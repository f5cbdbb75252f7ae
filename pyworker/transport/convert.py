"""The wire's words into the engine's and back. The only file that knows both."""

from __future__ import annotations

import logging
import math
from itertools import islice
from typing import TYPE_CHECKING, Final

from pyworker.engine.outputs import FinishReason
from pyworker.engine.request import Grammar, GrammarKind, Request, RequestClass, SamplingParams
from pyworker.wire import messages as wire
from pyworker.wire.extents import num_list_ids

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pyworker.engine.interface import EngineCapabilities, EngineStats
    from pyworker.engine.outputs import KVEvents, RequestOutput, TokenLogprobs

_logger = logging.getLogger(__name__)

_CLASSES = {kind: RequestClass(kind.value) for kind in wire.RequestClass}
_GRAMMARS = {kind: GrammarKind(kind.value) for kind in wire.GrammarKind}
_FINISHES = {reason: wire.Finish(reason.value) for reason in FinishReason}
_METRICS = frozenset(name.value for name in wire.MetricName)


BLOCKS_PER_MESSAGE: Final = 65_536
"""What one message says of blocks stays far under the largest frame."""


def to_request(submit: wire.Submit, ids: Sequence[int], floats: Sequence[float], now_micros: int) -> Request:
    """The request of a `Submit` and its parts; its deadline is put on the clock of `now_micros`."""
    known, lists = split_ids(submit, ids)
    num_prompt = len(known) - submit.num_output_tokens
    remaining = submit.remaining_micros
    return Request(
        request_id=submit.request_id,
        attempt=submit.attempt,
        prompt_ids=known[:num_prompt],
        output_ids=known[num_prompt:],
        group=submit.group,
        choice_index=submit.choice_index,
        klass=_CLASSES[submit.class_],
        salt=submit.salt,
        deadline_micros=None if remaining is None else now_micros + remaining,
        credit_up_to=submit.credit_up_to,
        params=_to_params(submit.params, lists, floats),
    )


def split_ids(submit: wire.Submit, ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """Prompt and history, and what comes after them: the ids of the parameters' lists."""
    known = len(ids) - num_list_ids(submit.params)
    return list(ids[:known]), list(ids[known:])


def to_step_outputs(
    outputs: Sequence[RequestOutput], step_micros: int
) -> tuple[wire.StepOutputs, list[int], list[float]]:
    """One step's message without its sequence number, its ids and its floats."""
    ids = [token for output in outputs for token in output.token_ids]
    floats: list[float] = []
    rows = [_row(output, ids, floats) for output in outputs]
    return wire.StepOutputs(seq=0, step_micros=step_micros, outputs=rows), ids, floats


def to_blocks(
    events: KVEvents,
) -> Iterator[tuple[wire.BlocksCleared | wire.BlocksRemoved | wire.BlocksStored, list[int]]]:
    """What became of the prefix cache, as messages without sequence numbers, each with its words; cleared, removed,
    stored, in this order.
    """
    if events.cleared:
        yield wire.BlocksCleared(seq=0), []
    for start in range(0, len(events.removed), BLOCKS_PER_MESSAGE):
        gone = events.removed[start : start + BLOCKS_PER_MESSAGE]
        yield wire.BlocksRemoved(seq=0, num_blocks=len(gone)), _words(half for key in gone for half in key)
    for start in range(0, len(events.stored), BLOCKS_PER_MESSAGE):
        come = events.stored[start : start + BLOCKS_PER_MESSAGE]
        hashes = (each for block in come for each in (block.block_hash, block.parent_hash, block.salt))
        yield wire.BlocksStored(seq=0, num_blocks=len(come)), _words(hashes)


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


def _to_params(params: wire.SamplingParams, lists: Sequence[int], biases: Sequence[float]) -> SamplingParams:
    rest = iter(lists)

    def take(count: int) -> tuple[int, ...]:
        return tuple(islice(rest, count))

    stop_token_ids = take(params.num_stop_token_ids)
    allowed = None if params.num_allowed_token_ids is None else take(params.num_allowed_token_ids)
    bad_words = tuple(take(length) for length in params.bad_word_lengths)
    grammar = params.grammar
    return SamplingParams(
        max_tokens=params.max_tokens,
        min_tokens=params.min_tokens,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        min_p=params.min_p,
        frequency_penalty=params.frequency_penalty,
        presence_penalty=params.presence_penalty,
        repetition_penalty=params.repetition_penalty,
        logit_bias=tuple(zip(take(params.num_logit_bias), biases, strict=True)),
        allowed_token_ids=allowed,
        bad_words=bad_words,
        seed=params.seed,
        ignore_eos=params.ignore_eos,
        stop_token_ids=stop_token_ids,
        logprobs=params.logprobs,
        prompt_logprobs=params.prompt_logprobs,
        grammar=None if grammar is None else Grammar(_GRAMMARS[grammar.kind], grammar.text),
    )


def _words(numbers: Iterable[int]) -> list[int]:
    """Each u64 as its low and its high half."""
    return [half for number in numbers for half in (number & 0xFFFF_FFFF, number >> 32)]


def _put(positions: Sequence[TokenLogprobs], ids: list[int], floats: list[float]) -> int:
    """Append logprobs to the parts, and say how many likeliest tokens each position has: as many as the position with
    the fewest, since the wire has one number for all.
    """
    num_top = min((len(each.top_ids) for each in positions), default=0)
    floats += [each.logprob for each in positions]
    for each in positions:
        ids += each.top_ids[:num_top]
        floats += each.top_logprobs[:num_top]
    return num_top


def _row(output: RequestOutput, ids: list[int], floats: list[float]) -> wire.RequestOutput:
    error = None
    if output.finish is FinishReason.ERROR:
        error = wire.RequestFailure(code=output.error_code or "internal", message=output.error_message)
    num_top_prompt = _put(output.prompt_logprobs, ids, floats)
    num_top = _put(output.logprobs, ids, floats)
    return wire.RequestOutput(
        request_id=output.request_id,
        attempt=output.attempt,
        start=output.start,
        num_tokens=len(output.token_ids),
        num_top_logprobs=num_top if output.logprobs else None,
        num_prompt_logprobs=len(output.prompt_logprobs),
        num_top_prompt_logprobs=num_top_prompt,
        num_cached_tokens=output.num_cached_tokens,
        finish=None if output.finish is None else _FINISHES[output.finish],
        error=error,
    )
