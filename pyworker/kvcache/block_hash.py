"""The name of a full block's content: a chain of XXH3-64 hashes. This is the one place that hashes.

Byte layout, everything little-endian, XXH3-64 with seed 0:

    local  = XXH3(u32 token[0] || u32 token[1] || ... || extra)
    seq[i] = XXH3(u64 seq[i-1] || u64 local[i])

The salt takes the place of `seq[-1]`, so equal text under two salts shares nothing; salt 0 is the shared space. XXH3
can be made to collide on purpose: a hash is a hint of where to look, never a proof that two blocks are equal.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHAIN = struct.Struct("<QQ")


def block_hash(parent: int, token_ids: Sequence[int], extra: bytes = b"") -> int:
    """Hash of one full block (u64). `parent` is the hash of the block before it, or the salt for the first (u64).

    `token_ids` are u32; `extra` is whatever else decides the block's content besides its tokens and its parent.

    Raises:
        struct.error: a token id or the parent is out of range.
    """
    local = xxhash.xxh3_64_intdigest(struct.pack(f"<{len(token_ids)}I", *token_ids) + extra)
    return xxhash.xxh3_64_intdigest(_CHAIN.pack(parent, local))
