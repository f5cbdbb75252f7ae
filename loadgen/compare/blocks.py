"""The order of blocks. Whatever drifts with time must weigh on both sides alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from loadgen.plan.streams import stream

if TYPE_CHECKING:
    from collections.abc import Iterator

Side = Literal["a", "b"]
Order = Literal["abba", "random"]


@dataclass(frozen=True, slots=True)
class Block:
    """One run of one side. Both blocks of a pair play the same plan."""

    pair: int
    side: Side


def blocks(pairs: int, order: Order, seed: int) -> Iterator[Block]:
    """2 `pairs` blocks. `abba`: A B, B A, A B ...; `random`: which side begins is drawn for each pair."""
    draws = stream(seed, "compare", "order").random(pairs)
    for pair in range(pairs):
        a_first = pair % 2 == 0 if order == "abba" else bool(draws[pair] < 0.5)
        sides: tuple[Side, Side] = ("a", "b") if a_first else ("b", "a")
        yield from (Block(pair, side) for side in sides)
