"""The limit that arithmetic sets: what multiplying takes, however little everything else took.

No engine on these cores can be quicker at this precision than its multiplications, so this says what a ratio against a
peer could be at most. The rate is the best that a linear layer reaches whose weights and rows stay in a core's cache,
on all threads; it is measured beside the figures. Attention, norms and sampling count for nothing here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pyworker.models.loader import read_json
from slackwater._native import kernels

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_ROWS = 96
_SHAPES = ((768, 256), (1024, 256), (1024, 384), (576, 512))
"""Output columns and inputs of the layers that are tried: with `_ROWS` rows they fit a second-level cache."""
_CALLS, _TRIES = 8, 12


class PeakRate:
    """Measures multiply-adds a second, on all threads."""

    def __init__(self, dtype: str) -> None:
        rng = np.random.default_rng(1)
        self._pool = kernels.Pool(kernels.available_threads())
        self._space = kernels.Workspace(1 << 22)
        self._layers = [
            (
                kernels.PackedLinear(rng.standard_normal((columns, depth), dtype=np.float32), None, dtype),
                rng.standard_normal((_ROWS, depth), dtype=np.float32),
                columns * depth * _ROWS,
            )
            for columns, depth in _SHAPES
        ]

    def measure(self) -> float:
        """The best rate that was seen in a few tens of milliseconds."""
        return max(self._best(*layer) for layer in self._layers)

    def _best(self, weight: kernels.PackedLinear, rows: NDArray[np.float32], macs: int) -> float:
        best = 0.0
        for _ in range(_TRIES):
            with self._pool.step():
                given = self._space.from_numpy(rows)
                began = time.perf_counter()
                for _ in range(_CALLS):
                    kernels.linear(given, weight, self._space, self._pool)
                best = max(best, _CALLS * macs / (time.perf_counter() - began))
        return best


@dataclass(frozen=True, slots=True)
class Work:
    """Multiply-adds for one token: of the linear layers, and of the head, which only a sampled token needs."""

    layers: int
    head: int

    def request(self, prompt: int, output: int) -> int:
        """Multiply-adds of one request: the last of its output tokens is never put in."""
        return (prompt + output - 1) * self.layers + output * self.head


def work_of(model_dir: Path) -> Work:
    """Read off a Llama-like configuration."""
    config = read_json(model_dir / "config.json")
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or hidden // heads)
    both = heads + int(config["num_key_value_heads"])
    layer = 2 * hidden * head_dim * both + 3 * hidden * int(config["intermediate_size"])
    return Work(layer * int(config["num_hidden_layers"]), hidden * int(config["vocab_size"]))
