"""Faults that are a call, a command, a flood or clients that leave."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.inject import Exec, FaultNotSeen, injected
from support.inject.rig import SHORT, answering, http, spec

from loadgen import scenario as scenarios
from loadgen.errors import BadInput, Unreachable
from loadgen.faults import call, flood, hangup
from loadgen.faults import exec as command
from loadgen.faults.call import Call
from loadgen.faults.http import Http
from loadgen.plan.build import build
from loadgen.plan.dialects import class_fields
from loadgen.spec import Scenario


def _python(program: str) -> tuple[str, ...]:
    return (sys.executable, "-c", program)


@pytest.mark.parametrize("status", ["200 OK", "204 Done", "299 Odd"])
def test_a_call_that_is_answered(status: str) -> None:
    async def main() -> None:
        async with answering(lambda _: http(status)) as (url, heads):
            async with injected(Http("h", Call("POST", url + "/admin/cache/clear?all=1", "secret"))) as proof:
                assert proof.figures == {"status": int(status[:3])}
            assert heads[0].startswith(b"POST /admin/cache/clear?all=1 HTTP/1.1\r\n")
            assert b"\r\nauthorization: Bearer secret\r\n" in heads[0]

    asyncio.run(main())


@pytest.mark.parametrize("status", ["302 There", "404 No", "500 Broken"])
def test_a_call_that_did_nothing(status: str) -> None:
    async def main() -> None:
        async with answering(lambda _: http(status, b"why\nnot", "location: /")) as (url, heads):
            with pytest.raises(FaultNotSeen, match=rf"answered {status[:3]}: 'why.nnot'"):
                async with injected(Http("h", Call("POST", url + "/x"))):
                    raise AssertionError
            assert len(heads) == 1

    asyncio.run(main())


def test_a_call_that_nobody_answers() -> None:
    async def main() -> None:
        async with answering(lambda _: None) as (url, _):
            with pytest.raises(FaultNotSeen, match=r"no answer within 0\.2 s"):
                await Http("h", Call("POST", url + "/x"), patience=SHORT).inject()
        with pytest.raises(FaultNotSeen, match="does not answer"):
            await Http("h", Call("POST", url + "/x")).inject()

    asyncio.run(main())


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200", b"nonsense\r\n\r\n"])
def test_an_answer_that_is_none(answer: bytes) -> None:
    async def main() -> None:
        async with answering(lambda _: answer) as (url, _):
            with pytest.raises(Unreachable):
                await call.send(Call("GET", url))

    asyncio.run(main())


def test_an_endless_answer_is_cut() -> None:
    body = bytes(call.MOST_ANSWER + 5)

    async def main() -> None:
        async with answering(lambda _: http("200 OK", body)) as (url, _):
            assert len((await call.send(Call("GET", url))).body) == call.MOST_ANSWER

    asyncio.run(main())


def test_an_answer_without_a_length() -> None:
    async def main() -> None:
        async with answering(lambda _: b"HTTP/1.0 200 OK\r\n\r\nall of it") as (url, _):
            assert (await call.send(Call("GET", url))).body == b"all of it"

    asyncio.run(main())


def test_a_command_that_succeeds() -> None:
    async def main() -> None:
        words = _python("import sys; sys.stdout.write('x' * 1_000_000); sys.stderr.write('y')")
        fault = Exec("e", words)
        async with injected(fault) as proof:
            assert proof.figures["status"] == 0
            assert len(fault._tail.kept) <= command.MOST_OUTPUT

    asyncio.run(main())


def test_a_command_that_fails_says_why() -> None:
    async def main() -> None:
        with pytest.raises(FaultNotSeen, match="ended with 3: 'no such table"):
            async with injected(Exec("e", _python("import sys; print('no such table'); sys.exit(3)"))):
                raise AssertionError

    asyncio.run(main())


def test_a_command_that_does_not_end_is_killed_with_its_children(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # The child holds the pipe open for writing, so that its end is the end of the file.
    program = f"import subprocess, sys; subprocess.run(['sh', '-c', 'exec 3>{pipe}; echo up >&3; exec sleep 100'])"

    async def main() -> None:
        fault = Exec("e", _python(program), patience=SHORT)
        await fault.inject()
        reader = await asyncio.to_thread(pipe.open, "rb", 0)
        with reader:
            assert await asyncio.to_thread(reader.read, 3) == b"up\n"
            with pytest.raises(FaultNotSeen, match="did not end"):
                await fault.verify()
            await fault.heal()
            assert await asyncio.to_thread(reader.read) == b""
        await fault.heal()

    asyncio.run(main())


def test_what_a_command_leaves_behind_is_not_waited_for(tmp_path: Path) -> None:
    pidfile = tmp_path / "pid"
    words = ("/bin/sh", "-c", f"sleep 100 & echo $! > {pidfile}")

    async def main() -> None:
        try:
            async with injected(Exec("e", words)) as proof:
                assert proof.figures["status"] == 0
        finally:
            os.kill(int(pidfile.read_text()), 9)

    asyncio.run(main())


def test_a_shell_only_where_the_key_says_so(tmp_path: Path) -> None:
    made = tmp_path / "made"
    assert command.words_of(f"echo a; touch {made}") == ("echo", "a;", "touch", str(made))
    assert command.words_of("sh -c 'a b'") == ("sh", "-c", "a b")
    assert command.words_of("shell:echo a; b") == ("/bin/sh", "-c", "echo a; b")

    async def main() -> None:
        async with injected(Exec("e", command.words_of(f"echo a; touch {made}"))):
            assert not made.exists()
        async with injected(Exec("e", command.words_of(f"shell:echo a; touch {made}"))):
            assert made.exists()

    asyncio.run(main())


@pytest.mark.parametrize("text", ["no-such-program-here", "'open", " "])
def test_a_command_that_is_none(text: str) -> None:
    with pytest.raises(BadInput):
        command.words_of(text)


def test_a_program_that_cannot_be_run() -> None:
    async def main() -> None:
        with pytest.raises(FaultNotSeen, match="No such file"):
            async with injected(Exec("e", ("/no/such/program",))):
                raise AssertionError

    asyncio.run(main())


def _scenario(*faults: str, **more: object) -> Scenario:
    raw = scenarios.from_flags(
        {"target": ["http://127.0.0.1:1"], "duration": ["60s"], "seed": ["7"]},
        ["name=chat,arrivals=poisson:2/s,source=synth"],
        [],
        faults,
    )
    return replace(scenarios.build(raw), **more)  # type: ignore[arg-type]


FLOOD = "name=f1,at=20s,flood=tenant:t2@50/s,for=30s"


def test_a_flood_is_planned() -> None:
    made = flood.planned(spec(FLOOD), 7, 100)
    assert [each.id for each in made] == list(range(100, 100 + len(made)))
    assert {(each.cls, each.tenant) for each in made} == {("flood_f1", "t2")}
    dues = [each.due for each in made]
    assert dues == sorted(dues)
    assert dues[0] >= 20_000_000
    assert dues[-1] < 50_000_000
    # Poisson: 1,500 with a deviation of 39.
    assert 1_300 < len(made) < 1_700
    assert flood.planned(spec(FLOOD), 7, 100) == made
    assert [each.due for each in flood.planned(spec(FLOOD), 8, 100)] != dues


def test_a_flood_changes_nothing_else_of_the_plan() -> None:
    scenario = _scenario(FLOOD)
    plain = build(scenario, Path())
    plan = flood.with_floods(plain, scenario)
    assert [each for each in plan.requests if each.cls != "flood_f1"] == list(plain.requests)
    assert plan.window == plain.window
    assert [(each.due, each.id) for each in plan.requests] == sorted((each.due, each.id) for each in plan.requests)
    assert len({each.id for each in plan.requests}) == len(plan.requests)
    assert plan.realised["chat.rate"] == plain.realised["chat.rate"]
    assert plan.realised["flood_f1.out_tokens"] > 0
    assert flood.with_floods(plain, _scenario()) is plain


def test_a_flood_ends_with_the_run() -> None:
    scenario = _scenario("name=f1,at=65s,flood=tenant:t2@50/s,for=1h")
    plan = flood.with_floods(build(scenario, Path()), scenario)
    mine = [each.due for each in plan.requests if each.cls == "flood_f1"]
    assert max(mine) < 70_000_000
    assert 150 < len(mine) < 350


def test_a_flood_keeps_to_the_bounds() -> None:
    scenario = _scenario(FLOOD, max_requests=500)
    with pytest.raises(BadInput, match="more than 500"):
        flood.with_floods(build(scenario, Path()), scenario)
    clash = replace(scenario.online[0], name="flood_f1")
    with pytest.raises(BadInput, match="class flood_f1"):
        flood.with_floods(build(scenario, Path()), replace(scenario, online=(clash,)))


def test_a_flood_is_a_class_without_promises() -> None:
    (made,) = flood.classes(_scenario(FLOOD))
    assert (made.name, made.tenant, made.slo.per_request) == ("flood_f1", "t2", ())
    assert class_fields(made, "slackwater").headers == {"x-slackwater-class": "interactive"}


def test_clients_that_leave() -> None:
    told: list[tuple[str, float]] = []

    async def hang_up(cls: str, share: float) -> int:
        told.append((cls, share))
        return 3 if cls == "chat" else 0

    async def main() -> None:
        async with injected(hangup.HangUpOn("h", "chat", 0.5, hang_up)) as proof:
            assert proof.figures == {"cancelled": 3}
        with pytest.raises(FaultNotSeen, match="no request of class code was open"):
            async with injected(hangup.HangUpOn("h", "code", 0.5, hang_up)):
                raise AssertionError
        with pytest.raises(FaultNotSeen):
            await hangup.HangUpOn("h", "chat", 0.5, hang_up).verify()

    asyncio.run(main())
    assert told == [("chat", 0.5), ("code", 0.5)]
