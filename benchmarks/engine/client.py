"""A small HTTP client for many streams at once: it must cost little, for it shares the cores with what it measures."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(slots=True)
class Stream:
    """What one stream gave: events with text, tokens by the server's own count, and when (seconds from its start)."""

    num_events: int = 0
    num_tokens: int = 0
    first: float = 0.0
    last: float = 0.0


class RequestFailed(Exception):
    """The server did not answer 200, or cut the stream."""


async def stream(host: str, port: int, body: dict[str, object]) -> Stream:
    """POST `/v1/completions` with `stream`, and read to the end.

    Raises:
        RequestFailed: another status than 200.
    """
    reader, writer = await asyncio.open_connection(host, port)
    try:
        data = json.dumps({**body, "stream": True, "stream_options": {"include_usage": True}}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
        began = time.perf_counter()
        status = await reader.readline()
        if b" 200 " not in status:
            raise RequestFailed(f"{status.decode().strip()}: {(await reader.read(2000)).decode(errors='replace')}")
        return await _read(reader, began)
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader, began: float) -> Stream:
    result = Stream()
    done = False
    while line := await reader.readline():
        if not line.startswith(b"data:"):
            continue
        if b"[DONE]" in line:
            done = True
            continue
        now = time.perf_counter() - began
        if b'"usage":{' in line or b'"usage": {' in line:
            usage = json.loads(line[5:]).get("usage") or {}
            result.num_tokens = usage.get("completion_tokens", result.num_tokens)
        if b'"text"' in line:
            result.num_events += 1
            result.first = result.first or now
            result.last = now
    if not done:
        raise RequestFailed("the stream ended without [DONE]")
    return result


@dataclass(slots=True)
class Load:
    """A round: all streams begin at once."""

    seconds: float
    streams: list[Stream]

    @property
    def tokens_per_second(self) -> float:
        """Output tokens over the time until the last stream has ended."""
        return sum(one.num_tokens for one in self.streams) / self.seconds


def run_round(host: str, port: int, bodies: Sequence[dict[str, object]]) -> Load:
    """All requests at once, to the end of the last."""

    async def together() -> Load:
        began = time.perf_counter()
        streams = await asyncio.gather(*(stream(host, port, body) for body in bodies))
        return Load(time.perf_counter() - began, list(streams))

    return asyncio.run(together())
