"""The bytes of answers: chunks of a stream and whole objects, for chat and for completions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from loadgen.mock.oracle import text_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.mock.ask import Ask

FINGERPRINT = "mock-é水😀"
"""In every chunk: bytes of two, three and four, for readers who cut UTF-8 anywhere."""
DONE = b"data: [DONE]\n\n"
_CREATED = 1_700_000_000
_HOLE = "\0text\0"
_HOLE_BYTES = orjson.dumps(_HOLE)[1:-1]


class Renderer:
    """Answers to one request. Token texts are plain ASCII, so they need no escaping."""

    def __init__(self, ask: Ask, number: int, reasoning: int = 0) -> None:
        """`reasoning`: so many tokens come first as reasoning (chat only)."""
        self._ask = ask
        self._id = f"{'chatcmpl' if ask.chat else 'cmpl'}-mock-{number}"
        self._reasoning = reasoning if ask.chat else 0
        self._before, self._after = self._template("content")
        self._think = self._template("reasoning_content") if self._reasoning else (b"", b"")

    def first(self) -> bytes:
        """What comes before the first token."""
        return self._event([self._choice({"role": "assistant", "content": ""}, None)]) if self._ask.chat else b""

    def tokens(self, at: int, tokens: Sequence[int]) -> bytes:
        """Chunks of tokens from output position `at` on: one, or two where reasoning ends among them."""
        thinking = max(0, min(len(tokens), self._reasoning - at))
        out = b""
        if thinking:
            out = self._think[0] + _text(tokens[:thinking]).encode() + self._think[1]
        if thinking < len(tokens):
            out += self._before + _text(tokens[thinking:]).encode() + self._after
        return out

    def last(self, tokens_out: int, cached: int, finish: str, *, usage: bool) -> bytes:
        """The end of a stream."""
        choice = self._choice({}, finish) if self._ask.chat else {**self._choice({}, finish), "text": ""}
        out = self._event([choice])
        if usage:
            out += self._event([], self.usage(tokens_out, cached))
        return out + DONE

    def whole(self, tokens: Sequence[int], cached: int, finish: str, *, usage: bool = True) -> dict[str, object]:
        """An answer that is no stream."""
        choice: dict[str, object] = {"index": 0, "logprobs": None, "finish_reason": finish}
        if self._ask.chat:
            message = {"role": "assistant", "content": _text(tokens[self._reasoning :])}
            if self._reasoning:
                message["reasoning_content"] = _text(tokens[: self._reasoning])
            choice["message"] = message
        else:
            choice["text"] = _text(tokens)
        answer: dict[str, object] = {**self._frame([choice]), "object": self._object(stream=False)}
        if usage:
            answer["usage"] = self.usage(len(tokens), cached)
        return answer

    def usage(self, tokens_out: int, cached: int) -> dict[str, object]:
        """What is charged."""
        tokens_in = len(self._ask.prompt)
        return {
            "prompt_tokens": tokens_in,
            "completion_tokens": tokens_out,
            "total_tokens": tokens_in + tokens_out,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def _template(self, field: str) -> tuple[bytes, bytes]:
        """What stands before and behind a text."""
        if self._ask.chat:
            event = self._event([self._choice({field: _HOLE}, None)])
        else:
            event = self._event([{"index": 0, "text": _HOLE, "logprobs": None, "finish_reason": None}])
        before, _, after = event.partition(_HOLE_BYTES)
        return before, after

    def _choice(self, delta: dict[str, object], finish: str | None) -> dict[str, object]:
        choice: dict[str, object] = {"index": 0, "logprobs": None, "finish_reason": finish}
        return {**choice, "delta": delta} if self._ask.chat else choice

    def _event(self, choices: list[dict[str, object]], usage: dict[str, object] | None = None) -> bytes:
        body = self._frame(choices)
        if usage is not None:
            body["usage"] = usage
        return b"data: " + orjson.dumps(body) + b"\n\n"

    def _frame(self, choices: list[dict[str, object]]) -> dict[str, object]:
        return {
            "id": self._id,
            "object": self._object(stream=True),
            "created": _CREATED,
            "model": self._ask.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        }

    def _object(self, *, stream: bool) -> str:
        if not self._ask.chat:
            return "text_completion"
        return "chat.completion.chunk" if stream else "chat.completion"


def _text(tokens: Sequence[int]) -> str:
    return "".join(map(text_of, tokens))
