"""Philox4x32-10: random numbers as a pure function of a key and a counter (Salmon, Moraes, Dror and Shaw 2011).

Nothing is carried from call to call, so the same numbers are drawn whatever was drawn before. The native sampler has
the same generator for tokens; this one fills weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_LOW = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_MASK = 0xFFFFFFFF

DOMAIN_SAMPLING = 0
"""Last counter word of numbers that choose tokens."""
DOMAIN_WEIGHTS = 1
"""Last counter word of numbers that fill the weights of a built model."""


def philox4x32(key: int, counter: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Ten rounds over `counter` u32 `[n, 4]` with a 64-bit `key` (low word first): u32 `[n, 4]`."""
    c0, c1, c2, c3 = (counter[:, word].astype(np.uint64) for word in range(4))
    k0, k1 = key & _MASK, (key >> 32) & _MASK
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = (product1 >> _SHIFT) ^ c1 ^ np.uint64(k0)
        c1 = product1 & _LOW
        c2 = (product0 >> _SHIFT) ^ c3 ^ np.uint64(k1)
        c3 = product0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return np.stack([c0, c1, c2, c3], axis=1).astype(np.uint32)


def uniform(words: NDArray[np.uint32]) -> NDArray[np.float64]:
    """23 bits of each word as a number in (0, 1): neither end can occur, and float32 would hold it exactly."""
    return ((words >> np.uint32(9)).astype(np.float64) + 0.5) * 2.0**-23
