"""What no engine with this model would take. The router has checked the same at its door; it is not trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyworker.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence, Sized

    from pyworker.engine.config import EngineConfig
    from pyworker.engine.request import Request, SamplingParams

_U32_MAX = 2**32 - 1
_U64_MAX = 2**64 - 1
_MAX_TEMPERATURE = 100.0
_MAX_PENALTY = 2.0
_MAX_REPETITION_PENALTY = 10.0
_MAX_BIAS = 100.0
_MAX_LOGPROBS = 20
_MAX_CHOICES = 16
_MAX_BIASES = 300
_MAX_ALLOWED = 1024
_MAX_BAD_WORDS = 128
_MAX_BAD_WORD_TOKENS = 64
_MAX_STOP_TOKENS = 64
_MAX_STOPS = 16
_MAX_STOP_BYTES = 256
_MAX_GRAMMAR_CHARS = 512 * 1024
_MAX_GROUP_CHARS = 128


def check_request(request: Request, config: EngineConfig) -> None:
    """Check lengths before values, so that nothing unbounded is ever walked through.

    Raises:
        InvalidRequest: `invalid_request` with the parameter at fault, `context_length_exceeded` or `kv_never_fits`.
    """
    _check_lengths(request, config)
    _check_sizes(request)
    _check_choice(request.params, config.vocab_size)
    _check_penalties(request.params)
    _check_ends(request.params, config.vocab_size)
    _check_reports(request.params)
    _check_ids("prompt", request.prompt_ids, config.vocab_size)
    _check_ids("output history", request.output_ids, config.vocab_size)
    _check_range("salt", request.salt, 0, _U64_MAX)
    _check_range("choice_index", request.choice_index, 0, _U32_MAX)
    _check_range("attempt", request.attempt, 0, _U32_MAX)
    _check_range("credit_up_to", request.credit_up_to, 0, _U32_MAX)
    if request.expected_output is not None:
        _check_range("expected_output", request.expected_output, 0, _U32_MAX)


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


def _check_sizes(request: Request) -> None:
    """Lengths of everything whose values are looked at afterwards."""
    params, stops = request.params, request.params.stop
    if request.group is not None:
        _check_size("group", request.group, _MAX_GROUP_CHARS)
    _check_size("logit_bias", params.logit_bias, _MAX_BIASES)
    _check_size("stop_token_ids", params.stop_token_ids, _MAX_STOP_TOKENS)
    _check_size("bad_words", params.bad_words, _MAX_BAD_WORDS)
    for word in params.bad_words:
        _check_size("bad_words", word, _MAX_BAD_WORD_TOKENS, least=1)
    if params.allowed_token_ids is not None:
        _check_size("allowed_token_ids", params.allowed_token_ids, _MAX_ALLOWED, least=1)
    if params.grammar is not None:
        _check_size("grammar", params.grammar.text, _MAX_GRAMMAR_CHARS)
    words = (stops,) if isinstance(stops, str) else stops
    _check_size("stop", words, _MAX_STOPS)
    for text in words:
        _check_size("stop", text, _MAX_STOP_BYTES, least=1)
        _check_range("stop", len(text.encode(errors="surrogatepass")), 1, _MAX_STOP_BYTES)


def _check_choice(params: SamplingParams, vocab_size: int) -> None:
    """What decides which token is chosen."""
    _check_number("temperature", params.temperature, 0.0, _MAX_TEMPERATURE)
    _check_number("top_p", params.top_p, 0.0, 1.0, above=True)
    _check_range("top_k", params.top_k, -1, vocab_size)
    _check_number("min_p", params.min_p, 0.0, 1.0)
    if params.seed is not None:
        _check_range("seed", params.seed, 0, _U64_MAX)
    if params.allowed_token_ids is not None:
        _check_param_ids("allowed_token_ids", params.allowed_token_ids, vocab_size)
    for word in params.bad_words:
        _check_param_ids("bad_words", word, vocab_size)
    _check_param_ids("logit_bias", [token for token, _ in params.logit_bias], vocab_size)
    for _, bias in params.logit_bias:
        _check_number("logit_bias", bias, -_MAX_BIAS, _MAX_BIAS)


def _check_penalties(params: SamplingParams) -> None:
    _check_number("frequency_penalty", params.frequency_penalty, -_MAX_PENALTY, _MAX_PENALTY)
    _check_number("presence_penalty", params.presence_penalty, -_MAX_PENALTY, _MAX_PENALTY)
    _check_number("repetition_penalty", params.repetition_penalty, 0.0, _MAX_REPETITION_PENALTY, above=True)


def _check_ends(params: SamplingParams, vocab_size: int) -> None:
    _check_range("min_tokens", params.min_tokens, 0, params.max_tokens)
    _check_param_ids("stop_token_ids", params.stop_token_ids, vocab_size)


def _check_reports(params: SamplingParams) -> None:
    """What is told of the choice, and how many texts are made."""
    _check_range("n", params.n, 1, _MAX_CHOICES)
    if params.best_of is not None:
        _check_range("best_of", params.best_of, params.n, _MAX_CHOICES)
    if params.logprobs is not None:
        _check_range("logprobs", params.logprobs, 0, _MAX_LOGPROBS)
    if params.prompt_logprobs is not None:
        _check_range("prompt_logprobs", params.prompt_logprobs, 0, _MAX_LOGPROBS)


def _check_ids(what: str, ids: list[int], vocab_size: int) -> None:
    if ids and not (min(ids) >= 0 and max(ids) < vocab_size):
        wrong = next(token for token in ids if not 0 <= token < vocab_size)
        raise _invalid("prompt", f"token id {wrong} in the {what} is not in 0..{vocab_size - 1}")


def _check_range(param: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise _invalid(param, f"{value} is not in {least}..{most}")


def _check_param_ids(param: str, ids: Sequence[int], vocab_size: int) -> None:
    for token in ids:
        if not 0 <= token < vocab_size:
            raise _invalid(param, f"token id {token} is not in 0..{vocab_size - 1}")


def _check_number(param: str, value: float, least: float, most: float, *, above: bool = False) -> None:
    """Refuse what is not between the bounds (nor is a number); with `above` the lower bound is refused too."""
    if not least <= value <= most or (above and value == least):
        raise _invalid(param, f"{value} is not in {'(' if above else '['}{least:g}, {most:g}]")


def _check_size(param: str, value: Sized, most: int, *, least: int = 0) -> None:
    if not least <= len(value) <= most:
        raise _invalid(param, f"a length of {len(value)} is not in {least}..{most}")


def _invalid(param: str, text: str) -> InvalidRequest:
    return InvalidRequest("invalid_request", f"{param}: {text}", param=param)
