"""Connections: kept, fresh, slow, encrypted, refused by the host; and what a stalled client shows of itself."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import ssl
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
import uvloop
from support.loadgen_drive import in_memory, later, over_loopback, plan_of, planned, stream

from loadgen.drive.clock import VirtualClock
from loadgen.drive.exchange import Exchange
from loadgen.drive.gate import HostMeters, Meters, judge
from loadgen.drive.http import Connection
from loadgen.drive.pool import ConnectionPool, QueueWatch, Target
from loadgen.drive.schedule import ClassRules
from loadgen.drive.spool import End
from loadgen.drive.summary import Summary
from loadgen.drive.summary_pipe import SummaryPipe, SummaryReader
from loadgen.drive.tally import Tally
from loadgen.mock.options import parse
from loadgen.mock.server import MockServer
from loadgen.record import Record

MS = 1_000
CERTIFICATE = [
    "openssl",
    "req",
    "-x509",
    "-newkey",
    "ec",
    "-pkeyopt",
    "ec_paramgen_curve:P-256",
    "-nodes",
    "-days",
    "2",
    "-subj",
    "/CN=mock",
]


def run_mock(path: Path, rules: ClassRules, *, connections: int = 1, dues: list[int]) -> list[Record]:
    async def main() -> list[Record]:
        server = MockServer(parse([]))
        await server.start()
        try:
            return await over_loopback(path, server.port, plan_of(planned(dues)), rules, connections=connections)
        finally:
            await server.stop()

    return uvloop.run(main())


def test_connections_are_kept_unless_they_are_to_be_fresh(tmp_path: Path) -> None:
    kept = run_mock(tmp_path, ClassRules(inflight=1), dues=[0, 0, 0, 0])
    assert [record.conn for record in kept] == ["new", "kept", "kept", "kept"]
    fresh = run_mock(tmp_path, ClassRules(inflight=1, fresh=True), dues=[0, 0, 0, 0])
    assert [(record.outcome, record.conn) for record in fresh] == [("ok", "new")] * 4


def test_no_connection_is_waited_for(tmp_path: Path) -> None:
    got = run_mock(tmp_path, ClassRules(), connections=1, dues=[0] * 300)
    assert [record.outcome for record in got] == ["ok"] * 300


def test_a_slow_reader_holds_the_server_up(tmp_path: Path) -> None:
    body = b"data: " + b"x" * 150_000 + b"\n\ndata: [DONE]\n\n"
    held = []

    async def main() -> list[Record]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4_096)
            writer.transport.set_write_buffer_limits(0)
            began = asyncio.get_running_loop().time()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
            await writer.drain()
            held.append(asyncio.get_running_loop().time() - began)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            plan = plan_of(later(planned([0]), slow_bytes_per_second=300_000))
            return await over_loopback(tmp_path, server.sockets[0].getsockname()[1], plan)

    (record,) = uvloop.run(main())
    assert (record.reason, record.status) == ("bad_json", 200)
    assert record.end_micros - record.sent_micros >= 250 * MS
    assert held[0] >= 0.02, "the server feels it, not a buffer"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate")
def test_tls(tmp_path: Path) -> None:
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [*CERTIFICATE, "-keyout", str(key), "-out", str(cert)],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()

    async def ask(port: int, *, insecure: bool) -> Exchange:
        pool = ConnectionPool(VirtualClock(), Target("127.0.0.1", port, tls=True, insecure=insecure))
        done = asyncio.Event()
        exchange = Exchange(1, 0, b"GET / HTTP/1.1\r\n\r\n", lambda _: done.set(), Tally())
        pool.send(exchange)
        async with asyncio.timeout(10):
            await done.wait()
        pool.close()
        return exchange

    async def main() -> tuple[Exchange, Exchange]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        async with server:
            port = server.sockets[0].getsockname()[1]
            return await ask(port, insecure=True), await ask(port, insecure=False)

    good, bad = uvloop.run(main())
    assert (good.end_kind, good.status, bytes(good.body)) == (End.COMPLETE, 200, b"{}")
    assert bad.end_kind is End.REFUSED, "a certificate that nobody signed"


def test_when_the_host_has_no_sockets_left_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    async def main() -> Exchange:
        async def full(*_: Any, **__: Any) -> Any:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

        pool = ConnectionPool(VirtualClock(), Target("127.0.0.1", 1))
        pool.on_exhausted = said.append
        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", full)
        done = asyncio.Event()
        exchange = Exchange(1, 0, b"", lambda _: done.set(), Tally())
        pool.send(exchange)
        await done.wait()
        return exchange

    exchange = asyncio.run(main())
    assert (exchange.end_kind, exchange.errno) == (End.REFUSED, errno.EMFILE)
    assert said == ["no more sockets: Too many open files"]


def test_a_name_with_two_addresses_is_reached_by_the_one_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `localhost`, where a server listens on 127.0.0.1 alone: whoever comes first must not confuse the others."""

    async def main() -> list[str]:
        tries = iter(range(100))

        async def create(_: object, address: str, *__: Any, **___: Any) -> None:
            for _turn in range(next(tries) % 7):
                await asyncio.sleep(0)
            if address == "::1":
                raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")

        pool = ConnectionPool(VirtualClock(), Target("localhost", 1))
        pool._addresses = ["::1", "127.0.0.1"]
        monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", create)
        await asyncio.gather(*(pool._connect() for _ in range(16)))
        assert pool.num_open == 16
        return pool._addresses

    assert asyncio.run(main()) == ["127.0.0.1", "::1"]


