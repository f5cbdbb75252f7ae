"""Whole answers made beforehand, head included: the least that a back end can cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from loadgen.mock.answer import EVENT_STREAM
from loadgen.mock.ask import Ask
from loadgen.mock.oracle import oracle_tokens
from loadgen.mock.render import Renderer

if TYPE_CHECKING:
    from loadgen.mock.http import Reply, Request
    from loadgen.mock.options import MockOptions
    from loadgen.mock.truth import TruthEntry

_STREAM = (b'"stream":true', b'"stream": true')
_USAGE = (b'"include_usage":true', b'"include_usage": true')


class FixedAnswers:
    """The oracle's text of an empty prompt and seed 0. A body is searched for `"stream":true` and never parsed."""

    def __init__(self, options: MockOptions) -> None:
        self._tokens = oracle_tokens((), 0, options.shape.tokens, options.vocab)
        self._model = options.model
        self._per_chunk = options.tokens_per_chunk
        self._made: dict[tuple[bool, bool, bool], bytes] = {}

    def answer(self, request: Request, reply: Reply, entry: TruthEntry, *, chat: bool) -> None:
        """Answer at once; all times of the truth are one."""
        body = request.body
        stream = any(text in body for text in _STREAM)
        key = (chat, stream, stream and any(text in body for text in _USAGE))
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = self._make(*key)
        entry.hdr, entry.status, entry.finish = request.received, 200, "length"
        entry.emits.append(request.received)
        entry.counts.append(len(self._tokens))
        reply.send_raw(made)

    def _make(self, chat: bool, stream: bool, usage: bool) -> bytes:
        ask = Ask(chat, self._model, (), len(self._tokens), "length", stream, usage, 0, 0, {})
        render = Renderer(ask, 0)
        count = len(self._tokens)
        if not stream:
            body = orjson.dumps(render.whole(self._tokens, 0, "length"))
            head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
            return head + body
        step = self._per_chunk
        events = [render.tokens(at, self._tokens[at : at + step]) for at in range(0, count, step)]
        events[0] = render.first() + events[0]
        events.append(render.last(count, 0, "length", usage=usage))
        framed = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)
        head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n" % EVENT_STREAM
        return head + framed + b"0\r\n\r\n"
