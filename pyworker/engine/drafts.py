"""Puts drafts into a step that is otherwise planned. A draft takes room that nobody else wants, and never a block that
somebody would have to give up.

Where a grammar leaves no choice, what it forces is drafted, and nothing is guessed; the speculator has the room that is
left, for all others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyworker.engine.config import EngineConfig
    from pyworker.engine.interface import GrammarEngine, Speculator
    from pyworker.engine.outputs import SchedulerOutput
    from pyworker.engine.request import Request
    from pyworker.kvcache.manager import KVCacheManager


class DraftPlanner:
    """Asks the grammars and the speculator, and cuts what they say to what is allowed."""

    def __init__(
        self,
        config: EngineConfig,
        kv_cache: KVCacheManager,
        speculator: Speculator,
        grammar: GrammarEngine | None,
    ) -> None:
        self._config = config
        self._kv_cache = kv_cache
        self._speculator = speculator
        self._grammar = grammar

    def plan(self, out: SchedulerOutput, decodes: Sequence[Request]) -> None:
        """Add drafts for some of these requests, each of which has one token in the step and credit for one more."""
        # Parked rows bring their drafts along.
        room = min(
            self._config.max_num_batched_tokens - out.total_tokens, self._config.max_step_drafts - out.num_drafts
        )
        able = [request for request in decodes if self._most(request) > 0]
        num_emitting = len(decodes)
        if self._grammar is not None:
            left = room
            able, room = self._plan_forced(out, able, room, self._grammar)
            num_emitting += left - room
        if room <= 0 or not able:
            return
        proposed = self._speculator.propose(able, out.total_tokens, room, num_emitting)
        for request in able:
            room -= self._put(out, request, proposed.get(request.request_id, ()), room)

    def _plan_forced(
        self, out: SchedulerOutput, able: Sequence[Request], room: int, grammar: GrammarEngine
    ) -> tuple[list[Request], int]:
        """Draft what grammars force. Gives the requests of which nothing is forced, and the room that is left.

        No gate stands before these tokens, so offline requests get none while somebody waits for the step.
        """
        is_awaited = any(not request.is_offline for request in out.requests.values())
        free = []
        for request in able:
            is_followed = room > 0 and request.params.grammar is not None and not (is_awaited and request.is_offline)
            forced = grammar.forced(request, min(self._most(request), room)) if is_followed else ()
            if count := self._put(out, request, forced, room):
                out.forced.add(request.request_id)
                room -= count
            else:
                free.append(request)
        return free, room

    def _put(self, out: SchedulerOutput, request: Request, proposed: Sequence[int], room: int) -> int:
        """Draft what of this is allowed and has room; how many tokens that is."""
        drafts = self._cut(request, proposed, room) if proposed else []
        if drafts:
            out.drafts[request.request_id] = drafts
            out.num_scheduled_tokens[request.request_id] += len(drafts)
        return len(drafts)

    def _most(self, request: Request) -> int:
        """Drafts that could all be right without a token past the credit, `max_tokens` or the context."""
        limit = min(request.credit_up_to, request.params.max_tokens)
        context = self._config.max_model_len - request.num_tokens
        return min(limit - len(request.output_ids), context) - 1

    def _cut(self, request: Request, proposed: Sequence[int], room: int) -> list[int]:
        drafts = list(proposed[: min(self._most(request), room)])
        wrong = (index for index, token in enumerate(drafts) if not 0 <= token < self._config.vocab_size)
        del drafts[next(wrong, len(drafts)) :]
        if drafts and self._grammar is not None and request.params.grammar is not None:
            drafts = self._grammar.cut_drafts(request, drafts)
        if drafts and self._kv_cache.allocate_slots(request, 1, lookahead=len(drafts)) is None:
            held = len(request.block_table) * self._config.block_size
            del drafts[held - request.num_computed_tokens - 1 :]
        return drafts
