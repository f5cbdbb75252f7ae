"""The oracle: plain torch in float32, row by row, for every test to compare with.

A matrix product runs once for each row, always in the same shape; everything else is elementwise. So it keeps the row
rule, and is slow on purpose. `native` builds on it and replaces the matrix products.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from pyworker.runner.backends.base import AttnSpec, KVCacheSpec
from pyworker.runner.backends.exact import rms_norm, silu
from pyworker.runner.backends.fingerprint import fingerprint
from pyworker.runner.backends.paged_attention import KV_LAYOUT, AttentionPlan, PagedKV, paged_attention
from pyworker.runner.backends.rope import RopeTable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from pyworker.runner.batch import Batch


class RowLinear:
    """A copy of a weight `[out, in]` and its bias: what came may be mapped from a file that somebody changes."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight = _copy(weight)
        self.bias = None if bias is None else _copy(bias)


class ReferenceBackend:
    """Backend `reference`; see `Backend` for the operations. Tensors are `torch.Tensor`, float32, on the CPU."""

    name = "reference"
    batch_invariant = True
    kv_layout = KV_LAYOUT
    fatal: tuple[type[Exception], ...] = ()

    def __init__(self) -> None:
        self._ropes: dict[tuple[float, int], RopeTable] = {}

    def numerics(self, spec: AttnSpec, linears: Iterable[tuple[int, int]]) -> str:
        """Every product is torch's, and may have other bits on another machine."""
        return f"f32-reference1-{fingerprint(spec, linears)}"

    def step(self) -> AbstractContextManager[object]:
        """Nothing to set up: torch computes on the calling thread."""
        return nullcontext()

    def prepare_linear(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> RowLinear:
        """Copy the weight, in the order that it has."""
        return RowLinear(weight, bias)

    def embed(self, ids: NDArray[np.int32], table: RowLinear) -> torch.Tensor:
        """Rows of the table."""
        return table.weight[torch.from_numpy(ids.astype(np.int64))]

    def add_norm(self, x: torch.Tensor, delta: torch.Tensor | None, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Add, then normalise by a sum of fixed order."""
        if delta is not None:
            x += delta
        return rms_norm(x, weight, eps)

    def linear(self, x: torch.Tensor, weight: RowLinear) -> torch.Tensor:
        """Each row alone, from memory of its own: another alignment may take another path through the library."""
        out = torch.empty(x.shape[0], weight.weight.shape[0])
        for row in range(x.shape[0]):
            out[row] = F.linear(x[row : row + 1].clone(), weight.weight, weight.bias)[0]
        return out

    def attend(self, qkv: torch.Tensor, kv: PagedKV, layer: int, spec: AttnSpec, batch: Batch) -> torch.Tensor:
        """Rope, write, attend."""
        step = self._step(kv, spec, batch)
        count, group, size = qkv.shape[0], spec.num_heads, spec.head_dim
        heads = qkv.view(count, group + 2 * spec.num_kv_heads, size)
        rotated = _rotate(heads[:, : group + spec.num_kv_heads], step.cos, step.sin)
        kv.write(layer, rotated[:, group:], heads[:, group + spec.num_kv_heads :], step.slots)
        return paged_attention(rotated[:, :group] * spec.scale, kv, layer, spec, step.plan)

    def gate_up_act(self, x: torch.Tensor, weight: RowLinear, act: str) -> torch.Tensor:
        """One product for gate and up, then the gate."""
        return gated(self.linear(x, weight), act)

    def logits(self, x: torch.Tensor, head: RowLinear, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """The head on the chosen rows."""
        picked = x[torch.from_numpy(rows.astype(np.int64))]
        result: NDArray[np.float32] = self.linear(picked, head).numpy()
        return result

    def kv_cache(self, spec: KVCacheSpec, num_blocks: int) -> PagedKV:
        """A cache of zeros."""
        return PagedKV(spec, num_blocks)

    def _step(self, kv: PagedKV, spec: AttnSpec, batch: Batch) -> _Step:
        """What all layers of a step share: kept on the batch, made at its first layer."""
        step = batch.backend_state
        if not isinstance(step, _Step):
            key = (spec.rope.theta, spec.head_dim)
            rope = self._ropes.setdefault(key, RopeTable(*key))
            step = _Step(batch, rope, kv.spec.num_layers)
            batch.backend_state = step
        return step


class _Step:
    def __init__(self, batch: Batch, rope: RopeTable, num_layers: int) -> None:
        self.slots = torch.from_numpy(batch.slot_mapping.copy())
        self.cos, self.sin = rope.at(torch.from_numpy(batch.positions.astype(np.int64)))
        self.plan = AttentionPlan(batch, num_layers)


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)


def gated(gate_up: torch.Tensor, act: str) -> torch.Tensor:
    """`act(gate) * up` of `[N, 2 I]`, elementwise: `[N, I]`."""
    if act != "silu":
        raise ValueError(f"activation {act}: only silu is known")
    gate, up = gate_up.chunk(2, dim=-1)
    return silu(gate).mul_(up)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    low, high = x.chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)
