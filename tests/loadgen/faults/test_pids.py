"""Whose pid a fault means: only what the server, a file of workers or a file with a pid says."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import msgspec
import pytest
from support.inject.rig import answering, child, clock, dead_pid, http, spec

from loadgen.errors import BadData, BadInput, Unreachable
from loadgen.faults import pids
from loadgen.faults.context import FaultContext, Maker

if TYPE_CHECKING:
    from pathlib import Path

NOWHERE = "http://127.0.0.1:9"


async def _check(text: str, **given: object) -> None:
    await Maker(FaultContext(NOWHERE, **given), clock()).check([spec(text)])  # type: ignore[arg-type]


def test_workers_of_the_server() -> None:
    body = msgspec.json.encode(
        {"workers": [{"id": "w0", "pid": 70}, {"id": "w1", "pid": 71, "state": "ready"}, {"id": "far", "pid": None}]}
    )

    async def main() -> None:
        async with answering(lambda _: http("200 OK", body)) as (url, heads):
            assert await pids.worker(1, pids.AdminWorkers(url, "admin-key")) == 71
            with pytest.raises(BadInput, match="no such worker; there are worker:0, worker:1"):
                await pids.worker(2, pids.AdminWorkers(url + "/", None))
        assert heads[0].startswith(b"GET /admin/workers HTTP/1.1\r\n")
        assert b"authorization: Bearer admin-key\r\n" in heads[0]
        assert b"authorization" not in heads[1]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"data":[{"id":3,"pid":70}]}', {3: 70}),
        (b'{"workers":[{"id":"8f3a","name":"worker:2","pid":9}]}', {2: 9}),
        (b'{"workers":[{"id":"w1"},{"id":"w2","pid":-1},{"pid":5}]}', {}),
        (b'{"workers":[]}', {}),
    ],
)
def test_forms_of_the_list(body: bytes, found: dict[int, int]) -> None:
    assert pids.listed(body, "url") == found


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"workers":[{"id":"w1","pid":"1"}]}', b"\xff"])
def test_what_is_no_list(body: bytes) -> None:
    with pytest.raises(BadData):
        pids.listed(body, "url")


@pytest.mark.parametrize(
    ("status", "error", "said"),
    [("401 No", BadInput, "key is not taken"), ("404 No", BadInput, "404"), ("302 There", BadInput, "302")],
)
def test_a_server_that_does_not_say(status: str, error: type[Exception], said: str) -> None:
    async def main() -> None:
        async with answering(lambda _: http(status)) as (url, _):
            with pytest.raises(error, match=said):
                await _check("at=1s,kill=worker:0", admin_url=url)
        with pytest.raises(Unreachable):
            await _check("at=1s,kill=worker:0", admin_url=url)

    asyncio.run(main())


def test_the_file_of_workers(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    file.write_text("# who is who\nw0 70\n\nworker:1   71\n2 72\n")
    assert asyncio.run(_read(file)) == {0: 70, 1: 71, 2: 72}


async def _read(file: Path) -> dict[int, int]:
    return dict(await pids.PidsFile(file).pids())


@pytest.mark.parametrize(
    ("text", "row"),
    [("w0 70\nw0 71\n", 2), ("w0 70\nw1 70\n", 2), ("70\n", 1), ("w0 -1\n", 1), ("w0 0\n", 1), ("w0 70 x", 1)],
)
def test_lines_that_mean_nothing(tmp_path: Path, text: str, row: int) -> None:
    file = tmp_path / "pids"
    file.write_text(text)
    with pytest.raises(BadData) as caught:
        asyncio.run(_read(file))
    assert (caught.value.row, caught.value.field) == (row, "pid")


@pytest.mark.parametrize("text", ["", "a b", "0", "-5", "1 2", "12345678901", "\u0661"])
def test_a_file_without_a_pid(tmp_path: Path, text: str) -> None:
    file = tmp_path / "pid"
    file.write_text(text)
    with pytest.raises(BadInput) as caught:
        asyncio.run(_check(f"at=1s,kill={file}"))
    assert caught.value.code == 2


def test_a_pid_on_the_command_line_is_no_target() -> None:
    with child() as process:
        with pytest.raises(BadInput, match="No such file"):
            asyncio.run(_check(f"at=1s,kill={process.pid}"))
        with pytest.raises(BadInput, match="whose pid"):
            asyncio.run(_check("at=1s,kill=worker:0"))
        assert process.poll() is None


@pytest.mark.parametrize("which", ["self", "parent", "init", "own"])
def test_its_own_processes_are_no_targets(tmp_path: Path, which: str) -> None:
    file = tmp_path / "pid"
    with child() as process:
        pid = {"self": os.getpid(), "parent": os.getppid(), "init": 1, "own": process.pid}[which]
        file.write_text(str(pid))
        with pytest.raises(BadInput, match="this program itself"):
            asyncio.run(_check(f"at=1s,stop={file},for=1s", own_pids=frozenset({process.pid})))


def test_a_pid_that_nobody_has_is_aimed_at_nothing(tmp_path: Path) -> None:
    """It was named, so it is no bad input: the run that ends INVALID is the control."""
    file = tmp_path / "pid"
    file.write_text(str(dead_pid()))
    asyncio.run(_check(f"at=1s,kill={file}"))
