"""Files, batches and KV events of the mock."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import orjson
import pytest
import zmq

from loadgen.mock.kv import KvEvent
from loadgen.mock.kv_events import KvPublisher, replay_endpoint
from loadgen.mock.multipart import parse_multipart

if TYPE_CHECKING:
    from collections.abc import Coroutine

_spec = importlib.util.spec_from_file_location("mock_rig", Path(__file__).with_name("rig.py"))
assert _spec is not None
assert _spec.loader is not None
rig = sys.modules.setdefault("mock_rig", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(rig)
URL = "/v1/chat/completions"


def go(work: Coroutine[object, object, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


def items(count: int, **more: object) -> bytes:
    lines = [
        {"custom_id": f"i{n}", "method": "POST", "url": URL, "body": rig.chat(f"item {n}", max_tokens=3, **more)}
        for n in range(count)
    ]
    return b"".join(orjson.dumps(line) + b"\n" for line in lines)


async def upload(server: object, content: bytes) -> str:
    body = b'--B\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    body += (
        b'--B\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n' + content + b"\r\n--B--\r\n"
    )
    got = await rig.post(server, "/v1/files", body, content_type="multipart/form-data; boundary=B")
    assert got.status == 200, got.body
    assert got.json()["bytes"] == len(content)
    return got.json()["id"]


async def create(server: object, content: bytes, window: str = "24h", **headers: str) -> dict[str, Any]:
    file_id = await upload(server, content)
    asked = {"input_file_id": file_id, "endpoint": URL, "completion_window": window, "metadata": {"a": "b"}}
    return (await rig.post(server, "/v1/batches", asked, **headers)).json()


async def ended(server: object, batch: dict[str, Any]) -> tuple[dict[str, Any], Counter[str], Counter[str]]:
    """The batch, and how often each custom id is in its output and its error file."""
    while (now := (await rig.get(server, f"/v1/batches/{batch['id']}")).json())["status"] not in (
        "completed",
        "failed",
        "expired",
        "cancelled",
    ):
        await asyncio.sleep(0.002)
    counts = []
    for name in ("output_file_id", "error_file_id"):
        content = (await rig.get(server, f"/v1/files/{now[name]}/content")).body if now[name] else b""
        counts.append(Counter(orjson.loads(line)["custom_id"] for line in content.splitlines()))
    return now, counts[0], counts[1]


@pytest.mark.parametrize("flags", [(), ("--mode", "engine", "--speed", "1000")])
def test_a_batch_runs_to_its_end(flags: tuple[str, ...]) -> None:
    async def main() -> None:
        async with rig.serving(*flags) as server:
            batch, output, error = await ended(server, await create(server, items(150)))
            assert (batch["status"], batch["metadata"]) == ("completed", {"a": "b"})
            assert batch["request_counts"] == {"total": 150, "completed": 150, "failed": 0}
            assert output == Counter(f"i{n}" for n in range(150))
            assert not error
            assert batch["usage"]["output_tokens"] == 450

    go(main())


def test_bad_items_fail_alone_and_bad_lines_fail_the_batch() -> None:
    async def main() -> None:
        async with rig.serving() as server:
            batch, output, error = await ended(
                server, await create(server, items(2) + items(3, n=2)[-200:].split(b"\n")[-2] + b"\n")
            )
            assert (batch["request_counts"]["failed"], len(output), len(error)) == (1, 2, 1)
            batch, _, _ = await ended(server, await create(server, items(1) + items(1) + b"{\n"))
            assert batch["status"] == "failed"
            assert [error["line"] for error in batch["errors"]["data"]] == [2, 3]

    go(main())


def test_cancel_and_expiry_leave_what_is_done() -> None:
    async def main() -> None:
        async with rig.serving("--mode", "engine", "--ttft", "5ms", "--tpot", "1ms", "--slots", "4") as server:
            batch = await create(server, items(100))
            while (await rig.get(server, f"/v1/batches/{batch['id']}")).json()["request_counts"]["completed"] == 0:
                await asyncio.sleep(0.002)
            assert (await rig.post(server, f"/v1/batches/{batch['id']}/cancel", b"")).json()["status"] == "cancelling"
            batch, output, error = await ended(server, batch)
            assert (batch["status"], len(output + error)) == ("cancelled", 100)
            assert 0 < len(output) < 100
            batch, output, error = await ended(server, await create(server, items(100), "30ms"))
            assert (batch["status"], len(output + error)) == ("expired", 100)
            content = (await rig.get(server, f"/v1/files/{batch['error_file_id']}/content")).body
            assert orjson.loads(content.splitlines()[0])["error"]["code"] == "batch_expired"

    go(main())


def test_idempotency_and_refusals() -> None:
    async def main() -> None:
        async with rig.serving() as server:
            file_id = await upload(server, items(1))
            asked = {"input_file_id": file_id, "endpoint": URL, "completion_window": "24h"}
            ids = {(await rig.post(server, "/v1/batches", asked, idempotency_key="k")).json()["id"] for _ in range(3)}
            assert len(ids) == 1
            other = await rig.post(server, "/v1/batches", {**asked, "metadata": {}}, idempotency_key="k")
            assert (other.status, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
            for change in ({"endpoint": "/x"}, {"completion_window": "soon"}, {"metadata": {"a": 1}}):
                assert (await rig.post(server, "/v1/batches", {**asked, **change})).status == 400
            assert (await rig.post(server, "/v1/batches", {**asked, "input_file_id": "no"})).status == 404
            assert (await rig.call(server, "DELETE", f"/v1/files/{file_id}")).json()["deleted"] is True
            assert (await rig.get(server, f"/v1/files/{file_id}")).status == 404

    go(main())


@pytest.mark.parametrize(
    ("fault", "output", "errors", "completed"),
    [
        ("batch_lost", 4, 0, 5),
        ("batch_repeat", 6, 0, 5),
        ("batch_unknown", 6, 0, 5),
        ("batch_expire", 4, 1, 4),
        ("batch_miscount", 5, 0, 6),
    ],
)
def test_faults_of_items(fault: str, output: int, errors: int, completed: int) -> None:
    async def main() -> None:
        async with rig.serving("--fault", f"{fault};nth=2") as server:
            batch, out, error = await ended(server, await create(server, items(5)))
            assert (out.total(), error.total(), batch["request_counts"]["completed"]) == (output, errors, completed)

    go(main())


def test_multipart_keeps_bytes_and_refuses_the_rest() -> None:
    raw = bytes(range(256)) + b"\r\n--Bx\r\n"
    body = (
        b'--B\r\ncontent-disposition: form-data; name="f"; filename="x"\r\n\r\n'
        + raw.replace(b"--B", b"--C")
        + b"\r\n--B--"
    )
    parts = parse_multipart('multipart/form-data; boundary="B"', body)
    assert [(part.name, part.filename, part.content) for part in parts] == [("f", "x", raw.replace(b"--B", b"--C"))]
    for kind, content in (
        ("text/plain", body),
        ("multipart/form-data; boundary=B", body[:-6]),
        ("multipart/form-data", body),
    ):
        with pytest.raises(ValueError, match=r"body|boundary"):
            parse_multipart(kind, content)


def test_kv_events_are_published_and_said_again(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/kv"
    publisher = KvPublisher(endpoint, 16)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        for n in range(3):
            publisher.publish([KvEvent("stored", (n,), None if n == 0 else n - 1, (7,) * 16), KvEvent("removed", (9,))])
        dealer = context.socket(zmq.DEALER)
        dealer.connect(replay_endpoint(endpoint))
        dealer.send_multipart((b"", (1).to_bytes(8, "big")))
        got = []
        while not got or got[-1][2] != (-1).to_bytes(8, "big", signed=True):
            assert dealer.poll(5_000)
            got.append(dealer.recv_multipart())
        assert [int.from_bytes(parts[2], "big") for parts in got[:-1]] == [1, 2]
        assert got[-1][3] == b""
        events = msgspec.msgpack.decode(got[0][3])[1]
        assert events[0] | {"lora_id": None, "medium": None} == {
            "type": "BlockStored",
            "block_hashes": [1],
            "parent_block_hash": 0,
            "token_ids": [7] * 16,
            "block_size": 16,
            "lora_id": None,
            "medium": None,
        }
        assert events[1]["type"] == "BlockRemoved"
    finally:
        context.destroy(linger=0)
        publisher.close()
