"""The flat batch: what one step computes, as arrays. Nothing here knows prefill from decode.

The arrays are made once and filled in place; a `Batch` is a set of views on them that holds for one step. Online rows
come first, and rows that join a running step come last, so that rows leave and come in by moving the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pyworker.engine.request import RequestClass
from pyworker.runner.backends.base import BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pyworker.engine.outputs import ParkedSlice, SchedulerOutput
    from pyworker.engine.request import Request

_NO_DRAFTS: tuple[int, ...] = ()


@dataclass(slots=True)
class Batch:
    """N tokens of S sequences, of which R rows need logits.

    `ids`, `positions` i32 `[N]`; `slot_mapping` i64 `[N]` (block * 32 + offset, -1 = not written); `seq_starts` i32
    `[S + 1]`: tokens of sequence s are `starts[s]..starts[s + 1]`; `seq_lens` i32 `[S]`: context length with this
    step's tokens; `block_tables` i32 `[S, max_blocks]`, padded with 0 (the null block); `logit_rows` i32 `[R]`
    ascending, `logit_ids` the request of each, and `logit_drafts` how many drafts stand before its token. `seq_ids` are
    the sequences' requests. `kept_rows` i32 `[K]` ascending are the rows that anything is asked of behind the last
    layer, `logit_rows` among them; `None`: all. `scored_seqs` ascending are the sequences whose prompt's logprobs are
    asked for. The first `num_online_seqs` with `num_online_tokens` stay when offline
    rows leave.
    `backend_state` is the backend's own, made and read by it.
    """

    ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    slot_mapping: NDArray[np.int64]
    seq_starts: NDArray[np.int32]
    seq_lens: NDArray[np.int32]
    block_tables: NDArray[np.int32]
    logit_rows: NDArray[np.int32]
    logit_ids: list[str]
    logit_drafts: list[int] = field(default_factory=list)
    seq_ids: list[str] = field(default_factory=list)
    kept_rows: NDArray[np.int32] | None = None
    scored_seqs: list[int] = field(default_factory=list)
    num_online_seqs: int = 0
    num_online_tokens: int = 0
    backend_state: object = None

    @property
    def num_tokens(self) -> int:
        """N."""
        return len(self.ids)

    @property
    def num_seqs(self) -> int:
        """S."""
        return len(self.seq_lens)

    def among_kept(self, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        """How many kept rows stand before each of `rows`: the places of kept ones among them."""
        kept = self.kept_rows
        return rows if kept is None else np.searchsorted(kept, rows).astype(np.int32)

    def prefix(self, num_seqs: int) -> Batch:
        """The first sequences: views on the same arrays, and a backend state to be made anew."""
        end = int(self.seq_starts[num_seqs])
        rows, kept = int(np.searchsorted(self.logit_rows, end)), self.kept_rows
        return Batch(
            ids=self.ids[:end],
            positions=self.positions[:end],
            slot_mapping=self.slot_mapping[:end],
            seq_starts=self.seq_starts[: num_seqs + 1],
            seq_lens=self.seq_lens[:num_seqs],
            block_tables=self.block_tables[:num_seqs],
            logit_rows=self.logit_rows[:rows],
            logit_ids=self.logit_ids[:rows],
            logit_drafts=self.logit_drafts[:rows],
            seq_ids=self.seq_ids[:num_seqs],
            kept_rows=None if kept is None else kept[: int(np.searchsorted(kept, end))],
            scored_seqs=[seq for seq in self.scored_seqs if seq < num_seqs],
            num_online_seqs=min(self.num_online_seqs, num_seqs),
            num_online_tokens=min(self.num_online_tokens, end),
        )


@dataclass(slots=True)
class _Row:
    """A request's place in the block tables, and the tokens `first..stop` of its last step."""

    index: int
    num_blocks: int = 0
    first: int = -1
    stop: int = -1


@dataclass(slots=True)
class _Columns:
    """What is collected in the one walk over the sequences."""

    places: list[int] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    logit_rows: list[int] = field(default_factory=list)
    logit_ids: list[str] = field(default_factory=list)
    logit_drafts: list[int] = field(default_factory=list)
    scored_rows: list[int] = field(default_factory=list)
    scored_seqs: list[int] = field(default_factory=list)
    num_online_seqs: int = 0
    num_online_tokens: int = 0

    def kept_rows(self, logit_rows: NDArray[np.int32]) -> NDArray[np.int32] | None:
        """See `Batch`."""
        if len(logit_rows) == len(self.ids):
            return None
        if not self.scored_rows:
            return logit_rows
        kept = sorted({*self.logit_rows, *self.scored_rows})
        return None if len(kept) == len(self.ids) else np.array(kept, dtype=np.int32)


