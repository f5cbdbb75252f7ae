"""The codec alone: what it refuses, and that nothing gets through it but messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_router import make_submit

from pyworker.wire import messages as wire
from pyworker.wire.frame import MAX_FRAME_BYTES, WireError, WireFault, decode, encode, stamp

A = "a" * 32
KIND = {name: bytes((byte,)) for name, byte in wire.KINDS.items()}


def cancel_body(request_id: str) -> bytes:
    return b'{"seq":1,"request_id":"%b","attempt":1}' % request_id.encode()


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        ([], WireFault.PART_COUNT),
        ([KIND["Heartbeat"], b"{}", b""], WireFault.PART_COUNT),
        ([b"", b"{}", b"", b""], WireFault.KIND_LENGTH),
        ([b"\x00", b"{}", b"", b""], WireFault.UNKNOWN_KIND),
        ([KIND["Cancel"], bytes(MAX_FRAME_BYTES + 1), b"", b""], WireFault.PART_TOO_LARGE),
        ([KIND["Cancel"], b"{}", b"", b""], WireFault.BODY),
        ([KIND["Cancel"], cancel_body(A + "\\n"), b"", b""], WireFault.BODY),
        ([KIND["Cancel"], cancel_body("A" * 32), b"", b""], WireFault.BODY),
        ([KIND["Cancel"], cancel_body(A), b"\0\0\0\0", b""], WireFault.EXTENT),
        ([KIND["Cancel"], cancel_body(A), b"", b"\0\0\0\0"], WireFault.EXTENT),
        ([KIND["StepOutputs"], b'{"seq":1,"step_micros":0,"outputs":[]}', b"\0\0\0", b""], WireFault.MISALIGNED),
        ([KIND["StepOutputs"], b'{"seq":1,"step_micros":0,"outputs":[]}', b"\0\0\0\0", b""], WireFault.EXTENT),
    ],
)
def test_each_fault_is_named(parts: list[bytes], fault: WireFault) -> None:
    with pytest.raises(WireError) as raised:
        decode(parts)
    assert raised.value.fault is fault


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": 3.5e38}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": float("nan")}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"min_tokens": 9}, "min_tokens"),
        ({"min_p": 1.01}, "min_p"),
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"presence_penalty": float("nan")}, "presence_penalty"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"logprobs": 21}, "logprobs"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"num_stop_token_ids": 65}, "num_stop_token_ids"),
        ({"num_allowed_token_ids": 0}, "num_allowed_token_ids"),
        ({"bad_word_lengths": [0]}, "bad_word_lengths"),
        ({"bad_word_lengths": [1] * 129}, "bad_word_lengths"),
        ({"num_logit_bias": 301}, "num_logit_bias"),
        ({"grammar": wire.Grammar(kind=wire.GrammarKind.regex, text="x" * (512 * 1024 + 1))}, "grammar"),
    ],
)
def test_parameters_out_of_range_are_refused_on_both_ways(changes: dict[str, object], field: str) -> None:
    with pytest.raises(WireError) as raised:
        encode(make_submit(A, **changes), [1])
    assert (raised.value.fault, raised.value.kind, raised.value.field) == (WireFault.OUT_OF_RANGE, "Submit", field)


@pytest.mark.parametrize("ids", [[-1], [2**32]])
def test_ids_are_unsigned_and_of_32_bits(ids: list[int]) -> None:
    with pytest.raises(WireError) as raised:
        encode(make_submit(A), ids)
    assert raised.value.fault is WireFault.OUT_OF_RANGE


def test_a_number_of_more_than_64_bits_is_refused() -> None:
    with pytest.raises(WireError) as raised:
        encode(make_submit(A, salt=2**64), [1])
    assert raised.value.fault is WireFault.BODY


def test_a_stamp_sets_the_sequence_number_once() -> None:
    parts = encode(wire.Cancel(seq=0, request_id=A, attempt=3))
    stamped = stamp(parts, 2**64 - 1)
    assert decode(stamped).body == wire.Cancel(seq=2**64 - 1, request_id=A, attempt=3)
    with pytest.raises(WireError):
        stamp(encode(wire.Hello(schema_hash="0", token="1", pid=2)), 1)


@given(st.lists(st.binary(max_size=64), max_size=6))
def test_arbitrary_parts_are_a_message_or_an_error(parts: list[bytes]) -> None:
    try:
        message = decode(parts)
    except WireError:
        return
    assert decode(encode(message.body, message.ids, message.floats)) == message


@given(st.sampled_from(sorted(wire.KINDS.values())), st.binary(max_size=40), st.binary(max_size=12))
def test_arbitrary_bodies_are_a_message_or_an_error(kind: int, body: bytes, ids: bytes) -> None:
    try:
        decode([bytes((kind,)), body, ids, b""])
    except WireError:
        return


@given(st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=50), st.integers(0, 2))
def test_ids_come_back_as_they_were(ids: list[int], history: int) -> None:
    submit = make_submit(A, 1, history, salt=2**64 - 1, seed=2**64 - 1)
    message = decode(encode(submit, ids))
    assert (message.body, message.ids) == (submit, ids)
