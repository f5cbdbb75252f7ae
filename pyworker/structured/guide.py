"""Follows each request through its grammar: which tokens may come next, and whether the text is complete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llguidance import LLExecutor, LLTokenizer
from llguidance.numpy import fill_next_token_bitmask_par, fill_next_token_bitmask_par_with_draft_tokens

from pyworker.structured.compiler import GrammarCompiler, fault_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from llguidance import LLMatcher
    from numpy.typing import NDArray

    from pyworker.engine.request import Request
    from pyworker.structured.compiler import Compilation

READY: Final = "ready"


@dataclass(slots=True)
class _Guided:
    """`matcher` once compiled; `consumed` output tokens have gone through it."""

    compilation: Compilation
    matcher: LLMatcher | None = None
    consumed: int = 0


class LLGuidance:
    """A `GrammarEngine` on llguidance; see there for the methods. Used from the engine's thread."""

    def __init__(self, compiler: GrammarCompiler) -> None:
        self._compiler = compiler
        self._executor = LLExecutor(num_threads=1)
        self._guided: dict[str, _Guided] = {}
        self._messages: dict[str, str] = {}

    @classmethod
    def for_model(cls, model_dir: Path, vocab_size: int, eos_ids: Sequence[int]) -> LLGuidance:
        """For a model folder's tokeniser; `vocab_size` is the width of the logits. Takes some tenths of a second."""
        text = (model_dir / "tokenizer.json").read_text(encoding="utf-8")
        tokenizer = LLTokenizer(text, n_vocab=vocab_size, eos_token=list(eos_ids) or None)
        return cls(GrammarCompiler(tokenizer))

    def begin(self, request: Request) -> None:
        """Start compiling. A request that is known already goes on where it is."""
        grammar = request.params.grammar
        if grammar is not None and request.request_id not in self._guided:
            self._guided[request.request_id] = _Guided(self._compiler.start(grammar))

    def poll(self, request: Request) -> str | None:
        """See `GrammarEngine`; output that is there already (of a resumed request) is followed first."""
        guided = self._guided[request.request_id]
        if guided.matcher is not None:
            return self._state(request.request_id, guided.matcher)
        compiled = guided.compilation.result()
        if compiled is None:
            return None
        if compiled.matcher is None:
            self._messages[request.request_id] = compiled.message
            return compiled.code
        guided.matcher = compiled.matcher.deep_copy()
        if not self._follow(guided, request.output_ids):
            self._messages[request.request_id] = "the output so far does not match the grammar"
            return "grammar_invalid"
        return READY

    def wait(self, micros: int) -> None:
        """See `GrammarEngine`. One thread compiles all, so the first that began is the next to end."""
        pending = (guided.compilation for guided in self._guided.values() if guided.matcher is None)
        first = next(pending, None)
        if first is not None:
            first.wait(micros / 1e6)

    def message(self, request_id: str) -> str:
        """What to tell about a grammar whose `poll` gave an error code."""
        return self._messages.get(request_id, "")

    def cut_drafts(self, request: Request, drafts: Sequence[int]) -> list[int]:
        """The longest beginning of the drafts that is allowed."""
        matcher = self._matcher(request.request_id)
        return list(drafts) if matcher is None else list(drafts[: matcher.validate_tokens(list(drafts))])

    def forced(self, request: Request, most: int) -> list[int]:
        """Tokens that must come next: of a text that is settled the mask allows one way to write it only."""
        matcher = self._matcher(request.request_id)
        if matcher is None or matcher.is_error() or matcher.is_stopped():
            return []
        return list(matcher.compute_ff_tokens()[:most])

    def masks(self, drafts: Mapping[str, Sequence[int]], requests: Mapping[str, Request]) -> StepMasks | None:
        """Masks of the requests in this step that have a grammar."""
        matchers = {
            request_id: (guided.matcher, list(drafts.get(request_id, ())))
            for request_id in requests
            if (guided := self._guided.get(request_id)) is not None and guided.matcher is not None
        }
        return StepMasks(self._executor, matchers) if matchers else None

    def accept(self, request: Request, token_ids: Sequence[int]) -> bool:
        """Follow what was emitted; `output_ids` ends with it already."""
        del token_ids
        guided = self._guided.get(request.request_id)
        return guided is None or guided.matcher is None or self._follow(guided, request.output_ids)

    def is_ended(self, request: Request) -> bool:
        """Whether only an end token could follow."""
        matcher = self._matcher(request.request_id)
        return matcher is not None and matcher.is_stopped()

    def forget(self, request_id: str) -> None:
        """Drop the request's state."""
        self._guided.pop(request_id, None)
        self._messages.pop(request_id, None)

    def close(self) -> None:
        """End the compiling thread."""
        self._compiler.close()

    def _state(self, request_id: str, matcher: LLMatcher) -> str:
        """Ready, or the error code of a grammar that broke its bounds while it was followed."""
        if not matcher.is_error():
            return READY
        code, self._messages[request_id] = fault_of(matcher)
        return code

    def _matcher(self, request_id: str) -> LLMatcher | None:
        guided = self._guided.get(request_id)
        return None if guided is None else guided.matcher

    @staticmethod
    def _follow(guided: _Guided, output_ids: Sequence[int]) -> bool:
        matcher, new = guided.matcher, list(output_ids[guided.consumed :])
        if matcher is None or not new:
            return True
        guided.consumed += len(new)
        return bool(matcher.consume_tokens(new)) and not matcher.is_error()


class StepMasks:
    """The `TokenMasks` of one step: made when they are read, for the forward goes on meanwhile."""

    def __init__(self, executor: LLExecutor, matchers: Mapping[str, tuple[LLMatcher, list[int]]]) -> None:
        self._executor = executor
        self._matchers = matchers

    def __contains__(self, request_id: object) -> bool:
        return request_id in self._matchers

    def fill(self, rows: Sequence[tuple[str, int]], masks: NDArray[np.int32]) -> None:
        """See `TokenMasks`. Rows of one request stand together, in the order of their positions.

        A row is all zero where the grammar allows nothing, not even an end.
        """
        for index, (request_id, position) in enumerate(rows):
            if position == 0 and request_id in self._matchers:
                end = index + 1
                while end < len(rows) and rows[end][0] == request_id:
                    end += 1
                self._fill(request_id, masks, index, end - index)

    def _fill(self, request_id: str, masks: NDArray[np.int32], first: int, count: int) -> None:
        matcher, drafts = self._matchers[request_id]
        part = masks[first : first + count]
        part[:] = 0
        if matcher.is_error():
            return
        if count == 1:
            fill_next_token_bitmask_par(self._executor, [(matcher, 0)], part)
        else:
            fill_next_token_bitmask_par_with_draft_tokens(self._executor, [(matcher, 0, drafts[: count - 1])], part)
        if matcher.is_error():
            part[:] = 0
