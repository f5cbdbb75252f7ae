"""The load processes themselves, against a mock in this process."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import uvloop
from support.loadgen_drive import later, over_loopback, plan_of, planned, wire, without_times

from loadgen.drive.crew import Crew
from loadgen.drive.gate import HostMeters, Meters, judge
from loadgen.drive.orders import ClassOrders, Orders, divide
from loadgen.drive.scribe import ScribeContext, records_of
from loadgen.drive.scribe_live import LiveScribe
from loadgen.drive.summary import Summary
from loadgen.errors import BadInput, Unreachable
from loadgen.mock.options import parse
from loadgen.mock.server import MockServer
from loadgen.plan import payload
from loadgen.plan.model import NOT_DUE, Plan, PlannedJob
from loadgen.record import Record

MS = 1_000
KEY = "s3cret-of-the-test"


def orders_of(folder: Path, plan: Plan, port: int, procs: int = 1, **more: Any) -> list[Orders]:
    classes = list(dict.fromkeys(request.cls for request in plan.requests))
    with (folder / "payload.bin").open("wb") as file:
        index = payload.write(plan, wire(), classes, 1 << 30, file)
    np.save(folder / "index.npy", index)
    base = Orders(
        host="127.0.0.1",
        port=port,
        payload=str(folder / "payload.bin"),
        index=str(folder / "index.npy"),
        classes=[ClassOrders(name=name) for name in classes],
        window=plan.window,
        spool=str(folder / "spool"),
        key_at=payload.key_at("chat"),
        connections=2 * procs,
    )
    return divide(plan, base, procs, **more)


@asynccontextmanager
async def mock(*flags: str) -> AsyncIterator[MockServer]:
    server = MockServer(parse(flags))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def records(orders: list[Orders], plan: Plan, horizon: int, *, died: bool = False) -> list[Record]:
    context = ScribeContext(window=plan.window, horizon=horizon, died=died)
    return sorted(records_of([Path(each.spool) for each in orders], plan, context), key=lambda record: record.id)


def test_two_processes_two_rounds_and_no_key_on_disk(tmp_path: Path) -> None:
    told: list[Summary] = []

    async def main() -> list[tuple[list[Record], list[Meters]]]:
        found = []
        async with mock() as server, Crew(2, on_summary=told.append) as crew:
            for number in range(2):
                folder = tmp_path / str(number)
                folder.mkdir()
                plan = plan_of(planned([10 * MS * n for n in range(110)], out=4), window=(0, 1_090 * MS))
                orders = orders_of(folder, plan, server.port, 2)
                await crew.prepare(orders, KEY)
                t0 = time.monotonic_ns() + 20_000_000
                crew.start(t0)
                assert await crew.wait(30_000 * MS)
                meters = await crew.finish()
                found.append((records(orders, plan, (time.monotonic_ns() - t0) // 1_000), meters))
        return found

    first, second = uvloop.run(main())
    for got, meters in (first, second):
        assert [record.outcome for record in got] == ["ok"] * 110
        assert min(record.sent_micros - record.due_micros for record in got) >= 0
        assert [each.process for each in meters] == [0, 1]
        assert sum(len(each.send_lags) for each in meters) == 110
        assert min(min(each.send_lags) for each in meters) >= 0
        assert all(each.loop_lags and min(each.loop_lags) >= 0 for each in meters)
        assert [each.collections for each in meters] == [0, 0]
        assert not any(each.died or each.trouble or each.dry for each in meters)
    assert list(map(without_times, first[0])) == list(map(without_times, second[0]))
    assert {summary.process for summary in told} == {0, 1}
    last = {summary.process: summary.classes["chat"] for summary in told}
    assert sum(tally.due for tally in last.values()) <= 110
    assert all(len(tally.micros("ttft")) == len(tally.micros("e2e")) for tally in last.values())
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes()


def test_a_process_that_dies_loses_no_request_from_the_account(tmp_path: Path) -> None:
    async def main() -> tuple[list[Record], list[Meters], set[int]]:
        async with mock() as server, Crew(2) as crew:
            plan = plan_of(planned([0] * 20 + [60_000 * MS] * 20, out=2), window=(0, 60_000 * MS))
            orders = orders_of(tmp_path, plan, server.port, 2)
            await crew.prepare(orders)
            crew.start(time.monotonic_ns())
            os.kill(crew.pids[0], signal.SIGKILL)
            await crew._members[0].ended.wait()
            assert await crew.wait(30_000 * MS), "the other one stops by itself"
            meters = await crew.finish()
            return records(orders, plan, 200 * MS, died=bool(crew.died)), meters, crew.died

    got, meters, died = uvloop.run(main())
    assert died == {0}
    assert [each.died for each in meters] == [True, False]
    assert [record.id for record in got] == list(range(40))
    assert {record.outcome for record in got} <= {"ok", "cut"}
    assert [record.outcome for record in got if record.due_micros > 0] == ["cut"] * 20
    assert "process_died" in {record.reason for record in got}
    assert judge(meters, HostMeters(), median_wire_ttft=None).invalid[0] == "load process 0 died"


def test_when_the_parent_is_gone_the_process_goes(tmp_path: Path) -> None:
    async def main() -> int | None:
        async with mock("--fault", "hang") as server, Crew(1) as crew:
            plan = plan_of(planned([0, 90_000 * MS]))
            await crew.prepare(orders_of(tmp_path, plan, server.port))
            crew.start(time.monotonic_ns())
            member = crew._members[0]
            process = member._process
            assert process is not None
            assert process.stdin is not None
            process.stdin.close()
            return await process.wait()

    assert uvloop.run(main()) == 0
    plan = plan_of(planned([0, 90_000 * MS]))
    found = list(records_of([tmp_path / "spool.0"], plan, ScribeContext(window=(0, 1), horizon=1)))
    # Whether the first one went out before the end was seen is not for us to say.
    assert sorted((record.id, record.outcome) for record in found) == [(0, "cut"), (1, "cut")]
    assert {record.reason for record in found} <= {"open", "not_sent"}


def test_nobody_at_the_target(tmp_path: Path) -> None:
    async def main(change: Callable[[Orders], Orders]) -> None:
        async with mock() as server:
            port = server.port
        async with Crew(1) as crew:
            orders = orders_of(tmp_path, plan_of(planned([0])), port)
            await crew.prepare([change(each) for each in orders])

    with pytest.raises(Unreachable, match="does not answer"):
        uvloop.run(main(lambda orders: orders))
    with pytest.raises(BadInput, match="No such file"):
        uvloop.run(main(lambda orders: msgspec.structs.replace(orders, payload=str(tmp_path / "none"))))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_stops_the_issuing(tmp_path: Path) -> None:
    async def main() -> tuple[list[Meters], bool]:
        async with mock() as server, Crew(1) as crew:
            plan = plan_of(planned([MS * n for n in range(60)] + [90_000 * MS], out=64), window=(0, 90_000 * MS))
            orders = orders_of(tmp_path, plan, server.port)
            Path(orders[0].spool).symlink_to("/dev/full")
            await crew.prepare(orders)
            crew.start(time.monotonic_ns())
            ended = await crew.wait(30_000 * MS)
            return await crew.finish(), ended

    meters, ended = uvloop.run(main())
    assert ended, "what was due in 90 s is not waited for"
    assert meters[0].trouble == "the spool cannot be written: No space left on device"
    assert judge(meters, HostMeters(), median_wire_ttft=None).invalid


def test_lanes_jobs_sessions_and_stop(tmp_path: Path) -> None:
    requests = [
        *later(planned([0], cls="talk"), session=0),
        *later(planned([NOT_DUE], cls="talk"), session=0, turn=1, think=5 * MS),
        *planned([NOT_DUE] * 500, cls="loop"),
        *planned([NOT_DUE] * 7, cls="job"),
    ]
    requests = [replace(each, id=number) for number, each in enumerate(requests)]
    items = [replace(each, job="job-1", item=place) for place, each in enumerate(requests[-7:])]
    requests[-7:] = items
    plan = Plan(1, requests, [PlannedJob("job-1", "job", 10 * MS, None, tuple(r.id for r in items))], (0, 300 * MS))

    async def main() -> tuple[list[Record], list[Meters]]:
        async with mock("--mode", "engine", "--ttft", "5ms") as server, Crew(1) as crew:
            orders = orders_of(tmp_path, plan, server.port, closed={"loop": 2}, streams={"job": 3}, stop=300 * MS)
            await crew.prepare(orders)
            crew.start(time.monotonic_ns())
            assert await crew.wait(20_000 * MS)
            meters = await crew.finish()
            return records(orders, plan, 400 * MS), meters

    got, meters = uvloop.run(main())
    assert {record.outcome for record in got} == {"ok"}
    talk = sorted((record for record in got if record.cls == "talk"), key=lambda record: record.turn)
    assert talk[1].due_micros == talk[0].end_micros + 5 * MS
    assert sorted(record.item for record in got if record.job == "job-1") == list(range(7))
    loop = [record for record in got if record.cls == "loop"]
    assert 2 <= len(loop) < 500
    assert max(record.due_micros for record in loop) <= 300 * MS
    assert not meters[0].dry


def test_the_live_scribe_gives_the_same_records(tmp_path: Path) -> None:
    plan = plan_of(planned([MS * n for n in range(200)], out=4))

    async def main() -> list[Orders]:
        async with mock("--reasoning", "2") as server, Crew(2) as crew:
            orders = orders_of(tmp_path, plan, server.port, 2)
            async with LiveScribe([Path(each.spool) for each in orders], keep_text=True):
                await crew.prepare(orders)
                crew.start(time.monotonic_ns())
                await crew.wait()
                await crew.finish()
            return orders

    orders = uvloop.run(main())
    outputs: list[list[Any]] = []
    found = []
    for _ in range(2):
        kept: list[Any] = []
        context = ScribeContext(window=plan.window, horizon=10**9, keep_outputs=kept.append)
        found.append(list(records_of([Path(each.spool) for each in orders], plan, context)))
        outputs.append(kept)
        for each in orders:
            parsed = Path(each.spool + ".parsed")
            assert parsed.exists() == (len(found) == 1)
            parsed.unlink(missing_ok=True)
    assert found[0] == found[1]
    assert outputs[0] == outputs[1]
    assert len(outputs[0]) == 200


def test_more_in_flight_than_the_usual_limit_of_files(tmp_path: Path) -> None:
    """The cap that some clients have without saying so: here it is only the host's."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if hard < 4_000 or soft < 1_100:
        pytest.skip(f"{soft} files of {hard}: too few for both ends")
    count = min(2_000, soft - 100)

    async def main() -> list[Record]:
        async with mock("--fault", "hang") as server, Crew(1) as crew:
            plan = plan_of(planned([0] * count), window=(0, 1))
            orders = orders_of(tmp_path, plan, server.port)
            await crew.prepare(orders)
            told = asyncio.Event()

            def feed(summary: Summary) -> None:
                if summary.classes["chat"].in_flight == count:
                    told.set()

            crew.on_summary = feed
            crew.start(time.monotonic_ns())
            async with asyncio.timeout(30):
                await told.wait()
            await crew.finish()
            return records(orders, plan, 10**8)

    got = uvloop.run(main())
    assert len(got) == count
    assert {(record.outcome, record.reason) for record in got} == {("cut", "open")}
    assert sum(record.sent_micros is not None for record in got) == count


