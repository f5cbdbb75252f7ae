"""The least that a client can do: sends requests on time and throws away what comes, with no record of anything.

`python -P -m benchmarks.loadgen.minimal_client URL STREAMS_PER_S SECONDS TOKENS`; prints bytes and CPU seconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from urllib.parse import urlsplit


class _Answer(asyncio.Protocol):
    def __init__(self, request: bytes, done: asyncio.Future[None], counts: list[int]) -> None:
        self._request, self._done, self._counts = request, done, counts

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if isinstance(transport, asyncio.WriteTransport):
            transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._counts[0] += len(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - its end is its end
        if not self._done.done():
            self._done.set_result(None)


async def _main(url: str, rate: float, seconds: float, tokens: int) -> None:
    parts = urlsplit(url)
    asked = {"model": "mock", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    asked |= {"max_tokens": tokens, "min_tokens": tokens, "ignore_eos": True}
    body = json.dumps(asked).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {parts.netloc}\r\nconnection: close\r\n"
    request = f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    loop = asyncio.get_running_loop()
    counts, waiting = [0], []
    began, cpu = time.monotonic(), time.process_time()
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        done: asyncio.Future[None] = loop.create_future()
        waiting.append(done)
        made = _Answer(request, done, counts)
        await loop.create_connection(lambda made=made: made, parts.hostname or "", parts.port or 80)  # type: ignore[misc]
    await asyncio.gather(*waiting)
    print(json.dumps({"bytes": counts[0], "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
