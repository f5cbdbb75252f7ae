"""Guesses by the longest suffix seen before: in the request's own text, and in past answers to the same tenant.

(SuffixDecoding, Oliaro et al. 2024, with automata instead of trees.) Nothing is learnt across tenants: whether a guess
was right shows in the timing.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyworker.spec_decode.automaton import ROOT, SuffixAutomaton
from pyworker.spec_decode.proposer import NO_DRAFT, Draft

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyworker.engine.request import Request

_FACTOR, _OFFSET = 2, 0
"""A match of n tokens is believed for `2 n` more."""
_LEAST_PROBABILITY = 0.1
_MOST_DEPTH = 64
_STATE_BYTES = 320
"""What a state takes in CPython, about: its dictionary, and four list slots."""
_REQUEST_STATES = 16_384
_AT_ONCE = 512
"""Tokens of a long text that one step takes in: it must not wait for all of them."""
_OUTPUT_TOKENS = 1_024
"""Of a finished output this much is remembered for its tenant, from its end."""


@dataclass(slots=True)
class _Tenant:
    """Past outputs, in two generations: when the younger is full it becomes the elder, and the elder is dropped."""

    young: SuffixAutomaton = field(default_factory=SuffixAutomaton)
    old: SuffixAutomaton = field(default_factory=SuffixAutomaton)

    @property
    def num_states(self) -> int:
        return len(self.young) + len(self.old)

    def add(self, tokens: Sequence[int], most_states: int) -> None:
        if len(self.young) + 2 * len(tokens) > most_states // 2:
            self.old, self.young = self.young, SuffixAutomaton()
        state = ROOT
        for token in tokens:
            state = self.young.extend(state, token)


@dataclass(slots=True)
class _Match:
    """Where a request stands in one automaton of its tenant."""

    automaton: SuffixAutomaton
    state: int = ROOT
    length: int = 0

    def follow(self, tokens: Sequence[int]) -> None:
        self.state, self.length = self.automaton.advance(self.state, self.length, tokens)


@dataclass(slots=True)
class _Own:
    """A request's own text. `last` is the state of all of it that the automaton holds."""

    salt: int
    num_prompt: int
    automaton: SuffixAutomaton = field(default_factory=SuffixAutomaton)
    last: int = ROOT
    tokens: list[int] = field(default_factory=list)
    matches: list[_Match] = field(default_factory=list)

    def extend(self, tokens: Sequence[int]) -> None:
        self.tokens += tokens
        if len(self.automaton) + 2 * len(tokens) > _REQUEST_STATES:
            # Begin again with the newer part: the states of old text cannot be taken out.
            self.automaton, self.last = SuffixAutomaton(), ROOT
            tokens = self.tokens[-_REQUEST_STATES // 4 :]
        for token in tokens:
            self.last = self.automaton.extend(self.last, token)

    def own_match(self) -> _Match:
        state = self.automaton.suffix(self.last)
        return _Match(self.automaton, state, self.automaton.length(state))


class SuffixProposer:
    """Proposer `suffix`. `tenant_bytes` bounds what is remembered of past outputs, over all tenants: whoever was idle
    for longest is forgotten first.
    """

    name = "suffix"

    def __init__(self, tenant_bytes: int = 64 << 20) -> None:
        self._most_states = max(1_024, tenant_bytes // _STATE_BYTES)
        self._tenants: OrderedDict[int, _Tenant] = OrderedDict()
        self._num_states = 0
        self._requests: dict[str, _Own] = {}

    def propose(self, request: Request, k: int) -> Draft:
        """Walk from the longest match along the likeliest tokens, as long as the whole path is likely enough."""
        own = self._own(request)
        if len(own.tokens) < request.num_tokens:
            return NO_DRAFT
        best = max([own.own_match(), *own.matches], key=lambda match: match.length)
        most = min(k, _MOST_DEPTH, _FACTOR * best.length + _OFFSET)
        draft: list[int] = []
        state, probability = best.state, 1.0
        while len(draft) < most:
            step = best.automaton.likeliest(state)
            if step is None:
                break
            token, state, share = step
            probability *= share
            if probability < _LEAST_PROBABILITY:
                break
            draft.append(token)
        return Draft(tuple(draft), best.length) if draft else NO_DRAFT

    def observe(self, request: Request, tokens: Sequence[int]) -> None:
        """Learn what is new. Of a long text that is not known yet the next guess takes in a piece, once a step."""
        own = self._requests.get(request.request_id)
        if own is None or len(own.tokens) + len(tokens) >= request.num_tokens:
            self._own(request)

    def forget(self, request_id: str) -> None:
        """Keep the output for the tenant, and drop the rest."""
        own = self._requests.pop(request_id, None)
        if own is None:
            return
        output = own.tokens[own.num_prompt :][-_OUTPUT_TOKENS:]
        if output:
            tenant = self._tenants.pop(own.salt, None)
            before = 0 if tenant is None else tenant.num_states
            self._tenants[own.salt] = tenant = tenant or _Tenant()
            tenant.add(output, self._most_states)
            self._num_states += tenant.num_states - before
            self._evict()

    @property
    def num_states(self) -> int:
        """States that remember past outputs."""
        return self._num_states

    def _evict(self) -> None:
        while len(self._tenants) > 1 and self._num_states > self._most_states:
            _, tenant = self._tenants.popitem(last=False)
            self._num_states -= tenant.num_states

    def _own(self, request: Request) -> _Own:
        own = self._requests.get(request.request_id)
        if own is None:
            own = _Own(request.salt, len(request.prompt_ids))
            tenant = self._tenants.get(request.salt)
            if tenant is not None:
                self._tenants.move_to_end(request.salt)
                own.matches = [_Match(tenant.young), _Match(tenant.old)]
            self._requests[request.request_id] = own
        known = len(own.tokens)
        new = request.token_ids(known, min(known + _AT_ONCE, request.num_tokens))
        if new:
            own.extend(new)
            for match in own.matches:
                match.follow(new)
        return own
