"""What an answer says: its tokens and when they came, its counts, and what is wrong with it. No clock, no socket."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import orjson

from loadgen.drive.sse import events

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadgen.record import CountSource

MOST_EVENT = 10 << 20
"""Bytes of one event."""


@dataclass(slots=True)
class Answer:
    """`stamps`: of chunks with tokens, in microseconds from t0. `counts`: tokens of each. `visible`: index of the first
    chunk that is not reasoning, None if there is none. `fault`: a reason code, None if the answer is whole.
    """

    stamps: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    visible: int | None = None
    text: str = ""
    reasoning: str = ""
    token_ids: list[int] | None = None
    in_tokens: int | None = None
    out_tokens: int | None = None
    cached_tokens: int | None = None
    source: CountSource | None = None
    finish_reason: str | None = None
    fault: str | None = None


@dataclass(slots=True)
class _Chunk:
    stamp: int
    text: str
    reasoning: str
    ids: int
    total: int | None
    """Output tokens so far by the chunk's own usage."""


def parse(
    body: bytes,
    lengths: Sequence[int],
    stamps: Sequence[int],
    *,
    streamed: bool,
    count_text: Callable[[str], int] | None = None,
) -> Answer:
    """An answer with status 200. `count_text`: tokens of a whole text by the client's tokeniser, if it has one."""
    answer = Answer()
    chunks: list[_Chunk] = []
    if streamed:
        _read_stream(body, lengths, stamps, answer, chunks)
    else:
        _read_whole(body, stamps, answer, chunks)
    _count(answer, chunks, count_text)
    return answer


def error_code(body: bytes) -> str | None:
    """The `code` or `type` of an OpenAI error body, None if it is none."""
    try:
        error = orjson.loads(body)["error"]
        code = error.get("code") or error.get("type")
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return None
    return str(code)[:64] if code is not None else None


def error_message(body: bytes) -> str | None:
    """What an OpenAI error body says in words, at most 200 letters; None if it is none."""
    try:
        message = orjson.loads(body)["error"]["message"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return " ".join(message.split())[:200] if isinstance(message, str) else None


def _read_stream(
    body: bytes, lengths: Sequence[int], stamps: Sequence[int], answer: Answer, chunks: list[_Chunk]
) -> None:
    done = False
    for stamp, data in events(body, lengths, stamps):
        if done:
            answer.fault = answer.fault or "data_after_done"
        if data == b"[DONE]":
            done = True
            continue
        if len(data) > MOST_EVENT:
            answer.fault = answer.fault or "event_too_big"
            continue
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            answer.fault = answer.fault or "bad_json"
            continue
        if not isinstance(event, dict):
            answer.fault = answer.fault or "bad_json"
        elif "error" in event:
            answer.fault = answer.fault or "error_event"
        else:
            _read_event(event, stamp, answer, chunks)
    if not done:
        answer.fault = answer.fault or "no_done"


def _read_whole(body: bytes, stamps: Sequence[int], answer: Answer, chunks: list[_Chunk]) -> None:
    try:
        event = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer.fault = "bad_json"
        return
    if not isinstance(event, dict) or not stamps:
        answer.fault = "bad_json"
        return
    _read_event(event, stamps[-1], answer, chunks)
    if answer.source is not None:
        answer.source = "usage"


def _read_event(event: dict[str, Any], stamp: int, answer: Answer, chunks: list[_Chunk]) -> None:
    usage = event.get("usage")
    total = None
    if isinstance(usage, dict):
        total = _integer(usage.get("completion_tokens"))
        answer.in_tokens = _integer(usage.get("prompt_tokens"))
        details = usage.get("prompt_tokens_details")
        if isinstance(details, dict):
            answer.cached_tokens = _integer(details.get("cached_tokens"))
    choices = event.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    if isinstance(choice.get("finish_reason"), str):
        answer.finish_reason = choice["finish_reason"]
    part = choice.get("delta") or choice.get("message") or choice
    text = _text(part, "content") or _text(part, "text") or _calls(part)
    reasoning = _text(part, "reasoning_content") or _text(part, "reasoning")
    ids = choice.get("token_ids")
    ids = ids if isinstance(ids, list) and all(isinstance(one, int) for one in ids) else []
    if ids:
        answer.token_ids = [*(answer.token_ids or []), *ids]
    if total is not None:
        answer.out_tokens = total
        # Beside tokens it is what there is so far; alone it is the answer's.
        answer.source = "chunk_usage" if text or reasoning or ids else "usage"
    if text or reasoning or ids:
        chunks.append(_Chunk(stamp, text, reasoning, len(ids), total))


def _text(part: object, key: str) -> str:
    value = part.get(key) if isinstance(part, dict) else None
    return value if isinstance(value, str) else ""


def _calls(part: object) -> str:
    """Arguments of tool calls are output like any other."""
    calls = part.get("tool_calls") if isinstance(part, dict) else None
    if not isinstance(calls, list):
        return ""
    functions = [call.get("function") for call in calls if isinstance(call, dict)]
    return "".join(_text(function, "name") + _text(function, "arguments") for function in functions)


def _integer(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _count(answer: Answer, chunks: list[_Chunk], count_text: Callable[[str], int] | None) -> None:
    """Tokens in all, from the best witness; then tokens of each chunk."""
    answer.stamps = [chunk.stamp for chunk in chunks]
    answer.text = "".join(chunk.text for chunk in chunks)
    answer.reasoning = "".join(chunk.reasoning for chunk in chunks)
    answer.visible = next((index for index, chunk in enumerate(chunks) if chunk.text or not chunk.reasoning), None)
    per_chunk = _by_usage(chunks)
    if answer.out_tokens is not None:
        answer.source = answer.source or "usage"
    elif answer.token_ids:
        answer.source, answer.out_tokens = "token_ids", len(answer.token_ids)
    elif count_text is not None:
        answer.source, answer.out_tokens = "tokenizer", count_text(answer.reasoning + answer.text)
    else:
        answer.source, answer.out_tokens = "chunks", len(chunks)
    if answer.token_ids and sum(chunk.ids for chunk in chunks) == answer.out_tokens:
        answer.counts = [chunk.ids for chunk in chunks]
    elif per_chunk is not None and sum(per_chunk) == answer.out_tokens:
        answer.counts = per_chunk
    else:
        answer.counts = _spread(answer.out_tokens, [len(chunk.text) + len(chunk.reasoning) for chunk in chunks])


def _by_usage(chunks: list[_Chunk]) -> list[int] | None:
    """Differences of the running totals, if every chunk has one."""
    totals = [0, *(chunk.total for chunk in chunks if chunk.total is not None)]
    if len(totals) != len(chunks) + 1 or any(later < before for before, later in pairwise(totals)):
        return None
    return [later - before for before, later in pairwise(totals)]


def _spread(total: int, weights: list[int]) -> list[int]:
    """`total` tokens over the chunks: one each where there are enough, the rest by the length of their text."""
    if not weights:
        return []
    if total <= len(weights):
        return [1] * total + [0] * (len(weights) - total)
    rest = total - len(weights)
    whole = sum(weights) or 1
    # Of the text up to here, less what was given before: no rounding is left over at the end.
    counts: list[int] = []
    given = seen = 0
    for weight in weights:
        seen += weight
        upto = round(rest * seen / whole) if sum(weights) else round(rest * (len(counts) + 1) / len(weights))
        counts.append(1 + upto - given)
        given = upto
    return counts
