"""Prompt lookup: what followed the newest three tokens when they last stood here will follow them again.

Summaries, edits and answers over given text copy long runs of it, and then this guesses right at next to no cost.
(Prompt lookup decoding, A. Saxena 2023.) One look-up a token, nothing is searched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyworker.spec_decode.proposer import NO_DRAFT, Draft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyworker.engine.request import Request

_SIZES = (3, 2)
_SHORT_MATCH_NEEDS = 0.5
"""A match of two tokens is believed only of a request whose guesses come true more often than this."""
_DECAY = 0.98
_AT_ONCE = 512
"""Tokens of a long text that one step takes in: it must not wait for all of them."""


class _History:
    """One request's tokens, and where each run of three and of two last ended."""

    __slots__ = ("accepted", "guessed", "last", "match", "tokens")

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.last: dict[tuple[int, ...], int] = {}
        self.match: dict[int, int | None] = dict.fromkeys(_SIZES)
        self.accepted = 0.0
        self.guessed = 0.0

    def extend(self, tokens: Sequence[int]) -> None:
        """Append, and note for the new end where its runs stood before."""
        for token in tokens:
            self.tokens.append(token)
            end = len(self.tokens)
            for size in _SIZES:
                if end >= size:
                    key = tuple(self.tokens[end - size :])
                    self.match[size] = self.last.get(key)
                    self.last[key] = end

    def believed(self) -> tuple[int, int] | None:
        """Where the believed match goes on, and its length."""
        for size in _SIZES:
            start = self.match[size]
            if start is not None and (size > _SIZES[-1] or self._does_well()):
                return start, size
        return None

    def _does_well(self) -> bool:
        return self.guessed > 0 and self.accepted > _SHORT_MATCH_NEEDS * self.guessed


class NgramProposer:
    """Proposer `ngram`. Memory: two entries a token of each request."""

    name = "ngram"

    def __init__(self) -> None:
        self._histories: dict[str, _History] = {}
        self._pending: dict[str, tuple[int, ...]] = {}

    def propose(self, request: Request, k: int) -> Draft:
        """What followed last time; past the newest token it goes on copying its own guesses, as a repetition does."""
        history = self._history(request)
        found = history.believed()
        if found is None or k < 1 or len(history.tokens) < request.num_tokens:
            return NO_DRAFT
        start, size = found
        known = history.tokens
        period = len(known) - start
        draft: list[int] = []
        for index in range(k):
            at = start + index
            draft.append(known[at] if at < len(known) else draft[index - period])
        self._pending[request.request_id] = tuple(draft)
        return Draft(tuple(draft), size)

    def observe(self, request: Request, tokens: Sequence[int]) -> None:
        """Learn the tokens, and whether the last guess was right. Of a long text that is not known yet the next guess
        takes in a piece, once a step.
        """
        history = self._histories.get(request.request_id)
        if history is None or len(history.tokens) + len(tokens) >= request.num_tokens:
            history = self._history(request)
        guess = self._pending.pop(request.request_id, ())
        if guess and tokens:
            history.accepted = history.accepted * _DECAY + (guess[0] == tokens[0])
            history.guessed = history.guessed * _DECAY + 1.0

    def forget(self, request_id: str) -> None:
        """Drop the history."""
        self._histories.pop(request_id, None)
        self._pending.pop(request_id, None)

    def _history(self, request: Request) -> _History:
        history = self._histories.get(request.request_id)
        if history is None:
            history = self._histories[request.request_id] = _History()
        known = len(history.tokens)
        history.extend(request.token_ids(known, min(known + _AT_ONCE, request.num_tokens)))
        return history
