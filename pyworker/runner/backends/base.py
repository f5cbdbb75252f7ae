"""What a model asks of the machine: a handful of fused operations a layer.

A model file knows only this Protocol. What a tensor is belongs to the backend: model code passes it from one operation
to the next and never looks inside. Activations between operations are float32.

Row rule: the bits of an output row depend only on that row's inputs and the weights, not on how many rows there are,
where the row stands or how many threads run. A backend that keeps it says `batch_invariant`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from pyworker.runner.batch import Batch
    from slackwater._native.kernels import Pool

Tensor: TypeAlias = Any
"""Activations or a vector of weights, opaque to model code."""
Linear: TypeAlias = Any
"""A prepared weight matrix, opaque to model code."""
Layer: TypeAlias = Any
"""A prepared layer, opaque to model code."""
KVCache: TypeAlias = Any
"""The paged cache of all layers, opaque to model code."""

BLOCK_SIZE = 32
"""Tokens in a KV block: the width of a weight tile, fixed for the native kernels and the same everywhere."""


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary embedding: pairs are (i, i + head_dim / 2), as in the Llama family.

    `inv_freq` float32 values `[D / 2]`: the angle a position turns pair i by. Cosines and sines are multiplied by
    `scale` (yarn's attention factor, 1 elsewhere).
    """

    inv_freq: tuple[float, ...]
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class AttnSpec:
    """Shape and scale of one attention layer. `scale` multiplies the query before the dot product.

    `rope` none: the query and key come rotated. `window`: a token sees itself and the `window - 1` before it.
    `softcap`: a score s becomes `softcap * tanh(s / softcap)`.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scale: float
    rope: Rope | None
    window: int | None = None
    softcap: float | None = None

    @property
    def group(self) -> int:
        """Query heads that share a key-value head."""
        return self.num_heads // self.num_kv_heads


@dataclass(frozen=True, slots=True)
class QkNorm:
    """RMS norm of each query and key head before the rotation: weights `[D]` as `prepare_vector` gives them."""

    q_weight: Tensor
    k_weight: Tensor
    eps: float


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """A pre-norm layer: attention, then a gated feed-forward part, both added to what comes in.

    Vectors are of `prepare_vector`, `gate_up` of `prepare_gate_up`, other matrices of `prepare_linear`.
    """

    spec: AttnSpec
    input_norm: Tensor
    qkv: Linear
    qk_norm: QkNorm | None
    o: Linear
    post_norm: Tensor
    gate_up: Linear
    down: Linear
    act: str
    eps: float


@dataclass(frozen=True, slots=True)
class KVCacheSpec:
    """What one token costs in the cache."""

    num_layers: int
    num_kv_heads: int
    head_dim: int

    def block_bytes(self, element_bytes: int = 4) -> int:
        """Bytes of one block: keys and values of `BLOCK_SIZE` tokens in all layers."""
        return self.num_layers * 2 * self.num_kv_heads * BLOCK_SIZE * self.head_dim * element_bytes


@dataclass(frozen=True, slots=True)
class StepSizes:
    """Memory that a backend takes at start, so that no step takes any.

    `activations` and `logits` are floats; `positions` are those that rotary angles are made for.
    """

    activations: int
    logits: int
    positions: int


class Backend(Protocol):
    """The operations. N = tokens of the batch, H = hidden size, D = head size, V = width of the logits.

    `dtype` is that of weights and keys and values, `float32` or `bfloat16`; with the latter, activations are rounded
    where they enter a product, and sums are float32. `kv_layout` names the order of elements inside a block; blocks of
    another layout cannot be read. `fatal` are the exceptions after which memory holds what nobody knows.
    """

    name: str
    dtype: str
    batch_invariant: bool
    kv_layout: str
    fatal: tuple[type[Exception], ...]
    pool: Pool | None
    """The threads that compute; `None`: the caller alone."""

    def numerics(self, spec: AttnSpec, linears: Iterable[tuple[int, int]]) -> str:
        """Name of the arithmetic for a model of this attention with linear layers `(out, in)`.

        Two backends with equal names give equal bits for equal weights. Takes some milliseconds.
        """

    def step(self) -> AbstractContextManager[object]:
        """What one step of the engine runs in: compute threads may wait busily inside it, and sleep outside."""

    def prepare_linear(self, weight: Tensor, bias: Tensor | None = None) -> Linear:
        """Pack a float32 weight `[out, in]` (and bias `[out]`) at load time. The source may be dropped afterwards."""

    def prepare_gate_up(self, gate: Tensor, up: Tensor) -> Linear:
        """Pack two float32 weights `[I, H]` for `gate_up_act`."""

    def prepare_vector(self, weight: Tensor) -> Tensor:
        """Keep a float32 vector, such as a norm's weight. The source may be dropped afterwards."""

    def prepare_attention(self, spec: AttnSpec) -> None:
        """Make at load time what attention of a layer needs beside weights, so that no step has to."""

    def prepare_layer(self, weights: LayerWeights) -> Layer:
        """Make a layer ready for `layer` and its halves, its attention too."""

    def from_torch(self, tensor: Tensor) -> Tensor:
        """Activations out of a float32 torch tensor `[N, M]`."""

    def to_torch(self, tensor: Tensor) -> Tensor:
        """Activations as a float32 torch tensor; it may share memory, and is read before the next operation."""

    def park(self, x: Tensor, delta: Tensor | None, first: int) -> tuple[Tensor, Tensor | None, NDArray[np.float32]]:
        """Let rows `first..` leave: `x` and `delta` without them, and a copy of their `x + delta` `[N - first, H]`.

        The sum is the one that `add_norm` would make.
        """

    def join(self, x: Tensor | None, delta: Tensor | None, rows: NDArray[np.float32]) -> tuple[Tensor, Tensor | None]:
        """Append parked rows behind those of `x`; their delta is -0.0, which changes no bit of theirs."""

    def take_rows(self, x: Tensor, rows: NDArray[np.int32]) -> Tensor:
        """Copies of some rows of `x`, in the order of `rows` `[R]`: `[R, M]`."""

    def copy_blocks(self, kv: KVCache, copies: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks (from, to) in all layers."""

    def embed(self, ids: NDArray[np.int32], table: Linear) -> Tensor:
        """Rows of a prepared `[V, H]` matrix, which may be the head's own: `[N, H]`."""

    def add_norm(self, x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> Tensor:
        """`x += delta` in place, then its RMS norm times `weight` (float32 `[H]`): `[N, H]`."""

    def linear(self, x: Tensor, weight: Linear) -> Tensor:
        """`[N, in]` to `[N, out]`, bias included."""

    def attend(
        self, qkv: Tensor, kv: KVCache, layer: int, spec: AttnSpec, batch: Batch, qk_norm: QkNorm | None = None
    ) -> Tensor:
        """Norm of queries and keys, rope, write keys and values, then causal attention over the pages.

        `[N, (Hq + 2 Hkv) D]` to `[N, Hq D]`; what `qkv` holds afterwards is of no use. All writes precede all reads,
        because tokens of one chunk attend to each other.
        """

    def gate_up_act(self, x: Tensor, weight: Linear, act: str) -> Tensor:
        """`act(gate) * up` with a weight of `prepare_gate_up`: `[N, I]`. `act` is `silu`."""

    def attention(self, x: Tensor, delta: Tensor | None, layer: Layer, kv: KVCache, index: int, batch: Batch) -> Tensor:
        """The first half of layer `index`: `add_norm`, `linear` and `attend`, `[N, H]` to `[N, Hq D]`."""

    def feed_forward(self, x: Tensor, attended: Tensor, layer: Layer) -> Tensor:
        """The second half: `linear`, `add_norm`, `gate_up_act` and `linear`: what is to be added to `x`, `[N, H]`."""

    def layer(self, x: Tensor, delta: Tensor | None, layer: Layer, kv: KVCache, index: int, batch: Batch) -> Tensor:
        """Both halves at once: the same bits."""

    def logits(self, x: Tensor, head: Linear, rows: NDArray[np.int32]) -> NDArray[np.float32]:
        """The head on some rows of `x`: `[R, V]`."""

    def kv_cache(self, spec: KVCacheSpec, num_blocks: int) -> KVCache:
        """Memory for `num_blocks` blocks, block 0 (the null block) included."""
