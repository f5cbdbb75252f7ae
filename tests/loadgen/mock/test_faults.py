"""What the mock does wrong on purpose."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest

from loadgen.mock.faults import FaultBox, parse_fault
from loadgen.mock.split import Splitter

if TYPE_CHECKING:
    from collections.abc import Coroutine

_spec = importlib.util.spec_from_file_location("mock_rig", Path(__file__).with_name("rig.py"))
assert _spec is not None
assert _spec.loader is not None
rig = sys.modules.setdefault("mock_rig", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(rig)
USAGE = {"stream_options": {"include_usage": True}}
TOKEN = 7


def go(work: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


async def ask(server: object, fault: str, *, stream: bool = True, tokens: int = 8) -> rig.Got:
    set_to = await rig.post(server, "/mock/fault", {"faults": [fault] if fault else []})
    assert set_to.status == 200
    return await rig.post(server, "/v1/chat/completions", rig.chat(max_tokens=tokens, stream=stream, **USAGE))


@pytest.mark.parametrize(
    "flags",
    [(), ("--mode", "engine", "--speed", "1000"), ("--mode", "engine", "--tpot", "1ms", "--tokens-per-chunk", "3")],
)
def test_faults_of_a_stream(flags: tuple[str, ...]) -> None:
    async def main() -> None:
        async with rig.serving(*flags) as server:
            good = await ask(server, "")
            assert (good.complete, len(good.text()), good.events()[-1]) == (True, 8 * TOKEN, b"[DONE]")
            cut = await ask(server, "cut:after=3")
            assert (cut.complete, len(cut.text())) == (False, 3 * TOKEN)
            short = await ask(server, "truncate:after=5")
            assert (short.complete, len(short.text()), b"[DONE]" in short.body) == (True, 5 * TOKEN, False)
            failed = await ask(server, "error_event:after=2")
            assert (failed.complete, "error" in orjson.loads(failed.events()[-1])) == (True, True)
            assert b"[DONE]" not in failed.body
            bare = await ask(server, "no_usage")
            assert (len(bare.text()), b"usage" in bare.body, bare.events()[-1]) == (8 * TOKEN, False, b"[DONE]")
            wrong = await ask(server, "wrong_length:delta=2")
            assert len(wrong.text()) == 10 * TOKEN
            broken = await ask(server, "bad_json:after=4")
            assert sum(b'"broken"' in event for event in broken.events()) == 1
            assert broken.events()[-1] == b"[DONE]"

    go(main())


def test_faults_of_whole_answers() -> None:
    async def main() -> None:
        async with rig.serving() as server:
            got = await ask(server, "status:503;retry_after=2", stream=False)
            assert (got.status, got.headers["retry-after"]) == (503, "2")
            assert (await ask(server, "status:500", stream=False)).status == 500
            assert (await ask(server, "error_event", stream=False)).status == 500
            for fault in ("truncate", "bad_json"):
                with pytest.raises(orjson.JSONDecodeError):
                    (await ask(server, fault, stream=False)).json()
            assert "usage" not in (await ask(server, "no_usage", stream=False)).json()
            assert (await rig.post(server, "/mock/fault", {"faults": ["cat"]})).status == 400
            with pytest.raises(asyncio.IncompleteReadError):
                await ask(server, "cut:after=0", stream=False)

    go(main())


def test_a_stall_and_a_slow_start_hold_tokens_back() -> None:
    async def main() -> None:
        async with rig.serving("--shape", "paced:8@1ms") as server:
            for fault in ("stall:4;60ms", "stall:3ms;60ms", "slow_start:60ms"):
                assert len((await ask(server, fault)).text()) == 8 * TOKEN
            by_token, by_time, slow = await rig.truth(server)
            gaps = [b - a for a, b in zip(by_token["emit_micros"], by_token["emit_micros"][1:], strict=False)]
            assert gaps[3] >= 55_000
            assert (
                max(b - a for a, b in zip(by_time["emit_micros"], by_time["emit_micros"][1:], strict=False)) >= 55_000
            )
            assert slow["hdr_micros"] - slow["received_micros"] >= 60_000

    go(main())


def test_a_hanging_stream_stays_open() -> None:
    async def main() -> None:
        async with rig.serving() as server:
            await rig.post(server, "/mock/fault", {"faults": ["hang:after=2"]})
            raw = orjson.dumps(rig.chat(max_tokens=5, stream=True))
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(raw) + raw)
            while (await rig.truth(server))[0]["finish"] != "hang":
                await asyncio.sleep(0)
            got = await reader.readuntil(b'"content":" t')
            got += await reader.readuntil(b'"content":" t')
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(reader.readuntil(b'"content":" t'), 0.05)
            writer.close()

    go(main())


def test_split_changes_the_pieces_and_no_token() -> None:
    async def main() -> None:
        async with rig.serving("--mode", "engine", "--speed", "1000") as server:
            whole = await ask(server, "", tokens=60)
            cut = 0
            for seed in range(6):
                split = await ask(server, f"split:seed={seed}", tokens=60)
                assert split.complete
                assert [strip(event) for event in split.events()] == [strip(event) for event in whole.events()]
                cut += any(_breaks_character(piece) for piece in split.reads)
                assert b"\r\n" in split.body
                assert b"\n:" in b"\n" + split.body
            assert cut > 0

    go(main())


def strip(event: bytes) -> object:
    if event == b"[DONE]":
        return event
    chunk = orjson.loads(event)
    return chunk["choices"], (chunk.get("usage") or {}).get("completion_tokens")


def _breaks_character(piece: bytes) -> bool:
    try:
        piece.decode()
    except UnicodeDecodeError:
        return True
    return False


def test_the_splitter_loses_no_byte() -> None:
    events = [f'data: {{"a":"é水{n}"}}\n\n'.encode() for n in range(200)]
    for seed in range(20):
        splitter = Splitter(seed)
        pieces = [piece for n, event in enumerate(events) for piece in splitter.cut(event, last=n == 199)]
        assert all(pieces)
        lines = b"".join(pieces).splitlines()
        assert [line for line in lines if line.startswith(b"data:")] == [event.strip() for event in events]


def test_rate_and_nth_choose_requests() -> None:
    box = FaultBox([parse_fault("cut:after=1;nth=3"), parse_fault("hang;rate=30%")], seed=1)
    hits = [box.for_request() for _ in range(2_000)]
    assert [n for n, hit in enumerate(hits) if hit.get("cut")] == [2]
    share = sum(hit.get("hang") is not None for hit in hits) / 2_000
    assert 0.26 < share < 0.34
    again = FaultBox([parse_fault("cut:after=1;nth=3"), parse_fault("hang;rate=30%")], seed=1)
    assert [again.for_request().by_kind for _ in range(2_000)] == [hit.by_kind for hit in hits]
    assert box.as_json()[0] == {"fault": "cut:after=1;nth=3", "hits": 1}


def start(*flags: str) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).parents[3])
    path = os.pathsep.join([root, *([os.environ["PYTHONPATH"]] if "PYTHONPATH" in os.environ else [])])
    return subprocess.Popen(
        [sys.executable, "-m", "loadgen.mock", *flags],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
        cwd=root,
    )


def test_die_ends_the_process() -> None:
    with start("--fault", "die:after=2") as process:
        assert process.stdout is not None
        said = orjson.loads(process.stdout.readline())

        async def main() -> None:
            server = type("At", (), {"port": int(said["listening"].rpartition(":")[2])})
            try:
                got = await rig.post(server, "/v1/completions", {"prompt": "x", "stream": True})
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            assert not got.complete

        go(main())
        assert process.wait(10) == 70


def test_two_processes_share_a_port_and_end_on_a_signal() -> None:
    with start("--procs", "2") as process:
        assert process.stdout is not None
        said = orjson.loads(process.stdout.readline())
        assert len(set(said["control"])) == 2

        async def main() -> None:
            server = type("At", (), {"port": int(said["listening"].rpartition(":")[2])})
            for _ in range(8):
                assert (await rig.post(server, "/v1/completions", {"prompt": "x"})).status == 200
            counts = []
            for control in said["control"]:
                own = type("At", (), {"port": int(control.rpartition(":")[2])})
                counts.append(len(await rig.truth(own)))
            assert sum(counts) == 8

        go(main())
        process.terminate()
        assert process.wait(10) == 0
