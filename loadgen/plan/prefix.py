"""What prompts share, and how much of it the best cache would find.

A prompt is a run of segments; equal seeds are equal words. Shared segments come first, then one of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from loadgen.plan.model import Segment
from loadgen.plan.streams import seed_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.random import Generator

    from loadgen.plan.rows import SourceRow
    from loadgen.spec import PrefixSpec


def ideal_hits(prompts: Iterable[Sequence[int]], blocks: int | None = None) -> int:
    """Blocks found by a cache of `blocks` blocks (None: endless) that begins empty.

    A prompt's blocks are visited in order: one that is present becomes the most recent, one that is absent is inserted
    and the oldest leave above the limit. Only the leading run of present blocks is a hit.
    """
    cache: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for prompt in prompts:
        leading = True
        for block in prompt:
            if block in cache:
                cache.move_to_end(block)
                hits += leading
                continue
            leading = False
            cache[block] = None
            if blocks is not None and len(cache) > blocks:
                cache.popitem(last=False)
    return hits


def ideal_found(prompts: Iterable[Sequence[Segment]]) -> list[int]:
    """Tokens of each prompt that an endless cache would find, by whole segments from the left."""
    seen: set[int] = set()
    every: list[int] = []
    for segments in prompts:
        leading, chain, found = True, 0, 0
        for segment in segments:
            # The place of a segment is all that is before it: equal words after other words are no hit.
            chain = seed_of(chain, segment.seed, segment.tokens)
            if chain in seen and leading:
                found += segment.tokens
            else:
                leading = False
                seen.add(chain)
        every.append(found)
    return every


def ideal_share(prompts: Sequence[Sequence[Segment]]) -> float:
    """Share of all prompt tokens that an endless cache would find."""
    total = sum(segment.tokens for segments in prompts for segment in segments)
    return sum(ideal_found(prompts)) / total if total else 0.0


class Shared:
    """Draws the shared beginning of each prompt of one class."""

    def __init__(self, spec: PrefixSpec, seed: int, cls: str, rng: Generator) -> None:
        """`rng`: the class's own stream for prefixes."""
        self._spec, self._seed, self._cls, self._rng = spec, seed, cls, rng
        ranks = np.arange(1, max(spec.fanout, 1) + 1, dtype=np.float64)
        weights = ranks**-spec.zipf
        self._edges = np.cumsum(weights / weights.sum())

    def segments(self, tokens: int, own: int) -> tuple[Segment, ...]:
        """Segments of a prompt of `tokens` tokens; `own` makes its private part differ from all others.

        At least the last token is the prompt's own: shared blocks are left off whole where the prompt is too short.
        """
        room = max(tokens - 1, 0) // self._spec.block if self._spec.block else 0
        shared = tuple(Segment(seed, self._spec.block) for seed in self._path()[:room])
        rest = tokens - sum(segment.tokens for segment in shared)
        return (*shared, Segment(seed_of(self._seed, self._cls, "own", own), rest))

    def _path(self) -> list[int]:
        """Seeds from the root to a leaf. Drawn even where the prompt is too short, so that lengths move no other
        draw.
        """
        if self._spec.kind == "groups":
            return [seed_of(self._seed, self._cls, "group", int(self._rng.integers(self._spec.groups)))]
        if self._spec.kind != "tree":
            return []
        draws = np.searchsorted(self._edges, self._rng.random(self._spec.depth), side="right")
        names = [int(child) for child in np.minimum(draws, self._spec.fanout - 1)]
        return [seed_of(self._seed, self._cls, "tree", *names[: level + 1]) for level in range(len(names))]


def trace_segments(row: SourceRow, seed: int, source: str) -> tuple[Segment, ...]:
    """Segments of a row's own blocks: equal ids give equal words; the last is partial, and is a beginning of its block.

    The lengths add up to the row's prompt, exactly.
    """
    if not row.blocks or row.block_tokens is None or row.in_tokens is None:
        return ()
    full = row.block_tokens
    sizes = [full] * (len(row.blocks) - 1) + [row.in_tokens - full * (len(row.blocks) - 1)]
    return tuple(
        Segment(seed_of(seed, source, "block", block), size) for block, size in zip(row.blocks, sizes, strict=True)
    )
