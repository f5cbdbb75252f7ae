"""The reading of answers: cut anywhere they say the same, and no bytes at all make it fail."""

from __future__ import annotations

import os
from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.drive.answer import Answer, error_code, parse
from loadgen.drive.parsed import read
from loadgen.drive.spool import End, Entry
from loadgen.drive.sse import events

STREAM = (
    b': hello\n\nevent: x\ndata: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
    b'data: {"choices":[{"delta":{"reasoning_content":"hm"}}]}\r\n\r\n'
    b'data:{"choices":[{"delta":{"content":"w\xc3\xa4h \xe6\xb0\xb4"}}]}\n\n'
    b'id: 7\ndata: {"choices":[{"delta":{"content":" two"}}],\ndata: "usage":null}\n\n'
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,'
    b'"prompt_tokens_details":{"cached_tokens":2}}}\n\ndata: [DONE]\n\n'
)


def cut(data: bytes, lengths: list[int]) -> Answer:
    return parse(data, lengths, list(range(100, 100 + len(lengths))), streamed=True)


@given(st.lists(st.integers(1, len(STREAM)), max_size=12))
def test_cuts_change_nothing_but_the_stamps(cuts: list[int]) -> None:
    lengths = sorted({*cuts, len(STREAM)})
    found, whole = cut(STREAM, lengths), cut(STREAM, [len(STREAM)])
    assert (found.text, found.reasoning, found.counts, found.visible) == ("wäh 水 two", "hm", [1, 2, 1], 1)
    assert (found.in_tokens, found.out_tokens, found.cached_tokens, found.source) == (9, 4, 2, "usage")
    assert (found.finish_reason, found.fault) == ("stop", None)
    assert len(found.stamps) == len(whole.stamps) == 3
    assert found.stamps == sorted(found.stamps)


def test_an_event_is_there_when_its_last_byte_is() -> None:
    body = b"data: a\n\ndata: b\n\ndata: c"
    assert list(events(body, [8, 9, 17, 18, 25], [1, 2, 3, 4, 5])) == [(2, b"a"), (4, b"b"), (5, b"c")]
    assert list(events(b"data: a\n\ndata: b\n\n", [18], [7])) == [(7, b"a"), (7, b"b")]


def test_an_event_that_lacks_its_end_counts_and_the_answer_is_not_whole() -> None:
    found = cut(STREAM[: STREAM.index(b"data: [DONE]")], [50, 700])
    assert (found.out_tokens, found.fault) == (4, "no_done")


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (STREAM + STREAM, "data_after_done"),
        (STREAM.replace(b'"stop"}]}', b'"stop"'), "bad_json"),
        (b"data: 7\n\n" + STREAM, "bad_json"),
        (b'data: {"error":{"message":"x"}}\n\n' + STREAM, "error_event"),
        (b"", "no_done"),
        (b"\xff\xfe\x00", "no_done"),
    ],
)
def test_what_is_wrong_with_it(body: bytes, fault: str) -> None:
    assert cut(body, [len(body)] if body else []).fault == fault


def test_tokens_by_the_best_witness() -> None:
    def chunks(*parts: bytes) -> bytes:
        return b"".join(b"data: " + part + b"\n\n" for part in parts) + b"data: [DONE]\n\n"

    by_chunk = chunks(
        b'{"choices":[{"text":"a b"}],"usage":{"completion_tokens":2}}',
        b'{"choices":[{"text":"c"}],"usage":{"completion_tokens":3}}',
    )
    found = cut(by_chunk, [len(by_chunk)])
    assert (found.source, found.counts) == ("chunk_usage", [2, 1])
    ids = chunks(b'{"choices":[{"text":"a b","token_ids":[5,6]}]}', b'{"choices":[{"text":"","token_ids":[7]}]}')
    found = cut(ids, [len(ids)])
    assert (found.source, found.counts, found.token_ids) == ("token_ids", [2, 1], [5, 6, 7])
    bare = chunks(b'{"choices":[{"text":"a b"}]}', b'{"choices":[{"text":"c"}]}')
    found = parse(bare, [len(bare)], [1], streamed=True, count_text=lambda text: len(text))
    assert (found.source, found.out_tokens) == ("tokenizer", 4)
    assert sum(found.counts) == 4
    assert cut(bare, [len(bare)]).source == "chunks"


def test_without_reasoning_the_first_chunk_is_visible() -> None:
    body = b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: [DONE]\n\n'
    assert cut(body, [len(body)]).visible == 0
    only = b'data: {"choices":[{"delta":{"reasoning":"a"}}]}\n\ndata: [DONE]\n\n'
    assert cut(only, [len(only)]).visible is None


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"error":{"code":"full"}}', "full"),
        (b'{"error":{"type":"full","code":null}}', "full"),
        (b'{"error":{}}', None),
        (b'{"error":7}', None),
        (b"[]", None),
        (b"<html>", None),
    ],
)
def test_codes_of_errors(body: bytes, code: str | None) -> None:
    assert error_code(body) == code


PIECES = [
    *STREAM.split(b"\n"),
    b"data: [DONE]",
    b"data:",
    b"data: {",
    b'data: {"choices":[null]}',
    b'data: {"choices":{"a":1}}',
    b'data: {"choices":[{"delta":7,"token_ids":[1,"x"]}]}',
    b'data: {"choices":[{"delta":{"content":7,"tool_calls":[7,{"function":null},{"function":{"name":"f"}}]}}]}',
    b'data: {"usage":{"completion_tokens":-1,"prompt_tokens":true,"prompt_tokens_details":[]}}',
    b'data: {"choices":[{"delta":{"content":"\\ud800"},"finish_reason":5}]}',
    b'data: {"choices":[{"delta":{"content":"x"}}],"usage":{"completion_tokens":99999999}}',
    b"\r",
    b"",
    b"",
    b"\x85\xe2\x80\xa8",
]


def fuzzed(rng: np.random.Generator) -> bytes:
    """Lines of streams in any order, with some bytes changed."""
    picks = rng.integers(0, len(PIECES), size=int(rng.integers(0, 14)))
    data = bytearray((b"\n", b"\r\n", b"\n\n")[int(rng.integers(3))].join(PIECES[pick] for pick in picks))
    for _ in range(int(rng.integers(0, 4)) if data else 0):
        data[int(rng.integers(len(data)))] = int(rng.integers(256))
    return bytes(data)


def test_no_bytes_make_it_fail() -> None:
    rng = np.random.Generator(np.random.Philox(7))
    for number in range(10**6 if os.environ.get("LOADGEN_LONG") else 10**4):
        body = fuzzed(rng)
        cuts = {int(cut) for cut in rng.integers(1, len(body) + 1, size=3)} if body else set()
        lengths = array("I", sorted({*cuts, len(body)} - {0}))
        stamps = array("q", range(len(lengths)))
        entry = Entry(
            id=number,
            attempt=0,
            end_kind=End.COMPLETE if number % 3 else End.CLOSED,
            new_connection=False,
            retried=False,
            status=200 if number % 5 else 500,
            errno=0,
            due=0,
            sent=0,
            header=0,
            end=9,
            stamps=stamps,
            lengths=lengths,
            headers=b"",
            body=body,
        )
        found = read(entry, keep_text=True)
        assert len(found.stamps) == len(found.counts)
        assert found.out_tokens is None or sum(found.counts) in (found.out_tokens, 0)
        assert found.visible is None or found.visible < max(len(found.stamps), 1)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_nor_do_any_others(body: bytes) -> None:
    for streamed in (True, False):
        parse(body, [len(body)] if body else [], [1] if body else [], streamed=streamed)
