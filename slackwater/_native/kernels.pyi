"""The CPU kernels on numpy arrays, in place and without a copy.

Arrays are float32 and C-contiguous; a torch tensor comes in by `.numpy()`. Output rows keep the row rule: their bits
depend only on their own inputs and the weights. An array of another dtype or number of dimensions is a `TypeError`, one
that is being written by another call, or is read-only, an error of numpy's bindings.
"""

from types import TracebackType
from typing import Self, final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "REVISION",
    "KernelError",
    "KernelPanic",
    "PackedLinear",
    "Pool",
    "Step",
    "available_isas",
    "available_threads",
    "embed",
    "isa",
    "linear",
    "set_isa",
]

REVISION: int
"""Changes whenever the bits of any kernel may change; part of the numerics id."""

class KernelError(ValueError):
    """A call that a kernel refuses: a wrong shape, a missing instruction set. Nothing has been written."""

class KernelPanic(RuntimeError):
    """A bug in a kernel. What it was writing is undefined."""

@final
class PackedLinear:
    """The weights of a linear layer, packed for the kernels. Holds a copy: the arrays may be dropped."""

    def __new__(cls, weight: NDArray[np.float32], bias: NDArray[np.float32] | None = None) -> Self:
        """Pack a weight `[N, K]` and a bias `[N]`.

        Raises:
            KernelError: an empty dimension, a bias of another length, or no memory.
        """

    @property
    def shape(self) -> tuple[int, int]:
        """Shape of the weight, `(N, K)`."""

    @property
    def nbytes(self) -> int:
        """Memory that it holds, in bytes."""

@final
class Pool:
    """Threads that share the work of a call; the caller is one of them. They sleep while there is no work."""

    def __new__(cls, threads: int) -> Self:
        """Start `threads - 1` threads.

        Raises:
            KernelError: no thread or absurdly many, or the system has none left.
        """

    @property
    def threads(self) -> int:
        """Threads, the caller included."""

    def step(self) -> Step:
        """A context in which several calls follow each other closely: threads wait awake for some microseconds."""

@final
class Step:
    """See `Pool.step`."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

def linear(x: NDArray[np.float32], w: PackedLinear, out: NDArray[np.float32], pool: Pool) -> None:
    """`out = x W^T + b`, in place: `x` is `[rows, K]`, `out` is `[rows, N]`. Long calls give up the interpreter.

    Raises:
        KernelError: a wrong shape, or an array that is not C-contiguous.
        KernelPanic: a bug.
    """

def embed(ids: NDArray[np.int32], w: PackedLinear, out: NDArray[np.float32]) -> None:
    """Copy rows of the weight as they were before it was packed: `ids` is `[R]`, `out` is `[R, K]`.

    Raises:
        KernelError: a wrong shape, or an id that is no row.
    """

def isa() -> str:
    """Name of the instruction set in use: `portable`, `avx2` or `avx512`."""

def set_isa(name: str) -> None:
    """Choose the instruction set of this process; `auto` is the best that the machine has. It changes no bits.

    Raises:
        KernelError: an unknown name, or one that this machine lacks.
    """

def available_isas() -> list[str]:
    """Names of the instruction sets that this machine has, the slowest first."""

def available_threads() -> int:
    """Cores that this process may use, by affinity and by quota; at least 1."""
