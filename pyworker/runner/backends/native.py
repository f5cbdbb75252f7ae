"""The CPU default: every operation by the Rust kernels, on buffers that they own. Nothing of a step runs in torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xxhash

from pyworker.runner.backends.base import StepSizes
from slackwater._native import kernels

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager

    import torch
    from numpy.typing import NDArray

    from pyworker.runner.backends.base import AttnSpec, KVCacheSpec, LayerWeights, QkNorm, Rope
    from pyworker.runner.batch import Batch

_SHORT = {"float32": "f32", "bfloat16": "bf16"}
_LAYOUT = {"float32": "f32-lanes32", "bfloat16": "bf16-pairs32"}
_DEFAULT_SIZES = StepSizes(4 << 20, 4 << 20, 2048)
"""Enough for a small model: 16 MiB of activations and as much of logits."""


class NativeBackend:
    """Backend `native`; see `Backend` for the operations.

    A `Tensor` is a `kernels.Buf`, or a `kernels.Vector` for a norm's weight; a `Linear` is a `kernels.PackedLinear` or
    a `kernels.GateUp`; a `Layer` is a `kernels.Layer`; a `KVCache` is a `kernels.KvCache`. Activations come out of a
    workspace that is taken at start, and go back to it when Python drops them.
    """

    name = "native"
    batch_invariant = True
    fatal: tuple[type[Exception], ...] = (kernels.KernelPanic,)

    def __init__(
        self,
        threads: int | None = None,
        dtype: str = "float32",
        *,
        kv_dtype: str = "auto",
        isa: str = "auto",
        sizes: StepSizes = _DEFAULT_SIZES,
    ) -> None:
        """`threads` compute, the caller included; None means every core that this process may use.

        `dtype` of the weights, `kv_dtype` of keys and values (`auto`: the same): `float32` or `bfloat16`. `isa` is set
        for the whole process, and changes no bits.

        Raises:
            KernelError: a number of threads, an instruction set or a workspace that cannot be had, an unknown dtype.
        """
        kernels.set_isa(isa)
        self.dtype = dtype
        self.kv_dtype = dtype if kv_dtype == "auto" else kv_dtype
        for kind in (self.dtype, self.kv_dtype):
            if kind not in _SHORT:
                raise kernels.KernelError(f"unknown number format {kind!r}, expected {' or '.join(_SHORT)}")
        self.kv_layout = _LAYOUT[self.kv_dtype]
        self._pool = kernels.Pool(threads or kernels.available_threads())
        self.pool: kernels.Pool | None = self._pool
        self.workspace = kernels.Workspace(sizes.activations)
        self.logits_workspace = kernels.Workspace(sizes.logits)
        self._positions = sizes.positions
        self._ropes: dict[Rope, kernels.RopeTable] = {}
        self._specs: dict[int, tuple[AttnSpec, kernels.AttnSpec]] = {}

    def numerics(self, spec: AttnSpec, linears: Iterable[tuple[int, int]]) -> str:  # noqa: ARG002 - the revision says it
        """The kernels' bits are the same on every machine and instruction set: only their constants are hashed."""
        digest = xxhash.xxh3_64(np.array([spec.num_heads, spec.num_kv_heads, spec.head_dim], dtype="<i8").tobytes())
        floats = [spec.scale, spec.softcap or 0.0]
        if spec.rope is not None:
            floats += [spec.rope.scale, *spec.rope.inv_freq]
        digest.update(np.array(floats, dtype="<f8").tobytes())
        kv = "" if self.kv_dtype == self.dtype else f"-kv{_SHORT[self.kv_dtype]}"
        return f"{_SHORT[self.dtype]}-native{kernels.REVISION}{kv}-{digest.hexdigest()[:6]}"

    def step(self) -> AbstractContextManager[object]:
        """The pool's threads stay awake between the operations of a step."""
        return self._pool.step()

    def prepare_linear(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> kernels.PackedLinear:
        """Pack a copy."""
        return kernels.PackedLinear(_array(weight), None if bias is None else _array(bias), self.dtype)

    def prepare_gate_up(self, gate: torch.Tensor, up: torch.Tensor) -> kernels.GateUp:
        """Pack both, block by block in turn."""
        return kernels.GateUp(_array(gate), _array(up), self.dtype)

    def prepare_vector(self, weight: torch.Tensor) -> kernels.Vector:
        """A copy."""
        return kernels.Vector(_array(weight))

    def prepare_attention(self, spec: AttnSpec) -> None:
        """Angles of all positions that were planned for, one table for all layers that turn alike."""
        self._prepare_spec(spec)

    def prepare_layer(self, weights: LayerWeights) -> kernels.Layer:
        """References to the weights, checked to fit each other."""
        norm = weights.qk_norm
        return kernels.Layer(
            self._prepare_spec(weights.spec),
            weights.input_norm,
            weights.qkv,
            None if norm is None else (norm.q_weight, norm.k_weight, norm.eps),
            weights.o,
            weights.post_norm,
            weights.gate_up,
            weights.down,
            weights.act,
            weights.eps,
        )

    def from_torch(self, tensor: torch.Tensor) -> kernels.Buf:
        """A copy in the workspace."""
        return self.workspace.from_numpy(_array(tensor))

    def to_torch(self, tensor: kernels.Buf) -> torch.Tensor:
        """The same memory. While the result lives, no operation writes to the buffer."""
        from torch.utils.dlpack import from_dlpack

        shared: torch.Tensor = from_dlpack(tensor)
        return shared

    def park(
        self, x: kernels.Buf, delta: kernels.Buf | None, first: int
    ) -> tuple[kernels.Buf, kernels.Buf | None, NDArray[np.float32]]:
        """What stays is the same memory; what leaves is a copy."""
        return kernels.park(x, delta, first)

    def join(
        self, x: kernels.Buf | None, delta: kernels.Buf | None, rows: NDArray[np.float32]
    ) -> tuple[kernels.Buf, kernels.Buf | None]:
        """New buffers of both; without `x` the parked rows alone, which need no delta."""
        return kernels.join(x, delta, rows, self.workspace)

    def take_rows(self, x: kernels.Buf, rows: NDArray[np.int32]) -> kernels.Buf:
        """A new buffer."""
        return kernels.take_rows(x, rows, self.workspace)

    def copy_blocks(self, kv: kernels.KvCache, copies: Sequence[tuple[int, int]]) -> None:
        """One copy a block."""
        kv.copy_blocks(copies)

    def embed(self, ids: NDArray[np.int32], table: kernels.PackedLinear) -> kernels.Buf:
        """Rows out of the packed matrix."""
        return kernels.embed(ids, table, self.workspace)

    def add_norm(self, x: kernels.Buf, delta: kernels.Buf | None, weight: kernels.Vector, eps: float) -> kernels.Buf:
        """Both in one pass over each row."""
        return kernels.add_norm(x, delta, weight, eps, self.workspace, self._pool)

    def linear(self, x: kernels.Buf, weight: kernels.PackedLinear) -> kernels.Buf:
        """All rows at once: the kernel keeps the row rule."""
        return kernels.linear(x, weight, self.workspace, self._pool)

    def attend(
        self,
        qkv: kernels.Buf,
        kv: kernels.KvCache,
        layer: int,
        spec: AttnSpec,
        batch: Batch,
        qk_norm: QkNorm | None = None,
    ) -> kernels.Buf:
        """One call; `qkv` holds nothing of use afterwards."""
        view = self._view(kv, batch)
        known = self._specs.get(id(spec))
        what = self._prepare_spec(spec) if known is None else known[1]
        norm = None if qk_norm is None else (qk_norm.q_weight, qk_norm.k_weight, qk_norm.eps)
        return kernels.attend(qkv, kv, layer, what, view, norm, self.workspace, self._pool)

    def gate_up_act(self, x: kernels.Buf, weight: kernels.GateUp, act: str) -> kernels.Buf:
        """Both products and the gate in one call."""
        return kernels.gate_up_act(x, weight, act, self.workspace, self._pool)

    def attention(
        self,
        x: kernels.Buf,
        delta: kernels.Buf | None,
        layer: kernels.Layer,
        kv: kernels.KvCache,
        index: int,
        batch: Batch,
    ) -> kernels.Buf:
        """One call."""
        return kernels.attention(x, delta, layer, kv, index, self._view(kv, batch), self.workspace, self._pool)

    def feed_forward(self, x: kernels.Buf, attended: kernels.Buf, layer: kernels.Layer) -> kernels.Buf:
        """One call."""
        return kernels.feed_forward(x, attended, layer, self.workspace, self._pool)

    def layer(
        self,
        x: kernels.Buf,
        delta: kernels.Buf | None,
        layer: kernels.Layer,
        kv: kernels.KvCache,
        index: int,
        batch: Batch,
    ) -> kernels.Buf:
        """One call."""
        return kernels.layer(x, delta, layer, kv, index, self._view(kv, batch), self.workspace, self._pool)

    def logits(self, x: kernels.Buf, head: kernels.PackedLinear, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """The head on the chosen rows, in memory that is free again when the array is dropped."""
        return kernels.logits(x, head, rows, self.logits_workspace, self._pool)

    def kv_cache(self, spec: KVCacheSpec, num_blocks: int) -> kernels.KvCache:
        """A cache of zeros, every page touched."""
        return kernels.KvCache(spec.num_layers, spec.num_kv_heads, spec.head_dim, num_blocks, self.kv_dtype)

    def _view(self, kv: kernels.KvCache, batch: Batch) -> kernels.BatchView:
        """The batch's arrays, looked at once for all layers."""
        known = batch.backend_state
        if isinstance(known, kernels.BatchView):
            return known
        view = kernels.BatchView(
            kv, batch.positions, batch.slot_mapping, batch.seq_starts, batch.seq_lens, batch.block_tables
        )
        if view.max_context > self._positions:
            self._positions = 2 * view.max_context
            for table in self._ropes.values():
                table.resize(self._positions)
        batch.backend_state = view
        return view

    def _prepare_spec(self, spec: AttnSpec) -> kernels.AttnSpec:
        """The kernels' form of a layer's attention, found again by the object: hashing all its numbers takes longer."""
        made = kernels.AttnSpec(
            spec.num_heads,
            spec.num_kv_heads,
            spec.head_dim,
            spec.scale,
            None if spec.rope is None else self._rope(spec.rope),
            spec.window,
            spec.softcap,
        )
        if len(self._specs) >= _MAX_SPECS:
            self._specs.clear()
        self._specs[id(spec)] = (spec, made)
        return made

    def _rope(self, rope: Rope) -> kernels.RopeTable:
        if rope not in self._ropes:
            inv_freq = np.array(rope.inv_freq, dtype=np.float32)
            self._ropes[rope] = kernels.RopeTable(inv_freq, rope.scale, self._positions)
        return self._ropes[rope]


_MAX_SPECS = 2048
"""More than any model has layers."""


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().float().contiguous().numpy()
    return array
