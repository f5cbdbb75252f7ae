"""`payload.bin`: every request as the bytes that go over the wire, and an index of them.

No key is ever written. A sender that has one writes three slices: the request up to `KEY_AT` bytes (the request line),
its own `authorization` line, and the rest; without a key it writes the slice as it is.

A later turn of a live conversation is written as if it stood alone and is marked `LIVE`; `with_history` puts what was
said before in front of it once the answers are known.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import msgspec
import numpy as np

from loadgen.errors import BadInput
from loadgen.plan.dialects import Fields, length_fields
from loadgen.plan.model import NOT_DUE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from loadgen.plan.model import Plan, PlannedRequest, Prompt
    from loadgen.plan.text import Words
    from loadgen.spec import Dialect

INDEX = np.dtype(
    [
        ("id", "<u4"),
        ("cls", "<u2"),
        ("flags", "<u2"),
        ("due", "<i8"),
        ("offset", "<u8"),
        ("length", "<u4"),
        ("conversation", "<u4"),
        ("chunks", "<u4"),
    ]
)
"""One entry a request, in the order of the plan. `conversation`: 0, or 1 + the session. `chunks`: expected, for
balance.
"""

LIVE, CLOSED, JOB, CANCEL, SLOW = 1, 2, 4, 8, 16
"""Flags."""

PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


def key_at(api: Literal["chat", "completions"]) -> int:
    """Bytes of the request line: where an `authorization` line may be put in."""
    return len(f"POST {PATHS[api]} HTTP/1.1\r\n")


@dataclass(frozen=True, slots=True)
class Wire:
    """How requests of this run are written."""

    host: str
    """`host:port`, as in the header."""
    model: str
    dialect: Dialect
    lengths: Literal["exact", "eos"]
    words: Words
    api: Literal["chat", "completions"] = "chat"
    fields: Mapping[str, Fields] = field(default_factory=dict)
    """By class."""


def body(request: PlannedRequest, wire: Wire, stream: bool = True) -> dict[str, Any]:
    """The JSON body of a request; also of a batch job's line, with `stream` false."""
    fields = wire.fields.get(request.cls, Fields())
    found: dict[str, Any] = {"model": wire.model}
    if wire.api == "chat":
        found["messages"] = _messages(request.prompt, wire.words)
    else:
        found["prompt"] = _text(request.prompt, wire.words)
    if stream:
        found |= {"stream": True, "stream_options": {"include_usage": True}}
    return found | length_fields(wire.dialect, wire.lengths, request.out) | fields.body


def serialise(request: PlannedRequest, wire: Wire) -> bytes:
    """Head and body of a streamed request.

    Raises:
        BadInput: a header that would break the request.
    """
    fields = wire.fields.get(request.cls, Fields())
    content = msgspec.json.encode(body(request, wire))
    headers = {"host": wire.host, "content-type": "application/json", "accept": "text/event-stream"}
    headers |= {"accept-encoding": "identity"} | fields.headers
    return _head(wire.api, headers | {"content-length": str(len(content))}) + content


def _head(api: Literal["chat", "completions"], headers: Mapping[str, str]) -> bytes:
    for name, value in headers.items():
        if not name or any(mark in name + value for mark in "\r\n\0") or ":" in name or name == "authorization":
            raise BadInput("header", name, value, "not a header that may be sent; keys come from --api-key-env")
    lines = [f"POST {PATHS[api]} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode()


def with_history(payload: bytes, history: Sequence[Mapping[str, str]]) -> bytes:
    """A `LIVE` request with the messages that were said before."""
    head, _, content = payload.partition(b"\r\n\r\n")
    parsed = msgspec.json.decode(content)
    parsed["messages"] = [*history, *parsed["messages"]]
    longer = msgspec.json.encode(parsed)
    before, mark, _ = head.rpartition(b"content-length: ")
    return before + mark + str(len(longer)).encode() + b"\r\n\r\n" + longer


def write(plan: Plan, wire: Wire, classes: Sequence[str], limit: int, file: BinaryIO) -> NDArray[np.void]:
    """Writes all requests to `file` and gives their index (`INDEX`).

    Raises:
        BadInput: more than `limit` bytes.
    """
    index = np.zeros(len(plan.requests), dtype=INDEX)
    numbers = {name: number for number, name in enumerate(classes)}
    offset = 0
    for place, request in enumerate(plan.requests):
        data = serialise(request, wire)
        if offset + len(data) > limit:
            raise BadInput("--payload-limit", "", str(limit), f"the requests are longer; {place} of them fit")
        file.write(data)
        conversation = 0 if request.session is None else 1 + request.session
        index[place] = (
            request.id,
            numbers[request.cls],
            _flags(request),
            request.due,
            offset,
            len(data),
            conversation,
            request.out,
        )
        offset += len(data)
    return index


def _flags(request: PlannedRequest) -> int:
    waits = request.due == NOT_DUE
    live = waits and request.turn > 0
    return (
        LIVE * live
        | CLOSED * (waits and not live and request.job is None)
        | JOB * (request.job is not None)
        | CANCEL * (request.cancel_after is not None)
        | SLOW * (request.slow_bytes_per_second is not None)
    )


def _text(prompt: Prompt, words: Words) -> str:
    if prompt.messages:
        return words.salted("\n".join(content for _, content in prompt.messages))
    return words.of(prompt.segments) if prompt.text is None else words.salted(prompt.text)


def _messages(prompt: Prompt, words: Words) -> list[dict[str, str]]:
    if not prompt.messages:
        return [{"role": "user", "content": _text(prompt, words)}]
    found = [{"role": role, "content": content} for role, content in prompt.messages]
    found[0]["content"] = words.salted(found[0]["content"])
    return found
