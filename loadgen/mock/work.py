"""What the mock's engines take and give: one request, one piece of output, and what they all can do. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from loadgen.mock.oracle import first_state, next_state, token_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from loadgen.mock.kv import KvEvent

Finish = Literal["stop", "length", "cancelled"]


@dataclass(eq=False, slots=True)
class Work:
    """A request in an engine.

    `output` holds the tokens so far, those of an earlier attempt included. `length` output tokens are made, and the end
    is told as `finish`. `credit`: output position up to which it may go; None: no bound.
    """

    id: int
    prompt: Sequence[int]
    length: int
    seed: int = 0
    salt: int = 0
    finish: Finish = "length"
    output: list[int] = field(default_factory=list)
    credit: int | None = None
    cached: int | None = None
    """Prompt tokens found in the cache, once it is known."""
    _state: int | None = None

    def produce(self, vocab: int) -> int:
        """The next token, appended to `output`."""
        if self._state is None:
            self._state = first_state(self.prompt, self.seed)
            for token in self.output:
                self._state = next_state(self._state, token)
        token = token_of(self._state, vocab)
        self._state = next_state(self._state, token)
        self.output.append(token)
        return token

    @property
    def is_done(self) -> bool:
        """Whether all of its output is made."""
        return len(self.output) >= self.length

    @property
    def may_produce(self) -> bool:
        """Whether its credit reaches the next token."""
        return self.credit is None or len(self.output) < self.credit


@dataclass(frozen=True, slots=True)
class Emission:
    """New tokens of one request, and its end with the last of them."""

    work: Work
    tokens: tuple[int, ...]
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """State of an engine. Tokens of KV, and counters that only grow."""

    running: int = 0
    waiting: int = 0
    kv_used: int = 0
    kv_total: int = 0
    block: int = 16
    preemptions: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0


class MockEngine(Protocol):
    """Pure: the driver tells it the time (microseconds), and wakes it at `due`."""

    def submit(self, work: Work, now: int) -> str | None:
        """Take a request. A text says why it cannot be taken, ever."""

    def cancel(self, work: Work, now: int) -> None:
        """Forget a request; nothing of it comes any more."""

    def grant(self, work: Work, credit: int, now: int) -> None:
        """Let a request go on to this output position."""

    def due(self) -> int | None:
        """When something happens next; `None` while there is nothing to do."""

    def advance(self, now: int) -> list[Emission]:
        """Do all that is due by `now`."""

    def load(self) -> Load:
        """How it is."""

    def clear_cache(self) -> None:
        """Forget what the prefix cache holds."""

    def take_kv_events(self) -> list[KvEvent]:
        """What became of the prefix cache since the last call."""
