"""Requests for tokens as OpenAI words them, read and checked; and what they would be charged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import xxhash

from loadgen.mock.oracle import chat_text, first_state

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.mock.oracle import Tokenizer
    from loadgen.mock.work import Finish
    from loadgen.units import Dist

MOST_OUTPUT = 1_000_000


class ApiError(Exception):
    """A request that cannot be served; becomes an answer."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        self.status, self.message, self.param, self.code = status, message, param, code
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for tokens. `length` is how many come, `finish` how that ends; `salt` roots the prefix cache."""

    chat: bool
    model: str
    prompt: tuple[int, ...]
    length: int
    finish: Finish
    stream: bool
    usage: bool
    seed: int
    salt: int
    params: dict[str, object]
    """What `/render` says again."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How requests are read. `default_tokens`: output where none is asked for; `natural`: lengths of texts that end by
    themselves, unless `ignore_eos` is given; `context`: most prompt and output tokens together.
    """

    tokenizer: Tokenizer
    default_tokens: int = 16
    natural: Dist | None = None
    context: int = 1 << 20


def load_json(body: bytes) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ApiError: something else.
    """
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"the body is no JSON: {error}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise ApiError(400, "the body is no JSON object", code="invalid_json")
    return value


def read_ask(body: dict[str, Any], *, chat: bool, reading: Reading) -> Ask:
    """A request for tokens of its body.

    Raises:
        ApiError: a field that cannot be.
    """
    prompt = tuple(prompt_ids(body, chat=chat, tokenizer=reading.tokenizer))
    if not prompt:
        raise ApiError(400, "the prompt is empty", param="messages" if chat else "prompt")
    if body.get("n") not in (None, 1):
        raise ApiError(400, "the mock gives one choice", param="n")
    seed = _number(body, "seed", 0, least=-(1 << 63), most=(1 << 64) - 1)
    most = _number(body, "max_completion_tokens", 0) or _number(body, "max_tokens", reading.default_tokens, least=1)
    least = _number(body, "min_tokens", 0)
    if least > most:
        raise ApiError(400, "min_tokens is above max_tokens", param="min_tokens")
    if len(prompt) + most > reading.context:
        message = f"{len(prompt)} prompt and {most} output tokens are more than the context of {reading.context}"
        raise ApiError(400, message, code="context_length_exceeded")
    length, finish = most, "length"
    if reading.natural is not None and not body.get("ignore_eos"):
        drawn = max(least, _natural(reading.natural, prompt, seed), 1)
        if drawn < most:
            length, finish = drawn, "stop"
    options = body.get("stream_options")
    salt = body.get("cache_salt")
    return Ask(
        chat,
        _text(body, "model", "mock"),
        prompt,
        length,
        "stop" if finish == "stop" else "length",
        bool(body.get("stream")),
        isinstance(options, dict) and bool(options.get("include_usage")),
        seed,
        xxhash.xxh3_64_intdigest(salt.encode("utf-8", "surrogatepass")) if isinstance(salt, str) and salt else 0,
        {"max_tokens": most, "min_tokens": least, "seed": body.get("seed"), "ignore_eos": bool(body.get("ignore_eos"))},
    )


def prompt_ids(body: dict[str, Any], *, chat: bool, tokenizer: Tokenizer) -> Sequence[int]:
    """The ids of a prompt, or of messages.

    Raises:
        ApiError: neither text nor ids.
    """
    if chat:
        return tokenizer.encode(chat_text(_messages(body.get("messages"))))
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    if isinstance(prompt, str):
        return tokenizer.encode(prompt)
    if isinstance(prompt, list) and all(type(each) is int for each in prompt):
        if not all(0 <= each < tokenizer.vocab for each in prompt):
            raise ApiError(400, "an id is not in the vocabulary", param="prompt")
        return prompt
    raise ApiError(400, "the prompt is a text or a list of ids, one alone", param="prompt")


def _messages(value: object) -> list[tuple[str, str]]:
    if not isinstance(value, list) or not value:
        raise ApiError(400, "messages is a list that is not empty", param="messages")
    pairs = []
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ApiError(400, "a message has a role", param="messages")
        pairs.append((message["role"], _content(message.get("content"))))
    return pairs


def _content(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        parts = [part.get("text") for part in value if isinstance(part, dict) and part.get("type") == "text"]
        if len(parts) == len(value) and all(isinstance(part, str) for part in parts):
            return "".join(str(part) for part in parts)
    raise ApiError(400, "content is a text, or a list of text parts", param="messages")


def _number(body: dict[str, Any], name: str, default: int, *, least: int = 0, most: int = MOST_OUTPUT) -> int:
    value = body.get(name)
    if value is None:
        return default
    if type(value) is not int or not least <= value <= most:
        raise ApiError(400, f"{name} is a whole number from {least} to {most}", param=name)
    return value


def _text(body: dict[str, Any], name: str, default: str) -> str:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise ApiError(400, f"{name} is a text", param=name)
    return value


def _natural(dist: Dist, prompt: tuple[int, ...], seed: int) -> int:
    """The same request always ends at the same place."""
    rng = np.random.Generator(np.random.Philox(key=np.array([first_state(prompt, seed), 1], dtype=np.uint64)))
    return round(float(dist.draw(rng, 1)[0]))
