"""Tells machines apart by the bits of what they compute, where a library is free to choose the order of a sum.

Workers with equal marks can go on with each other's texts; so everything that has a hand in a token and is not fixed
by this program is tried out here, in the shapes that the model will use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
import xxhash

from pyworker.runner.backends.base import BLOCK_SIZE
from pyworker.runner.backends.paged_attention import BLOCKS
from pyworker.runner.backends.rope import RopeTable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyworker.runner.backends.base import AttnSpec

_LINEAR_ELEMENTS = 1 << 20
"""Of a larger weight so many elements are tried, in whole rows."""


def fingerprint(spec: AttnSpec, linears: Iterable[tuple[int, int]]) -> str:
    """Six hexadecimal digits for attention of this shape and torch's products of `linears` `(out, in)`."""
    digest = xxhash.xxh3_64()
    for tensor in (*_attention(spec), *(_linear(*shape) for shape in linears), *_angles(spec)):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:6]


def _attention(spec: AttnSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """The two products of one split, as `paged_attention` calls for them."""
    lanes = BLOCKS * spec.num_kv_heads
    keys = _noise(lanes, BLOCK_SIZE, spec.head_dim)
    scores = torch.bmm(_noise(lanes, spec.group, spec.head_dim), keys.transpose(1, 2))
    return scores, torch.bmm(_noise(lanes, spec.group, BLOCK_SIZE), keys)


def _linear(rows: int, columns: int) -> torch.Tensor:
    return F.linear(_noise(1, columns), _noise(min(rows, max(1, _LINEAR_ELEMENTS // columns)), columns))


def _angles(spec: AttnSpec) -> tuple[torch.Tensor, ...]:
    return () if spec.rope is None else RopeTable(spec.rope).at(torch.arange(256))


def _noise(*shape: int) -> torch.Tensor:
    """Numbers of 24 random bits in [-0.5, 0.5): round ones would add up exactly in any order, and tell nothing."""
    words = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint32) * np.uint32(2_654_435_769)
    words ^= words >> np.uint32(15)
    values = (words * np.uint32(2_246_822_519) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    return torch.from_numpy(values - np.float32(0.5)).view(shape)
