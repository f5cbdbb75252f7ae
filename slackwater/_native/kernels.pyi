"""The CPU kernels, on buffers that the Rust side owns.

Activations are `Buf`s: float32 `[N, M]`, cut from a `Workspace`. Output rows keep the row rule: their bits depend only
on their own inputs and the weights. Every operation looks at shapes, indices and borrows first: a buffer that it writes
may not be given twice, be in another call, or have an array or tensor over it that is alive. Arrays that come in are
C-contiguous; one of another dtype or number of dimensions is a `TypeError`. Calls over about 50 microseconds give up
the interpreter.

Raises, where nothing else is said:
    KernelError: a call that does not fit, or a workspace without room for it. Nothing has been written.
    KernelPanic: a bug.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Self, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BLOCK_SIZE",
    "REVISION",
    "AttnSpec",
    "BatchView",
    "Buf",
    "GateUp",
    "KernelError",
    "KernelPanic",
    "KvCache",
    "Layer",
    "PackedLinear",
    "Pool",
    "ReadProbe",
    "RopeTable",
    "Step",
    "Vector",
    "Workspace",
    "add_norm",
    "attend",
    "attend_scratch",
    "attention",
    "available_isas",
    "available_threads",
    "bf16_fault",
    "busy_nanos",
    "embed",
    "feed_forward",
    "gate_up_act",
    "isa",
    "join",
    "layer",
    "linear",
    "logits",
    "park",
    "set_isa",
    "take_rows",
]

REVISION: int
"""Changes whenever the bits of any kernel may change; part of the numerics id."""

BLOCK_SIZE: int
"""Tokens of a KV block."""

class KernelError(ValueError):
    """A call that a kernel refuses: a wrong shape, an index that points nowhere, a buffer in use, a missing instruction
    set. Nothing has been written."""

class KernelPanic(RuntimeError):
    """A bug in a kernel. What it was writing is undefined."""

@final
class Workspace:
    """Memory for activations, taken once. What is cut from it comes back when Python drops it."""

    def __new__(cls, floats: int) -> Self:
        """Take and touch the memory."""

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""

    @property
    def used(self) -> int:
        """Floats in buffers now."""

    @property
    def peak(self) -> int:
        """The most floats that were ever in buffers at once."""

    def from_numpy(self, array: NDArray[np.float32]) -> Buf:
        """A copy of an array `[N, M]`."""

@final
class Buf:
    """Activations, float32 `[N, M]`, row-major. Made by the operations."""

    @property
    def shape(self) -> tuple[int, int]:
        """`(N, M)`."""

    @property
    def dtype(self) -> str:
        """`float32`."""

    def numpy(self) -> NDArray[np.float32]:
        """An array over the same memory. While it lives, no operation writes to the buffer."""

    def __dlpack__(
        self,
        *,
        stream: object = None,
        max_version: object = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """For `torch.from_dlpack`: the same memory. While the tensor lives, no operation writes to the buffer."""

    @staticmethod
    def __dlpack_device__() -> tuple[int, int]:
        """The CPU."""

@final
class PackedLinear:
    """The weights of a linear layer, packed for the kernels. Holds a copy: the arrays may be dropped."""

    def __new__(
        cls, weight: NDArray[np.float32], bias: NDArray[np.float32] | None = None, dtype: str = "float32"
    ) -> Self:
        """Pack a weight `[N, K]` and a bias `[N]` in `float32` or `bfloat16`; the bias stays float32."""

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the weight, `(N, K)`."""

    @property
    def dtype(self) -> str:
        """Format of the packed weight."""

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""

@final
class GateUp:
    """The two weights of a gated layer, packed for the kernels."""

    def __new__(cls, gate: NDArray[np.float32], up: NDArray[np.float32], dtype: str = "float32") -> Self:
        """Pack two weights `[I, H]` in `float32` or `bfloat16`."""

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of each weight, `(I, H)`."""

    @property
    def dtype(self) -> str:
        """Format of the packed weights."""

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""

@final
class Vector:
    """A float32 vector, such as a norm's weight."""

    def __new__(cls, values: NDArray[np.float32]) -> Self:
        """Copy `[H]`."""

    def __len__(self) -> int: ...

