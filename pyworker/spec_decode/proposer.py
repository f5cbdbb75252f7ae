"""What a way of guessing tokens must offer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyworker.engine.request import Request


@dataclass(frozen=True, slots=True)
class Draft:
    """Guesses at the next tokens. `match_len`: how many of the newest tokens were found in the place guessed from."""

    tokens: tuple[int, ...] = ()
    match_len: int = 0


NO_DRAFT = Draft()


class Proposer(Protocol):
    """Guesses from what a request has said so far. Every request is known from its first `propose` or `observe` on."""

    name: str

    def propose(self, request: Request, k: int) -> Draft:
        """At most `k` tokens that may come after the newest known one."""

    def observe(self, request: Request, tokens: Sequence[int]) -> None:
        """Learn that these tokens were emitted; `request.output_ids` ends with them."""

    def forget(self, request_id: str) -> None:
        """Drop what is known of a request."""
