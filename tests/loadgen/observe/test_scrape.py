"""The server's counters at 1 Hz: read, folded by role, written on the run's time axis."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from loadgen.drive.clock import MonotonicClock, VirtualClock
from loadgen.errors import Unreachable
from loadgen.measure.facts import Curve
from loadgen.mock.options import MockOptions
from loadgen.mock.server import MockServer
from loadgen.observe import fetch
from loadgen.observe.prometheus import MOST_SAMPLES, Folder, Sample, parse
from loadgen.observe.scrape import Scraper

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

S = 1_000_000


def test_a_page_is_read() -> None:
    page = (
        "# HELP a b\n# TYPE a counter\n"
        'a{x="1",y="b\\"c\\n\\\\"} 12\n'
        "b 1.5e3 1700000000000\n"
        "c{} +Inf\n"
        'not a line\nd{e="f"} nine\n'
        'g{h="i",} 4\r\n'
    )
    assert parse(page) == [
        Sample("a", (("x", "1"), ("y", 'b"c\n\\')), 12.0),
        Sample("b", (), 1500.0),
        Sample("c", (), float("inf")),
        Sample("g", (("h", "i"),), 4.0),
    ]


def test_a_page_without_end_is_cut() -> None:
    assert len(parse("a 1\n" * (MOST_SAMPLES + 5))) == MOST_SAMPLES


SLACKWATER = """
slackwater_queue_depth{class="interactive"} 2
slackwater_queue_depth{class="offline"} 5
vllm:num_requests_running{model_name="m",engine="1"} 3
vllm:num_requests_running{model_name="m",engine="2"} 4
vllm:num_requests_waiting{model_name="m",engine="1"} 1
vllm:kv_cache_usage_perc{model_name="m",engine="1"} 0.5
vllm:kv_cache_usage_perc{model_name="m",engine="2"} 0.25
vllm:num_preemptions_total{model_name="m",engine="1"} 6
slackwater_worker_generation_tokens_total{worker="w1"} 100
slackwater_worker_generation_tokens_total{worker="w2"} 50
slackwater_tokens_total{class="offline"} 40
slackwater_tokens_total{class="interactive"} 90
"""


def test_roles_of_our_own_server() -> None:
    assert Folder().fold(parse(SLACKWATER)) == {
        "queue": 8.0,
        "running": 7.0,
        "kv_use": 0.375,
        "preemptions": 6.0,
        "prompt_tokens": None,
        "output_tokens": 150.0,
        "cached_tokens": None,
        "offline_tokens": 40.0,
    }


def test_roles_of_others() -> None:
    found = Folder().fold(parse("sglang:num_queue_reqs 3\nsglang:token_usage 0.5\nllamacpp:tokens_predicted_total 9\n"))
    assert (found["queue"], found["kv_use"], found["output_tokens"], found["offline_tokens"]) == (3.0, 0.5, 9.0, None)


def test_a_total_without_a_class_is_not_offline() -> None:
    assert Folder().fold(parse("slackwater_tokens_total 5\n"))["offline_tokens"] is None


def test_counters_only_grow() -> None:
    """A worker that starts anew counts from 0, and one that is gone keeps what it did."""
    folder = Folder()
    name = "slackwater_worker_generation_tokens_total"
    pages = [
        f'{name}{{worker="a"}} 100\n{name}{{worker="b"}} 10\n',
        f'{name}{{worker="a"}} 7\n{name}{{worker="b"}} 12\n',
        f'{name}{{worker="a"}} 9\n',
        f'{name}{{worker="a"}} nan\n',
    ]
    assert [folder.fold(parse(page))["output_tokens"] for page in pages] == [110.0, 119.0, 121.0, 121.0]


def pages(texts: Sequence[str | None], clock: VirtualClock, took: int = 0) -> Callable[[str], Awaitable[bytes]]:
    left = list(texts)

    async def get(url: str) -> bytes:
        clock.run_until(clock.now() + took)
        text = left.pop(0) if left else None
        if text is None:
            raise Unreachable(url, "gone")
        return text.encode()

    return get


def drive(scraper: Scraper, clock: VirtualClock, end: int) -> None:
    async def main() -> None:
        task = asyncio.create_task(scraper.run(end))
        while not task.done():
            await asyncio.sleep(0)
            due = clock.next_due()
            if due is not None:
                clock.run_until(due)
        await task

    asyncio.run(asyncio.wait_for(main(), 20))


def test_once_a_second_on_the_grid(tmp_path: Path) -> None:
    clock = VirtualClock()
    texts = [
        "vllm:generation_tokens_total 5\n",
        None,
        'vllm:generation_tokens_total 9\nslackwater_tokens_total{class="offline"} 3\n',
    ]
    scraper = Scraper("http://x/metrics", clock, get=pages(texts, clock))
    drive(scraper, clock, 3 * S)
    assert [at for at, _ in scraper.rows] == [0, 2 * S]
    assert (scraper.failures, scraper.why) == (2, "gone")
    assert scraper.series["output_tokens"] == [(0, 5.0), (2 * S, 9.0)]
    assert scraper.curve() == Curve(times=(2 * S,), counts=(3,))
    assert scraper.curve("preemptions") is None
    assert [sample.value for sample in scraper.first] == [5.0]
    scraper.write_csv(tmp_path / "server.csv")
    assert (tmp_path / "server.csv").read_text() == (
        "t_micros,queue,running,kv_use,preemptions,prompt_tokens,output_tokens,cached_tokens,offline_tokens\n"
        "0,,,,,,5,,\n"
        "2000000,,,,,,9,,3\n"
    )


def test_a_slow_page_shifts_none() -> None:
    """It stands at the middle of its reading, and the next is read at a whole second."""
    clock = VirtualClock()
    scraper = Scraper("http://x/metrics", clock, get=pages(["a 1\n"] * 9, clock, took=1_500_000))
    drive(scraper, clock, 5 * S)
    assert [at for at, _ in scraper.rows] == [750_000, 2_750_000, 4_750_000]


def test_the_mock_over_a_socket() -> None:
    async def main() -> None:
        server = MockServer(MockOptions())
        await server.start()
        try:
            scraper = Scraper(f"http://127.0.0.1:{server.port}/metrics", MonotonicClock())
            await scraper.once()
            assert scraper.failures == 0, scraper.why
            assert scraper.rows[0][1]["running"] == 0.0
            with pytest.raises(Unreachable, match="answered 404"):
                await fetch.get(f"http://127.0.0.1:{server.port}/none")
        finally:
            await server.stop()

    asyncio.run(asyncio.wait_for(main(), 20))


async def answered(said: bytes, *, timeout: float = 5.0, hold: bool = False) -> bytes:
    closed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        if hold:
            await reader.read()
        writer.close()
        await writer.wait_closed()
        closed.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        try:
            return await fetch.get(f"http://127.0.0.1:{port}/metrics", timeout)
        finally:
            await closed.wait()


@pytest.mark.parametrize(
    ("said", "body"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\na 1\n", b"a 1\n"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\na \r\n2\r\n1\n\r\n0\r\n\r\n", b"a 1\n"),
        (b"HTTP/1.0 200 OK\r\n\r\na 1\n", b"a 1\n"),
    ],
)
def test_bodies(said: bytes, body: bytes) -> None:
    assert asyncio.run(answered(said)) == body


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", "answered 503"),
        (b"", "closed the connection"),
        (b"SSH-2.0-x\r\n\r\n", "no HTTP"),
    ],
)
def test_no_body(said: bytes, why: str) -> None:
    with pytest.raises(Unreachable, match=why):
        asyncio.run(answered(said))


def test_silence_and_absence() -> None:
    with pytest.raises(Unreachable, match=r"no answer within 0\.05 s"):
        asyncio.run(answered(b"", timeout=0.05, hold=True))
    with pytest.raises(Unreachable, match="efused"):
        asyncio.run(fetch.get("http://127.0.0.1:1/metrics"))
