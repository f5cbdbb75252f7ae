"""What a caller in this process asks for, checked for type: Python hands over anything, the wire only what fits.

Values are left to the engine's own check, which is the same for every door.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeGuard

from pyworker.engine.request import SamplingParams
from pyworker.errors import InvalidRequest

_MOST_STOPS: Final = 16
_MOST_STOP_BYTES: Final = 256
_SEEDS: Final = range(-(2**63), 2**64)


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
    unsigned number of the same 64 bits. `None` stands for the defaults.

    Raises:
        InvalidRequest: a parameter of another type, a seed of more than 64 bits, or stop strings that are too many, too
            long or empty.
    """
    if params is None:
        return SamplingParams()
    if not isinstance(params, SamplingParams):
        raise _wrong("params", "SamplingParams", params)
    for name in ("max_tokens", "min_tokens"):
        if not _is_int(getattr(params, name)):
            raise _wrong(name, "a whole number", getattr(params, name))
    if not isinstance(params.ignore_eos, bool):
        raise _wrong("ignore_eos", "True or False", params.ignore_eos)
    return replace(
        params,
        temperature=_float("temperature", params.temperature),
        top_p=_float("top_p", params.top_p),
        seed=_seed(params.seed),
        stop=_stops(params.stop),
    )


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
