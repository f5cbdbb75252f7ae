"""What is asked of an engine about the choice of tokens: choices of one prompt, ends, parameters, seeds."""

from __future__ import annotations

from typing import Any

import pytest

from pyworker.engine.outputs import FinishReason
from support.contract_base import LENGTH, ContractBase, Driven

EVERYTHING: dict[str, Any] = {
    "temperature": 0.8,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.01,
    "frequency_penalty": 0.4,
    "presence_penalty": 0.3,
    "repetition_penalty": 1.2,
    "logit_bias": ((65, 2.0), (66, -100.0)),
    "bad_words": ((67,), (65, 68)),
    "min_tokens": 3,
    "logprobs": 2,
}
"""Parameters of all kinds at once."""


class SamplingContract(ContractBase):
    """Of these, each test names what it needs."""

    @pytest.mark.parametrize("lost", ["none", "0 never runs", "0 is cancelled"])
    def test_choices_of_one_prompt_are_those_of_single_requests(self, driven: Driven, lost: str) -> None:
        """Whether they share a prefill or not, and whatever becomes of choice 0."""
        self.needs(driven, "seeded_exact")
        alone = []
        for index in range(3):
            single = self.request(f"alone{index}", prompt=[9] * 21, seed=5, logprobs=self.asks_logprobs(driven))
            single.choice_index = index
            driven.run(single)
            alone.append(driven.outcome(single))
        choices = [
            self.request(f"c{index}", prompt=[9] * 21, seed=5, group=("g", index), logprobs=self.asks_logprobs(driven))
            for index in range(3)
        ]
        choices[0].credit_up_to = 2**31 if lost == "none" else 0
        for choice in choices:
            driven.engine.submit(choice)
        if lost == "0 is cancelled":
            driven.engine.cancel("c0")
        expected = choices[1:] if lost == "0 never runs" else choices
        driven.finish_all(expected)
        assert [driven.outcome(choice) for choice in choices[1:]] == alone[1:]
        if lost == "none":
            assert driven.outcome(choices[0]) == alone[0]

    def test_choices_differ_where_tokens_are_drawn(self, driven: Driven) -> None:
        """By the choice and by the seed, each for itself; the same of both is the same."""
        self.needs(driven, "seeded_exact", "sampling")
        made = []
        for name, seed, index in (("a", 5, 0), ("b", 5, 1), ("c", 6, 0), ("d", 5, 0)):
            request = self.request(name, prompt=[9] * 21, seed=seed)
            request.choice_index = index
            made += driven.run(request)
        assert made[0] == made[3]
        assert len({tuple(tokens) for tokens in made}) == 3

    @pytest.mark.parametrize("min_tokens", [0, 6])
    def test_a_named_token_ends_the_text_and_not_too_early(self, driven: Driven, min_tokens: int) -> None:
        """It counts as output, and is the last."""
        self.needs(driven, "stops", "seeded_exact")
        (whole,) = driven.run(self.request("a"))
        stops = (whole[3], whole[8])
        stopped = self.request("a", attempt=1, stop_token_ids=stops, min_tokens=min_tokens)
        (tokens,) = driven.run(stopped)
        ends = [index for index, token in enumerate(tokens) if token in stops and index >= min_tokens]
        assert driven.host.finish("a", 1) is (FinishReason.STOP if ends else FinishReason.LENGTH)
        assert len(tokens) == (ends[0] + 1 if ends else LENGTH)
        if not min_tokens:
            assert tokens == whole[: whole.index(next(token for token in whole if token in stops)) + 1]
        elif "sampling" in self.also:
            assert not set(stops) & set(tokens[:min_tokens])

    def test_only_allowed_tokens_come(self, driven: Driven) -> None:
        """However unlikely they are."""
        self.needs(driven, "sampling")
        (tokens,) = driven.run(self.request("a", allowed_token_ids=(33, 44, 55)))
        assert set(tokens) <= {33, 44, 55}

    def test_bad_words_do_not_come(self, driven: Driven) -> None:
        """Neither a token by itself nor one behind another."""
        self.needs(driven, "sampling")
        (tokens,) = driven.run(self.request("a", temperature=0.0, allowed_token_ids=(33, 44, 55)))
        (fewer,) = driven.run(
            self.request("a", attempt=1, temperature=0.0, allowed_token_ids=(33, 44, 55), bad_words=((tokens[0],),))
        )
        assert tokens[0] not in fewer
        pairs = tuple((33, other) for other in (33, 44))
        (apart,) = driven.run(self.request("b", allowed_token_ids=(33, 44), bad_words=pairs))
        assert 33 not in apart[:-1]

    def test_a_bias_decides(self, driven: Driven) -> None:
        """100 is more than any of these models says of a token."""
        self.needs(driven, "sampling")
        assert driven.run(self.request("a", logit_bias=((33, 100.0),))) == [[33] * LENGTH]

    def test_all_parameters_at_once_go_on_after_a_resume(self, driven: Driven) -> None:
        """Penalties and bad words look at the history, whoever made it."""
        self.needs(driven, "seeded_exact", "sampling", "logprobs")
        whole = self.request("a", **EVERYTHING)
        driven.run(whole)
        tokens, logprobs, _ = driven.outcome(whole)
        for position in range(1, LENGTH):
            resumed = self.request("a", attempt=position, history=tokens[:position], **EVERYTHING)
            driven.run(resumed)
            assert driven.outcome(resumed)[:2] == (tokens[position:], logprobs[position:])

    def test_the_likeliest_is_taken_where_nothing_is_drawn(self, driven: Driven) -> None:
        """Greedy tokens are the first of the raw distribution."""
        self.needs(driven, "sampling", "logprobs")
        request = self.request("a", temperature=0.0, logprobs=1)
        driven.run(request)
        tokens, logprobs, _ = driven.outcome(request)
        assert [(each.top_ids, each.top_logprobs) for each in logprobs] == [
            ((token,), (each.logprob,)) for token, each in zip(tokens, logprobs, strict=True)
        ]

    def test_what_is_told_of_a_prompt_does_not_depend_on_what_is_cached(self, driven: Driven) -> None:
        """Asked for again, and together with other choices of the prompt."""
        self.needs(driven, "logprobs", "seeded_exact")
        told = []
        for names in (("a",), ("b",), ("c", "d")):
            requests = [self.request(name, prompt=[7] * 40, seed=1, prompt_logprobs=2) for name in names]
            for index, request in enumerate(requests):
                request.group, request.choice_index = names[0], index
            driven.run(*requests)
            for name in names:
                told.append([each for output in driven.host.outputs(name) for each in output.prompt_logprobs])
        assert [len(each) for each in told] == [39] * 4
        assert told == [told[0]] * 4

    @staticmethod
    def asks_logprobs(driven: Driven) -> int | None:
        """As many as any engine with logprobs gives."""
        return 1 if "logprobs" in driven.capabilities.features else None
