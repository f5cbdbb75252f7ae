"""The flat batch's arrays, and what the runner makes of a broken backend."""

from __future__ import annotations

import numpy as np
import pytest
from support.model_rig import GREEDY, Block, built_for_test, model_rig

from pyworker.engine.outputs import SchedulerOutput
from pyworker.engine.request import Request
from pyworker.errors import BackendBroken
from pyworker.runner.batch import Batch, BatchBuilder
from slackwater._native import kernels


def request_for_test(name: str, tokens: int, blocks: list[int], computed: int = 0) -> Request:
    table = [Block(block) for block in blocks]
    return Request(name, 0, list(range(100, 100 + tokens)), GREEDY, num_computed_tokens=computed, block_table=table)  # type: ignore[arg-type]


def step(builder: BatchBuilder, *parts: tuple[Request, int], new: tuple[str, ...] = ()) -> Batch:
    counts = {request.request_id: count for request, count in parts}
    requests = {request.request_id: request for request, _ in parts}
    return builder.build(SchedulerOutput(counts, requests, new_requests=list(new)))


def fields(batch: Batch) -> dict[str, object]:
    names = ("ids", "positions", "slot_mapping", "seq_starts", "seq_lens", "block_tables", "logit_rows")
    return {name: getattr(batch, name).tolist() for name in names} | {"logit_ids": batch.logit_ids}


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


def test_a_kernel_that_broke_off_ends_the_engine_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def torn(*_: object) -> None:
        calls.append("linear")
        raise kernels.KernelPanic("index out of range")

    rig = model_rig(built_for_test(backend="native"))
    monkeypatch.setattr(kernels, "linear", torn)
    rig.engine.submit(Request("a", 0, [1, 2, 3], GREEDY, credit_up_to=9))
    with pytest.raises(BackendBroken) as caught:
        rig.engine.step()
    assert (str(caught.value), caught.value.exit_code) == ("backend native is broken: index out of range", 70)
    assert calls == ["linear"]
    with pytest.raises(BackendBroken):
        rig.engine.step()
