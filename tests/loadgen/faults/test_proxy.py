"""The proxy: what passes it, and every way of disturbing that, over TCP and Unix sockets, on both event loops."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from support.inject import PASS, FaultNotSeen, Mode, Net, injected
from support.inject.rig import SHORT, Echo, clock, connect, echo_behind, hang_up, talk

from loadgen.errors import BadInput, Unreachable
from loadgen.faults import pipe, procfs
from loadgen.faults.link_proxy import LinkProxy
from loadgen.faults.proxy import ProxyProcess, start_links
from loadgen.spec import ProxySpec

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    return asyncio.run if request.param == "asyncio" else uvloop.run


def _net(proxy: LinkProxy, mode: Mode, **given: Any) -> Net:
    return Net("net1", proxy, mode, clock(), **given)


def test_all_passes(run: Run) -> None:
    async def main() -> None:
        async with echo_behind() as (proxy, _):
            one, two = await connect(proxy.address), await connect(proxy.address)
            assert await talk(one, b"one") == b"one"
            big = bytes(range(256)) * 20_000
            assert await talk(two, big) == big
            one[1].write_eof()
            assert await one[0].read() == b""
            count = await proxy.counters()
            assert (count.connections, count.read_up, count.written_down) == (2, 3 + len(big), 3 + len(big))
            assert (count.held, count.cut_connections, count.delayed, count.slowed) == (0, 0, 0, 0)
            await hang_up(one, two)

    run(main())


def test_over_unix_sockets(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        listen = f"unix:{tmp_path}/in"
        async with echo_behind(listen, f"{tmp_path}/out") as (proxy, _):
            streams = await connect(listen)
            assert await talk(streams, b"abc") == b"abc"
            fault = _net(proxy, Mode("blackhole"))
            await fault.inject()
            streams[1].write(b"def")
            assert (await fault.verify()).figures["held"] == 3
            await fault.heal()
            assert await streams[0].readexactly(3) == b"def"
            async with injected(_net(proxy, Mode("reset"))):
                assert await _end_of(streams) == b""
            await hang_up(streams)
        assert not (tmp_path / "in").exists()

    run(main())


async def _end_of(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> bytes:
    try:
        return await streams[0].read()
    except ConnectionResetError:
        return b"reset"


def test_delayed_bytes_are_held_and_none_is_lost(run: Run) -> None:
    async def main() -> None:
        async with echo_behind() as (proxy, echo):
            streams = await connect(proxy.address)
            assert await talk(streams, b"before") == b"before"
            fault = _net(proxy, Mode("delay", micros=20_000))
            await fault.inject()
            began = asyncio.get_running_loop().time()
            assert await talk(streams, b"during") == b"during"
            # A bound that a slow machine cannot break: each way holds for 20 ms, never less.
            assert asyncio.get_running_loop().time() - began >= 0.04
            assert (await fault.verify()).figures["delayed"] == 12
            await fault.heal()
            assert await talk(streams, b"after") == b"after"
            assert (await proxy.counters()).delayed == 12
            assert echo.got == 17
            await hang_up(streams)

    run(main())


def test_healing_a_delay_lets_what_is_held_pass_first(run: Run) -> None:
    async def main() -> None:
        async with echo_behind() as (proxy, _):
            streams = await connect(proxy.address)
            assert await talk(streams, b"0") == b"0"
            await proxy.set(Mode("delay", micros=3_600_000_000))
            streams[1].write(b"held ")
            while (await proxy.counters()).read_up < 6:
                await asyncio.sleep(0)
            await proxy.set(PASS)
            assert await talk(streams, b"1") + await streams[0].readexactly(5) == b"held 1"
            assert (await proxy.counters()).delayed == 0
            await hang_up(streams)

    run(main())


def test_an_hour_of_delay_holds_no_more_than_its_bound(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipe, "QUEUE_BYTES", 100_000)

    async def main() -> None:
        async with echo_behind() as (proxy, echo):
            streams = await connect(proxy.address)
            assert await talk(streams, b"0") == b"0"
            await proxy.set(Mode("delay", micros=3_600_000_000))
            streams[1].write(bytes(8 << 20))
            # Reading has ended once nothing more comes in many turns of the loop.
            quiet = before = 0
            while quiet < 200:
                await asyncio.sleep(0)
                now = (await proxy.counters()).read_up
                quiet = quiet + 1 if now == before and now > 1 else 0
                before = now
            assert 100_000 <= before <= 100_000 + (256 << 10)
            assert echo.got == 1
            streams[1].transport.abort()

    run(main())


def test_a_reader_that_does_not_read_pushes_back(run: Run) -> None:
    async def main() -> None:
        never = asyncio.get_running_loop().create_future()

        async def sleeper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            reader._transport.pause_reading()  # type: ignore[attr-defined]
            await asyncio.wait({never})
            writer.transport.abort()

        server = await asyncio.start_server(sleeper, "127.0.0.1", 0)
        proxy = LinkProxy("link", "127.0.0.1:0", f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await proxy.start()
        streams = await connect(proxy.address)
        streams[1].write(bytes(64 << 20))
        quiet = before = 0
        while quiet < 200:
            await asyncio.sleep(0)
            now = (await proxy.counters()).read_up
            quiet = quiet + 1 if now == before and now > 0 else 0
            before = now
        assert before < 32 << 20
        streams[1].transport.abort()
        never.set_result(None)
        await proxy.close()
        server.close()
        await server.wait_closed()

    run(main())


def test_a_slow_link_slows_and_loses_nothing(run: Run) -> None:
    async def main() -> None:
        async with echo_behind() as (proxy, _):
            streams = await connect(proxy.address)
            assert await talk(streams, b"0") == b"0"
            data = bytes(range(250)) * 40
            async with injected_while(_net(proxy, Mode("rate", size=200_000)), talk(streams, data)) as (proof, got):
                assert got == data
                # What passes at once was not slowed.
                assert 0 < proof.figures["slowed"] < 2 * len(data)
            await hang_up(streams)

    run(main())


def injected_while(fault: Net, what: Coroutine[Any, Any, bytes]) -> Any:
    """`injected`, with something that passes the link before the proof is asked for."""

    @asynccontextmanager
    async def block() -> Any:
        await fault.inject()
        try:
            got = await what
            yield await fault.verify(), got
        finally:
            await fault.heal()

    return block()


def test_a_black_hole_holds_and_gives_back(run: Run) -> None:
    async def main() -> None:
        async with echo_behind() as (proxy, echo):
            old = await connect(proxy.address)
            assert await talk(old, b"0") == b"0"
            fault = _net(proxy, Mode("blackhole"))
            await fault.inject()
            old[1].write(b"old")
            # A connection that comes meanwhile stands, and gets no further.
            new = await connect(proxy.address)
            new[1].write(b"new!")
            while (await proxy.counters()).held < 7:
                await asyncio.sleep(0)
            assert (await fault.verify()).figures["held"] == 7
            for _ in range(50):  # turns in which it could be connected
                await asyncio.sleep(0)
            assert [each.server.stood for each in proxy.passing].count(True) == 1
            assert (echo.got, echo.connections) == (1, 1)
            await fault.heal()
            assert (await old[0].readexactly(3), await new[0].readexactly(4)) == (b"old", b"new!")
            assert echo.connections == 2
            await hang_up(old, new)

    run(main())


def test_half_a_link_may_be_dark(run: Run) -> None:
    """What the far side sends is counted and not delivered: a test of fencing asks for just that."""

    async def main() -> None:
        async with echo_behind() as (proxy, echo):
            streams = await connect(proxy.address)
            assert await talk(streams, b"0") == b"0"
            fault = _net(proxy, Mode("blackhole", way="down"))
            await fault.inject()
            streams[1].write(b"there")
            assert (await fault.verify()).figures["held"] > 0
            assert echo.got == 6
            count = await proxy.counters()
            assert (count.written_up, count.written_down) == (6, 1)
            await fault.heal()
            assert await streams[0].readexactly(5) == b"there"
            await hang_up(streams)

    run(main())


def test_a_reset_is_seen_as_one_on_both_sides(run: Run) -> None:
    async def main() -> None:
        async with echo_behind() as (proxy, _):
            streams = await connect(proxy.address)
            assert await talk(streams, b"0") == b"0"
            async with injected(_net(proxy, Mode("reset", standing=True))) as proof:
                assert proof.figures["cut_connections"] == 1
                with pytest.raises(ConnectionResetError):
                    await streams[0].read()
                # Without `for` it meets those that stood.
                after = await connect(proxy.address)
                assert await talk(after, b"1") == b"1"
            await hang_up(streams, after)

    run(main())


def test_a_lasting_reset_meets_those_that_come(run: Run) -> None:
    async def main() -> None:
        async with echo_behind() as (proxy, echo):
            fault = _net(proxy, Mode("reset"))
            await fault.inject()
            streams = await connect(proxy.address)
            assert (await fault.verify()).figures["cut_connections"] == 1
            assert await _end_of(streams) in (b"", b"reset")
            await fault.heal()
            again = await connect(proxy.address)
            assert await talk(again, b"1") == b"1"
            assert echo.got == 1
            await hang_up(streams, again)

    run(main())


def test_what_waits_when_a_connection_is_reset_is_counted_as_lost(
    run: Run,
) -> None:
    async def main() -> None:
        async with echo_behind() as (proxy, echo):
            streams = await connect(proxy.address)
            assert await talk(streams, b"0") == b"0"
            await proxy.set(Mode("delay", micros=3_600_000_000))
            streams[1].write(b"never comes")
            while (await proxy.counters()).read_up < 12:
                await asyncio.sleep(0)
            await proxy.set(Mode("reset"))
            count = await proxy.counters()
            assert (count.cut_bytes, count.written_up, echo.got) == (11, 1, 1)
            await hang_up(streams)

    run(main())


def test_answers_are_truncated_to_the_byte(run: Run) -> None:
    async def main() -> None:
        async with echo_behind() as (proxy, echo):
            streams = await connect(proxy.address)
            assert await talk(streams, b"0123") == b"0123"
            async with injected_while(
                _net(proxy, Mode("truncate", size=5, way="down", standing=True)), _last(streams, b"abcdefgh")
            ) as (proof, got):
                assert got == b"abcde"
                assert proof.figures["cut_bytes"] == 3
            assert echo.got == 12
            await hang_up(streams)

    async def _last(streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], data: bytes) -> bytes:
        streams[1].write(data)
        return await streams[0].read()

    run(main())


@pytest.mark.parametrize("kind", ["delay", "rate", "blackhole", "reset", "truncate"])
@pytest.mark.parametrize("standing", [False, True])
def test_a_link_that_nobody_uses_proves_nothing(kind: Any, standing: bool) -> None:
    async def main() -> None:
        async with echo_behind() as (proxy, _):
            fault = _net(proxy, Mode(kind, micros=1, size=1, standing=standing), patience=SHORT // 4)
            with pytest.raises(FaultNotSeen, match="nothing passed"):
                async with injected(fault):
                    raise AssertionError
            assert proxy.mode == PASS

    asyncio.run(main())


def test_nobody_behind_the_link(run: Run) -> None:
    async def main() -> None:
        server = await asyncio.start_server(Echo().serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        proxy = LinkProxy("link", "127.0.0.1:0", f"127.0.0.1:{port}")
        await proxy.start()
        streams = await connect(proxy.address)
        assert await _end_of(streams) in (b"", b"reset")
        assert (await proxy.counters()).refused == 1
        await hang_up(streams)
        await proxy.close()
        await proxy.close()

    run(main())


def test_the_far_side_that_resets_resets_here(run: Run) -> None:
    async def main() -> None:
        async with echo_behind() as (first, _):
            second = LinkProxy("second", "127.0.0.1:0", first.address)
            await second.start()
            streams = await connect(second.address)
            assert await talk(streams, b"0") == b"0"
            await first.set(Mode("reset"))
            with pytest.raises(ConnectionResetError):
                await streams[0].read()
            assert (await second.counters()).cut_connections == 0
            await hang_up(streams)
            await second.close()

    run(main())


def test_an_address_that_is_taken(tmp_path: Path) -> None:
    async def main() -> None:
        async with echo_behind() as (proxy, _):
            with pytest.raises(BadInput, match="link"):
                await LinkProxy("link", proxy.address, proxy.address).start()
        plain = tmp_path / "file"
        plain.write_text("kept")
        with pytest.raises(BadInput, match="no socket"):
            await LinkProxy("link", f"unix:{plain}", "unix:none").start()
        assert plain.read_text() == "kept"
        async with echo_behind(f"unix:{tmp_path}/s", f"{tmp_path}/out") as (proxy, _):
            with pytest.raises(BadInput, match="in use"):
                await LinkProxy("link", proxy.address, "unix:none").start()
            streams = await connect(proxy.address)
            assert await talk(streams, b"still here") == b"still here"
            await hang_up(streams)

    asyncio.run(main())


def test_a_process_of_its_own() -> None:
    async def main() -> None:
        async with echo_behind() as (echo_proxy, _):
            links = await start_links([ProxySpec("a", "127.0.0.1:0", echo_proxy.address)])
            link = links["a"]
            try:
                streams = await connect(link.address)
                assert await talk(streams, b"abc") == b"abc"
                assert (await link.counters()).read_up == 3
                fault = Net("n", link, Mode("reset"), clock())
                async with injected(fault):
                    with pytest.raises(ConnectionResetError):
                        await streams[0].read()
                after = await connect(link.address)
                assert await talk(after, b"x") == b"x"
                await hang_up(streams, after)
            finally:
                await link.close()
                await link.close()
            with pytest.raises(Unreachable):
                await link.counters()

    asyncio.run(main())


def test_of_several_processes_all_start_or_none() -> None:
    async def main() -> None:
        async with echo_behind() as (proxy, _):
            specs = [ProxySpec("a", "127.0.0.1:0", proxy.address), ProxySpec("b", proxy.address, proxy.address)]
            with pytest.raises(BadInput, match="--proxy: b="):
                await start_links(specs)

    asyncio.run(main())


def test_a_process_that_says_nothing_is_not_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        process = ProxyProcess(ProxySpec("a", "127.0.0.1:0", "127.0.0.1:1"))
        pids: list[int | None] = []

        async def silent() -> None:
            pids.append(process.pid)
            raise Unreachable("proxy a", "its process says nothing")

        monkeypatch.setattr(process, "_hear", silent)
        with pytest.raises(Unreachable, match="says nothing"):
            await process.start()
        assert process.pid is None
        assert pids[0] is not None
        assert procfs.identity(pids[0]) is None

    asyncio.run(main())


def test_a_proxy_whose_process_is_gone_proves_nothing() -> None:
    async def main() -> None:
        async with echo_behind() as (proxy, _):
            process = ProxyProcess(ProxySpec("a", "127.0.0.1:0", proxy.address))
            await process.start()
            assert process._process is not None
            process._process.kill()
            await process._process.wait()
            with pytest.raises(Unreachable, match="has ended"):
                await Net("n", process, Mode("reset"), clock()).inject()
            await process.close()

    asyncio.run(main())
