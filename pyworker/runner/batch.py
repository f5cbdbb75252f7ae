"""The flat batch: what one step computes, as arrays. Nothing here knows prefill from decode.

The arrays are made once and filled in place; a `Batch` is a set of views on them that holds for one step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyworker.runner.backends.base import BLOCK_SIZE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyworker.engine.outputs import SchedulerOutput
    from pyworker.engine.request import Request


@dataclass(slots=True)
class Batch:
    """N tokens of S sequences, of which R rows need logits.

    `ids`, `positions` i32 `[N]`; `slot_mapping` i64 `[N]` (block * 32 + offset, -1 = not written); `seq_starts` i32
    `[S + 1]`: tokens of sequence s are `starts[s]..starts[s + 1]`; `seq_lens` i32 `[S]`: context length with this
    step's tokens; `block_tables` i32 `[S, max_blocks]`, padded with 0 (the null block); `logit_rows` i32 `[R]`, and
    `logit_ids` the request of each. `backend_state` is the backend's own, made and read by it.
    """

    ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    slot_mapping: NDArray[np.int64]
    seq_starts: NDArray[np.int32]
    seq_lens: NDArray[np.int32]
    block_tables: NDArray[np.int32]
    logit_rows: NDArray[np.int32]
    logit_ids: list[str]
    backend_state: object = None

    @property
    def num_tokens(self) -> int:
        """N."""
        return len(self.ids)

    @property
    def num_seqs(self) -> int:
        """S."""
        return len(self.seq_lens)


@dataclass(slots=True)
class _Row:
    """A request's place in the block tables; `next_computed` is where its next step must begin for it to hold."""

    index: int
    num_blocks: int = 0
    next_computed: int = -1


class BatchBuilder:
    """Turns a `SchedulerOutput` into a `Batch`.

    A block table is carried over only for a request that was in the step just before and goes on where it left off;
    any other is read anew, for a preempted request may come back with other blocks.
    """

    def __init__(self, max_num_seqs: int, max_num_batched_tokens: int, max_blocks: int) -> None:
        self._ids = np.zeros(max_num_batched_tokens, dtype=np.int32)
        self._positions = np.zeros(max_num_batched_tokens, dtype=np.int32)
        self._slots = np.zeros(max_num_batched_tokens, dtype=np.int64)
        self._starts = np.zeros(max_num_seqs + 1, dtype=np.int32)
        self._lens = np.zeros(max_num_seqs, dtype=np.int32)
        self._tables = np.zeros((max_num_seqs, max_blocks), dtype=np.int32)
        self._rows: dict[str, _Row] = {}
        self._free = list(range(max_num_seqs - 1, -1, -1))

    def build(self, out: SchedulerOutput) -> Batch:
        """Fill the arrays. The views hold until the next call.

        Raises:
            ValueError: more sequences or tokens than were planned for, or a request without blocks for its tokens.
        """
        self._check(out)
        self._forget(set(self._rows) - set(out.num_scheduled_tokens))
        self._forget(set(out.finished_ids) | set(out.new_requests))
        logit_rows: list[int] = []
        logit_ids: list[str] = []
        order: list[int] = []
        end = 0
        for request_id, count in out.num_scheduled_tokens.items():
            request = out.requests[request_id]
            seq, begin, end = len(order), end, end + count
            row = self._update_row(request, count)
            self._fill(request, row, begin, end)
            self._starts[seq + 1] = end
            self._lens[seq] = request.num_computed_tokens + count
            order.append(row.index)
            if request.num_computed_tokens + count == request.num_tokens:
                logit_rows.append(end - 1)
                logit_ids.append(request_id)
        seqs = len(order)
        width = -(-int(self._lens[:seqs].max(initial=1)) // BLOCK_SIZE)
        return Batch(
            ids=self._ids[:end],
            positions=self._positions[:end],
            slot_mapping=self._slots[:end],
            seq_starts=self._starts[: seqs + 1],
            seq_lens=self._lens[:seqs],
            block_tables=self._tables[order, :width],
            logit_rows=np.array(logit_rows, dtype=np.int32),
            logit_ids=logit_ids,
        )

    def _check(self, out: SchedulerOutput) -> None:
        seqs, tokens = len(out.num_scheduled_tokens), out.total_tokens
        if seqs > len(self._lens) or tokens > len(self._ids):
            raise ValueError(
                f"step of {seqs} sequences and {tokens} tokens: {len(self._lens)} and {len(self._ids)} fit"
            )

    def _forget(self, request_ids: set[str]) -> None:
        for request_id in sorted(request_ids):
            row = self._rows.pop(request_id, None)
            if row is not None:
                self._free.append(row.index)

    def _update_row(self, request: Request, count: int) -> _Row:
        row = self._rows.get(request.request_id)
        if row is None:
            row = self._rows[request.request_id] = _Row(self._free.pop())
        table = request.block_table
        stop = request.num_computed_tokens + count
        if row.next_computed != request.num_computed_tokens or row.num_blocks > len(table):
            row.num_blocks = 0
            self._tables[row.index] = 0
        needed = -(-stop // BLOCK_SIZE)
        if len(table) < needed:
            raise ValueError(f"request {request.request_id}: {len(table)} blocks for {stop} tokens")
        if row.num_blocks < needed:
            self._tables[row.index, row.num_blocks : needed] = [b.block_id for b in table[row.num_blocks : needed]]
            row.num_blocks = needed
        row.next_computed = stop
        return row

    def _fill(self, request: Request, row: _Row, begin: int, end: int) -> None:
        first = request.num_computed_tokens
        self._ids[begin:end] = request.token_ids(first, first + end - begin)
        positions = np.arange(first, first + end - begin)
        self._positions[begin:end] = positions
        blocks = self._tables[row.index, positions // BLOCK_SIZE].astype(np.int64)
        self._slots[begin:end] = blocks * BLOCK_SIZE + positions % BLOCK_SIZE
