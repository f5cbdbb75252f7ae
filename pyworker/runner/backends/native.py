"""The CPU default: matrix products by the Rust kernels, from packed weights; the rest as in `reference`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pyworker.runner.backends.fingerprint import fingerprint
from pyworker.runner.backends.reference import ReferenceBackend
from slackwater._native import kernels

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager

    import numpy as np
    from numpy.typing import NDArray

    from pyworker.runner.backends.base import AttnSpec, Linear


class NativeBackend(ReferenceBackend):
    """Backend `native`; see `Backend` for the operations. A `Linear` is a `kernels.PackedLinear`.

    Whoever makes one sets torch to one thread, so that it starts no second pool beside this one.
    """

    name = "native"
    fatal: tuple[type[Exception], ...] = (kernels.KernelPanic,)

    def __init__(self, threads: int | None = None) -> None:
        """`threads` compute, the caller included; None means every core that this process may use.

        Raises:
            KernelError: a number of threads that cannot be had.
        """
        super().__init__()
        self._pool = kernels.Pool(threads or kernels.available_threads())

    def numerics(self, spec: AttnSpec, linears: Iterable[tuple[int, int]]) -> str:  # noqa: ARG002 - kernels do them
        """Attention multiplies in torch, which tells machines apart; the kernels' bits are the same everywhere."""
        return f"f32-native{kernels.REVISION}-{fingerprint(spec, ())}"

    def step(self) -> AbstractContextManager[object]:
        """The pool's threads stay awake between the operations of a step."""
        return self._pool.step()

    def prepare_linear(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Linear:
        """Pack a copy."""
        return kernels.PackedLinear(_array(weight), None if bias is None else _array(bias))

    def embed(self, ids: NDArray[np.int32], table: Linear) -> torch.Tensor:
        """Rows out of the packed matrix."""
        out = torch.empty(len(ids), table.shape[1])
        kernels.embed(ids, table, out.numpy())
        return out

    def linear(self, x: torch.Tensor, weight: Linear) -> torch.Tensor:
        """All rows at once: the kernel keeps the row rule."""
        out = torch.empty(x.shape[0], weight.shape[0])
        kernels.linear(_array(x), weight, out.numpy(), self._pool)
        return out


def _array(tensor: torch.Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.to(torch.float32).contiguous().numpy()
    return array
