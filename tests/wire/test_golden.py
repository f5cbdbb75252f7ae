"""The vectors that the router's codec wrote, through the worker's classes and back."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pyworker.wire import messages as wire
from pyworker.wire.frame import WireError, decode, encode

GOLDEN: dict[str, list[dict[str, Any]]] = json.loads(
    Path(__file__).with_name("golden").joinpath("messages.json").read_text()
)


def by_name(vectors: list[dict[str, Any]]) -> list[Any]:
    return [pytest.param(vector, id=vector["name"]) for vector in vectors]


def frames(vector: dict[str, Any]) -> list[bytes]:
    return [bytes.fromhex(part) for part in vector["frames"]]


def float_bytes(vector: dict[str, Any]) -> bytes:
    bits = vector["float_bits"]
    return struct.pack(f"<{len(bits)}I", *bits)


@pytest.mark.parametrize("vector", by_name(GOLDEN["messages"]))
def test_a_message_of_the_other_side_is_read_whole_and_written_alike(vector: dict[str, Any]) -> None:
    parts = frames(vector)
    kind = getattr(wire, vector["message"])
    wanted = msgspec.json.decode(vector["body"], type=kind)
    message = decode(parts)
    assert (type(message.body), message.body, list(message.ids)) == (kind, wanted, vector["ids"])
    assert struct.pack(f"<{len(message.floats)}f", *message.floats) == float_bytes(vector)
    head, body, ids, floats = encode(message.body, message.ids, message.floats)
    assert [head, ids, floats] == [parts[0], parts[2], parts[3]]
    assert json.loads(body) == json.loads(parts[1])
    assert list(json.loads(body)) == list(json.loads(parts[1]))


@pytest.mark.parametrize("vector", by_name(GOLDEN["refused"]))
def test_what_the_other_side_refuses_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        decode(frames(vector))


def test_the_vectors_hold_all_kinds() -> None:
    assert {vector["message"] for vector in GOLDEN["messages"]} == set(wire.KINDS)
