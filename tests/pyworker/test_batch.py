"""The flat batch's arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.model_rig import GREEDY, Block

from pyworker.engine.outputs import ParkedSlice, SchedulerOutput
from pyworker.engine.request import Request, RequestClass
from pyworker.runner.batch import Batch, BatchBuilder


def request_for_test(name: str, tokens: int, blocks: list[int], computed: int = 0, klass: str = "standard") -> Request:
    request = Request(name, 0, list(range(100, 100 + tokens)), GREEDY, klass=RequestClass(klass))
    request.num_computed_tokens = computed
    request.block_table = [Block(block) for block in blocks]  # type: ignore[misc]
    return request


def step(builder: BatchBuilder, *parts: tuple[Request, int], new: tuple[str, ...] = (), **more: Any) -> Batch:
    counts = {request.request_id: count for request, count in parts}
    requests = {request.request_id: request for request, _ in parts}
    return builder.build(SchedulerOutput(counts, requests, new_requests=list(new), **more))


def fields(batch: Batch) -> dict[str, object]:
    names = ("ids", "positions", "slot_mapping", "seq_starts", "seq_lens", "block_tables", "logit_rows")
    rest = ("logit_ids", "logit_drafts", "seq_ids", "num_online_seqs", "num_online_tokens")
    return {name: getattr(batch, name).tolist() for name in names} | {name: getattr(batch, name) for name in rest}


def test_a_batch_of_a_decode_a_chunk_and_a_prefill() -> None:
    decode = request_for_test("d", 34, [5, 9], computed=33)
    chunk = request_for_test("c", 90, [2, 7, 3], computed=31)
    prefill = request_for_test("p", 2, [4])
    batch = step(BatchBuilder(4, 64, 8), (decode, 1), (chunk, 3), (prefill, 2))
    assert fields(batch) == {
        "ids": [133, 131, 132, 133, 100, 101],
        "positions": [33, 31, 32, 33, 0, 1],
        "slot_mapping": [9 * 32 + 1, 2 * 32 + 31, 7 * 32, 7 * 32 + 1, 4 * 32, 4 * 32 + 1],
        "seq_starts": [0, 1, 4, 6],
        "seq_lens": [34, 34, 2],
        "block_tables": [[5, 9], [2, 7], [4, 0]],
        "logit_rows": [0, 5],
        "logit_ids": ["d", "p"],
        "logit_drafts": [0, 0],
        "seq_ids": ["d", "c", "p"],
        "num_online_seqs": 3,
        "num_online_tokens": 6,
    }


def test_the_types_are_those_of_the_kernels() -> None:
    batch = step(BatchBuilder(4, 64, 8), (request_for_test("a", 3, [1]), 3))
    arrays = (batch.ids, batch.positions, batch.seq_starts, batch.seq_lens, batch.block_tables, batch.logit_rows)
    assert {array.dtype for array in arrays} == {np.dtype(np.int32)}
    assert batch.slot_mapping.dtype == np.int64


def test_a_table_grows_by_its_new_blocks() -> None:
    builder, request = BatchBuilder(2, 64, 8), request_for_test("a", 70, [5, 6])
    step(builder, (request, 40))
    request.num_computed_tokens = 40
    request.block_table.append(Block(8))  # type: ignore[arg-type]
    batch = step(builder, (request, 30))
    assert (batch.block_tables.tolist(), batch.slot_mapping[-1]) == ([[5, 6, 8]], 8 * 32 + 5)


@pytest.mark.parametrize("absent", [True, False])
def test_a_request_that_comes_back_is_read_anew(absent: bool) -> None:
    """Preempted and resumed with the same number of computed tokens but in other blocks."""
    builder, request = BatchBuilder(2, 64, 8), request_for_test("a", 70, [5, 6, 7])
    other = request_for_test("b", 1, [9])
    step(builder, (request, 32))
    if absent:
        step(builder, (other, 1))
    request.num_computed_tokens = 32
    request.block_table = [Block(1), Block(2)]  # type: ignore[list-item]
    batch = step(builder, (request, 8), new=() if absent else ("a",))
    assert batch.block_tables.tolist() == [[1, 2]]


def test_rows_are_freed_and_a_failed_step_can_be_repeated() -> None:
    builder = BatchBuilder(1, 64, 8)
    for index in range(5):
        step(builder, (request_for_test(f"r{index}", 3, [index + 1]), 3))
    request = request_for_test("again", 3, [7])
    assert fields(step(builder, (request, 3))) == fields(step(builder, (request, 3)))


def test_what_does_not_fit_is_refused_before_anything_changes() -> None:
    builder = BatchBuilder(1, 8, 8)
    one, two = request_for_test("a", 3, [1]), request_for_test("b", 3, [2])
    with pytest.raises(ValueError, match="step of 2 sequences and 6 tokens: 1 and 8 fit"):
        step(builder, (one, 3), (two, 3))
    with pytest.raises(ValueError, match="request a: 1 blocks for 33 tokens"):
        step(BatchBuilder(1, 64, 8), (request_for_test("a", 40, [1]), 33))
    assert step(builder, (one, 3)).num_tokens == 3


def test_drafts_stand_behind_the_known_tokens_and_each_has_a_row_of_logits() -> None:
    verify = request_for_test("v", 34, [5, 9], computed=33)
    chunk = request_for_test("c", 4, [2])
    offline = request_for_test("o", 32, [3, 4], computed=31, klass="offline")
    drafts = {"v": [7, 8], "o": [9]}
    batch = step(BatchBuilder(4, 64, 8), (verify, 3), (chunk, 2), (offline, 2), drafts=drafts)
    assert fields(batch) == {
        "ids": [133, 7, 8, 100, 101, 131, 9],
        "positions": [33, 34, 35, 0, 1, 31, 32],
        "slot_mapping": [9 * 32 + 1, 9 * 32 + 2, 9 * 32 + 3, 64, 65, 3 * 32 + 31, 4 * 32],
        "seq_starts": [0, 3, 5, 7],
        "seq_lens": [36, 2, 33],
        "block_tables": [[5, 9], [2, 0], [3, 4]],
        "logit_rows": [0, 1, 2, 5, 6],
        "logit_ids": ["v", "v", "v", "o", "o"],
        "logit_drafts": [0, 1, 2, 0, 1],
        "seq_ids": ["v", "c", "o"],
        "num_online_seqs": 2,
        "num_online_tokens": 5,
    }


def test_a_prefix_is_the_batch_of_its_sequences() -> None:
    parts = [
        (request_for_test("v", 34, [5, 9], computed=33), 3),
        (request_for_test("d", 3, [7], computed=2), 1),
        (request_for_test("c", 4, [2]), 2),
        (request_for_test("o", 2, [3, 4], klass="offline"), 2),
    ]
    drafts = {"v": [7, 8]}
    whole = step(BatchBuilder(4, 64, 8), *parts, drafts=drafts)
    whole.backend_state = "of all rows"
    for count in range(1, 5):
        prefix = whole.prefix(count)
        assert fields(prefix) == fields(step(BatchBuilder(4, 64, 8), *parts[:count], drafts=drafts))
        assert prefix.backend_state is None
        assert np.shares_memory(prefix.ids, whole.ids)
    assert (whole.prefix(0).num_tokens, whole.prefix(0).num_seqs) == (0, 0)


def test_the_place_of_a_wrong_draft_is_read_anew() -> None:
    """Its block may have been given back and another one taken in its stead."""
    builder, request = BatchBuilder(2, 128, 8), request_for_test("a", 63, [5, 6, 7], computed=62)
    assert step(builder, (request, 3), drafts={"a": [1, 2]}).block_tables.tolist() == [[5, 6, 7]]
    request.output_ids, request.num_computed_tokens = [1], 63
    request.block_table[2] = Block(8)  # type: ignore[call-overload]
    assert step(builder, (request, 3), drafts={"a": [1, 2]}).block_tables.tolist() == [[5, 6, 8]]
    request.num_computed_tokens = 63
    del request.block_table[2]
    batch = step(builder, (request, 1), (request_for_test("b", 96, [1, 2, 3]), 96))
    assert batch.block_tables.tolist() == [[5, 6, 0], [1, 2, 3]]
    request.output_ids, request.num_computed_tokens = [1, 1], 64
    request.block_table.append(Block(9))  # type: ignore[arg-type]
    batch = step(builder, (request, 1))
    assert (batch.block_tables.tolist(), batch.slot_mapping.tolist()) == ([[5, 6, 9]], [9 * 32])


def test_slices_that_join_stand_last_lowest_layer_first() -> None:
    requests = [request_for_test(name, 2, [index + 1], klass="offline") for index, name in enumerate("abcd")]
    joins = [ParkedSlice(5, {"a": 2}, None), ParkedSlice(1, {"c": 2, "b": 2}, None)]
    batch = step(BatchBuilder(4, 64, 8), *((request, 2) for request in requests), joins=joins)
    assert batch.seq_ids == ["d", "c", "b", "a"]
    assert batch.slot_mapping.tolist() == [4 * 32, 4 * 32 + 1, 3 * 32, 3 * 32 + 1, 2 * 32, 2 * 32 + 1, 32, 33]


def test_an_online_slice_is_not_counted_as_online() -> None:
    """It stands where rows leave from."""
    parts = [(request_for_test(name, 2, [index + 1]), 2) for index, name in enumerate("ab")]
    batch = step(BatchBuilder(4, 64, 8), *parts, joins=[ParkedSlice(1, {"a": 2}, None)])
    assert (batch.seq_ids, batch.num_online_seqs, batch.num_online_tokens) == (["b", "a"], 1, 2)


@pytest.mark.parametrize(
    ("count", "drafts", "says"),
    [
        (4, [], "request a: 4 tokens from 0 on, 0 of them drafts, of 3"),
        (0, [], "request a: 0 tokens from 0 on, 0 of them drafts, of 3"),
        (2, [7, 8], "request a: 2 tokens from 0 on, 2 of them drafts, of 3"),
        (3, [7], "request a: 3 tokens from 0 on, 1 of them drafts, of 3"),
    ],
    ids=["too many", "none", "drafts alone", "drafts too early"],
)
def test_tokens_that_cannot_be_are_refused(count: int, drafts: list[int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        step(BatchBuilder(1, 8, 8), (request_for_test("a", 3, [1]), count), drafts={"a": drafts})


def test_online_rows_come_first() -> None:
    online, offline = request_for_test("a", 3, [1]), request_for_test("b", 3, [2], klass="offline")
    with pytest.raises(ValueError, match="an online request stands behind an offline one"):
        step(BatchBuilder(2, 8, 8), (offline, 3), (online, 3))


@given(st.data())
def test_any_steps_give_what_a_plain_loop_gives(data: st.DataObject) -> None:
    """Requests come, go on, skip steps and lose drafts and blocks; the builder that remembers agrees with none."""
    builder = BatchBuilder(4, 64, 8)
    requests = [request_for_test(name, 94, list(range(10 * i + 1, 10 * i + 9))) for i, name in enumerate("abcd")]
    for _ in range(data.draw(st.integers(1, 6))):
        chosen = [request for request in requests if data.draw(st.booleans())]
        parts, drafts = [], {}
        for request in chosen:
            left = request.num_tokens - request.num_computed_tokens
            if left == 1:
                drafts[request.request_id] = data.draw(st.lists(st.integers(0, 9), max_size=4))
            count = min(left, data.draw(st.integers(1, 16))) + len(drafts.get(request.request_id, ()))
            parts.append((request, count))
        if not parts:
            continue
        batch = step(builder, *parts, drafts=drafts)
        assert fields(batch) == fields(step(BatchBuilder(4, 64, 8), *parts, drafts=drafts))
        _check_plainly(batch, parts, drafts)
        for request, count in parts:
            right = data.draw(st.integers(0, len(drafts.get(request.request_id, ()))))
            if request.num_computed_tokens + count >= request.num_tokens:
                known = request.num_tokens
                request.output_ids += [*drafts.get(request.request_id, ())[:right], 50]
                request.num_computed_tokens = known + right
            else:
                request.num_computed_tokens += count
            if data.draw(st.booleans()):
                kept = -(-request.num_computed_tokens // 32)
                request.block_table[kept:] = [Block(b.block_id ^ 128) for b in request.block_table[kept:]]  # type: ignore[misc]


def _check_plainly(batch: Batch, parts: list[tuple[Request, int]], drafts: dict[str, list[int]]) -> None:
    ids, slots = [], []
    for request, count in parts:
        tokens = [*request.prompt_ids, *request.output_ids, *drafts.get(request.request_id, ())]
        for position in range(request.num_computed_tokens, request.num_computed_tokens + count):
            ids.append(tokens[position])
            slots.append(request.block_table[position // 32].block_id * 32 + position % 32)
    assert (batch.ids.tolist(), batch.slot_mapping.tolist()) == (ids, slots)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_a_step_of_the_same_decodes_is_that_of_a_builder_that_has_seen_none(data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 70), min_size=1, max_size=4))
    requests = [
        request_for_test(str(index), known, [1 + 5 * index + block for block in range(5)], computed=known - 1)
        for index, known in enumerate(lengths)
    ]
    builder = BatchBuilder(4, 64, 5)
    for index in range(data.draw(st.integers(2, 40))):
        parts = requests
        if data.draw(st.integers(0, 9)) == 0:
            parts = data.draw(st.permutations(requests))
        batch = step(builder, *((request, 1) for request in parts))
        assert fields(batch) == fields(step(BatchBuilder(4, 64, 5), *((request, 1) for request in parts)))
        assert batch.backend_state is None
        assert batch.kept_rows is None
        batch.backend_state = "of the step"
        if data.draw(st.integers(0, 9)) == 0:
            continue  # the step has failed, and is run again
        for request in requests:
            request.num_computed_tokens += 1
            request.output_ids.append(1000 + index)


def test_a_step_of_the_same_decodes_is_not_built_anew() -> None:
    builder, request = BatchBuilder(2, 64, 2), request_for_test("a", 31, [5, 9], computed=30)
    first = step(builder, (request, 1))
    for token in (7, 8, 9):
        request.num_computed_tokens += 1
        request.output_ids.append(token)
        assert step(builder, (request, 1)) is first
        assert (first.ids.tolist(), first.positions.tolist()) == ([token], [request.num_computed_tokens])
    assert (first.block_tables.tolist(), first.slot_mapping.tolist()) == ([[5, 9]], [9 * 32 + 1])


def test_decodes_without_a_block_for_their_token_are_refused() -> None:
    builder, request = BatchBuilder(2, 64, 2), request_for_test("a", 32, [5], computed=31)
    step(builder, (request, 1))
    request.num_computed_tokens += 1
    request.output_ids.append(7)
    with pytest.raises(ValueError, match="request a: 1 blocks for 33 tokens"):
        step(builder, (request, 1))
    request.block_table.append(Block(3))  # type: ignore[arg-type]
    assert step(builder, (request, 1)).block_tables.tolist() == [[5, 3]]
