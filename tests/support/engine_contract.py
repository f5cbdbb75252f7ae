"""What every `Engine` must keep, as a test class. Derive from it, say how an engine is made, and pytest does the rest.

    class TestMyEngine(EngineContract):
        def make_engine(self) -> Engine:
            return MyEngine()

Only the methods of the Protocol are used, and each test has an engine of its own. What an engine does not declare among
its features, nor its class here in `also`, is not asked of it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyworker.engine.outputs import FinishReason
from pyworker.engine.request import SamplingParams
from pyworker.errors import InvalidRequest
from support.contract_base import LENGTH, Driven
from support.contract_features import FeatureContract
from support.contract_sampling import SamplingContract
from support.engine_rig import request_for_test


class EngineContract(SamplingContract, FeatureContract):
    """The suite: here what is asked of any engine, in its bases what engines may declare."""

    def test_capabilities_are_whole(self, driven: Driven) -> None:
        """Nothing that the router relies on is empty."""
        found = driven.capabilities
        texts = (found.model_name, found.weights_hash, found.text_hash, found.dtype, found.numerics, found.kv_layout)
        numbers = (found.vocab_size, found.block_size, found.num_blocks, found.max_model_len, found.slots)
        assert all(texts)
        assert min(numbers) >= 1
        assert len(set(found.features)) == len(found.features)

    def test_an_idle_engine_says_so_and_sends_nothing(self, driven: Driven) -> None:
        """Not even an empty message."""
        assert not driven.engine.step()
        assert driven.host.steps == []

    def test_each_request_ends_once_with_all_its_tokens_in_order(self, driven: Driven) -> None:
        """Tokens are in the vocabulary, `start` leaves no gap, and the end is the last output."""
        requests = [self.request(name) for name in ("a", "b", "c")]
        driven.run(*requests)
        for request in requests:
            outputs = driven.host.outputs(request.request_id)
            position = 0
            for output in outputs:
                assert output.start == position
                position += len(output.token_ids)
            assert position == LENGTH
            assert [output.finish for output in outputs if output.finish] == [FinishReason.LENGTH]
            assert outputs[-1].finish is FinishReason.LENGTH
            assert all(0 <= token < driven.capabilities.vocab_size for token in driven.host.tokens(request.request_id))

    def test_more_requests_than_slots_all_end(self, driven: Driven) -> None:
        """Those that find no room wait."""
        requests = [self.request(f"n{index}") for index in range(6)]
        driven.run(*requests)
        assert [driven.host.finish(request.request_id) for request in requests] == [FinishReason.LENGTH] * 6

    def test_progress_is_told(self, driven: Driven) -> None:
        """A busy engine shows that it lives."""
        driven.run(self.request("a"))
        assert driven.host.progressed > 0

    def test_no_token_comes_before_its_credit(self, driven: Driven) -> None:
        """Credit is an absolute position, may be said twice, and never shrinks."""
        request = self.request("a", credit=0)
        driven.engine.submit(request)
        for credit, least in ((3, 0), (3, 3), (1, 3), (7, 3), (LENGTH, 7)):
            driven.step_until_idle()
            assert len(driven.host.tokens("a")) == least
            driven.engine.grant("a", credit)
        driven.step_until(lambda: driven.finished(request))
        assert len(driven.host.tokens("a")) == LENGTH

    def test_a_stalled_stream_holds_nobody_up(self, driven: Driven) -> None:
        """One that may not go on lets others pass."""
        stalled = self.request("stalled", credit=2)
        driven.engine.submit(stalled)
        driven.run(self.request("other"))
        assert len(driven.host.tokens("stalled")) == 2
        assert not driven.finished(stalled)

    @pytest.mark.parametrize("credit", [0, 4], ids=["before the first token", "in mid-stream"])
    def test_a_cancel_is_confirmed_once(self, driven: Driven, credit: int) -> None:
        """Also outside a step, when the request could not have gone on; a second cancel is nothing."""
        request = self.request("a", credit=credit)
        driven.engine.submit(request)
        driven.step_until(lambda: len(driven.host.tokens("a")) == credit)
        driven.step_until_idle()
        driven.engine.cancel("a")
        driven.engine.cancel("a")
        driven.step_until(lambda: driven.finished(request))
        driven.engine.cancel("a")
        driven.step_until_idle()
        assert driven.host.finish("a") is FinishReason.CANCELLED
        assert len(driven.host.tokens("a")) == credit

    def test_unknown_ids_are_ignored(self, driven: Driven) -> None:
        """The link may be late with what it says of a request that has ended."""
        driven.engine.cancel("nobody")
        driven.engine.grant("nobody", 5)
        driven.step_until_idle()
        assert driven.host.steps == []

    def test_bad_requests_are_refused_and_leave_nothing_behind(self, driven: Driven) -> None:
        """With the code of the HTTP surface; neighbours do not notice."""
        vocab, longest = driven.capabilities.vocab_size, driven.capabilities.max_model_len
        params = SamplingParams(max_tokens=4, seed=1, ignore_eos=True)
        bad = {
            "invalid_request": [
                request_for_test("empty", [], params=params),
                request_for_test("id", [1, vocab], params=params),
                request_for_test("history", [1], output_ids=[vocab], params=params),
                request_for_test("none", [1], params=SamplingParams(max_tokens=0, seed=1)),
                request_for_test("nan", [1], params=SamplingParams(max_tokens=4, temperature=float("nan"), seed=1)),
                request_for_test("p", [1], params=SamplingParams(max_tokens=4, top_p=0.0, seed=1)),
                request_for_test("over", [1], output_ids=[1, 1, 1, 1], params=params),
            ],
            "context_length_exceeded": [request_for_test("long", [1] * longest, params=params)],
        }
        for code, requests in bad.items():
            for request in requests:
                with pytest.raises(InvalidRequest) as caught:
                    driven.engine.submit(request)
                assert (request.request_id, caught.value.code) == (request.request_id, code)
        assert not driven.engine.step()
        driven.run(self.request("good"))
        stats = driven.engine.stats()
        assert (stats.num_running, stats.num_waiting, stats.kv_blocks_used) == (0, 0, 0)

    def test_stats_count_what_was_done(self, driven: Driven) -> None:
        """Rows and tokens are counted; the histogram's last bucket is its count."""
        driven.run(self.request("a"), self.request("b"))
        metrics = {(name, label): value for name, label, value in driven.engine.stats().metrics}
        assert metrics["generation_tokens", None] == 2 * LENGTH
        assert metrics["step_rows_bucket", "+Inf"] == metrics["step_rows_count", None] >= 1

    @pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
    def test_tokens_do_not_depend_on_the_neighbours(self, driven: Driven, temperature: float) -> None:
        """Alone and in a batch, the same."""
        self.needs(driven, "seeded_exact")
        names = ("a", "bb", "ccc")
        alone = [driven.run(self.request(name, temperature=temperature))[0] for name in names]
        again = [self.request(name, attempt=1, temperature=temperature) for name in names]
        assert driven.run(*again) == alone

    @pytest.mark.parametrize("temperature", [0.0, 1.0], ids=["greedy", "sampled"])
    def test_a_resume_from_any_position_goes_on_as_if_unbroken(self, driven: Driven, temperature: float) -> None:
        """History is output: positions, seed and length go on from it."""
        self.needs(driven, "seeded_exact")
        (unbroken,) = driven.run(self.request("a", temperature=temperature))
        for position in range(1, LENGTH):
            history = unbroken[:position]
            resumed = self.request("a", attempt=position, history=history, temperature=temperature)
            assert driven.run(resumed) == [unbroken[position:]]
            assert driven.host.outputs("a", position)[0].start == position

    def test_logprobs_stand_beside_tokens_and_prompt_positions(self, driven: Driven) -> None:
        """One for each token, with as many likeliest ones as were asked for, descending; the prompt's once, all but the
        first, by the first token.
        """
        self.needs(driven, "logprobs")
        request = self.request("a")
        request.params = replace(request.params, logprobs=3, prompt_logprobs=2)
        driven.run(request)
        outputs = driven.host.outputs("a")
        first = next(index for index, output in enumerate(outputs) if output.token_ids)
        by_first_token = [each for output in outputs[: first + 1] for each in output.prompt_logprobs]
        tokens = [each for output in outputs for each in output.logprobs]
        assert [len(output.logprobs) for output in outputs] == [len(output.token_ids) for output in outputs]
        assert len(by_first_token) == sum(len(output.prompt_logprobs) for output in outputs)
        assert len(by_first_token) == len(request.prompt_ids) - 1
        for count, positions in ((3, tokens), (2, by_first_token)):
            for each in positions:
                assert len(each.top_ids) == len(each.top_logprobs) == count
                assert list(each.top_logprobs) == sorted(each.top_logprobs, reverse=True)
                assert each.logprob <= 0.0
                assert all(0 <= token < driven.capabilities.vocab_size for token in each.top_ids)

    def test_logprobs_of_a_resumed_request_go_on_as_if_unbroken(self, driven: Driven) -> None:
        """They depend on the position, as the tokens do; and who did not ask has none."""
        self.needs(driven, "logprobs")
        self.needs(driven, "seeded_exact")
        whole = self.request("a")
        whole.params = replace(whole.params, logprobs=1)
        (tokens,) = driven.run(whole)
        unbroken = [each for output in driven.host.outputs("a") for each in output.logprobs]
        resumed = self.request("a", attempt=1, history=tokens[:4])
        resumed.params = whole.params
        driven.run(resumed)
        assert [each for output in driven.host.outputs("a", 1) for each in output.logprobs] == unbroken[4:]
        driven.run(self.request("b"))
        assert all(not output.logprobs and not output.prompt_logprobs for output in driven.host.outputs("b"))
