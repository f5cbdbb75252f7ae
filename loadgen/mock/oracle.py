"""Tokens that anybody can recompute, and the text that they are.

Output tokens are a chain of hashes over prompt, seed and all tokens before, so that one that is lost, repeated, out of
order or another request's is found by recomputation. Token k is the text ` t00042`.
"""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Literal

import xxhash

if TYPE_CHECKING:
    from collections.abc import Sequence

FIRST = 256
"""The lowest id that the chain gives; those below are bytes."""
BEYOND_TOKENIZER = 8
"""The chain's vocabulary is wider than the tokeniser by this many ids, which have no text of their own."""
MOST_VOCAB = 100_000
"""Ids have five digits."""

Scheme = Literal["words", "bytes"]

_LINK = struct.Struct("<QI")
_SEED = struct.Struct("<Q")
_TOKEN = re.compile(r" t(\d{5})")
_PIECE = re.compile(r"\s*\S+|\s+")
_MOST_WORDS = 1 << 16
_SEED_MASK = (1 << 64) - 1


def first_state(prompt_ids: Sequence[int], seed: int) -> int:
    """s[0] of a request: XXH3-64 of the ids (u32, little endian) and the seed (u64)."""
    packed = struct.pack(f"<{len(prompt_ids)}I", *prompt_ids)
    return xxhash.xxh3_64_intdigest(packed + _SEED.pack(seed & _SEED_MASK))


def token_of(state: int, vocab: int) -> int:
    """The token that a state gives."""
    return FIRST + state % (vocab - FIRST)


def next_state(state: int, token: int) -> int:
    """The state after a token."""
    return xxhash.xxh3_64_intdigest(_LINK.pack(state, token))


def oracle_tokens(prompt_ids: Sequence[int], seed: int, count: int, vocab: int) -> list[int]:
    """The first `count` output tokens of an undisturbed request. `vocab` is over 256."""
    return chain(first_state(prompt_ids, seed), count, vocab)[0]


def chain(state: int, count: int, vocab: int) -> tuple[list[int], int]:
    """`count` tokens from a state on, and the state after them."""
    tokens = []
    for _ in range(count):
        token = token_of(state, vocab)
        tokens.append(token)
        state = next_state(state, token)
    return tokens, state


def text_of(token: int) -> str:
    """A token's text; also that of ids beyond the tokeniser, so that nothing of the chain is lost on the way."""
    return f" t{token:05d}"


class Tokenizer:
    """Text to ids and back.

    ` t00042` is token 42 under both schemes. Of the rest, `words` makes each word with the white space before it one
    token (its hash decides which, so that many texts share an id); `bytes` makes each byte one, as the tokeniser of the
    worker's simulator does. `decode` of words gives ` tNNNNN`, which is the same ids again.
    """

    def __init__(self, vocab: int = 32_768, scheme: Scheme = "words") -> None:
        """`vocab`: the width of the chain, above 264 and at most 100,000.

        Raises:
            ValueError: a vocabulary that leaves no token, or needs a sixth digit.
        """
        if not FIRST + BEYOND_TOKENIZER < vocab <= MOST_VOCAB:
            raise ValueError(f"vocab lies between {FIRST + BEYOND_TOKENIZER + 1} and {MOST_VOCAB}")
        self.vocab, self.scheme = vocab, scheme
        self._words: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        return self._encode_words(text) if self.scheme == "words" else self._encode_bytes(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids. Bytes that are no UTF-8 become replacement characters."""
        parts = bytearray()
        for token in ids:
            parts += bytes((token,)) if token < FIRST else text_of(token).encode()
        return parts.decode("utf-8", errors="replace")

    def _encode_words(self, text: str) -> list[int]:
        known = self._words
        pieces = _PIECE.findall(text)
        try:
            return [known[piece] for piece in pieces]
        except KeyError:
            return [known[piece] if piece in known else self._learn(piece) for piece in pieces]

    def _learn(self, piece: str) -> int:
        """The id of a word; those seen are kept, up to a bound."""
        found = _TOKEN.fullmatch(piece)
        if found is not None and self._is_text(int(found[1])):
            token = int(found[1])
        else:
            width = self.vocab - BEYOND_TOKENIZER - FIRST
            token = FIRST + xxhash.xxh3_64_intdigest(piece.encode("utf-8", errors="surrogatepass")) % width
        if len(self._words) < _MOST_WORDS:
            self._words[piece] = token
        return token

    def _encode_bytes(self, text: str) -> list[int]:
        ids: list[int] = []
        at = 0
        for found in _TOKEN.finditer(text):
            if self._is_text(int(found[1])):
                ids += text[at : found.start()].encode("utf-8", errors="surrogatepass")
                ids.append(int(found[1]))
                at = found.end()
        ids += text[at:].encode("utf-8", errors="surrogatepass")
        return ids

    def _is_text(self, token: int) -> bool:
        return FIRST <= token < self.vocab - BEYOND_TOKENIZER


def chat_text(messages: Sequence[tuple[str, str]]) -> str:
    """What a conversation becomes before it is tokenised: the template of the worker's simulator."""
    return "".join(f"{role}: {content}\n" for role, content in messages) + "assistant:"
