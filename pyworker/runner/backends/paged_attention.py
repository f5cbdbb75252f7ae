"""Causal attention over a paged cache in torch, under the row rule.

Each query walks its own keys in splits of 256 at absolute positions; a split is always computed whole, padded with the
null block and masked, so every matrix product of a model has one shape, whatever the context length or the batch.
A weight that meets values in bf16 is rounded alike, in the sum of the weights too.
Splits are merged in ascending order by online softmax (Milakov and Gimelshein 2018); a split that lies wholly before a
query's window is left out. Only the matrix products run query by query; all else is elementwise and runs for many
queries at once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyworker.runner.backends.base import BLOCK_SIZE, AttnSpec, KVCacheSpec
from pyworker.runner.backends.exact import exp, round_bf16, tanh, tree_sum

if TYPE_CHECKING:
    from pyworker.runner.batch import Batch

SPLIT = 256
"""Keys in a split."""
BLOCKS = SPLIT // BLOCK_SIZE
"""Blocks in a split."""
# Bounds of the memory that a group of units takes at once.
_GROUP_UNITS = 256
_GROUP_ITEMS = 32


class PagedKV:
    """The cache: `[num_blocks, layers, 2, kv_heads, 32, head_dim]`, keys and values alike in rows.

    One block is one contiguous range. `rows` is the same memory with one row for each (block, layer, key or value).
    """

    def __init__(self, spec: KVCacheSpec, num_blocks: int, dtype: torch.dtype = torch.float32) -> None:
        self.spec = spec
        shape = (num_blocks, spec.num_layers, 2, spec.num_kv_heads, BLOCK_SIZE, spec.head_dim)
        self.data = torch.zeros(shape, dtype=dtype)
        self.rows = self.data.view(num_blocks * spec.num_layers * 2, -1)

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor) -> None:
        """Store `[N, kv_heads, head_dim]` at the slots (block * 32 + offset); a negative slot is padding.

        A cache of another type takes values that this type can hold.
        """
        keys, values = keys.to(self.data.dtype), values.to(self.data.dtype)
        if bool((slots < 0).any()):
            kept = slots >= 0
            keys, values, slots = keys[kept], values[kept], slots[kept]
        blocks, offsets = slots // BLOCK_SIZE, slots % BLOCK_SIZE
        self.data[:, layer, 0][blocks, :, offsets] = keys
        self.data[:, layer, 1][blocks, :, offsets] = values


@dataclass(slots=True)
class _Item:
    """One split of one sequence, and the queries that read it, last one first.

    `gather` `[16]`: rows of the cache at layer 0, eight for keys, then eight for values. `units` are the queries'
    places in the group; each sees the keys `starts..limits` of the split.
    """

    gather: torch.Tensor
    rows: list[int]
    units: list[int]
    starts: list[int]
    limits: list[int]


@dataclass(slots=True)
class _Group:
    items: list[_Item] = field(default_factory=list)
    num_units: int = 0
    starts: list[int] = field(default_factory=list)
    limits: list[int] = field(default_factory=list)
    hidden: torch.Tensor = field(default_factory=lambda: torch.empty(0))


class AttentionPlan:
    """Which query reads which split, found once a step and used by every layer of one window."""

    def __init__(self, batch: Batch, num_layers: int, window: int | None = None) -> None:
        self.groups: list[_Group] = []
        self._unit = 0
        # A query's splits by their number from its first one: all queries have a number 0.
        rounds: dict[int, tuple[list[int], list[int]]] = {}
        for seq in range(batch.num_seqs):
            begin, end = int(batch.seq_starts[seq]), int(batch.seq_starts[seq + 1])
            stops = batch.positions[begin:end].astype(np.int64) + 1
            firsts = np.zeros_like(stops) if window is None else np.maximum(stops - window, 0)
            for split in range(int(firsts[0]) // SPLIT, -(-int(stops[-1]) // SPLIT)):
                low, high = split * SPLIT, (split + 1) * SPLIT
                seen = np.flatnonzero((stops > low) & (firsts < high))
                starts, limits = np.maximum(firsts[seen] - low, 0), np.minimum(stops[seen], high) - low
                rows = (seen + begin).tolist()
                gather = self._gather(batch.block_tables[seq], split, num_layers)
                units = self._add(gather, rows, starts.tolist(), limits.tolist())
                for row, unit, number in zip(rows, units, (split - firsts[seen] // SPLIT).tolist(), strict=True):
                    at = rounds.setdefault(number, ([], []))
                    at[0].append(row)
                    at[1].append(unit)
        self.rounds = [(torch.tensor(rows), torch.tensor(units)) for _, (rows, units) in sorted(rounds.items())]
        self.single = len(self.rounds) == 1
        for group in self.groups:
            keys = torch.arange(SPLIT).view(1, BLOCKS, 1, 1, BLOCK_SIZE)
            starts_, limits_ = (torch.tensor(bound).view(-1, 1, 1, 1, 1) for bound in (group.starts, group.limits))
            group.hidden = (keys < starts_) | (keys >= limits_)

    @staticmethod
    def _gather(table: np.ndarray[tuple[int], np.dtype[np.int32]], split: int, num_layers: int) -> torch.Tensor:
        blocks = np.zeros(BLOCKS, dtype=np.int64)
        known = table[split * BLOCKS : (split + 1) * BLOCKS]
        blocks[: len(known)] = known
        rows = blocks * (num_layers * 2)
        return torch.from_numpy(np.concatenate([rows, rows + 1]))

    def _add(self, gather: torch.Tensor, rows: list[int], starts: list[int], limits: list[int]) -> range:
        """Put a split into a group: the numbers of its units, over all groups."""
        full = not self.groups or self.groups[-1].num_units + len(rows) > _GROUP_UNITS
        if full or len(self.groups[-1].items) >= _GROUP_ITEMS:
            self.groups.append(_Group())
        group = self.groups[-1]
        units = range(group.num_units, group.num_units + len(rows))
        group.items.append(_Item(gather, rows[::-1], list(units)[::-1], starts[::-1], limits[::-1]))
        group.num_units += len(rows)
        group.starts += starts
        group.limits += limits
        self._unit += len(rows)
        return range(self._unit - len(rows), self._unit)


def paged_attention(q: torch.Tensor, kv: PagedKV, layer: int, spec: AttnSpec, plan: AttentionPlan) -> torch.Tensor:
    """Attend with `q` `[N, Hq, D]`, already rotated and scaled: `[N, Hq * D]`."""
    count, heads, size = q.shape
    lanes = BLOCKS * spec.num_kv_heads
    # One copy of the query for each block of a split, so that a split is one product without moving the keys.
    spread = q.view(count, 1, spec.num_kv_heads, spec.group, size).expand(-1, BLOCKS, -1, -1, -1)
    queries = spread.reshape(count, lanes, spec.group, size).unbind(0)
    parts = [_attend_group(queries, kv, layer, spec, group) for group in plan.groups]
    top, total, out = parts[0] if len(parts) == 1 else tuple(torch.cat(part) for part in zip(*parts, strict=True))
    rows, units = plan.rounds[0]
    if not plan.single:
        top, total, out = _merge((top, total, out), plan)
    elif count > 1:
        order = torch.empty_like(units)
        order[rows] = units
        top, total, out = top[order], total[order], out[order]
    return (out / total).view(count, heads * size)


_Part = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def _attend_group(queries: tuple[torch.Tensor, ...], kv: PagedKV, layer: int, spec: AttnSpec, group: _Group) -> _Part:
    """Each unit's maximum and denominator `[U, Hkv, G, 1]` and its weighted sum `[U, Hkv, G, D]`."""
    lanes, units = BLOCKS * spec.num_kv_heads, group.num_units
    scores = torch.empty(units, lanes, spec.group, BLOCK_SIZE)
    score_of = scores.unbind(0)
    gathered = []
    for item in group.items:
        pages = kv.rows.index_select(0, item.gather + 2 * layer).to(torch.float32)
        keys, values = pages.view(2, lanes, BLOCK_SIZE, spec.head_dim).unbind(0)
        keys = keys.transpose(1, 2)
        for row, unit in zip(item.rows, item.units, strict=True):
            torch.bmm(queries[row], keys, out=score_of[unit])
        gathered.append(values)
    if spec.softcap is not None:
        scores = tanh(scores.div_(spec.softcap)).mul_(spec.softcap)
    split = scores.view(units, BLOCKS, spec.num_kv_heads, spec.group, BLOCK_SIZE)
    split.masked_fill_(group.hidden, -torch.inf)
    top = split.amax(dim=(1, 4), keepdim=True)
    weights = exp(split - top).masked_fill_(group.hidden, 0.0)
    if kv.data.dtype == torch.bfloat16:
        weights = round_bf16(weights)
    total = tree_sum(tree_sum(weights).movedim(1, -1)).squeeze(-2)
    weight_of = weights.view(units, lanes, spec.group, BLOCK_SIZE).unbind(0)
    sums = torch.empty(units, lanes, spec.group, spec.head_dim)
    sum_of = sums.unbind(0)
    for item, values in zip(group.items, gathered, strict=True):
        visible = SPLIT
        for unit, start, limit in zip(item.units, item.starts, item.limits, strict=True):
            _hide(values, limit, visible)
            visible = limit
            torch.bmm(weight_of[unit], _windowed(values, start), out=sum_of[unit])
    blocks = sums.view(units, BLOCKS, spec.num_kv_heads, spec.group, spec.head_dim)
    while blocks.shape[1] > 1:
        half = blocks.shape[1] // 2
        blocks = blocks[:, :half] + blocks[:, half:]
    return top.squeeze(1), total, blocks.squeeze(1)