def test_a_wall_clock_that_steps_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: 1e9 - 3_600.0 * next(steps))
    monkeypatch.setattr(time, "time_ns", lambda: 10**18 - 3_600 * 10**9 * next(steps))

    async def main() -> list[Record]:
        async with mock() as server:
            return await over_loopback(tmp_path, server.port, plan_of(planned([0, 5 * MS, 10 * MS], out=2)))

    got = uvloop.run(main())
    assert [record.outcome for record in got] == ["ok"] * 3
    for record in got:
        assert 0 <= record.due_micros <= record.sent_micros <= record.first_micros <= record.end_micros < 20_000 * MS


def test_burnt_cpu_makes_the_run_invalid() -> None:
    meters = Meters(0, send_lags=[100] * 98 + [5_000] * 2, loop_lags=[100] * 100, cpu_share=0.3)
    assert judge([meters], HostMeters(), median_wire_ttft=20_000.0).invalid == [
        "load process 0: send lag p99 5.00 ms, bound 1.00 ms"
    ]
    assert not judge([meters], HostMeters(), median_wire_ttft=300_000.0).invalid
    meters.send_lags, meters.cpu_share = [100], 0.71
    assert judge([meters], HostMeters(), median_wire_ttft=None).invalid == ["load process 0: 71% of a core, bound 70%"]


def test_lag_may_be_excused_and_a_loss_may_not() -> None:
    lost = Meters(1, died=True, trouble="no more sockets", dry=["loop"])
    verdict = judge([Meters(0, cpu_share=0.9), lost], HostMeters(), median_wire_ttft=None)
    assert len(verdict.invalid) == 4
    assert verdict.lasting == [
        "load process 1 died",
        "load process 1 stopped: no more sockets",
        "load process 1: loop ran out of planned requests",
    ]
