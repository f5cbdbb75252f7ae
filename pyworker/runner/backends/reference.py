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
import xxhash

from pyworker.runner.backends.base import AttnSpec, KVCacheSpec
from pyworker.runner.backends.exact import rms_norm, silu
from pyworker.runner.backends.paged_attention import KV_LAYOUT, AttentionPlan, PagedKV, paged_attention

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pyworker.runner.batch import Batch

_ROPE_PAGE = 256
"""Positions whose angles are computed together, always in this shape."""


class RowLinear:
    """A weight `[out, in]` as it came, and its bias."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight = weight.to(torch.float32).contiguous()
        self.bias = bias


class RopeTable:
    """Cosines and sines by position, float32, made page by page as positions come up."""

    def __init__(self, theta: float, head_dim: int) -> None:
        exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).to(torch.float32) / head_dim
        self._inverse = (1.0 / (theta**exponents)).numpy()
        self._cos = torch.empty(0, head_dim // 2)
        self._sin = torch.empty(0, head_dim // 2)

    def at(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`[N, 1, D / 2]` each for positions `[N]`."""
        while self._cos.shape[0] <= int(positions.max()):
            self._grow()
        return self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1)

    def _grow(self) -> None:
        first = self._cos.shape[0]
        positions = np.arange(first, first + _ROPE_PAGE, dtype=np.float32)
        # The product is rounded to float32, as in the models' training code; only then is it widened.
        angles = (positions[:, None] * self._inverse).astype(np.float64)
        self._cos = torch.cat([self._cos, torch.from_numpy(np.cos(angles).astype(np.float32))])
        self._sin = torch.cat([self._sin, torch.from_numpy(np.sin(angles).astype(np.float32))])


class ReferenceBackend:
    """Backend `reference`; see `Backend` for the operations. Tensors are `torch.Tensor`, float32, on the CPU."""

    name = "reference"
    batch_invariant = True
    kv_layout = KV_LAYOUT

    def __init__(self) -> None:
        self.numerics = f"f32-reference1-{_fingerprint()}"
        self._ropes: dict[tuple[float, int], RopeTable] = {}

    def step(self) -> AbstractContextManager[object]:
        """Nothing to set up: torch computes on the calling thread."""
        return nullcontext()

    def prepare_linear(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> RowLinear:
        """Keep the weight as it is."""
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


def gated(gate_up: torch.Tensor, act: str) -> torch.Tensor:
    """`act(gate) * up` of `[N, 2 I]`, elementwise: `[N, I]`."""
    if act != "silu":
        raise ValueError(f"activation {act}: only silu is known")
    gate, up = gate_up.chunk(2, dim=-1)
    return silu(gate).mul_(up)


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    low, high = x.chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)


def _fingerprint() -> str:
    """Six digits that differ where torch's matrix products give other bits: they may, between machines."""
    grid = torch.arange(64 * 96, dtype=torch.float32).view(64, 96)
    weight = (grid * 0.37).remainder(1.0) - 0.5
    product = F.linear(weight[:1].clone(), weight)
    batched = torch.bmm(weight.view(8, 8, 96)[:, :3].contiguous(), weight.view(8, 8, 96).transpose(1, 2))
    return xxhash.xxh3_64_hexdigest(product.numpy().tobytes() + batched.numpy().tobytes())[:6]
