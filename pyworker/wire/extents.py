"""Whether the counts in a body fit its array parts, and whether what these hold is within bounds.

The same rules as the router's codec; each check gives the first fault that it finds.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from pyworker.wire.messages import BlocksStored

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyworker.wire.messages import BlocksRemoved, SamplingParams, StepOutputs, Submit

MAX_STOP_TOKEN_IDS: Final = 64
MAX_ALLOWED_TOKEN_IDS: Final = 1024
MAX_BAD_WORDS: Final = 128
MAX_BAD_WORD_TOKENS: Final = 64
MAX_LOGIT_BIAS: Final = 300
MAX_LOGPROBS: Final = 20
MAX_GRAMMAR_BYTES: Final = 512 * 1024
MAX_BIAS: Final = 100.0

STORED_WORDS: Final = 6
"""Words a stored block: hash, parent and salt, low half first."""
REMOVED_WORDS: Final = 4
"""Words a removed block: salt and hash, low half first."""

_F32_LIMIT: Final = float.fromhex("0x1.ffffffp127")
"""From here on a number rounds to an infinite f32."""


class Fault(NamedTuple):
    """A field out of range, or (with `part`) one that counts more or fewer elements than that part has."""

    field: str
    part: str | None = None
    wanted: int = 0


def num_list_ids(params: SamplingParams) -> int:
    """Elements in the ids part after prompt and history."""
    allowed = params.num_allowed_token_ids or 0
    return params.num_stop_token_ids + allowed + sum(params.bad_word_lengths) + params.num_logit_bias


def check_submit(submit: Submit, ids: Sequence[int], floats: Sequence[float]) -> Fault | None:
    """At least one prompt token must be left once the lists and the history are taken off the end."""
    params = submit.params
    fault = _check_params(params)
    if fault is not None:
        return fault
    wanted = submit.num_output_tokens + num_list_ids(params) + 1
    if wanted > len(ids):
        return Fault("num_output_tokens", "ids", wanted)
    if params.num_logit_bias != len(floats):
        return Fault("num_logit_bias", "floats", params.num_logit_bias)
    if not all(-MAX_BIAS <= bias <= MAX_BIAS for bias in floats):
        return Fault("logit_bias")
    return None


def check_step(step: StepOutputs, ids: Sequence[int], floats: Sequence[float]) -> Fault | None:
    """Exactly the counted elements, none of them not a number or plus infinity."""
    num_ids = num_floats = 0
    for output in step.outputs:
        top, prompt, top_prompt = output.num_top_logprobs, output.num_prompt_logprobs, output.num_top_prompt_logprobs
        if top is not None and top > MAX_LOGPROBS:
            return Fault("num_top_logprobs")
        if top_prompt > MAX_LOGPROBS or (top_prompt and not prompt):
            return Fault("num_top_prompt_logprobs")
        listed = output.num_tokens * (top or 0) + prompt * top_prompt
        num_ids += output.num_tokens + listed
        num_floats += (0 if top is None else output.num_tokens) + prompt + listed
    if num_ids != len(ids):
        return Fault("num_tokens", "ids", num_ids)
    if num_floats != len(floats):
        return Fault("num_top_logprobs", "floats", num_floats)
    if any(math.isnan(value) or value == math.inf for value in floats):
        return Fault("logprobs")
    return None


def check_blocks(body: BlocksStored | BlocksRemoved, words: Sequence[int]) -> Fault | None:
    """So many words a block, exactly."""
    each = STORED_WORDS if isinstance(body, BlocksStored) else REMOVED_WORDS
    wanted = body.num_blocks * each
    return None if wanted == len(words) else Fault("num_blocks", "ids", wanted)


def _check_params(params: SamplingParams) -> Fault | None:
    allowed, words, grammar = params.num_allowed_token_ids, params.bad_word_lengths, params.grammar
    rules = (
        ("temperature", 0.0 <= params.temperature < _F32_LIMIT),
        ("top_p", 0.0 < params.top_p <= 1.0),
        ("min_p", 0.0 <= params.min_p <= 1.0),
        ("frequency_penalty", -2.0 <= params.frequency_penalty <= 2.0),
        ("presence_penalty", -2.0 <= params.presence_penalty <= 2.0),
        ("repetition_penalty", 0.0 < params.repetition_penalty <= 10.0),
        ("max_tokens", params.max_tokens > 0),
        ("min_tokens", params.min_tokens <= params.max_tokens),
        ("logprobs", (params.logprobs or 0) <= MAX_LOGPROBS),
        ("prompt_logprobs", (params.prompt_logprobs or 0) <= MAX_LOGPROBS),
        ("grammar", grammar is None or len(grammar.text.encode()) <= MAX_GRAMMAR_BYTES),
        ("num_stop_token_ids", params.num_stop_token_ids <= MAX_STOP_TOKEN_IDS),
        ("num_allowed_token_ids", allowed is None or 1 <= allowed <= MAX_ALLOWED_TOKEN_IDS),
        (
            "bad_word_lengths",
            len(words) <= MAX_BAD_WORDS and all(1 <= length <= MAX_BAD_WORD_TOKENS for length in words),
        ),
        ("num_logit_bias", params.num_logit_bias <= MAX_LOGIT_BIAS),
    )
    return next((Fault(field) for field, holds in rules if not holds), None)
