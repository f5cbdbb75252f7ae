"""The engine's `Speculator`: asks a proposer for guesses, takes as many as pay, and keeps the accounts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyworker.spec_decode.acceptance import Acceptance
from pyworker.spec_decode.cost import StepCost
from pyworker.spec_decode.gate import Candidate, choose
from pyworker.spec_decode.ledger import Ledger
from pyworker.spec_decode.ngram import NgramProposer
from pyworker.spec_decode.suffix import SuffixProposer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pyworker.engine.request import Request
    from pyworker.spec_decode.proposer import Draft, Proposer

PROPOSERS: dict[str, Callable[[], Proposer]] = {"ngram": NgramProposer, "suffix": SuffixProposer}
DEFAULT_DRAFTS = 7
"""Most guesses of one request in one step."""
_PLAIN_EVERY = 64
"""One step in so many is run without guesses, so that what a plain step takes stays known."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    num_drafts: int
    num_accepted: int


class GatedSpeculator:
    """See the engine's `Speculator` for the methods. With `gated` false every guess is taken: for tests and figures."""

    def __init__(self, proposer: Proposer, *, most_drafts: int = DEFAULT_DRAFTS, gated: bool = True) -> None:
        self._proposer = proposer
        self._most_drafts = most_drafts
        self._gated = gated
        self._acceptance = Acceptance()
        self._cost = StepCost()
        self._ledger = Ledger()
        self._proposed: dict[str, Draft] = {}
        self._outcomes: dict[str, _Outcome] = {}
        self._steps = 0

    def propose(
        self, decodes: Sequence[Request], num_tokens: int, room: int, num_emitting: int
    ) -> dict[str, list[int]]:
        """Guess for all that may, then take what pays."""
        self._proposed.clear()
        candidates = []
        for request in decodes:
            request_id = request.request_id
            may = self._ledger.may_guess(request_id) or not self._gated
            draft = self._proposer.propose(request, min(room, self._most_drafts)) if may else None
            if draft is not None and draft.tokens:
                self._proposed[request_id] = draft
                alpha = self._acceptance.alpha(request_id, self._proposer.name, draft.match_len)
                candidates.append(Candidate(request_id, len(draft.tokens), alpha))
        if not self._gated:
            return {request_id: list(draft.tokens) for request_id, draft in self._proposed.items()}
        counts = self._choose(candidates, num_emitting, num_tokens, room) if candidates else {}
        return {request_id: list(self._proposed[request_id].tokens[:count]) for request_id, count in counts.items()}

    def _choose(self, candidates: Sequence[Candidate], num_emitting: int, num_tokens: int, room: int) -> dict[str, int]:
        """Until step times are known, plain steps and steps of every size take turns: else they would never be."""
        self._steps += 1
        most = sum(candidate.num_drafts for candidate in candidates)
        curve = self._cost.curve(num_tokens, num_tokens + most)
        if self._steps % (2 if curve is None else _PLAIN_EVERY) == 0:
            return {}
        if curve is None:
            room = min(room, 1 + self._steps // 2 % most)
        return choose(candidates, num_emitting, curve, room)

    def observe(self, request: Request, drafts: Sequence[int], token_ids: Sequence[int]) -> None:
        """Learn from a row; its account is settled when the step's time is known."""
        request_id = request.request_id
        self._proposer.observe(request, token_ids)
        accepted = max(0, min(len(drafts), len(token_ids) - 1))
        self._outcomes[request_id] = _Outcome(len(drafts), accepted)
        draft = self._proposed.get(request_id)
        if drafts and draft is not None:
            name = self._proposer.name
            self._acceptance.observe(request_id, name, draft.match_len, len(drafts), accepted)

    def observe_step(self, num_tokens: int, num_rows: int, step_micros: int) -> None:
        """Learn the step's time, and settle: what guesses added is shared by number, what they saved by token.

        Where the number of tokens is not known (0), or what they take, nothing is booked: neither loss nor gain.
        """
        outcomes, self._outcomes = self._outcomes, {}
        self._cost.observe(num_tokens, step_micros)
        total = sum(outcome.num_drafts for outcome in outcomes.values())
        curve = self._cost.curve(num_tokens - total, num_tokens) if total else None
        plain = float(step_micros) if curve is None else min(curve[0], float(step_micros))
        extra = (step_micros - plain) * num_rows
        saved = self._saved_micros(num_rows, plain) if curve is not None else 0.0
        for request_id, outcome in outcomes.items():
            share = extra * outcome.num_drafts / total if total else 0.0
            # Everybody in the step waits for a guess, but a token that it gives saves a step to its own request alone.
            self._ledger.book(request_id, float(step_micros), share, outcome.num_accepted * saved)

    def _saved_micros(self, num_rows: int, plain: float) -> float:
        """What a token that was guessed is worth: a later step of these rows alone, whatever else was in this one."""
        alone = self._cost.curve(num_rows, num_rows)
        return plain if alone is None else min(plain, alone[0])

    def forget(self, request_id: str) -> None:
        """Drop the request everywhere."""
        self._proposer.forget(request_id)
        self._acceptance.forget(request_id)
        self._ledger.forget(request_id)
        self._proposed.pop(request_id, None)
        self._outcomes.pop(request_id, None)


def make_speculator(name: str, most_drafts: int = DEFAULT_DRAFTS) -> GatedSpeculator | None:
    """A speculator by its proposer's name; `off` is none.

    Raises:
        KeyError: an unknown name; callers check against `PROPOSERS`.
    """
    return None if name == "off" else GatedSpeculator(PROPOSERS[name](), most_drafts=most_drafts)
