"""One random stream for each (seed, class, purpose): a class that is added or taken away changes no other class."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.random import Generator, Philox


def seed_of(*parts: str | int) -> int:
    """A 64-bit seed of named parts. It is the same in every process, which `hash()` is not."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def stream(seed: int, cls: str, purpose: str) -> Generator:
    """The generator of one purpose of one class."""
    name = f"{seed}\0{cls}\0{purpose}"
    key = np.frombuffer(blake2b(name.encode(), digest_size=16).digest(), dtype="<u8")
    return Generator(Philox(key=key))
