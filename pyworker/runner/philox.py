"""Philox4x32-10: random numbers as a pure function of a key and a counter (Salmon, Moraes, Dror and Shaw 2011).

Nothing is carried from call to call, so a request that was resumed, moved or retried draws the numbers it would have
drawn undisturbed.
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


def uniform_by_id(
    key: int, ids: NDArray[np.int64], *, position: int, choice: int, domain: int = DOMAIN_SAMPLING
) -> NDArray[np.float64]:
    """The number of each candidate id `[n]`, for output position `position` of choice `choice`.

    Four neighbouring ids share a counter; an id's number does not depend on which other ids are asked for.
    """
    groups, inverse = np.unique(ids >> 2, return_inverse=True)
    counter = np.empty((len(groups), 4), dtype=np.uint32)
    counter[:, 0] = groups
    counter[:, 1:] = (position & _MASK, choice & _MASK, domain & _MASK)
    return uniform(philox4x32(key, counter)[inverse, ids & 3])
