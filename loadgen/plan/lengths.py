"""Prompt and output lengths: drawn from distributions, or taken from the rows of a source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loadgen.plan.streams import stream
from loadgen.units import Dist

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_IN = Dist("lognormal", 128, 0.5)
DEFAULT_OUT = Dist("lognormal", 64, 0.5)

_CHUNK = 1024


def drawn(dist: Dist, seed: int, cls: str, purpose: str) -> Iterator[int]:
    """Whole tokens for ever, each at least 1. Nothing is scaled afterwards to meet the asked mean."""
    rng = stream(seed, cls, purpose)
    while True:
        yield from np.maximum(1, np.rint(dist.draw(rng, _CHUNK))).astype(np.int64).tolist()
