"""Which drafts of a verify step are kept.

The sampler says which token the request emits at each position, as if no draft had been made: its randomness is a
function of the position, so this is the very token of a run without speculation. A draft is kept while it is that
token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

T = TypeVar("T")


def num_emitted(drafts: Sequence[T], sampled: Sequence[T]) -> int:
    """How many of `sampled` come out: one for each draft that is right, from the first on, and the one after them.

    `sampled[j]` was drawn where the drafts before j stand; there is one more of them than of `drafts`.
    """
    for index, draft in enumerate(drafts):
        if sampled[index] != draft:
            return index + 1
    return len(drafts) + 1
