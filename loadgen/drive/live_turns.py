"""Later turns of live sessions: due when the answer before them has ended and its reader has thought, with that answer
in their prompt. If a turn fails, its session is over.

This is the one place where a load process parses answers. It does so when the answer ends, so that the next turn is
ready to go before it is due.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from loadgen.drive.answer import parse
from loadgen.drive.spool import End
from loadgen.plan.payload import with_history

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadgen.drive.exchange import Exchange
    from loadgen.drive.schedule import Request

_OK = 200


@dataclass(frozen=True, slots=True)
class Turn:
    """What follows; `think` in microseconds."""

    request: Request
    think: int


class LiveTurns:
    """Which request follows which."""

    def __init__(self, following: Mapping[int, Turn] | None = None) -> None:
        """`following`: by the id of the request before, with payloads as planned, without history."""
        self._following = dict(following or {})

    def after(self, request: Request, exchange: Exchange) -> Turn | None:
        """The next turn, ready to be sent; None: there is none, or this one failed."""
        turn = self._following.pop(request.id, None)
        if turn is None or exchange.end_kind is not End.COMPLETE or exchange.status != _OK:
            return None
        body = bytes(exchange.body)
        streamed = not body.lstrip().startswith(b"{")
        answer = parse(body, exchange.lengths, exchange.stamps, streamed=streamed)
        if answer.fault is not None:
            return None
        turn.request.payload = _joined(bytes(request.payload), answer.text, bytes(turn.request.payload))
        return turn


def _joined(before: bytes, reply: str, own: bytes) -> bytes:
    """`own` with all that was said: `before` as it was sent, and the reply to it."""
    said: dict[str, Any] = msgspec.json.decode(before.partition(b"\r\n\r\n")[2])
    if "messages" in said:
        return with_history(own, [*said["messages"], {"role": "assistant", "content": reply}])
    head, _, content = own.partition(b"\r\n\r\n")
    parsed = msgspec.json.decode(content)
    parsed["prompt"] = said["prompt"] + reply + parsed["prompt"]
    longer = msgspec.json.encode(parsed)
    start, mark, _ = head.rpartition(b"content-length: ")
    return start + mark + str(len(longer)).encode() + b"\r\n\r\n" + longer
