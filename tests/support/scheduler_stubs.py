"""A drafter and grammars that are made up, for tests: all they do is decided by the request and a seed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile
from random import Random
from typing import TYPE_CHECKING

from support.engine_rig import VOCAB, oracle_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from pyworker.engine.outputs import ParkedSlice, SchedulerOutput
    from pyworker.engine.request import Request


def right_drafts(request: Request, length: int) -> list[int]:
    """The tokens that will come, as long as no grammar has a say in it."""
    done = len(request.output_ids)
    return oracle_of(request)[done : done + length]


class StubSpeculator:
    """A `Speculator` that says what `guess` says, and remembers what it is told."""

    def __init__(self, guess: Callable[[Request], list[int]]) -> None:
        self.guess = guess
        self.rooms: list[int] = []
        self.observed: list[tuple[str, list[int], list[int]]] = []
        self.steps: list[tuple[int, int, int]] = []
        self.forgotten: list[str] = []

    def propose(
        self, decodes: Sequence[Request], num_tokens: int, room: int, num_emitting: int
    ) -> dict[str, list[int]]:
        assert num_tokens >= len(decodes)
        assert num_emitting >= len(decodes)
        self.rooms.append(room)
        return {request.request_id: self.guess(request) for request in decodes}

    def observe(self, request: Request, drafts: Sequence[int], token_ids: Sequence[int]) -> None:
        assert request.output_ids[-len(token_ids) :] == list(token_ids)
        self.observed.append((request.request_id, list(drafts), list(token_ids)))

    def observe_step(self, num_tokens: int, num_rows: int, step_micros: int) -> None:
        self.steps.append((num_tokens, num_rows, step_micros))

    def forget(self, request_id: str) -> None:
        self.forgotten.append(request_id)


def wild_guess(seed: int) -> Callable[[Request], list[int]]:
    """Right, wrong, partly right, too many, none, and ids that no vocabulary has; by chance."""
    rng = Random(seed)

    def guess(request: Request) -> list[int]:
        drafts = right_drafts(request, rng.choice([0, 1, 2, 4, 30]))
        if drafts and rng.random() < 0.5:
            drafts[rng.randrange(len(drafts))] = rng.choice([0, 256, VOCAB - 1, VOCAB, -1])
        return drafts

    return guess


def allows(output_length: int, token: int, literal: int = 0) -> bool:
    """The made-up grammar: which token may come after so many. Of the first `literal` positions four in five have one
    that must come.
    """
    forced = forced_at(output_length, literal)
    return (token + output_length) % 3 != 0 if forced is None else token == forced


def forced_at(output_length: int, literal: int) -> int | None:
    """The only token that may come after so many; `None` where there is a choice."""
    return 300 + output_length if output_length < literal and output_length % 5 else None


@dataclass
class StubGrammar:
    """A `GrammarEngine`: a third of all tokens is forbidden at each position.

    A grammar's text is how many polls its compilation takes, then how long the text is when it ends, then up to where
    tokens are forced; or an error code.
    """

    polls: Counter[str] = field(default_factory=Counter)
    known: dict[str, Request] = field(default_factory=dict)
    followed: dict[str, int] = field(default_factory=dict)
    waited: list[int] = field(default_factory=list)
    refuses_at: int = -1
    breaks: bool = False
    """Whether it refuses because it broke its bounds."""
    broken: set[str] = field(default_factory=set)

    def begin(self, request: Request) -> None:
        assert request.request_id not in self.known
        self.known[request.request_id] = request
        self.followed[request.request_id] = len(request.output_ids)

    def poll(self, request: Request) -> str | None:
        words = self.words(request)
        if request.request_id in self.broken:
            return "grammar_too_complex"
        if not words[0].isdigit():
            return words[0]
        self.polls[request.request_id] += 1
        return "ready" if self.polls[request.request_id] > int(words[0]) else None

    def message(self, request_id: str) -> str:
        return self.words(self.known[request_id])[0].replace("_", " ")

    def wait(self, micros: int) -> None:
        self.waited.append(micros)

    def cut_drafts(self, request: Request, drafts: Sequence[int]) -> list[int]:
        done, literal = len(request.output_ids), self.literal(request)
        for index, token in enumerate(drafts):
            if not allows(done + index, token, literal):
                return list(drafts[:index])
        return list(drafts)

    def forced(self, request: Request, most: int) -> list[int]:
        done, literal = len(request.output_ids), self.literal(request)
        assert most > 0
        tokens = (forced_at(done + index, literal) for index in range(most))
        return [token for token in takewhile(lambda token: token is not None, tokens) if token is not None]

    def masks(self, drafts: Mapping[str, Sequence[int]], requests: Mapping[str, Request]) -> StubMasks | None:
        assert requests
        assert all(self.known[name] is request for name, request in requests.items())
        for name, request in requests.items():
            assert self.cut_drafts(request, drafts.get(name, ())) == list(drafts.get(name, ()))
        return StubMasks({name: (request, self.literal(request)) for name, request in requests.items()})

    def accept(self, request: Request, token_ids: Sequence[int]) -> bool:
        name = request.request_id
        first = len(request.output_ids) - len(token_ids)
        assert self.followed[name] == first
        self.followed[name] += len(token_ids)
        if self.refuses_at in range(first, len(request.output_ids)):
            self.broken |= {name} if self.breaks else set()
            return False
        literal = self.literal(request)
        return all(allows(first + index, token, literal) for index, token in enumerate(token_ids))

    def is_ended(self, request: Request) -> bool:
        words = self.words(request)
        return len(words) > 1 and len(request.output_ids) >= int(words[1])

    def literal(self, request: Request) -> int:
        words = self.words(request)
        return int(words[2]) if len(words) > 2 else 0

    def forget(self, request_id: str) -> None:
        self.known.pop(request_id, None)
        self.followed.pop(request_id, None)
        self.polls.pop(request_id, None)

    def close(self) -> None:
        """It has no thread."""

    @staticmethod
    def words(request: Request) -> list[str]:
        assert request.params.grammar is not None
        return request.params.grammar.text.split()


@dataclass
class StubMasks:
    """`TokenMasks` of the made-up grammar."""

    requests: dict[str, tuple[Request, int]]

    def __contains__(self, request_id: object) -> bool:
        return request_id in self.requests

    def fill(self, rows: Sequence[tuple[str, int]], masks: NDArray[np.int32]) -> None:
        for row, (name, num_drafts) in enumerate(rows):
            request, literal = self.requests[name]
            length = len(request.output_ids) + num_drafts
            is_free = forced_at(length, literal) is None
            masks[row] = (
                mask_words(length % 3, masks.shape[1]) if is_free else mask_words(length, masks.shape[1], literal)
            )


@cache
def mask_words(length: int, num_words: int, literal: int = 0) -> list[int]:
    """The bits of `allows` as signed words."""
    words = []
    for word in range(num_words):
        bits = sum(1 << bit for bit in range(32) if allows(length, word * 32 + bit, literal))
        words.append(bits - (1 << 32) if bits >= 1 << 31 else bits)
    return words


@dataclass
class Pressure:
    """A `JoinPolicy` with a switch."""

    on: bool = False

    def may_join(self, parked: ParkedSlice, out: SchedulerOutput, now: int) -> bool:
        assert parked.num_tokens
        assert not set(parked.num_tokens) & set(out.num_scheduled_tokens)
        assert now >= 0
        return not self.on
