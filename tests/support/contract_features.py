"""What is asked of an engine that declares more: grammars, events of its cache, rows that give way; and that nothing of
it, nor a cancel at any moment, shows in a token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pyworker.engine.outputs import FinishReason
from pyworker.engine.request import RequestClass
from pyworker.runner.safepoint import Safepoint, Yield
from support.contract_base import LENGTH, ContractBase, Driven

if TYPE_CHECKING:
    from pyworker.engine.outputs import KVEvents
    from pyworker.engine.request import Request


class FeatureContract(ContractBase):
    """Of these, each test names what it needs."""

    def mixed(self, driven: Driven, attempt: int = 0) -> list[Request]:
        """One request of each kind that the engine can be given; more than there are slots."""
        logprobs = 1 if "logprobs" in driven.capabilities.features else None
        kinds: dict[str, dict[str, Any]] = {
            "plain": {},
            "copies": {"prompt": [1, 2, 3, 4] * 8, "temperature": 0.0},
            "offline": {"klass": RequestClass.OFFLINE},
            "long": {"prompt": [3] * 45, "klass": RequestClass.INTERACTIVE},
            "choice0": {"prompt": [9] * 21, "group": (f"g{attempt}", 0)},
            "choice1": {"prompt": [9] * 21, "group": (f"g{attempt}", 1)},
        }
        if "logprobs" in driven.capabilities.features:
            kinds["told"] = {"prompt": [7] * 30, "prompt_logprobs": 1}
        if "grammar" in driven.capabilities.features:
            kinds["guided"] = {"grammar": self.grammar}
        return [self.request(name, attempt=attempt, logprobs=logprobs, **more) for name, more in kinds.items()]

    def test_everything_at_once_is_what_a_plain_engine_gives(self, driven: Driven) -> None:
        """Guesses, plans, a cache, blocks that run short: none of it shows."""
        self.needs(driven, "seeded_exact")
        plain = Driven(self.make_plain_engine())
        try:
            found = {request.request_id: request for request in self.mixed(driven)}
            driven.run(*found.values())
            for request in self.mixed(driven):
                plain.run(request)
                assert driven.outcome(found[request.request_id]) == plain.outcome(request), request.request_id
        finally:
            plain.engine.close()
        assert driven.is_empty()

    def test_everything_goes_on_from_anywhere(self, driven: Driven) -> None:
        """Each kind is broken off at a place of its own and resumed, all at once."""
        self.needs(driven, "seeded_exact")
        first = self.mixed(driven)
        driven.run(*first)
        whole = [driven.outcome(request) for request in first]
        resumed = self.mixed(driven, attempt=1)
        for index, request in enumerate(resumed):
            request.output_ids = whole[index][0][: 1 + index]
        driven.run(*resumed)
        for index, request in enumerate(resumed):
            tokens, logprobs, finish = whole[index]
            assert driven.outcome(request) == (tokens[1 + index :], logprobs[1 + index :], finish)

    @pytest.mark.parametrize("after", range(0, 12, 3))
    def test_a_cancel_at_any_moment_ends_one_and_harms_none(self, driven: Driven, after: int) -> None:
        """While it waits, compiles, computes its prompt, speaks, or is about to be forked."""
        self.needs(driven, "seeded_exact")
        calm = self.mixed(driven)
        driven.run(*calm)
        whole = [driven.outcome(request) for request in calm]
        for victim in range(len(calm)):
            requests = self.mixed(driven, attempt=1 + victim)
            for request in requests:
                driven.engine.submit(request)
            for _ in range(after):
                driven.engine.step()
            driven.engine.cancel(requests[victim].request_id)
            driven.finish_all(requests)
            driven.step_until_idle()
            for index, request in enumerate(requests):
                tokens, logprobs, finish = driven.outcome(request)
                if index == victim and finish is FinishReason.CANCELLED:
                    assert (tokens, logprobs) == (whole[index][0][: len(tokens)], whole[index][1][: len(logprobs)])
                else:
                    assert (tokens, logprobs, finish) == whole[index]
            assert driven.is_empty()

    def test_credit_that_comes_in_pieces_is_never_passed(self, driven: Driven) -> None:
        """Whatever guesses there are, and whoever shares a prompt."""
        requests = self.mixed(driven)
        for request in requests:
            request.credit_up_to = 0
            driven.engine.submit(request)
        for credit in (1, 2, 5, 6, LENGTH):
            for request in requests:
                driven.engine.grant(request.request_id, credit)
            driven.step_until_idle()
            assert [len(driven.host.tokens(request.request_id)) for request in requests] == [credit] * len(requests)
        assert all(driven.finished(request) for request in requests)

    def test_a_text_with_a_grammar_matches_it(self, driven: Driven) -> None:
        """And goes on matching it after a resume from anywhere."""
        self.needs(driven, "grammar", "seeded_exact")
        (whole,) = driven.run(self.request("a", grammar=self.grammar))
        assert len(whole) == LENGTH
        assert self.matches(whole)
        for position in range(1, LENGTH):
            resumed = self.request("a", attempt=position, history=whole[:position], grammar=self.grammar)
            assert driven.run(resumed) == [whole[position:]]

    def test_a_grammar_that_cannot_be_ends_its_request_alone(self, driven: Driven) -> None:
        """By an output, since it is found when it is compiled; a cancel before that is a cancel."""
        self.needs(driven, "grammar")
        bad, other = self.request("bad", grammar=self.bad_grammar), self.request("other")
        driven.run(bad, other)
        (end,) = driven.host.outputs("bad")
        assert (end.finish, end.error_code, end.token_ids) == (FinishReason.ERROR, "grammar_invalid", [])
        assert len(driven.host.tokens("other")) == LENGTH
        driven.engine.submit(self.request("late", grammar=self.grammar))
        driven.engine.cancel("late")
        driven.step_until(lambda: driven.host.finish("late") is not None)
        assert driven.host.finish("late") is FinishReason.CANCELLED
        driven.step_until_idle()
        assert driven.is_empty()

    def test_events_tell_the_caches_content(self, driven: Driven) -> None:
        """Replayed they give what a snapshot says, and what was stored is found, by those of the same salt only."""
        self.needs(driven, "kv_events")
        prompt = [5] * (2 * driven.capabilities.block_size + 1)
        prompt = prompt[: driven.capabilities.max_model_len - LENGTH]
        for name, salt in (("a", 0), ("b", 0), ("c", 7)):
            request = self.request(name, prompt=prompt)
            request.salt = salt
            driven.run(request)
        for index in range(12):
            driven.run(self.request(f"other{index}", prompt=[20 + index] * len(prompt)))
        told = replay(step.kv_events for step in driven.host.steps)
        cached = {name: driven.host.outputs(name)[-1].num_cached_tokens for name in "abc"}
        assert cached["a"] == cached["c"] == 0
        assert cached["b"] % driven.capabilities.block_size == 0
        driven.engine.ask_blocks()  # type: ignore[attr-defined]
        driven.host.steps.clear()
        driven.step_until_idle()
        assert replay((step.kv_events for step in driven.host.steps), cleared=True) == told

    @pytest.mark.parametrize("seed", range(4))
    def test_rows_that_give_way_lose_nothing(self, driven: Driven, seed: int) -> None:
        """The byte rises in the middle of steps; offline rows leave, come back, and say what they would have said."""
        self.needs(driven, "safepoint", "seeded_exact")
        calm = self.mixed(driven)
        driven.run(*calm)
        requests = self.mixed(driven, attempt=1)
        for request in requests:
            request.klass = RequestClass.OFFLINE if len(request.request_id) % 2 else request.klass
            driven.engine.submit(request)
        safepoint: Safepoint = driven.engine.safepoint  # type: ignore[attr-defined]
        due = 0

        def ask_when_due() -> None:
            if driven.host.progressed == due:
                safepoint.ask(Yield.OFFLINE_LEAVES)

        driven.host.on_progress = ask_when_due
        for index in range(60):
            due = driven.host.progressed + (index * 7 + seed) % 5
            driven.engine.step()
            safepoint.clear()
        driven.host.on_progress = lambda: None
        driven.finish_all(requests)
        assert [driven.outcome(request) for request in requests] == [driven.outcome(request) for request in calm]


def replay(every: Any, *, cleared: bool = False) -> dict[tuple[int, int], int]:
    """The cache that events tell of: parent by (salt, hash). With `cleared` they begin from nothing."""
    told: dict[tuple[int, int], int] = {}
    events: KVEvents
    for events in every:
        if events.cleared:
            told.clear()
            cleared = False
        for key in events.removed:
            del told[key]
        for block in events.stored:
            assert (block.salt, block.block_hash) not in told
            told[block.salt, block.block_hash] = block.parent_hash
    assert not cleared
    return told