def test_an_odd_failure_loses_no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> Exchange:
        async def odd(*_: Any, **__: Any) -> Any:
            raise ValueError("odd")

        pool = ConnectionPool(VirtualClock(), Target("127.0.0.1", 1))
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)
        monkeypatch.setattr(loop, "create_connection", odd)
        done = asyncio.Event()
        exchange = Exchange(1, 0, b"", lambda _: done.set(), Tally())
        pool.send(exchange)
        await done.wait()
        return exchange

    assert asyncio.run(main()).end_kind is End.REFUSED


def test_receive_queues_that_stay_long_are_seen() -> None:
    clock = VirtualClock()
    watch = QueueWatch(every=3, most_bytes=1_000)
    ours, theirs = socket.socketpair()
    connection = Connection(clock, ConnectionPool(clock, Target("m", 1)), watch)
    connection.fileno = ours.fileno()
    with ours, theirs:
        theirs.send(b"x" * 500)
        watch.look(connection, 10)
        assert (connection.over_since, watch.longest, watch.left) == (-1, 0, 3)
        theirs.send(b"x" * 5_000)
        watch.look(connection, 20)
        watch.look(connection, 1_500_020)
        assert (connection.over_since, watch.longest) == (20, 1_500_000)
        ours.recv(10_000)
        watch.look(connection, 1_500_030)
        assert connection.over_since == -1
    meters = Meters(0, queue_seconds=watch.longest / 1e6)
    assert judge([meters], HostMeters(), median_wire_ttft=None).invalid == [
        "load process 0: answers waited unread for 1.5 s"
    ]


def test_a_client_that_burns_cpu_shows_it(tmp_path: Path) -> None:
    """Each answer costs the client 3 ms in which it does nothing else: a request every 2 ms cannot go out in time."""
    run = in_memory(tmp_path, plan_of(planned([2 * MS * n for n in range(200)], out=1)), lambda _: stream([100]))
    assert not judge([Meters(0, send_lags=run.sender.window_lags.tolist())], HostMeters(), median_wire_ttft=1e4).invalid

    def burn(sender: Any) -> None:
        def cost(exchange: Exchange, kept: Any = sender._on_end) -> None:
            kept(exchange)
            sender._clock._now += 3 * MS

        sender._on_end = cost

    plan = plan_of(planned([2 * MS * n for n in range(200)], out=1))
    run = in_memory(tmp_path, plan, lambda _: stream([100]), during=[(0, burn)])
    assert sorted(record.id for record in run.records) == list(range(200)), "nothing is dropped"
    verdict = judge([Meters(0, send_lags=run.sender.window_lags.tolist())], HostMeters(), median_wire_ttft=1e4)
    assert len(verdict.invalid) == 1
    assert "send lag p99" in verdict.invalid[0]


def test_summaries_that_are_not_taken_are_dropped_oldest_first() -> None:
    def summary(number: int) -> Summary:
        return Summary(
            process=0,
            at=number,
            classes={},
            send_lag_p99=0.0,
            loop_lag_p99=0.0,
            cpu_share=0.0,
            backlog=0,
            dropped=0,
        )

    async def main() -> list[Summary]:
        read, write = os.pipe()
        pipe = SummaryPipe(write)
        filler = struct.pack("<I", 0)
        # The pipe is full before the first one: it takes nothing until somebody reads.
        filled = 0
        while True:
            try:
                filled += os.write(write, filler * 1_024)
            except BlockingIOError:
                break
        for number in range(20):
            pipe.put(summary(number))
        while filled:
            filled -= len(os.read(read, filled))
        pipe.put(summary(20))
        await asyncio.sleep(0)
        reader, found = SummaryReader(), []
        os.set_blocking(read, False)
        for _ in range(100):
            try:
                found += reader.feed(os.read(read, 7))
            except BlockingIOError:
                await asyncio.sleep(0)
        os.close(read)
        pipe.put(summary(21))
        os.close(write)
        return found

    found = asyncio.run(main())
    # The first one was on its way already; of the others the newest four are kept.
    assert [each.at for each in found] == [0, 17, 18, 19, 20]
    assert [each.dropped for each in found] == [0, 12, 13, 14, 15]
