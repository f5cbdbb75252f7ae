"""What no engine with this model would take. The router has checked the same at its door; it is not trusted."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pyworker.errors import InvalidRequest

if TYPE_CHECKING:
    from pyworker.engine.config import EngineConfig
    from pyworker.engine.request import Request

_U32_MAX = 2**32 - 1
_U64_MAX = 2**64 - 1
_MAX_TEMPERATURE = 100.0


def check_request(request: Request, config: EngineConfig) -> None:
    """Check lengths before values, so that nothing unbounded is ever walked through.

    Raises:
        InvalidRequest: `invalid_request` with the parameter at fault, `context_length_exceeded` or `kv_never_fits`.
    """
    _check_lengths(request, config)
    _check_sampling(request)
    _check_ids("prompt", request.prompt_ids, config.vocab_size)
    _check_ids("output history", request.output_ids, config.vocab_size)
    _check_range("salt", request.salt, 0, _U64_MAX)
    _check_range("choice_index", request.choice_index, 0, _U32_MAX)
    _check_range("attempt", request.attempt, 0, _U32_MAX)
    _check_range("credit_up_to", request.credit_up_to, 0, _U32_MAX)


def _check_lengths(request: Request, config: EngineConfig) -> None:
    if not request.prompt_ids:
        raise _invalid("prompt", "the prompt is empty")
    num_tokens, limit = request.num_tokens, config.max_model_len
    if num_tokens + 1 > limit:
        text = f"{num_tokens} tokens and one of output do not fit the context of {limit} tokens"
        raise InvalidRequest("context_length_exceeded", text, param="prompt")
    max_tokens = request.params.max_tokens
    _check_range("max_tokens", max_tokens, 1, _U32_MAX)
    # The last token of all is never computed, so it needs no place in the cache.
    longest = min(len(request.prompt_ids) + max_tokens, limit) - 1
    needed = -(-longest // config.block_size)
    if needed > config.usable_blocks:
        text = f"the request may need {needed} KV blocks, and the worker has {config.usable_blocks}"
        raise InvalidRequest("kv_never_fits", text, param="max_tokens")
    if len(request.output_ids) >= max_tokens:
        raise _invalid("max_tokens", f"{len(request.output_ids)} output tokens are there already, of {max_tokens}")


def _check_sampling(request: Request) -> None:
    params = request.params
    _check_range("min_tokens", params.min_tokens, 0, params.max_tokens)
    if not (math.isfinite(params.temperature) and 0.0 <= params.temperature <= _MAX_TEMPERATURE):
        raise _invalid("temperature", f"{params.temperature} is not in 0..{_MAX_TEMPERATURE:g}")
    if not 0.0 < params.top_p <= 1.0:
        raise _invalid("top_p", f"{params.top_p} is not in (0, 1]")
    if params.seed is not None:
        _check_range("seed", params.seed, 0, _U64_MAX)


def _check_ids(what: str, ids: list[int], vocab_size: int) -> None:
    if ids and not (min(ids) >= 0 and max(ids) < vocab_size):
        wrong = next(token for token in ids if not 0 <= token < vocab_size)
        raise _invalid("prompt", f"token id {wrong} in the {what} is not in 0..{vocab_size - 1}")


def _check_range(param: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise _invalid(param, f"{value} is not in {least}..{most}")


def _invalid(param: str, text: str) -> InvalidRequest:
    return InvalidRequest("invalid_request", f"{param}: {text}", param=param)