@final
class RopeTable:
    """Cosines and sines of the rotary angles by position, of our own arithmetic: the same bits on every machine."""

    def __new__(cls, inv_freq: NDArray[np.float32], scale: float, max_positions: int) -> Self:
        """`inv_freq` `[D / 2]`; cosines and sines are multiplied by `scale`."""

    def resize(self, max_positions: int) -> None:
        """Make it anew for so many positions, for all that hold it. A call that runs keeps the table it began with."""

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""

@final
class AttnSpec:
    """Shape, scale and rotation of an attention layer."""

    def __new__(
        cls,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        scale: float,
        rope: RopeTable | None = None,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Self:
        """As `pyworker.runner.backends.base.AttnSpec`."""

@final
class Layer:
    """The weights of a pre-norm layer, attention and a gated feed-forward part, by reference."""

    def __new__(
        cls,
        spec: AttnSpec,
        input_norm: Vector,
        qkv: PackedLinear,
        qk_norm: tuple[Vector, Vector, float] | None,
        o: PackedLinear,
        post_norm: Vector,
        gate_up: GateUp,
        down: PackedLinear,
        act: str,
        eps: float,
    ) -> Self:
        """What one operation of the layer gives must be what the next one takes. `act` is `silu`."""

@final
class KvCache:
    """Keys and values of all layers, in blocks of 32 tokens. One call at a time looks into it; others wait."""

    def __new__(cls, layers: int, kv_heads: int, head_dim: int, num_blocks: int, dtype: str) -> Self:
        """Take and touch the memory, all zeros. `dtype` is `float32` or `bfloat16`."""

    @property
    def num_blocks(self) -> int:
        """Blocks, the null block included."""

    @property
    def block_bytes(self) -> int:
        """Bytes of one block."""

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""

    @property
    def layout(self) -> str:
        """Name of the order of elements inside a block."""

    def copy_blocks(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copy whole blocks (from, to), one after the other, in all layers."""

@final
class BatchView:
    """The arrays of one step's batch, copied and looked at once, for the attention of every layer."""

    def __new__(
        cls,
        kv: KvCache,
        positions: NDArray[np.int32],
        slot_mapping: NDArray[np.int64],
        seq_starts: NDArray[np.int32],
        seq_lens: NDArray[np.int32],
        block_tables: NDArray[np.int32],
    ) -> Self:
        """As `pyworker.runner.batch.Batch` has them; blocks and slots are those of `kv`."""

    @property
    def max_context(self) -> int:
        """Tokens of the longest context."""

@final
class Pool:
    """Threads that share the work of a call; the caller is one of them. They sleep while there is no work."""

    def __new__(cls, threads: int) -> Self:
        """Start `threads - 1` threads."""

    @property
    def threads(self) -> int:
        """Threads, the caller included."""

    def step(self) -> Step:
        """A context in which several calls follow each other closely: threads wait awake for some microseconds."""

@final
class ReadProbe:
    """A buffer whose reading is the bound that figures are compared with."""

    def __new__(cls, nbytes: int) -> Self:
        """Allocate about `nbytes` bytes.

        Raises:
            KernelError: no memory.
        """

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""

    def read(self, pool: Pool) -> None:
        """Read all of it once, on the pool's threads."""

@final
class Step:
    """See `Pool.step`."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

def embed(ids: NDArray[np.int32], table: PackedLinear, workspace: Workspace) -> Buf:
    """Rows of a packed `[V, H]` weight: `ids` `[N]` to `[N, H]`."""

def add_norm(x: Buf, delta: Buf | None, weight: Vector, eps: float, workspace: Workspace, pool: Pool) -> Buf:
    """`x += delta` in place, then its RMS norm times `weight`: `[N, H]`."""

def linear(x: Buf, weight: PackedLinear, workspace: Workspace, pool: Pool) -> Buf:
    """`x W^T + b`: `[N, in]` to `[N, out]`."""

def gate_up_act(x: Buf, weight: GateUp, act: str, workspace: Workspace, pool: Pool) -> Buf:
    """`act(x gate^T) * (x up^T)`: `[N, H]` to `[N, I]`. `act` is `silu`."""

def logits(
    x: Buf, head: PackedLinear, rows: NDArray[np.int32], workspace: Workspace, pool: Pool
) -> NDArray[np.float32]:
    """The head on some rows of `x`: `[R, V]`, in memory of `workspace` that is free when the array is dropped."""

def attend(
    qkv: Buf,
    kv: KvCache,
    layer: int,
    spec: AttnSpec,
    batch: BatchView,
    qk_norm: tuple[Vector, Vector, float] | None,
    workspace: Workspace,
    pool: Pool,
) -> Buf:
    """Norm of queries and keys (weights, epsilon), rotation, write of keys and values, causal attention over the pages.

    `[N, (Hq + 2 Hkv) D]` to `[N, Hq D]`. `qkv` holds nothing of use afterwards.
    """

def attention(
    x: Buf,
    delta: Buf | None,
    layer: Layer,
    kv: KvCache,
    index: int,
    batch: BatchView,
    workspace: Workspace,
    pool: Pool,
) -> Buf:
    """The first half of layer `index`: `add_norm`, `linear` (queries, keys, values) and `attend` in one call, with
    their bits: `[N, H]` to `[N, Hq D]`.

    Raises:
        KernelError: as of each of them; `x` and the cache may hold what those before it have written.
    """

def feed_forward(x: Buf, attended: Buf, layer: Layer, workspace: Workspace, pool: Pool) -> Buf:
    """The second half: `linear` (o), `add_norm`, `gate_up_act` and `linear` (down): what is to be added to `x`,
    `[N, H]`.

    Raises:
        KernelError: as of `attention`.
    """

def layer(
    x: Buf,
    delta: Buf | None,
    layer: Layer,
    kv: KvCache,
    index: int,
    batch: BatchView,
    workspace: Workspace,
    pool: Pool,
) -> Buf:
    """Both halves in one call.

    Raises:
        KernelError: as of `attention`.
    """

def attend_scratch(spec: AttnSpec, max_tokens: int, max_context: int, threads: int) -> int:
    """Floats that `attend` needs beside its buffers, for up to so many tokens of contexts up to so many."""

def park(x: Buf, delta: Buf | None, first: int) -> tuple[Buf, Buf | None, NDArray[np.float32]]:
    """Rows `first..` leave: `x` and `delta` without them (the same memory), and their `x + delta` `[N - first, H]`."""

def join(x: Buf | None, delta: Buf | None, rows: NDArray[np.float32], workspace: Workspace) -> tuple[Buf, Buf | None]:
    """Parked rows behind those of `x`; their delta is -0.0, which changes no bit of theirs."""

def take_rows(x: Buf, rows: NDArray[np.int32], workspace: Workspace) -> Buf:
    """Copies of some rows of `x` `[N, M]`, in the order of `rows` `[R]`: `[R, M]`."""

def isa() -> str:
    """Name of the instruction set in use: `portable`, `avx2`, `avx512` or `avx512bf16`."""

def set_isa(name: str) -> None:
    """Choose the instruction set of this process; `auto` is the best that the machine has. It changes no bits.

    Raises:
        KernelError: an unknown name, or one that this machine lacks or that gives it other bits.
    """

def busy_nanos() -> int:
    """Time that calls have spent in kernels since the process began, in nanoseconds."""

def available_isas() -> list[str]:
    """Names of the instruction sets that this machine has, the slowest first."""

def bf16_fault() -> str | None:
    """What is wrong with this machine's bf16 dot product, if it has one that gives other bits: it is not used then."""

def available_threads() -> int:
    """Cores that this process may use, by affinity and by quota; at least 1."""
