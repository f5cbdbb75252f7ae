"""Real sockets on loopback: the parser against every fault of the mock, and against servers that misbehave as HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvloop
from support.loadgen_drive import PLAIN, over_loopback, plan_of, planned, without_times

from loadgen.drive.schedule import ClassRules
from loadgen.mock.options import parse
from loadgen.mock.server import MockServer
from loadgen.record import Record

DUES = [0, 1_000, 2_000, 3_000, 4_000, 5_000]
OUT = 12


def against_mock(
    path: Path, *flags: str, rules: ClassRules = PLAIN, key: str | None = None
) -> tuple[list[Record], list[dict[str, Any]]]:
    """Records by id, and the mock's truth."""

    async def main() -> tuple[list[Record], list[dict[str, Any]]]:
        server = MockServer(parse(flags))
        await server.start()
        try:
            records = await over_loopback(path, server.port, plan_of(planned(DUES, out=OUT)), rules, key=key)
            return records, await truth(server.port)
        finally:
            await server.stop()

    records, seen = uvloop.run(main())
    return sorted(records, key=lambda record: record.id), seen


async def truth(port: int) -> list[dict[str, Any]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /mock/truth HTTP/1.1\r\nhost: mock\r\nconnection: close\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
    writer.close()
    return [orjson.loads(line) for line in body.splitlines()]


@pytest.mark.parametrize("extra", [(), ("--tokens-per-chunk", "4"), ("--reasoning", "3"), ("--mode", "engine")])
def test_split_bytes_give_the_same_records(tmp_path: Path, extra: tuple[str, ...]) -> None:
    whole, _ = against_mock(tmp_path, *extra)
    split, _ = against_mock(tmp_path, "--fault", "split", *extra)
    assert [record.outcome for record in whole] == ["ok"] * len(DUES)
    assert [record.out_got for record in whole] == [OUT] * len(DUES)
    assert list(map(without_times, split)) == list(map(without_times, whole))


def test_a_whole_answer(tmp_path: Path) -> None:
    records, _ = against_mock(tmp_path, "--reasoning", "3")
    first = records[0]
    assert (first.outcome, first.reason, first.status, first.count_source) == ("ok", None, 200, "usage")
    assert sum(first.k) == OUT
    assert first.visible == 3
    assert first.sent_micros <= first.hdr_micros <= first.first_micros <= first.end_micros
    assert first.first_micros == first.sent_micros + first.ts[0]
    assert len({record.text_hash for record in records}) == len(DUES)
    assert min(record.sent_micros - record.due_micros for record in records) >= 0


def test_the_key_is_sent_as_a_line_of_its_own(tmp_path: Path) -> None:
    records, truth = against_mock(tmp_path, key="s3cret")
    assert [record.outcome for record in records] == ["ok"] * len(DUES)
    seen = [dict(entry["headers"]) for entry in truth]
    assert [headers["authorization"] for headers in seen] == ["Bearer s3cret"] * len(DUES)
    assert {headers["host"] for headers in seen} == {"mock:1"}
    assert b"s3cret" not in (tmp_path / "spool").read_bytes()


@pytest.mark.parametrize(
    ("fault", "outcome", "reason", "out"),
    [
        ("cut:after=3", "error", "closed", 3),
        ("truncate:after=3", "error", "no_done", 3),
        ("error_event:after=3", "error", "error_event", 3),
        ("bad_json:after=3", "error", "bad_json", OUT),
        ("status:500", "error", "status_500", None),
        ("status:503;retry_after=2", "shed", "status_503", None),
        ("status:429", "shed", "status_429", None),
        ("no_usage", "ok", None, OUT),
        ("wrong_length:delta=-2", "ok", None, OUT - 2),
        ("wrong_length:delta=3", "ok", None, OUT + 3),
        ("slow_start:20ms", "ok", None, OUT),
        ("stall:4;20ms", "ok", None, OUT),
        ("cut", "error", "closed", None),
    ],
)
@pytest.mark.parametrize("split", [False, True])
def test_every_fault_is_told_from_the_others(
    tmp_path: Path, fault: str, outcome: str, reason: str | None, out: int | None, split: bool
) -> None:
    flags = ("--fault", f"{fault};nth=2", *(("--fault", "split") if split else ()))
    records, truth = against_mock(tmp_path, *flags)
    assert sum(fault in (entry["fault"] or "") for entry in truth) == 1
    assert [(r.outcome, r.out_got) for r in records if r.outcome == "ok"].count(("ok", OUT)) >= len(DUES) - 1
    # What the splitter holds back when a connection is cut is lost with it.
    outs = [None, 1, 2, 3] if split and fault.startswith("cut") else [out]
    odd = [r for r in records if (r.outcome, r.reason) == (outcome, reason) and r.out_got in outs]
    assert odd, [(r.outcome, r.reason, r.out_got) for r in records]
    if fault == "no_usage":
        assert [r.count_source for r in records].count("chunks") == 1
    if fault.startswith("stall"):
        assert max(r.end_micros - r.sent_micros for r in records) >= 20_000
    if fault.startswith("slow"):
        assert max(r.first_micros - r.sent_micros for r in records) >= 20_000


def test_what_hangs_ends_by_the_client(tmp_path: Path) -> None:
    records, _ = against_mock(tmp_path, "--fault", "hang:after=3;nth=2", rules=ClassRules(timeout=300_000))
    assert sorted((r.outcome, r.out_got) for r in records) == [("ok", OUT)] * 5 + [("timeout", 3)]


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
BODY = (
    b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: {"choices":[],"usage":{"completion_tokens":12,'
    b'"prompt_tokens":3}}\n\ndata: [DONE]\n\n'
)


def against(path: Path, handler: Handler, *, loop: str = "uvloop", rules: ClassRules = PLAIN) -> list[Record]:
    """One request to a server that does what `handler` says, once it has read the head."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await handler(reader, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def main() -> list[Record]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            return await over_loopback(path, server.sockets[0].getsockname()[1], plan_of(planned([0], out=12)), rules)

    return (uvloop.run if loop == "uvloop" else asyncio.run)(main())


def says(*pieces: bytes) -> Handler:
    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return handler


def with_length(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = [b"HTTP/1.1 " + status, b"content-length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize(
    ("pieces", "outcome", "reason"),
    [
        pytest.param([with_length(BODY)], "ok", None, id="plain"),
        pytest.param([b"HTTP/1.0 200 OK\r\n\r\n" + BODY], "ok", None, id="closed by the end, HTTP/1.0"),
        pytest.param([b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + BODY], "ok", None, id="closed by the end"),
        pytest.param([b"HTTP/1.1 100 Continue\r\n\r\n" + with_length(BODY)], "ok", None, id="1xx"),
        pytest.param(
            [b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n", with_length(BODY)], "ok", None, id="1xx of its own"
        ),
        pytest.param([with_length(BODY, b"connection: close")[:-5]], "error", "closed", id="cut, to be closed"),
        pytest.param([with_length(BODY)[:-5]], "error", "closed", id="cut"),
        pytest.param([b""], "refused", "connection_closed", id="nothing"),
        pytest.param([b"HTTP/1.1 200"], "error", "closed", id="half a status line"),
        pytest.param([b"SSH-2.0-x\r\n\r\n"], "error", "not_http", id="not HTTP"),
        pytest.param([b"HTTP/1.1 101 Up\r\nupgrade: h2c\r\n\r\n"], "error", "not_http", id="upgrade"),
        pytest.param(
            [with_length(b"", b"location: http://elsewhere/", status=b"307 Go")], "error", "redirect", id="redirect"
        ),
        pytest.param([with_length(b"\x1f\x8b\x08", b"content-encoding: gzip")], "error", "compressed", id="gzip"),
        pytest.param([with_length(BODY, b"content-encoding: identity")], "ok", None, id="identity"),
        pytest.param(
            [with_length(b'{"error":{"code":"too_many_connections"}}', status=b"503 Full")],
            "refused",
            "connection_cap",
            id="connection cap",
        ),
        pytest.param([with_length(b"{}")], "ok", None, id="whole, without choices"),
        pytest.param([with_length(b"<html>")], "error", "no_done", id="html"),
        pytest.param([with_length(b"")], "error", "no_done", id="empty"),
        pytest.param([with_length(b'{"choices": [')], "error", "bad_json", id="broken json"),
        pytest.param([b"HTTP/1.1 200 OK\r\nx: " + b"y" * 80_000], "error", "not_http", id="endless header"),
        pytest.param([b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000], "error", "not_http", id="endless headers"),
        pytest.param(
            [with_length(b"data: " + b"x" * (11 << 20) + b"\n\n" + BODY)], "error", "event_too_big", id="10 MiB event"
        ),
        pytest.param(
            [b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n", *[b"x" * (1 << 20)] * 18],
            "error",
            "too_big",
            id="endless body",
        ),
    ],
)
def test_what_a_server_may_say(
    tmp_path: Path, pieces: list[bytes], outcome: str, reason: str | None, loop: str
) -> None:
    (record,) = against(tmp_path, says(*pieces), loop=loop)
    assert (record.outcome, record.reason) == (outcome, reason)


def test_a_refusal_before_the_question_is_a_refusal(tmp_path: Path) -> None:
    refusal = with_length(b'{"error":{"code":"too_many_connections"}}', b"connection: close", status=b"503 Full")

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(refusal)
        writer.close()

    async def main() -> list[Record]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await over_loopback(tmp_path, port, plan_of(planned([0, 1000, 2000])), ClassRules(fresh=True))

    for record in uvloop.run(main()):
        assert (record.outcome, record.reason) in (("refused", "connection_cap"), ("refused", "connection_reset"))


def test_nobody_there_is_refused_and_the_run_goes_on(tmp_path: Path) -> None:
    async def main() -> list[Record]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            server.close()
            writer.write(with_length(BODY, b"connection: close"))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        return await over_loopback(tmp_path, port, plan_of(planned([0, 100_000, 120_000], out=12)))

    records = uvloop.run(main())
    assert [(record.id, record.outcome, record.reason) for record in records] == [
        (0, "ok", None),
        (1, "refused", "connection_refused"),
        (2, "refused", "connection_refused"),
    ]
    assert [record.conn for record in records] == ["new", None, None]
