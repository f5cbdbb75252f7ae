"""A server in memory under a virtual clock, or one over loopback: the same sender, pool, parser, spool and scribe."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from loadgen.drive.clock import MonotonicClock, VirtualClock
from loadgen.drive.http import Connection
from loadgen.drive.live_turns import LiveTurns
from loadgen.drive.pool import ConnectionPool, Target
from loadgen.drive.schedule import ClassRules, Lane, Request, Schedule
from loadgen.drive.scribe import ScribeContext, records_of
from loadgen.drive.sender import Sender
from loadgen.drive.spool import SpoolWriter
from loadgen.plan.model import Plan, PlannedRequest, Prompt, Segment
from loadgen.plan.payload import Wire, key_at, serialise
from loadgen.plan.text import Words
from loadgen.record import Record

Script = Iterable[tuple[int, bytes | None]]
"""(microseconds after the request, bytes), None: the connection closes."""
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(text: str = "", **more: Any) -> bytes:
    import orjson

    choice = {"index": 0, "delta": {"content": text} if text else {}}
    return b"data: " + orjson.dumps({"choices": [choice], **more}) + b"\n\n"


def usage(out: int, given: int = 3) -> bytes:
    return b'data: {"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d}}\n\n' % (given, out)


DONE = b"data: [DONE]\n\n"
PLAIN = ClassRules()


def stream(times: list[int], *, out: int | None = None) -> Script:
    """A whole answer with a token at each of these times."""
    tokens = [(at, chunk(event(f" t{place}"))) for place, at in enumerate(times)]
    last = chunk(usage(len(times) if out is None else out) + DONE) + b"0\r\n\r\n"
    return [(times[0], HEAD), *tokens, (times[-1], last)]


class Transport:
    """Bytes written are a request, whose answer comes as the script says."""

    def __init__(self, server: MemoryServer, connection: Connection) -> None:
        self._server, self._connection = server, connection
        self._alarm = server.clock.alarm(self._ring)
        self._heap: list[tuple[int, int, bytes | None]] = []
        self._number = 0
        self.closed = False

    def get_extra_info(self, _: str) -> None:
        return None

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: bytes | memoryview) -> None:
        for after, piece in self._server.asked(bytes(data)):
            self._number += 1
            heapq.heappush(self._heap, (self._server.clock.now() + after, self._number, piece))
        self._arm()

    def writelines(self, pieces: Iterable[bytes | memoryview]) -> None:
        self.write(b"".join(pieces))

    def abort(self) -> None:
        if not self.closed:
            self.closed = True
            self._alarm.close()
            self._connection.connection_lost(None)

    def _arm(self) -> None:
        if self._heap and not self.closed:
            self._alarm.set(self._heap[0][0])

    def _ring(self) -> None:
        while self._heap and self._heap[0][0] <= self._server.clock.now() and not self.closed:
            piece = heapq.heappop(self._heap)[2]
            if piece is None:
                self.abort()
            else:
                self._connection.data_received(piece)
        self._arm()


@dataclass
class MemoryServer:
    """`script` tells the answer to each request by its number."""

    clock: VirtualClock
    script: Callable[[int], Script]
    seen: list[tuple[int, bytes]] = field(default_factory=list)

    def asked(self, data: bytes) -> Script:
        self.seen.append((self.clock.now(), data))
        return self.script(len(self.seen) - 1)

    def pool(self, connections: int) -> ConnectionPool:
        pool = ConnectionPool(self.clock, Target("memory", 1))
        for _ in range(connections):
            connection = Connection(self.clock, pool)
            connection.connection_made(Transport(self, connection))  # type: ignore[arg-type]
            pool.adopt(connection)
        return pool


def planned(dues: list[int], *, out: int = 2, cls: str = "chat", **more: Any) -> list[PlannedRequest]:
    return [
        PlannedRequest(number, cls, due, Prompt(3, (Segment(number, 3),)), out, **more)
        for number, due in enumerate(dues)
    ]


def plan_of(requests: list[PlannedRequest], window: tuple[int, int] = (0, 10**9)) -> Plan:
    return Plan(1, requests, [], window)


def wire(api: Any = "chat") -> Wire:
    return Wire("mock:1", "mock", "vllm", "exact", Words(), api=api)


def requests_of(plan: Plan, api: Any = "chat") -> list[Request]:
    return [
        Request(each.id, 0, each.due, serialise(each, wire(api)), each.cancel_after, each.slow_bytes_per_second)
        for each in plan.requests
    ]


@dataclass
class Run:
    """What a run in memory left behind. `sender` may be steered by `during`: (time, call)."""

    records: list[Record]
    server: MemoryServer
    sender: Sender

    def of(self, number: int) -> Record:
        return next(record for record in self.records if record.id == number)


def in_memory(
    path: Path,
    plan: Plan,
    script: Callable[[int], Script],
    rules: ClassRules = PLAIN,
    *,
    connections: int = 64,
    until: int = 10**9,
    lanes: Callable[[list[Request]], list[Lane]] | None = None,
    turns: Callable[[list[Request]], LiveTurns] | None = None,
    during: Iterable[tuple[int, Callable[[Sender], None]]] = (),
    context: ScribeContext | None = None,
) -> Run:
    """Carry the plan out in virtual time, and read the records."""
    clock = VirtualClock()
    server = MemoryServer(clock, script)
    spool = SpoolWriter(str(path / "spool"))
    requests = requests_of(plan)
    schedule = Schedule([each for each in requests if each.due >= 0] if lanes is None else [])
    schedule.lanes = [] if lanes is None else lanes(requests)
    sender = Sender(
        schedule, [rules], clock, server.pool(connections), spool.add, None if turns is None else turns(requests)
    )
    sender.start()
    for at, call in during:
        clock.run_until(at)
        call(sender)
    clock.run_until(until)
    if not sender.is_done:
        sender.abandon()
    sender.close()
    spool.close()
    if context is None:
        context = ScribeContext(window=plan.window, horizon=until)
    return Run(list(records_of([path / "spool"], plan, context)), server, sender)


async def over_loopback(
    path: Path, port: int, plan: Plan, rules: ClassRules = PLAIN, *, connections: int = 1, key: str | None = None
) -> list[Record]:
    """Carry the plan out over real sockets, in this process."""
    clock = MonotonicClock(0)
    with ExitStack() as stack:
        spool = SpoolWriter(str(path / "spool"))
        stack.callback(spool.close)
        pool = ConnectionPool(clock, Target("127.0.0.1", port))
        stack.callback(pool.close)
        if key is not None:
            pool.key_line, pool.key_at = f"authorization: Bearer {key}\r\n".encode(), key_at("chat")
        await pool.open(connections)
        started = MonotonicClock(clock.now() * 1_000)
        pool.use_clock(started)
        sender = Sender(Schedule(requests_of(plan)), [rules], started, pool, spool.add)
        done = asyncio.Event()
        sender.on_done = done.set
        sender.start()
        async with asyncio.timeout(20):
            await done.wait()
        sender.close()
    await asyncio.sleep(0)
    return list(records_of([path / "spool"], plan, ScribeContext(window=plan.window, horizon=started.now())))


def without_times(record: Record) -> Record:
    """What two runs of one plan must have in common."""
    import msgspec

    return msgspec.structs.replace(
        record,
        sent_micros=None,
        hdr_micros=None,
        first_micros=None,
        end_micros=None,
        ts=[0] * len(record.ts),
        conn=None,
    )


def later(requests: list[PlannedRequest], **more: Any) -> list[PlannedRequest]:
    return [replace(each, **more) for each in requests]
