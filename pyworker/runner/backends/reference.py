"""The oracle: plain torch, row by row, for every test to compare with.

A matrix product runs once for each row, always in the same shape; everything else is elementwise. So it keeps the row
rule, and is slow on purpose. In bfloat16 it holds float32 numbers that were rounded where the kernels round them:
weights, keys and values once, activations where they enter a product. Sums are float32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from pyworker.errors import ConfigError
from pyworker.runner.backends.base import AttnSpec, KVCacheSpec, QkNorm, Rope
from pyworker.runner.backends.composed import ComposedLayers
from pyworker.runner.backends.exact import rms_norm, round_bf16, silu
from pyworker.runner.backends.fingerprint import fingerprint
from pyworker.runner.backends.paged_attention import AttentionPlan, PagedKV, paged_attention
from pyworker.runner.backends.rope import RopeTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from pyworker.runner.batch import Batch
    from slackwater._native.kernels import Pool

_SHORT = {"float32": "f32", "bfloat16": "bf16"}


class RowLinear:
    """A copy of a weight `[out, in]` and its bias: what came may be mapped from a file that somebody changes."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight = weight
        self.bias = None if bias is None else _copy(bias)


class ReferenceBackend(ComposedLayers):
    """Backend `reference`; see `Backend` for the operations. Tensors are `torch.Tensor`, float32, on the CPU."""

    name = "reference"
    batch_invariant = True
    fatal: tuple[type[Exception], ...] = ()
    pool: Pool | None = None

    def __init__(self, dtype: str = "float32", *, kv_dtype: str = "auto") -> None:
        """`dtype` of the weights and of what they are multiplied with, `kv_dtype` of keys and values and of the query
        (`auto`: the same): `float32` or `bfloat16`.

        Raises:
            ConfigError: another one.
        """
        self.dtype = dtype
        self.kv_dtype = dtype if kv_dtype == "auto" else kv_dtype
        for flag, kind in (("--dtype", self.dtype), ("--kv-dtype", self.kv_dtype)):
            if kind not in _SHORT:
                raise ConfigError(flag, kind, f"known are {', '.join(_SHORT)}")
        self.kv_layout = f"{_SHORT[self.kv_dtype]}-rows32"
        self._ropes: dict[Rope, RopeTable] = {}

    def numerics(self, spec: AttnSpec, linears: Iterable[tuple[int, int]]) -> str:
        """Every product is torch's, and may have other bits on another machine."""
        kv = "" if self.kv_dtype == self.dtype else f"-kv{_SHORT[self.kv_dtype]}"
        return f"{_SHORT[self.dtype]}-reference2{kv}-{fingerprint(spec, linears)}"

    def step(self) -> AbstractContextManager[object]:
        """Nothing to set up: torch computes on the calling thread."""
        return nullcontext()

    def prepare_linear(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> RowLinear:
        """Copy the weight, in the order that it has."""
        return RowLinear(_operand(_copy(weight), self.dtype), bias)

    def prepare_gate_up(self, gate: torch.Tensor, up: torch.Tensor) -> RowLinear:
        """Gate above up."""
        return self.prepare_linear(torch.cat([gate, up]))

    def prepare_vector(self, weight: torch.Tensor) -> torch.Tensor:
        """A copy."""
        return _copy(weight)

    def prepare_attention(self, spec: AttnSpec) -> None:
        """The table of angles, which grows with the positions that are asked for."""
        if spec.rope is not None:
            self._rope(spec.rope)

    def from_torch(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor itself."""
        return tensor

    def to_torch(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor itself."""
        return tensor

    def park(
        self, x: torch.Tensor, delta: torch.Tensor | None, first: int
    ) -> tuple[torch.Tensor, torch.Tensor | None, NDArray[np.float32]]:
        """Views of what stays, a copy of what leaves."""
        rows = x[first:].clone()
        if delta is not None:
            rows += delta[first:]
            delta = delta[:first]
        left: NDArray[np.float32] = rows.numpy()
        return x[:first], delta, left

    def join(
        self, x: torch.Tensor | None, delta: torch.Tensor | None, rows: NDArray[np.float32]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """A new tensor of both; without `x` the parked rows alone, which need no delta."""
        parked = torch.from_numpy(rows)
        if x is None:
            return parked.clone(), None
        if delta is not None:
            delta = torch.cat([delta, torch.full_like(parked, -0.0)])
        return torch.cat([x, parked]), delta

    def take_rows(self, x: torch.Tensor, rows: NDArray[np.int32]) -> torch.Tensor:
        """A new tensor."""
        return x[torch.from_numpy(rows.astype(np.int64))]

    def copy_blocks(self, kv: PagedKV, copies: Sequence[tuple[int, int]]) -> None:
        """One copy after the other."""
        for source, target in copies:
            kv.data[target] = kv.data[source]

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
        x = _operand(x, self.dtype)
        out = torch.empty(x.shape[0], weight.weight.shape[0])
        for row in range(x.shape[0]):
            out[row] = F.linear(x[row : row + 1].clone(), weight.weight, weight.bias)[0]
        return out

    def attend(
        self,
        qkv: torch.Tensor,
        kv: PagedKV,
        layer: int,
        spec: AttnSpec,
        batch: Batch,
        qk_norm: QkNorm | None = None,
    ) -> torch.Tensor:
        """Norm, rotate, write, attend."""
        step = self._step(batch)
        count, heads, kv_heads, size = qkv.shape[0], spec.num_heads, spec.num_kv_heads, spec.head_dim
        rows = qkv.view(count, heads + 2 * kv_heads, size)
        q, keys, values = rows[:, :heads], rows[:, heads : heads + kv_heads], rows[:, heads + kv_heads :]
        if qk_norm is not None:
            q = rms_norm(q, qk_norm.q_weight, qk_norm.eps)
            keys = rms_norm(keys, qk_norm.k_weight, qk_norm.eps)
        if spec.rope is not None:
            angles = step.angles(self._rope(spec.rope), spec.rope)
            q, keys = _rotate(q, *angles), _rotate(keys, *angles)
        kv.write(layer, _operand(keys, self.kv_dtype), _operand(values, self.kv_dtype), step.slots)
        plan = step.plan(kv.spec.num_layers, spec.window)
        return paged_attention(_operand(q * spec.scale, self.kv_dtype), kv, layer, spec, plan)

    def gate_up_act(self, x: torch.Tensor, weight: RowLinear, act: str) -> torch.Tensor:
        """One product for gate and up, then the gate."""
        return gated(self.linear(x, weight), act)

    def logits(self, x: torch.Tensor, head: RowLinear, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """The head on the chosen rows."""
        result: NDArray[np.float32] = self.linear(self.take_rows(x, rows), head).numpy()
        return result

    def kv_cache(self, spec: KVCacheSpec, num_blocks: int) -> PagedKV:
        """A cache of zeros."""
        return PagedKV(spec, num_blocks, getattr(torch, self.kv_dtype))

    def _rope(self, rope: Rope) -> RopeTable:
        if rope not in self._ropes:
            self._ropes[rope] = RopeTable(rope)
        return self._ropes[rope]

    def _step(self, batch: Batch) -> _Step:
        """What the layers of a step share: kept on the batch, made as they ask for it."""
        step = batch.backend_state
        if not isinstance(step, _Step):
            step = batch.backend_state = _Step(batch)
        return step


class _Step:
    def __init__(self, batch: Batch) -> None:
        self.slots = torch.from_numpy(batch.slot_mapping.copy())
        self._batch = batch
        self._positions = torch.from_numpy(batch.positions.astype(np.int64))
        self._angles: dict[Rope, tuple[torch.Tensor, torch.Tensor]] = {}
        self._plans: dict[int | None, AttentionPlan] = {}

    def angles(self, table: RopeTable, rope: Rope) -> tuple[torch.Tensor, torch.Tensor]:
        if rope not in self._angles:
            self._angles[rope] = table.at(self._positions)
        return self._angles[rope]

    def plan(self, num_layers: int, window: int | None) -> AttentionPlan:
        if window not in self._plans:
            self._plans[window] = AttentionPlan(self._batch, num_layers, window)
        return self._plans[window]


def _operand(x: torch.Tensor, dtype: str) -> torch.Tensor:
    """`x` as it enters a product of numbers of this type."""
    return round_bf16(x) if dtype == "bfloat16" else x


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
