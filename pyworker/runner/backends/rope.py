"""Angles of the rotary embedding, made once for all layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from pyworker.runner.backends.base import Rope

_PAGE = 256
"""Positions whose angles are computed together, always in this shape."""


class RopeTable:
    """Cosines and sines by position, float32, made page by page as positions come up."""

    def __init__(self, rope: Rope) -> None:
        self._inverse = np.array(rope.inv_freq, dtype=np.float32)
        self._scale = np.float64(rope.scale)
        self._cos = torch.empty(0, len(rope.inv_freq))
        self._sin = torch.empty(0, len(rope.inv_freq))

    def at(self, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`[N, 1, D / 2]` each for positions `[N]`."""
        while self._cos.shape[0] <= int(positions.max()):
            self._grow()
        return self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1)

    def _grow(self) -> None:
        first = self._cos.shape[0]
        positions = np.arange(first, first + _PAGE, dtype=np.float32)
        # The product is rounded to float32, as in the models' training code; only then is it widened.
        angles = (positions[:, None] * self._inverse).astype(np.float64)
        self._cos = torch.cat([self._cos, torch.from_numpy((np.cos(angles) * self._scale).astype(np.float32))])
        self._sin = torch.cat([self._sin, torch.from_numpy((np.sin(angles) * self._scale).astype(np.float32))])
