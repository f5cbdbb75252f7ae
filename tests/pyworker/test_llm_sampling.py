"""`LLM` with more than one choice, logprobs, stop tokens and words that may not come; on the oracle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pyworker.asked import bad_words_of
from pyworker.engine.outputs import TokenLogprobs
from pyworker.errors import InvalidRequest
from pyworker.llm import LLM, Grammar, GrammarKind, Logprob, SamplingParams
from pyworker.runner.sim import oracle_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyworker.engine.request import Request

VOCAB = 4096
PROMPT = [104, 105]


@pytest.fixture
def llm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[LLM]:
    monkeypatch.setenv("SLACKWATER_CACHE", str(tmp_path_factory.getbasetemp() / "llm-sampling"))
    with LLM("sim", sim=True, max_num_seqs=8) as llm:
        yield llm


@pytest.fixture
def submitted(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """What the engine is given."""
    engine, taken = llm._driver._engine, list[Any]()
    submit = engine.submit

    def keep(request: Request) -> None:
        taken.append(request)
        submit(request)

    monkeypatch.setattr(engine, "submit", keep)
    return taken


def test_choices_are_requests_of_one_group_that_share_a_seed(llm: LLM, submitted: list[Request]) -> None:
    one, other = llm.generate([PROMPT, [1]], SamplingParams(max_tokens=3, n=3, prompt_logprobs=0))
    assert [[out.index for out in each.outputs] for each in (one, other)] == [[0, 1, 2], [0, 1, 2]]
    assert [request.choice_index for request in submitted] == [0, 1, 2, 0, 1, 2]
    groups, seeds = [request.group for request in submitted], [request.params.seed for request in submitted]
    assert [len(set(groups[:3])), len(set(groups)), len(set(seeds[:3])), len(set(seeds))] == [1, 2, 1, 2]
    assert [request.params.prompt_logprobs for request in submitted] == [0, None, None] * 2
    assert (one.text, one.token_ids) == (one.outputs[0].text, one.outputs[0].token_ids)
    assert llm.stats().kv_blocks_used == 0


def test_the_best_choices_are_those_with_the_highest_mean_logprob(llm: LLM, submitted: list[Request]) -> None:
    params = SamplingParams(max_tokens=4, seed=3, n=2, best_of=4)
    [best] = llm.generate([PROMPT], params)
    assert [request.params.logprobs for request in submitted] == [0] * 4
    assert [(out.index, out.logprobs) for out in best.outputs] == [(0, None), (1, None)]
    # The oracle's choices are all alike, so these are made up: the sums would choose others.
    answers = llm._choices(PROMPT, params)
    for token, (answer, each) in enumerate(zip(answers, [[-3.0], [-1.0, -1.0], [-2.0], [-0.5] * 8], strict=True)):
        answer.token_ids = [token]
        answer.logprobs = [TokenLogprobs(logprob) for logprob in each]
    assert [out.token_ids for out in llm._completion(answers, params).outputs] == [[3], [1]]


def test_logprobs_stand_beside_the_tokens_and_say_the_texts(llm: LLM) -> None:
    [out] = llm.generate([PROMPT], SamplingParams(max_tokens=3, seed=3, logprobs=2, prompt_logprobs=1))
    assert out.logprobs is not None
    assert out.prompt_logprobs is not None
    assert [next(iter(each)) for each in out.logprobs] == out.token_ids
    assert all(2 <= len(each) <= 3 for each in out.logprobs)
    first = out.logprobs[0][out.token_ids[0]]
    assert first == Logprob(first.logprob, f" t{out.token_ids[0]:05d}")
    assert first.logprob < 0.0
    assert out.prompt_logprobs[0] is None
    assert PROMPT[1] in (out.prompt_logprobs[1] or {})
    assert len(out.prompt_logprobs) == len(PROMPT)


def test_a_stop_token_ends_the_text_and_is_not_part_of_it(llm: LLM) -> None:
    tokens = oracle_tokens(PROMPT, 3, 9, VOCAB)
    params = SamplingParams(max_tokens=9, seed=3, stop_token_ids=(tokens[4],))
    [out] = llm.generate([PROMPT], params)
    assert (out.finish_reason, out.token_ids) == ("stop", tokens[:5])
    assert out.text == "".join(f" t{token:05d}" for token in tokens[:4])


def test_words_that_may_not_come_are_tokenised_with_and_without_a_space(llm: LLM, submitted: list[Request]) -> None:
    words: Any = ["hi", (7, 8)]
    llm.generate([PROMPT], SamplingParams(max_tokens=1, bad_words=words))
    assert submitted[0].params.bad_words == ((104, 105), (7, 8))
    table = {"a": [1], " a": [2], "b": [3], " b": [4, 3], "c": [5], " c": [5]}
    assert bad_words_of([" a", "b", "c"], table.__getitem__) == ((1,), (2,), (3,), (5,))


def test_a_stream_has_one_choice(llm: LLM) -> None:
    for params in (SamplingParams(n=2), SamplingParams(best_of=2)):
        with pytest.raises(InvalidRequest, match=r"^n: "):
            llm.stream(PROMPT, params)


def test_what_the_engine_does_not_declare_is_refused(llm: LLM) -> None:
    grammar = Grammar(GrammarKind.JSON_OBJECT, "")
    with pytest.raises(InvalidRequest) as raised:
        llm.generate([PROMPT], SamplingParams(grammar=grammar))
    assert (raised.value.code, raised.value.param) == ("unsupported_parameter", "grammar")
