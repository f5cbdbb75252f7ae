"""The mock over real sockets: its routes, its bytes, its truth."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest
import uvloop
import xxhash

from loadgen.errors import BadInput
from loadgen.mock.oracle import Tokenizer, chat_text, oracle_tokens

if TYPE_CHECKING:
    from collections.abc import Coroutine

_spec = importlib.util.spec_from_file_location("mock_rig", Path(__file__).with_name("rig.py"))
assert _spec is not None
assert _spec.loader is not None
rig = sys.modules.setdefault("mock_rig", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(rig)


def go(work: Coroutine[object, object, None]) -> None:
    uvloop.run(asyncio.wait_for(work, 20))


def oracle_text(body: dict, count: int, seed: int = 0) -> str:
    tokenizer = Tokenizer()
    prompt = tokenizer.encode(chat_text([(m["role"], m["content"]) for m in body["messages"]]))
    return tokenizer.decode(oracle_tokens(prompt, seed, count, tokenizer.vocab))


@pytest.mark.parametrize(
    "flags",
    [
        ("--mode", "canned"),
        ("--mode", "canned", "--shape", "burst:12"),
        ("--mode", "canned", "--shape", "paced:12@1ms"),
        ("--mode", "engine", "--speed", "100"),
        ("--mode", "engine", "--ttft", "2ms", "--tpot", "exp:1ms", "--slots", "2"),
    ],
)
def test_text_is_the_oracles_in_every_mode(flags: tuple[str, ...]) -> None:
    async def main() -> None:
        async with rig.serving(*flags) as server:
            asked = rig.chat(max_tokens=12, seed=5, stream=True, stream_options={"include_usage": True})
            streamed = await rig.post(server, "/v1/chat/completions", asked)
            whole = await rig.post(server, "/v1/chat/completions", rig.chat(max_tokens=12, seed=5))
            assert streamed.events()[-1] == b"[DONE]"
            usage = orjson.loads(streamed.events()[-2])["usage"]
            assert (usage["completion_tokens"], usage["prompt_tokens"]) == (12, 4)
            assert streamed.text() == oracle_text(asked, 12, 5) == whole.json()["choices"][0]["message"]["content"]
            assert whole.json()["choices"][0]["finish_reason"] == "length"
            first, second = await rig.truth(server)
            assert sum(first["emit_tokens"]) == sum(second["emit_tokens"]) == 12
            times = [first["received_micros"], first["hdr_micros"], *first["emit_micros"], first["end_micros"]]
            assert times == sorted(times)
            body = await rig.get(server, f"/mock/requests/{first['id']}/body")
            assert body.body == orjson.dumps(asked)
            assert first["body_hash"] == xxhash.xxh3_64_hexdigest(body.body)

    go(main())


def test_fixed_answers_are_the_same_as_made_ones() -> None:
    async def main() -> None:
        async with rig.serving("--text", "fixed", "--shape", "burst:4") as server:
            streamed = await rig.post(server, "/v1/chat/completions", rig.chat(stream=True))
            whole = await rig.post(server, "/v1/completions", {"prompt": "x"})
            expected = Tokenizer().decode(oracle_tokens((), 0, 4, 32_768))
            assert streamed.text() == whole.json()["choices"][0]["text"] == expected
            assert streamed.complete

    go(main())


def test_several_tokens_a_chunk_and_reasoning() -> None:
    async def main() -> None:
        async with rig.serving("--tokens-per-chunk", "4", "--reasoning", "6") as server:
            got = await rig.post(server, "/v1/chat/completions", rig.chat(max_tokens=10, stream=True))
            deltas = [orjson.loads(event)["choices"][0]["delta"] for event in got.events()[:-1]]
            sizes = [(len(d.get("reasoning_content", "")) // 7, len(d.get("content", "")) // 7) for d in deltas]
            assert sizes == [(0, 0), (4, 0), (2, 0), (0, 2), (0, 2), (0, 0)]
            assert [entry["emit_tokens"] for entry in await rig.truth(server)] == [[4, 4, 2]]

    go(main())


def test_the_engines_cache_shows_in_usage_and_metrics() -> None:
    async def main() -> None:
        async with rig.serving("--mode", "engine", "--speed", "1000") as server:
            ids = list(range(300, 400))
            for cached in (0, 96):
                got = await rig.post(server, "/v1/completions", {"prompt": ids, "max_tokens": 2})
                assert got.json()["usage"]["prompt_tokens_details"] == {"cached_tokens": cached}
            await rig.post(server, "/admin/cache/clear", b"")
            got = await rig.post(server, "/v1/completions", {"prompt": ids, "max_tokens": 2})
            assert got.json()["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}
            text = (await rig.get(server, "/metrics")).body.decode()
            for name in ("num_requests_waiting", "num_requests_running", "kv_cache_usage_perc", "cache_config_info"):
                assert f"\nvllm:{name}{{" in text
            assert "\nvllm:lora_requests_info{" in text
            assert 'vllm:prefix_cache_hits_total{model_name="mock",engine="0"} 96.0' in text

    go(main())


def test_every_other_route_answers() -> None:
    async def main() -> None:
        async with rig.serving() as server:
            for path in (
                "/health",
                "/ready",
                "/version",
                "/v1/models",
                "/server_info",
                "/model_info",
                "/v1/loads",
                "/loads",
            ):
                assert (await rig.get(server, path)).status == 200
            ids = (await rig.post(server, "/tokenize", {"prompt": "a b t00300"})).json()
            assert ids["count"] == 3
            assert ids["tokens"][2] == 300
            text = (await rig.post(server, "/detokenize", {"tokens": ids["tokens"]})).json()["prompt"]
            assert (await rig.post(server, "/tokenize", {"prompt": text})).json()["tokens"] == ids["tokens"]
            asked = rig.chat()
            rendered = (await rig.post(server, "/v1/chat/completions/render", asked)).json()
            assert rendered["token_ids"] == (await rig.post(server, "/tokenize", asked)).json()["tokens"]
            assert (await rig.get(server, "/nothing")).status == 404
            assert (await rig.post(server, "/v1/chat/completions", b"{")).json()["error"]["code"] == "invalid_json"
            assert (await rig.post(server, "/v1/completions", {"prompt": ""})).status == 400
            routes = (await rig.get(server, "/mock/routes")).json()["routes"]
            assert routes["POST /v1/chat/completions/render"] == 1
            assert routes["POST /tokenize"] == 3

    go(main())


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /health HTTP/1.1\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nx: " + b"a" * 70_000, b"431"),
    ],
)
def test_what_is_not_http_1_is_refused_and_closed(sent: bytes, status: bytes) -> None:
    async def main() -> None:
        async with rig.serving() as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(sent)
            answer = await reader.read()
            writer.close()
            assert status in answer.split(b"\r\n")[0] or (
                answer.split(b"\r\n")[0].endswith(b"OK") and b" 400 " in answer
            )

    go(main())


def test_connections_are_kept_and_pipelined_requests_answered_in_order() -> None:
    async def main() -> None:
        async with rig.serving("--mode", "engine", "--ttft", "3ms", "--tpot", "1ms") as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            for count in (3, 1):
                raw = orjson.dumps({"prompt": "x", "max_tokens": count})
                writer.write(b"POST /v1/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(raw) + raw)
            writer.write(b"GET /health HTTP/1.1\r\n\r\n")
            lengths = [(await rig.read_answer(reader)).json()["usage"]["completion_tokens"] for _ in range(2)]
            assert lengths == [3, 1]
            assert (await rig.read_answer(reader)).json() == {}
            writer.close()

    go(main())


def test_a_client_that_hangs_up_frees_its_slot() -> None:
    async def main() -> None:
        async with rig.serving("--mode", "engine", "--ttft", "1ms", "--tpot", "1h", "--slots", "1") as server:
            raw = orjson.dumps({"prompt": "x", "max_tokens": 5, "stream": True})
            for _ in range(2):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                writer.write(b"POST /v1/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(raw) + raw)
                assert b" 200 OK" in await reader.readuntil(b" t")
                writer.close()
            while (await rig.truth(server))[-1]["finish"] is None:
                await asyncio.sleep(0)
            assert [entry["finish"] for entry in await rig.truth(server)] == ["disconnected"] * 2

    go(main())


def test_a_full_queue_says_so() -> None:
    async def main() -> None:
        flags = ("--mode", "engine", "--ttft", "1h", "--slots", "1", "--max-waiting", "1")
        async with rig.serving(*flags) as server:
            held = [asyncio.ensure_future(rig.post(server, "/v1/completions", {"prompt": "x"})) for _ in range(2)]
            while len(await rig.truth(server)) < 2:
                await asyncio.sleep(0)
            got = await rig.post(server, "/v1/completions", {"prompt": "x"})
            assert (got.status, got.headers["retry-after"]) == (429, "1")
            for each in held:
                each.cancel()

    go(main())


@pytest.mark.parametrize(
    "flags",
    [
        ("--listen", "nowhere"),
        ("--shape", "burst"),
        ("--mode", "engine", "--procs", "2"),
        ("--slots", "2"),
        ("--ttft", "soon"),
        ("--vocab", "10"),
        ("--fault", "cat:after=1"),
        ("--fault", "stall:5"),
        ("--fault", "cut:after=1;rate=2%;nth=1"),
        ("--fault", "status:200"),
        ("--fault", "split:speed=3"),
    ],
)
def test_bad_flags_are_named(flags: tuple[str, ...]) -> None:
    with pytest.raises(BadInput):
        rig.options(*flags)