@dataclass(slots=True)
class _Decodes:
    """A batch of one token each, all of which need logits: its rows, and their places in the block tables."""

    batch: Batch
    rows: list[_Row]
    places: NDArray[np.intp]

    def are_all_of(self, out: SchedulerOutput) -> bool:
        """Whether a step has the same requests, and one token of each that is no draft."""
        if out.drafts or out.joins or out.new_requests or out.finished_ids:
            return False
        scheduled = out.num_scheduled_tokens
        return list(scheduled) == self.batch.seq_ids and set(scheduled.values()) == {1}


class BatchBuilder:
    """Turns a `SchedulerOutput` into a `Batch`.

    A block table is carried over only for a request that was in the step just before and has moved on within what it
    computed there, and only its blocks of computed tokens: a preempted request may come back with other blocks, and so
    may the place of a draft that was wrong. A step of decodes after one of the same decodes is that one's batch, moved
    on.
    """

    def __init__(self, max_num_seqs: int, max_num_batched_tokens: int, max_blocks: int) -> None:
        self._ids = np.zeros(max_num_batched_tokens, dtype=np.int32)
        self._positions = np.zeros(max_num_batched_tokens, dtype=np.int32)
        self._slots = np.zeros(max_num_batched_tokens, dtype=np.int64)
        self._starts = np.zeros(max_num_seqs + 1, dtype=np.int32)
        self._lens = np.zeros(max_num_seqs, dtype=np.int32)
        self._tables = np.zeros((max_num_seqs, max_blocks), dtype=np.int32)
        self._count = np.arange(max_num_batched_tokens, dtype=np.int32)
        self._rows: dict[str, _Row] = {}
        self._free = list(range(max_num_seqs - 1, -1, -1))
        self._decodes: _Decodes | None = None

    def build(self, out: SchedulerOutput) -> Batch:
        """Fill the arrays: all rows of the step, those of `joins` last. The views hold until the next call.

        Raises:
            ValueError: more sequences or tokens than were planned for, a request without blocks for its tokens, drafts
                that do not follow its known tokens, a slice that is not scheduled as it was parked, or an online
                request behind an offline one.
        """
        moved = self._move_on(out)
        if moved is not None:
            return moved
        self._check(out)
        order = _in_order(out)
        self._forget(self._rows.keys() - out.num_scheduled_tokens.keys())
        self._forget({*out.finished_ids, *out.new_requests})
        columns = _Columns()
        for request_id in order:
            drafts = out.drafts.get(request_id, _NO_DRAFTS) if out.drafts else _NO_DRAFTS
            self._walk(columns, out.requests[request_id], out.num_scheduled_tokens[request_id], drafts)
        num_joining = sum(len(parked.num_tokens) for parked in out.joins)
        _count_online(columns, [out.requests[request_id] for request_id in order[: len(order) - num_joining]])
        return self._fill(columns, order)

    def _move_on(self, out: SchedulerOutput) -> Batch | None:
        """The batch of the step before with each request one token on; `None`: this step is another one."""
        last, self._decodes = self._decodes, None
        if last is None or not last.are_all_of(out):
            return None
        batch, requests = last.batch, [out.requests[request_id] for request_id in last.batch.seq_ids]
        ids = []
        for row, request in zip(last.rows, requests, strict=True):
            output_ids = request.output_ids
            num_tokens = len(request.prompt_ids) + len(output_ids)
            if not request.num_computed_tokens == row.stop == num_tokens - 1:
                return None
            ids.append(output_ids[-1] if output_ids else request.prompt_ids[-1])
        batch.ids[:] = ids
        batch.positions += 1
        batch.slot_mapping += 1
        batch.seq_lens += 1
        crossing = []
        for index, row in enumerate(last.rows):
            if row.stop % BLOCK_SIZE:
                row.first, row.stop = row.stop, row.stop + 1
            else:
                self._update_row(requests[index], row.stop, row.stop + 1)
                crossing.append(index)
        if crossing:
            blocks = batch.positions[crossing] // BLOCK_SIZE
            batch.slot_mapping[crossing] = self._tables[last.places[crossing], blocks] * BLOCK_SIZE
            batch.block_tables = self._cut_tables(last.places, batch.seq_lens)
        batch.backend_state = None
        self._decodes = last
        return batch

    def _cut_tables(self, places: NDArray[np.intp], lens: NDArray[np.int32]) -> NDArray[np.int32]:
        return self._tables[places, : -(-int(lens.max(initial=1)) // BLOCK_SIZE)]

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

    def _walk(self, columns: _Columns, request: Request, count: int, drafts: Sequence[int]) -> None:
        first, known = request.num_computed_tokens, request.num_tokens
        stop = first + count - len(drafts)
        if not first < stop <= known or (drafts and stop != known):
            raise ValueError(
                f"request {request.request_id}: {count} tokens from {first} on, "
                f"{len(drafts)} of them drafts, of {known}"
            )
        columns.places.append(self._update_row(request, first, first + count).index)
        columns.firsts.append(first)
        columns.counts.append(count)
        columns.ids += request.token_ids(first, stop)
        columns.ids += drafts
        if stop == known:
            end = len(columns.ids)
            rows = range(end - 1 - len(drafts), end)
            columns.logit_rows += rows
            columns.logit_ids += [request.request_id] * len(rows)
            columns.logit_drafts += range(len(rows))
        if request.params.prompt_logprobs is not None:
            columns.scored_rows += range(len(columns.ids) - count, len(columns.ids))
            columns.scored_seqs.append(len(columns.counts) - 1)

    def _update_row(self, request: Request, first: int, stop: int) -> _Row:
        row = self._rows.get(request.request_id)
        if row is None:
            row = self._rows[request.request_id] = _Row(self._free.pop())
            self._tables[row.index] = 0
        known = -(-first // BLOCK_SIZE) if row.first < first <= row.stop else 0
        needed = -(-stop // BLOCK_SIZE)
        if known == row.num_blocks == needed:
            row.first, row.stop = first, stop
            return row
        table = request.block_table
        if len(table) < needed:
            raise ValueError(f"request {request.request_id}: {len(table)} blocks for {stop} tokens")
        self._tables[row.index, known:needed] = [block.block_id for block in table[known:needed]]
        self._tables[row.index, needed : max(needed, row.num_blocks)] = 0
        row.num_blocks, row.first, row.stop = needed, first, stop
        return row

    def _fill(self, columns: _Columns, order: list[str]) -> Batch:
        seqs, end = len(order), len(columns.ids)
        places = np.array(columns.places, dtype=np.intp)
        firsts = np.array(columns.firsts, dtype=np.int32)
        counts = np.array(columns.counts, dtype=np.int32)
        starts, lens, positions = self._starts[: seqs + 1], self._lens[:seqs], self._positions[:end]
        np.cumsum(counts, out=starts[1:])
        np.add(firsts, counts, out=lens)
        self._ids[:end] = columns.ids
        np.add(self._count[:end], np.repeat(firsts - starts[:-1], counts), out=positions)
        blocks, offsets = np.divmod(positions, BLOCK_SIZE)
        slots = self._slots[:end]
        np.multiply(self._tables[np.repeat(places, counts), blocks], BLOCK_SIZE, out=slots, dtype=np.int64)
        slots += offsets
        logit_rows = np.array(columns.logit_rows, dtype=np.int32)
        batch = Batch(
            ids=self._ids[:end],
            positions=positions,
            slot_mapping=slots,
            seq_starts=starts,
            seq_lens=lens,
            block_tables=self._cut_tables(places, lens),
            logit_rows=logit_rows,
            logit_ids=columns.logit_ids,
            logit_drafts=columns.logit_drafts,
            seq_ids=order,
            kept_rows=columns.kept_rows(logit_rows),
            scored_seqs=columns.scored_seqs,
            num_online_seqs=columns.num_online_seqs,
            num_online_tokens=columns.num_online_tokens,
        )
        if len(logit_rows) == end == seqs:
            self._decodes = _Decodes(batch, [self._rows[request_id] for request_id in order], places)
        return batch


def by_layer(joins: Sequence[ParkedSlice]) -> list[ParkedSlice]:
    """The order in which slices come in: lowest layer first, else as given."""
    return sorted(joins, key=lambda parked: parked.layer)


def _in_order(out: SchedulerOutput) -> list[str]:
    """The step's requests as they stand in the batch: as scheduled, but those that join behind all others."""
    scheduled = out.num_scheduled_tokens
    if not out.joins:
        return list(scheduled)
    joining: dict[str, int] = {}
    for parked in by_layer(out.joins):
        for request_id, count in parked.num_tokens.items():
            if scheduled.get(request_id) != count or request_id in joining:
                raise ValueError(f"request {request_id} joins with {count} tokens, and is not scheduled so")
            joining[request_id] = count
    return [request_id for request_id in scheduled if request_id not in joining] + list(joining)


def _count_online(columns: _Columns, requests: list[Request]) -> None:
    """Find where the online rows of a step end."""
    online = [request.klass is not RequestClass.OFFLINE for request in requests]
    columns.num_online_seqs = sum(online)
    columns.num_online_tokens = sum(columns.counts[: columns.num_online_seqs])
    if not all(online[: columns.num_online_seqs]):
        raise ValueError("an online request stands behind an offline one")