def _hide(values: torch.Tensor, limit: int, visible: int) -> None:
    """Zero the values of keys `limit..visible`: a weight of zero does not silence a NaN, nor the sign of a zero."""
    if limit == visible:
        return
    pages = values.view(BLOCKS, -1, BLOCK_SIZE, values.shape[-1])
    block, offset = divmod(limit, BLOCK_SIZE)
    pages[block, :, offset:] = 0.0
    pages[block + 1 : -(-visible // BLOCK_SIZE)] = 0.0


def _windowed(values: torch.Tensor, start: int) -> torch.Tensor:
    """`values` with those before `start` zero; another query may need them."""
    if start == 0:
        return values
    values = values.clone()
    pages = values.view(BLOCKS, -1, BLOCK_SIZE, values.shape[-1])
    block, offset = divmod(start, BLOCK_SIZE)
    pages[:block] = 0.0
    pages[block, :, :offset] = 0.0
    return values


def _merge(parts: _Part, plan: AttentionPlan) -> _Part:
    """Join each query's splits, first to last."""
    rows, units = plan.rounds[0]
    order = torch.empty_like(units)
    order[rows] = units
    top, total, out = (part[order] for part in parts)
    for rows, units in plan.rounds[1:]:
        new_top, new_total, new_out = (part[units] for part in parts)
        old_top = top[rows]
        both = torch.maximum(old_top, new_top)
        old, new = exp(torch.stack([old_top - both, new_top - both])).unbind(0)
        total[rows] = total[rows] * old + new_total * new
        out[rows] = out[rows] * old + new_out * new
        top[rows] = both
    return top, total, out
