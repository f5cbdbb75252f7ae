"""A suffix automaton with counts: the smallest machine that knows every run of tokens it has been shown, and how often.

Built online, token by token (Blumer et al. 1985). Each state stands for the runs that ended in the same places; its
count is the number of those places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = 0
_MOST_COUNTED = 64
"""Suffixes whose counts a new token raises: those of a long repetition would be as many as its tokens."""


_MOST_FOLLOWING = 256
"""All that followed is looked at for each guess. Behind a run that so much can follow, guessing is not worth it."""


class SuffixAutomaton:
    """States are numbers. At most two states and three transitions a token."""

    def __init__(self) -> None:
        self._next: list[dict[int, int]] = [{}]
        self._link: list[int] = [-1]
        self._length: list[int] = [0]
        self._count: list[int] = [0]

    def __len__(self) -> int:
        """States."""
        return len(self._next)

    def length(self, state: int) -> int:
        """Tokens of the state's longest run."""
        return self._length[state]

    def suffix(self, state: int) -> int:
        """The state of the longest suffix that has been seen in more places; of the root, the root."""
        return max(ROOT, self._link[state])

    def extend(self, last: int, token: int) -> int:
        """Show it `token` after the run that ends in state `last`; gives the state of the longer run."""
        known = self._next[last].get(token)
        if known is not None and self._length[known] == self._length[last] + 1:
            state = known
        elif known is not None:
            state = self._clone(last, token, known)
        else:
            state = self._add(last, token)
        self._count_up(state)
        return state

    def advance(self, state: int, matched: int, tokens: Sequence[int]) -> tuple[int, int]:
        """Follow tokens from a state whose last `matched` tokens are believed; gives the longest match behind them."""
        for token in tokens:
            while state != ROOT and token not in self._next[state]:
                state = self._link[state]
                matched = self._length[state]
            following = self._next[state].get(token)
            if following is None:
                state, matched = ROOT, 0
            else:
                state, matched = following, matched + 1
        return state, matched

    def likeliest(self, state: int) -> tuple[int, int, float] | None:
        """The token that followed most often, the state behind it, and its share of all that followed.

        Equal ones by lower token id. `None` where nothing followed, or so much that nothing is likely.
        """
        following = self._next[state]
        if not 0 < len(following) <= _MOST_FOLLOWING:
            return None
        counts = self._count
        total = sum(counts[after] for after in following.values())
        token = min(following, key=lambda token: (-counts[following[token]], token))
        return token, following[token], counts[following[token]] / max(1, total)

    def _add(self, last: int, token: int) -> int:
        state = self._new(self._length[last] + 1, {}, 0)
        at = last
        while at != -1 and token not in self._next[at]:
            self._next[at][token] = state
            at = self._link[at]
        if at == -1:
            self._link[state] = ROOT
            return state
        known = self._next[at][token]
        exact = self._length[known] == self._length[at] + 1
        self._link[state] = known if exact else self._clone(at, token, known)
        return state

    def _clone(self, at: int, token: int, known: int) -> int:
        """Split the runs of `known` that are no longer than `at` and the token off into a state of their own."""
        clone = self._new(self._length[at] + 1, dict(self._next[known]), self._count[known])
        self._link[clone] = self._link[known]
        self._link[known] = clone
        while at != -1 and self._next[at].get(token) == known:
            self._next[at][token] = clone
            at = self._link[at]
        return clone

    def _new(self, length: int, following: dict[int, int], count: int) -> int:
        self._next.append(following)
        self._link.append(ROOT)
        self._length.append(length)
        self._count.append(count)
        return len(self._next) - 1

    def _count_up(self, state: int) -> None:
        for _ in range(_MOST_COUNTED):
            if state in (ROOT, -1):
                return
            self._count[state] += 1
            state = self._link[state]
