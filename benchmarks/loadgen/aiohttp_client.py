"""The client that most tools are: aiohttp, one coroutine a stream, JSON of every line parsed when it comes.

`python -P -m benchmarks.loadgen.aiohttp_client URL STREAMS_PER_S SECONDS TOKENS`; prints chunks and CPU seconds.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import aiohttp


async def _stream(session: aiohttp.ClientSession, url: str, body: bytes, stamps: list[float]) -> None:
    headers = {"content-type": "application/json"}
    async with session.post(f"{url}/v1/chat/completions", data=body, headers=headers) as answer:
        async for line in answer.content:
            if line.startswith(b"data: ") and line != b"data: [DONE]\n":
                event = json.loads(line[6:])
                if event["choices"] and event["choices"][0]["delta"].get("content"):
                    stamps.append(time.monotonic())


async def _main(url: str, rate: float, seconds: float, tokens: int) -> None:
    content = " ".join(f"w{number}" for number in range(16))
    asked = {"model": "mock", "messages": [{"role": "user", "content": content}], "stream": True}
    asked |= {"stream_options": {"include_usage": True}, "max_tokens": tokens, "min_tokens": tokens, "ignore_eos": True}
    body = json.dumps(asked).encode()
    stamps: list[float] = []
    began, cpu = time.monotonic(), time.process_time()
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        tasks = []
        for number in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
            tasks.append(asyncio.create_task(_stream(session, url, body, stamps)))
        await asyncio.gather(*tasks)
    print(json.dumps({"chunks": len(stamps), "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
