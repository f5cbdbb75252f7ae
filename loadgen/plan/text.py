"""Prompts made of words that are one token each, drawn from seeds: equal seeds give equal words, in every process."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import Philox

from loadgen.errors import BadInput
from loadgen.plan.candidates import CANDIDATES
from loadgen.plan.streams import seed_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from loadgen.plan.model import Segment

_LEAST_WORDS = 32


def single_tokens(candidates: Sequence[str], count: Callable[[Sequence[str]], Sequence[int]]) -> tuple[str, ...]:
    """The words that add exactly one token at the beginning, in the middle and at the end of a text.

    `count`: tokens of each text, by the server or a tokeniser; special tokens around a text do no harm.

    Raises:
        BadInput: fewer than 32 are left, so that prompts would hardly differ.
    """
    frames = ("{} the of", "the {} of", "the of {}")
    texts = ["the of", *(frame.format(word) for word in candidates for frame in frames)]
    base, *counts = count(texts)
    kept = tuple(
        word for place, word in enumerate(candidates) if all(n == base + 1 for n in counts[3 * place : 3 * place + 3])
    )
    if len(kept) < _LEAST_WORDS:
        raise BadInput("--tokenizer", "", "", f"only {len(kept)} of {len(candidates)} words are one token each")
    return kept


class Words:
    """Makes text of segments. `salt`: a name of the run; its words replace the first four of each prompt."""

    def __init__(self, words: Sequence[str] = CANDIDATES, salt: str = "") -> None:
        self._words = tuple(words)
        self._salt = tuple(self._drawn(seed_of("salt", salt), _SALT_WORDS)) if salt else ()
        # Shared segments come again and again; the rest passes through.
        self._run = lru_cache(maxsize=4096)(self._drawn)

    def of(self, segments: Sequence[Segment]) -> str:
        """The text: as many words as the segments have tokens, with single spaces between."""
        found: list[str] = []
        for segment in segments:
            found += self._run(segment.seed, segment.tokens)
        salt = self._salt[: len(found)]
        found[: len(salt)] = salt
        return " ".join(found)

    def salted(self, text: str) -> str:
        """Real text, with the salt as a line before it."""
        return f"{' '.join(self._salt)}\n{text}" if self._salt else text

    def _drawn(self, seed: int, count: int) -> list[str]:
        # The raw stream is fixed for all time by the algorithm; the derived draws of numpy are not promised to be. A
        # shorter
        # draw is a beginning of a longer one, so that a partial block is shared too.
        places = Philox(key=seed).random_raw(count) % np.uint64(len(self._words))
        return [self._words[place] for place in places.tolist()]


_SALT_WORDS = 4
