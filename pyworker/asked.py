"""What a caller in this process asks for, checked for type: Python hands over anything, the wire only what fits.

Values are left to the engine's own check, which is the same for every door.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeGuard

from pyworker.engine.request import Grammar, GrammarKind, SamplingParams
from pyworker.errors import InvalidRequest

_MOST_STOPS: Final = 16
_MOST_STOP_BYTES: Final = 256
_SEEDS: Final = range(-(2**63), 2**64)
_MOST_CHOICES: Final = 16
_NUMBERS: Final = ("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty")


def prompts_of(prompts: object) -> list[str | list[int]]:
    """The prompts of a batch, or the only one.

    Raises:
        InvalidRequest: neither a text nor a list of texts and of lists of token ids.
    """
    if isinstance(prompts, str):
        return [prompts]
    if isinstance(prompts, (bytes, bytearray)) or not isinstance(prompts, Iterable):
        raise _wrong("prompts", "a text, or a list of texts or of lists of token ids", prompts)
    return [prompt_of(prompt) for prompt in prompts]


def prompt_of(prompt: object) -> str | list[int]:
    """One prompt: a text as it is, token ids as a list of their own.

    Raises:
        InvalidRequest: something else, token ids that are no whole numbers, or a text that is not Unicode.
    """
    if isinstance(prompt, str):
        _utf8("prompt", prompt)
        return prompt
    if isinstance(prompt, (bytes, bytearray)) or not isinstance(prompt, Sequence):
        raise _wrong("prompt", "a text or a list of token ids", prompt)
    for token in prompt:
        if not _is_int(token):
            raise _wrong("prompt", "token ids that are whole numbers", token)
    return list(prompt)


def messages_of(messages: object) -> list[Mapping[str, Any]]:
    """A conversation.

    Raises:
        InvalidRequest: not a list of mappings, each with the text of a role.
    """
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Iterable):
        raise _wrong("messages", "a list of messages", messages)
    found = list(messages)
    for message in found:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise _wrong("messages", 'a mapping with a text as "role"', message)
    return found


def params_of(params: object) -> SamplingParams:
    """The parameters in the types that the engine counts on: one stop string as a tuple of one, a negative seed as the
    unsigned number of the same 64 bits, lists and mappings as tuples. `None` stands for the defaults.

    Raises:
        InvalidRequest: a parameter of another type, a seed of more than 64 bits, stop strings that are too many, too
            long or empty, or a number of choices that cannot be.
    """
    if params is None:
        return SamplingParams()
    if not isinstance(params, SamplingParams):
        raise _wrong("params", "SamplingParams", params)
    for name in ("max_tokens", "min_tokens", "top_k", "n"):
        if not _is_int(getattr(params, name)):
            raise _wrong(name, "a whole number", getattr(params, name))
    for name in ("logprobs", "prompt_logprobs", "best_of"):
        if getattr(params, name) is not None and not _is_int(getattr(params, name)):
            raise _wrong(name, "a whole number or None", getattr(params, name))
    for name in ("ignore_eos", "include_stop_str_in_output", "skip_special_tokens"):
        if not isinstance(getattr(params, name), bool):
            raise _wrong(name, "True or False", getattr(params, name))
    _check_choices(params)
    numbers: dict[str, Any] = {name: _float(name, getattr(params, name)) for name in _NUMBERS}
    return replace(
        params,
        **numbers,
        seed=_seed(params.seed),
        stop=_stops(params.stop),
        stop_token_ids=_ids("stop_token_ids", params.stop_token_ids),
        allowed_token_ids=None
        if params.allowed_token_ids is None
        else _ids("allowed_token_ids", params.allowed_token_ids),
        logit_bias=_bias(params.logit_bias),
        grammar=_grammar(params.grammar),
    )


def bad_words_of(words: object, encode: Callable[[str], list[int]]) -> tuple[tuple[int, ...], ...]:
    """Sequences of token ids that may not come. A text stands for what it is at the beginning of a text and behind a
    space, where the latter is as many tokens, and another one first.

    Raises:
        InvalidRequest: not a list of texts and of lists of token ids, or a text of nothing but spaces.
    """
    if isinstance(words, (str, bytes)) or not isinstance(words, Sequence):
        raise _wrong("bad_words", "a list of texts", words)
    found: list[tuple[int, ...]] = []
    for word in words:
        if not isinstance(word, str):
            found.append(_ids("bad_words", word))
            continue
        _utf8("bad_words", word)
        bare = word.lstrip()
        if not bare:
            raise _invalid("bad_words", "a text is empty")
        first, spaced = tuple(encode(bare)), tuple(encode(f" {bare}"))
        found.append(first)
        if len(spaced) == len(first) and spaced[:1] != first[:1]:
            found.append(spaced)
    return tuple(found)


def _check_choices(params: SamplingParams) -> None:
    if not 1 <= params.n <= _MOST_CHOICES:
        raise _invalid("n", f"{params.n} is not in 1..{_MOST_CHOICES}")
    if params.best_of is not None and not params.n <= params.best_of <= _MOST_CHOICES:
        raise _invalid("best_of", f"{params.best_of} is not in {params.n}..{_MOST_CHOICES}, from n on")


def _ids(name: str, ids: object) -> tuple[int, ...]:
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Sequence):
        raise _wrong(name, "a list of token ids", ids)
    for token in ids:
        if not _is_int(token):
            raise _wrong(name, "token ids that are whole numbers", token)
    return tuple(ids)


def _bias(bias: object) -> tuple[tuple[int, float], ...]:
    """A mapping from token ids to biases, or pairs of these. Of two for one token the later one holds."""
    pairs = list(bias.items()) if isinstance(bias, Mapping) else bias
    if isinstance(pairs, (str, bytes)) or not isinstance(pairs, Sequence):
        raise _wrong("logit_bias", "a mapping from token ids to numbers", bias)
    found: dict[int, float] = {}
    for pair in pairs:
        if not isinstance(pair, Sequence) or len(pair) != 2:
            raise _wrong("logit_bias", "pairs of token id and number", pair)
        (token,) = _ids("logit_bias", pair[:1])
        found[token] = _float("logit_bias", pair[1])
    return tuple(found.items())


def _grammar(grammar: object) -> Grammar | None:
    if grammar is None:
        return None
    if not isinstance(grammar, Grammar) or not isinstance(grammar.kind, GrammarKind):
        raise _wrong("grammar", "a Grammar", grammar)
    if not isinstance(grammar.text, str):
        raise _wrong("grammar", "a Grammar with a text", grammar.text)
    _utf8("grammar", grammar.text)
    return grammar


def _float(name: str, value: object) -> float:
    if not isinstance(value, float) and not _is_int(value):
        raise _wrong(name, "a number", value)
    try:
        return float(value)
    except OverflowError as error:
        raise _invalid(name, "the number is too large") from error


def _seed(seed: object) -> int | None:
    if seed is None:
        return None
    if not _is_int(seed):
        raise _wrong("seed", "a whole number or None", seed)
    if seed not in _SEEDS:
        raise _invalid("seed", "a number of more than 64 bits")
    return seed & (2**64 - 1)


def _stops(stops: object) -> tuple[str, ...]:
    if isinstance(stops, str):
        stops = (stops,)
    if not isinstance(stops, Sequence):
        raise _wrong("stop", "a string or a list of strings", stops)
    for stop in stops:
        if not isinstance(stop, str):
            raise _wrong("stop", "a string or a list of strings", stop)
    sizes = [len(_utf8("stop", stop)) for stop in stops]
    if len(sizes) > _MOST_STOPS or not all(0 < size <= _MOST_STOP_BYTES for size in sizes):
        raise _invalid("stop", f"{_MOST_STOPS} strings at most, of 1 to {_MOST_STOP_BYTES} bytes")
    return tuple(stops)


def _utf8(name: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise _invalid(name, f"the text holds half a surrogate pair: {error.reason}") from error


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong(param: str, wanted: str, value: object) -> InvalidRequest:
    found = "None" if value is None else type(value).__name__
    return _invalid(param, f"expected {wanted}, got {found}")


def _invalid(param: str, text: str) -> InvalidRequest:
    return InvalidRequest("invalid_request", f"{param}: {text}", param=param)
