"""Calls over a socket, against servers that say what a test tells them to say."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import pytest
from support import loadgen_jobs as rig

from loadgen.jobs.answer import ApiRefused, IncomingAnswer, NoAnswer
from loadgen.jobs.client import ApiClient, Endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

KEY = "sk-canary-31415"


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A server; its address. All of its connections are closed at the end."""
    writers: list[asyncio.StreamWriter] = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with suppress(asyncio.IncompleteReadError, OSError):
            await serve(reader, writer)
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def saying(*answers: bytes | None, timeout: float = 10.0) -> AsyncIterator[tuple[ApiClient, list[bytes]]]:
    """A server that gives these answers, one a request, closing after each that has no length. None: silence."""
    asked: list[bytes] = []
    waiting = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while waiting:
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = [int(each.split(b":")[1]) for each in head.splitlines() if each.startswith(b"content-length")]
            asked.append(head + await reader.readexactly(sum(lengths)))
            answer = waiting.pop(0)
            if answer is None:
                await reader.read()
                return
            writer.write(answer)
            if b"content-length" not in answer and b"chunked" not in answer:
                return

    async with listening(serve) as url:
        client = ApiClient(Endpoint.of(url, KEY, timeout=timeout))
        try:
            yield client, asked
        finally:
            await client.close()


def answer(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def test_calls_carry_the_key_and_nothing_else_does() -> None:
    async def main() -> None:
        async with saying(answer(b'{"a":1}'), answer(b'{"b":2}', "401 Unauthorized")) as (client, asked):
            assert await client.json("POST", "/v1/batches", {"x": 1}, {"idempotency-key": "k"}) == {"a": 1}
            with pytest.raises(ApiRefused) as refused:
                await client.json("GET", "/v1/batches/b")
            assert (refused.value.status, refused.value.may_pass) == (401, False)
            assert KEY not in str(refused.value) + repr(client.__dict__)
            assert asked[0].startswith(b"POST /v1/batches HTTP/1.1\r\n")
            assert asked[0].endswith(b'\r\ncontent-length: 7\r\nauthorization: Bearer sk-canary-31415\r\n\r\n{"x":1}')
            assert asked[1].startswith(b"GET /v1/batches/b HTTP/1.1\r\n")

    rig.go(main())


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"garbage\r\n\r\n", "not an answer of HTTP/1.1"),
        (answer(b"[1]"), "no JSON object"),
        (answer(b'{"a":1}')[:-2], "closed in the middle"),
        (b"", "the connection was closed"),
        (answer(b"{}", "200 OK", "content-encoding: gzip"), "compressed"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000, "more than 65536 bytes"),
        (None, "said nothing for 0.05 s"),
    ],
)
def test_what_is_no_answer(said: bytes | None, words: str) -> None:
    async def main() -> None:
        if said == answer(b'{"a":1}')[:-2]:
            parser = IncomingAnswer(100)
            parser.feed(said)
            with pytest.raises(NoAnswer, match=words):
                parser.feed_end()
            return
        async with saying(said, timeout=10 if said is not None else 0.05) as (client, _):
            with pytest.raises(NoAnswer, match=words):
                await client.json("GET", "/x")

    rig.go(main())


def test_a_redirect_is_an_error_and_an_error_is_worded() -> None:
    async def main() -> None:
        said = [
            answer(b"", "307 Temporary Redirect", "location: http://elsewhere/"),
            answer(b'{"error":{"message":"no\\nfile","type":"t","code":"c","param":"p"}}', "404 Not Found"),
            answer(b"x" * 500, "503 Service Unavailable"),
        ]
        async with saying(*said) as (client, asked):
            found = []
            for _ in said:
                with pytest.raises(ApiRefused) as refused:
                    await client.json("GET", "/x")
                found.append(refused.value)
            assert [(each.status, each.code, each.param, each.may_pass) for each in found] == [
                (307, None, None, False),
                (404, "c", "p", False),
                (503, None, None, True),
            ]
            assert str(found[1]) == "GET /x was answered 404: no file"
            assert len(found[2].message) == 200
            assert len(asked) == 3

    rig.go(main())


def test_framings_of_http() -> None:
    async def main() -> None:
        chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        said = [
            b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b'{"n":1}'),
            chunked + b'3\r\n{"n\r\n4\r\n":2}\r\n0\r\n\r\n',
            b'HTTP/1.0 200 OK\r\n\r\n{"n":3}',
        ]
        async with saying(*said) as (client, _):
            assert [await client.json("GET", "/x") for _ in said] == [{"n": 1}, {"n": 2}, {"n": 3}]

    rig.go(main())


def test_a_connection_that_was_closed_meanwhile_is_replaced() -> None:
    async def main() -> None:
        async with rig.serving() as server:
            client = ApiClient(rig.endpoint(server))
            assert (await client.json("GET", "/v1/models"))["object"] == "list"
            for connection in list(server._connections):
                connection.close()
            assert (await client.json("GET", "/v1/models"))["object"] == "list"
            await client.close()

    rig.go(main())


def test_files_go_up_and_come_down_unchanged(tmp_path: Path) -> None:
    async def main() -> None:
        sent, back = tmp_path / "a.in.jsonl", tmp_path / "back"
        sent.write_bytes(bytes(range(256)) * 8_000)
        async with rig.serving() as server:
            client = ApiClient(rig.endpoint(server))
            made = await client.upload(sent, sent.name)
            assert (made["bytes"], made["filename"], made["purpose"]) == (2_048_000, "a.in.jsonl", "batch")
            assert await client.download(made["id"], back) == 2_048_000
            assert back.read_bytes() == sent.read_bytes()
            with pytest.raises(NoAnswer, match="more than 1000 bytes"):
                await client.download(made["id"], tmp_path / "bounded", most=1_000)
            with pytest.raises(ApiRefused, match="404"):
                await client.download("file/../x", tmp_path / "none")
            assert not (tmp_path / "bounded").exists()
            assert not (tmp_path / "none").exists()
            await client.close()

    rig.go(main())


@pytest.mark.parametrize("reads", [True, False])
def test_a_server_that_refuses_a_file_early_is_heard(reads: bool, tmp_path: Path) -> None:
    async def main() -> None:
        file = tmp_path / "big"
        file.write_bytes(bytes(32 << 20))

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer(b'{"error":{"message":"too large"}}', "413 Content Too Large"))
            if reads:
                while await reader.read(1 << 16):
                    pass
            # Else nothing more is read, and the connection stays open.
            await closed.wait()

        closed = asyncio.Event()
        async with listening(serve) as url:
            client = ApiClient(Endpoint.of(url))
            for _ in range(1 if reads else 2):  # a connection that is stuck is not used again
                with pytest.raises(ApiRefused, match="413: too large"):
                    await client.upload(file, "big")
            await client.close()
            closed.set()

    rig.go(main())


def test_endpoints() -> None:
    at = Endpoint.of("https://example.org", KEY)
    assert (at.host, at.port, at.name) == ("example.org", 443, "example.org")
    assert at.tls is not None
    assert at.tls.verify_mode == ssl.CERT_REQUIRED
    assert KEY not in repr(at)
    loose = Endpoint.of("https://[::1]:8443", insecure=True)
    assert (loose.host, loose.port, loose.name) == ("::1", 8443, "[::1]:8443")
    assert loose.tls is not None
    assert loose.tls.verify_mode == ssl.CERT_NONE
