"""The runner: at the due time, proved or not, and healed whatever happens."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from support.inject import of
from support.inject.rig import SHORT, answering, child, clock, connect, dead_pid, echo_behind, hang_up, http, spec, talk

from loadgen.drive.clock import VirtualClock
from loadgen.errors import BadInput
from loadgen.faults import procfs
from loadgen.faults.base import FaultNotSeen, Proof
from loadgen.faults.context import FaultContext, Maker
from loadgen.faults.link import PASS
from loadgen.faults.runner import FaultLine, FaultRunner

if TYPE_CHECKING:
    from loadgen.spec import FaultSpec

NOWHERE = "http://127.0.0.1:9"


class Made:
    """A fault that notes what is asked of it."""

    def __init__(self, name: str, said: list[str], *, fails: str = "") -> None:
        self.name, self._said, self._fails = name, said, fails

    async def inject(self) -> None:
        self._do("inject")

    async def verify(self) -> Proof:
        if self._fails == "hang":
            await asyncio.get_running_loop().create_future()
        self._do("verify")
        return Proof("it happened", {"times": 1})

    async def heal(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        self._do("heal")

    def _do(self, what: str) -> None:
        self._said.append(f"{self.name} {what}")
        if self._fails == what:
            raise FaultNotSeen(self.name, f"{what} failed")
        if self._fails == f"{what} breaks":
            raise RuntimeError(what)


def _virtual(
    monkeypatch: pytest.MonkeyPatch, specs: list[FaultSpec], **fails: str
) -> tuple[FaultRunner, VirtualClock, list[str], list[FaultLine]]:
    said: list[str] = []
    lines: list[FaultLine] = []

    async def make(_: Maker, one: FaultSpec) -> Made:
        return Made(one.name, said, fails=fails.get(one.name, ""))

    monkeypatch.setattr(Maker, "make", make)
    time = VirtualClock()
    return FaultRunner(specs, FaultContext(NOWHERE), time, lines.append), time, said, lines


async def _turns() -> None:
    for _ in range(30):
        await asyncio.sleep(0)


TWO = [spec("name=late,at=20s,flood=tenant:t2@1/s,for=5s"), spec("name=early,at=10s,kill=file")]


def test_each_at_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        runner, time, said, lines = _virtual(monkeypatch, TWO)
        task = asyncio.create_task(runner.run())
        await _turns()
        time.run_until(9_999_999)
        await _turns()
        assert said == []
        time.run_until(10_000_000)
        await _turns()
        assert said == ["early inject", "early verify", "early heal"]
        time.run_until(20_000_000)
        await _turns()
        assert said[3:] == ["late inject", "late verify"]
        time.run_until(24_999_999)
        await _turns()
        assert not task.done()
        time.run_until(25_000_000)
        late, early = await task
        assert said[5:] == ["late heal"]
        assert (late.name, late.at, late.until, late.proved, late.why) == (
            "late",
            20_000_000,
            25_000_000,
            True,
            "it happened",
        )
        assert (early.name, early.at, early.until, early.proved, early.kind) == (
            "early",
            10_000_000,
            None,
            True,
            "kill",
        )
        assert [(line.fault, line.event, line.at) for line in lines] == [
            ("early", "injected", 10_000_000),
            ("early", "seen", 10_000_000),
            ("late", "injected", 20_000_000),
            ("late", "seen", 20_000_000),
            ("late", "healed", 25_000_000),
        ]
        assert lines[1].figures == {"times": 1}
        assert msgspec.json.decode(lines[1].encoded(), type=FaultLine) == lines[1]

    asyncio.run(main())


@pytest.mark.parametrize("what", ["inject", "verify", "heal"])
def test_a_fault_that_fails_ends_nothing_and_is_healed(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    async def main() -> None:
        runner, time, said, lines = _virtual(monkeypatch, TWO, late=what)
        task = asyncio.create_task(runner.run())
        await _turns()
        for end in (10, 20, 25):
            time.run_until(end * 1_000_000)
            await _turns()
        late, early = await task
        assert early.proved
        assert late.proved is (what == "heal")
        assert late.why == ("it happened" if what == "heal" else f"{what} failed")
        assert said[-1] == "late heal"
        if what == "heal":
            assert (late.until, lines[-1].event, lines[-1].what) == (None, "not_healed", "heal failed")

    asyncio.run(main())


@pytest.mark.parametrize("how", ["stop", "cancel", "cancel twice"])
def test_what_is_on_is_healed_when_the_run_ends(monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    async def main() -> None:
        lasting = [spec("name=one,at=1s,flood=tenant:t2@1/s,for=1h"), spec("name=never,at=1h,kill=file")]
        runner, time, said, lines = _virtual(monkeypatch, lasting)
        task = asyncio.create_task(runner.run())
        await _turns()
        time.run_until(2_000_000)
        await _turns()
        assert said == ["one inject", "one verify"]
        if how == "stop":
            runner.stop()
            facts = await task
        else:
            task.cancel()
            if how == "cancel twice":
                await asyncio.sleep(0)
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            facts = runner.facts()
        assert said == ["one inject", "one verify", "one heal"]
        one, never = facts
        assert (one.proved, one.until) == (True, 2_000_000)
        assert (never.proved, never.at, never.why) == (False, 3_600_000_000, "the run ended before it was due")
        if how == "stop":
            assert lines[-1].event in ("skipped", "healed")
            assert {line.event for line in lines} == {"injected", "seen", "healed", "skipped"}

    asyncio.run(main())


def test_healing_goes_on_when_it_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        runner, time, said, _ = _virtual(monkeypatch, [spec("name=one,at=1s,kill=file")])
        (story,) = runner._stories
        task = asyncio.create_task(runner._one(story))
        await asyncio.sleep(0)
        time.run_until(1_000_000)
        while said != ["one inject", "one verify"]:
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for _ in range(2):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert said[2:] == ["one heal"]

    asyncio.run(main())


def test_a_proof_that_does_not_come_is_not_waited_for_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        runner, time, said, _ = _virtual(monkeypatch, [spec("name=one,at=1s,kill=file")], one="hang")
        task = asyncio.create_task(runner.run())
        await _turns()
        time.run_until(1_000_000)
        await _turns()
        runner.stop()
        (one,) = await task
        assert (one.proved, one.why) == (False, "the run ended before it showed")
        assert said == ["one inject", "one heal"]

    asyncio.run(main())


def test_a_defect_of_one_heals_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        both = [spec("name=on,at=1s,flood=tenant:t2@1/s,for=1h"), spec("name=bad,at=2s,kill=file")]
        runner, time, said, _ = _virtual(monkeypatch, both, bad="inject breaks")
        task = asyncio.create_task(runner.run())
        await _turns()
        for end in (1, 2):
            time.run_until(end * 1_000_000)
            await _turns()
        with pytest.raises(ExceptionGroup):
            await task
        assert sorted(said) == ["bad heal", "bad inject", "on heal", "on inject", "on verify"]

    asyncio.run(main())


async def _run(*texts: str, **given: Any) -> tuple[list[bool], list[str | None]]:
    given.setdefault("patience", SHORT)
    runner = FaultRunner(
        [spec(text) for text in texts], FaultContext(given.pop("target", NOWHERE), **given), clock(), print
    )
    await runner.check()
    facts = await runner.run()
    return [each.proved for each in facts], [each.why for each in facts]


def test_real_processes(tmp_path: Path) -> None:
    workers, single = tmp_path / "pids", tmp_path / "pid"
    with child() as one, child() as two:
        workers.write_text(f"w0 {one.pid}\n")
        single.write_text(f"{two.pid}\n")
        texts = (f"name=s,at=0s,stop={single},for=10ms", "name=k,at=0s,kill=worker:0", f"name=k2,at=50ms,kill={single}")
        proved, _ = asyncio.run(_run(*texts, pids=workers))
        assert proved == [True, True, True]
        assert (one.wait(), two.wait()) == (-9, -9)


def test_a_worker_that_was_started_again_is_asked_for_again() -> None:
    with child() as first, child() as second:
        now = [first.pid]

        def answer(_: bytes) -> bytes:
            return http("200 OK", msgspec.json.encode({"workers": [{"id": "w0", "pid": now[0]}]}))

        async def main() -> None:
            async with answering(answer) as (url, _):
                runner = FaultRunner(
                    [spec("at=0s,kill=worker:0")], FaultContext(NOWHERE, admin_url=url), clock(), print
                )
                await runner.check()
                now[0] = second.pid
                (fact,) = await runner.run()
                assert fact.proved

        asyncio.run(main())
        assert first.poll() is None
        assert second.wait() == -9


def test_a_pid_that_went_to_another_since_the_check_is_not_signalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pids"
    with child() as process:
        file.write_text(f"w0 {process.pid}")
        real = procfs.identity

        def before(pid: int) -> procfs.Identity | None:
            found = real(pid)
            return found and procfs.Identity(pid, found.started - 100)

        async def main() -> None:
            runner = FaultRunner([spec("at=0s,kill=worker:0")], FaultContext(NOWHERE, pids=file), clock(), print)
            with monkeypatch.context() as patch:
                patch.setattr(procfs, "identity", before)
                await runner.check()
            (fact,) = await runner.run()
            assert (fact.proved, fact.why) == (False, f"pid {process.pid} is another process by now")

        asyncio.run(main())
        assert process.poll() is None
        assert of(process.pid).started > 0


def test_an_interrupted_run_leaves_no_process_stopped(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    with child() as process:
        file.write_text(str(process.pid))

        async def main(how: str) -> None:
            seen = asyncio.Event()

            def on_line(line: FaultLine) -> None:
                if line.event == "seen":
                    seen.set()

            runner = FaultRunner([spec(f"at=0s,stop={file},for=1h")], FaultContext(NOWHERE), clock(), on_line)
            task = asyncio.create_task(runner.run())
            await seen.wait()
            found = procfs.look(process.pid)
            assert found is not None
            assert found.state == "T"
            if how == "cancel":
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            else:
                runner.abandon()
                # Before the loop has turned: the signal is not the healing's.
                os.waitid(os.P_PID, process.pid, os.WCONTINUED | os.WNOWAIT)
                await task
            found = procfs.look(process.pid)
            assert found is not None
            assert found.state != "T"

        asyncio.run(main("cancel"))
        asyncio.run(main("abandon"))


def test_a_link_is_whole_again_afterwards() -> None:
    async def main() -> None:
        async with echo_behind() as (proxy, _):
            streams = await connect(proxy.address)
            assert await talk(streams, b"0") == b"0"
            proved, why = await _run("at=0s,net=link,reset", links={"link": proxy})
            assert (proved, why) == ([True], ["reset: cut_connections grew by 1"])
            assert proxy.mode == PASS
            again = await connect(proxy.address)
            assert await talk(again, b"1") == b"1"
            await hang_up(streams, again)

    asyncio.run(main())


async def _nobody_open(_: str, __: float) -> int:
    return 0


def test_controls(tmp_path: Path) -> None:
    """Aimed at nothing, every fault ends without proof: mistake 19."""
    file = tmp_path / "pid"
    file.write_text(str(dead_pid()))

    async def main() -> None:
        async with answering(lambda _: http("404 No")) as (url, _), echo_behind() as (proxy, _):
            texts = [
                f"name=kill,at=0s,kill={file}",
                f"name=stop,at=0s,stop={file},for=10ms",
                "name=refused,at=0s,http=POST:/nothing/here",
                "name=fails,at=0s,exec=false",
                "name=nobody,at=0s,hangup=chat:50%",
            ]
            ways = ("delay=1ms,for=20ms", "blackhole,for=20ms", "rate=1KB/s,for=20ms", "reset", "reset,for=20ms")
            for way in (*ways, "truncate=1B,for=20ms"):
                proved, why = await _run(f"at=0s,net=link,{way}", links={"link": proxy}, patience=SHORT // 4)
                assert (way, proved, why) == (way, [False], ["nothing passed the link link that it could meet"])
            proved, why = await _run(*texts, target=url, hang_up=_nobody_open)
            assert proved == [False] * len(texts), why

    asyncio.run(main())


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["at=1s,kill=worker:0"], "whose pid"),
        (["at=1s,kill=/no/such/file"], "No such file"),
        (["at=1s,exec=no-such-program-here"], "no such program"),
        (["at=1s,net=link,reset"], "no such --proxy"),
        (["at=1s,hangup=chat:50%"], "nobody here can hang up"),
    ],
)
def test_what_cannot_be_tried_is_bad_input(texts: list[str], said: str) -> None:
    with pytest.raises(BadInput, match=said) as caught:
        asyncio.run(_run(*texts))
    assert caught.value.code == 2


def test_a_link_is_disturbed_in_one_way_at_a_time() -> None:
    async def main() -> None:
        async with echo_behind() as (proxy, _):
            specs = [spec("name=a,at=1s,net=link,delay=1ms,for=5s"), spec("name=b,at=6s,net=link,reset")]
            maker = Maker(FaultContext(NOWHERE, links={"link": proxy}), clock())
            with pytest.raises(BadInput, match="a is on this link then"):
                await maker.check(specs)
            await maker.check([specs[0], spec("name=b,at=6001ms,net=link,reset")])

    asyncio.run(main())


def test_admin_calls_go_to_the_admin_address_and_others_to_the_server() -> None:
    async def main() -> None:
        async with (
            answering(lambda _: http("200 OK")) as (api, asked),
            answering(lambda _: http("200 OK")) as (admin, told),
        ):
            keys = {"api_key": "user", "admin_key": "admin", "admin_url": admin, "target": api}
            proved, _ = await _run("name=a,at=0s,http=POST:/admin/cache/clear", "name=b,at=0s,http=POST:/x", **keys)
            assert proved == [True, True]
            assert (b"Bearer admin" in told[0], b"Bearer user" in asked[0]) == (True, True)
            assert "admin" not in repr(FaultContext(NOWHERE, admin_key="admin-secret", api_key="user-secret")).replace(
                "admin_url", ""
            )

    asyncio.run(main())
