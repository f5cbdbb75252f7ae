"""`LLM` in process: text, stops and streams; on the oracle, where every token is known, and on `tiny`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pyworker.errors import ConfigError, InvalidRequest, ModelNotFound
from pyworker.llm import LLM, Completion, CompletionOutput, Grammar, GrammarKind, SamplingParams
from pyworker.runner.sim import oracle_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pyworker.engine.interface import EngineStats
    from pyworker.engine.request import Request

VOCAB = 4096
PROMPT = [104, 105]
"""`hi`, in the oracle's bytes."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLACKWATER_CACHE", str(cache))


@pytest.fixture
def llm() -> Iterator[LLM]:
    with LLM("sim", sim=True, max_num_seqs=4) as llm:
        yield llm


def seeded(n: int, **changes: object) -> SamplingParams:
    return SamplingParams(max_tokens=n, seed=3, **changes)  # type: ignore[arg-type]


def state(stats: EngineStats) -> tuple[int, int, int]:
    return stats.num_running, stats.num_waiting, stats.kv_blocks_used


def only(text: str, token_ids: list[int], finish_reason: str, prompt: list[int]) -> Completion:
    return Completion(prompt, [CompletionOutput(0, text, token_ids, finish_reason)])


def text_of(tokens: list[int]) -> str:
    return "".join(f" t{token:05d}" for token in tokens)


def test_each_prompt_gets_its_own_answer_in_order(llm: LLM) -> None:
    prompts = [[*PROMPT, number] for number in range(10)]
    wanted = [oracle_tokens(prompt, 3, 7, VOCAB) for prompt in prompts]
    assert llm.generate(prompts, seeded(7)) == [
        only(text_of(tokens), tokens, "length", prompt) for tokens, prompt in zip(wanted, prompts, strict=True)
    ]
    assert state(llm.stats()) == (0, 0, 0)


def test_a_text_is_tokenised(llm: LLM) -> None:
    [completion] = llm.generate("hi", seeded(3))
    assert (completion.prompt_token_ids, completion.token_ids) == (PROMPT, oracle_tokens(PROMPT, 3, 3, VOCAB))


def test_a_chat_goes_through_the_template(llm: LLM) -> None:
    completion = llm.chat([{"role": "user", "content": "hi"}], seeded(2))
    assert bytes(completion.prompt_token_ids) == b"user: hi\nassistant:"


def test_a_stop_string_ends_the_text_and_the_request(llm: LLM) -> None:
    tokens = oracle_tokens(PROMPT, 3, 9, VOCAB)
    stop = f"{text_of(tokens)[25:29]}"  # inside the fourth token's text, over into the fifth's
    [completion] = llm.generate([PROMPT], seeded(9, stop=("never", stop)))
    cut = text_of(tokens).index(stop)
    assert completion == only(text_of(tokens)[:cut], tokens[: cut // 7 + 1 + (cut % 7 > 3)], "stop", PROMPT)
    assert "".join(llm.stream(PROMPT, seeded(9, stop=(stop,)))) == completion.text
    assert state(llm.stats()) == (0, 0, 0)


def test_a_stop_string_counts_only_after_min_tokens(llm: LLM) -> None:
    [completion] = llm.generate([PROMPT], seeded(5, min_tokens=3, stop=(" t",)))
    tokens = oracle_tokens(PROMPT, 3, 4, VOCAB)
    assert completion == only(text_of(tokens[:3]), tokens, "stop", PROMPT)


def test_streams_and_batches_may_be_interleaved(llm: LLM) -> None:
    one, other = llm.stream(PROMPT, seeded(6)), llm.stream([*PROMPT, 1], seeded(6))
    first = next(one)
    [whole] = llm.generate([[*PROMPT, 2]], seeded(6))
    assert whole.token_ids == oracle_tokens([*PROMPT, 2], 3, 6, VOCAB)
    assert "".join(other) == text_of(oracle_tokens([*PROMPT, 1], 3, 6, VOCAB))
    assert first + "".join(one) == text_of(oracle_tokens(PROMPT, 3, 6, VOCAB))


def test_a_stream_that_is_left_frees_what_it_held(llm: LLM) -> None:
    stream = llm.stream(PROMPT, seeded(1_000))
    next(stream)
    assert llm.stats().num_running == 1
    stream.close()
    assert list(stream) == []
    assert state(llm.stats()) == (0, 0, 0)


@pytest.mark.parametrize(
    ("prompt", "params", "param"),
    [
        ([], {}, "prompt"),
        ([1, VOCAB], {}, "prompt"),
        ([1, -1], {}, "prompt"),
        ([1, 2.0], {}, "prompt"),
        ([True], {}, "prompt"),
        (["a"], {}, "prompt"),
        ([None], {}, "prompt"),
        (b"ab", {}, "prompt"),
        (7, {}, "prompt"),
        (None, {}, "prompt"),
        ("\ud800", {}, "prompt"),
        ([1], {"temperature": float("nan")}, "temperature"),
        ([1], {"temperature": "1"}, "temperature"),
        ([1], {"temperature": 10**400}, "temperature"),
        ([1], {"top_p": None}, "top_p"),
        ([1], {"top_p": True}, "top_p"),
        ([1], {"max_tokens": 0}, "max_tokens"),
        ([1], {"max_tokens": None}, "max_tokens"),
        ([1], {"max_tokens": 1.5}, "max_tokens"),
        ([1], {"max_tokens": "3"}, "max_tokens"),
        ([1], {"min_tokens": True}, "min_tokens"),
        ([1], {"min_tokens": 17}, "min_tokens"),
        ([1], {"ignore_eos": 1}, "ignore_eos"),
        ([1], {"seed": "1"}, "seed"),
        ([1], {"seed": 1.0}, "seed"),
        ([1], {"seed": 2**64}, "seed"),
        ([1], {"seed": -(2**63) - 1}, "seed"),
        ([1], {"stop": ("",)}, "stop"),
        ([1], {"stop": ""}, "stop"),
        ([1], {"stop": ("x",) * 17}, "stop"),
        ([1], {"stop": ("x" * 257,)}, "stop"),
        ([1], {"stop": ("\ud800",)}, "stop"),
        ([1], {"stop": (b"x",)}, "stop"),
        ([1], {"stop": None}, "stop"),
        ([1], {"top_k": 1.0}, "top_k"),
        ([1], {"min_p": "0"}, "min_p"),
        ([1], {"frequency_penalty": None}, "frequency_penalty"),
        ([1], {"presence_penalty": True}, "presence_penalty"),
        ([1], {"repetition_penalty": "1"}, "repetition_penalty"),
        ([1], {"logprobs": True}, "logprobs"),
        ([1], {"prompt_logprobs": 1.0}, "prompt_logprobs"),
        ([1], {"stop_token_ids": 3}, "stop_token_ids"),
        ([1], {"stop_token_ids": (1.0,)}, "stop_token_ids"),
        ([1], {"allowed_token_ids": "12"}, "allowed_token_ids"),
        ([1], {"logit_bias": 3}, "logit_bias"),
        ([1], {"logit_bias": {"1": 3}}, "logit_bias"),
        ([1], {"logit_bias": {1: None}}, "logit_bias"),
        ([1], {"logit_bias": [(1, 2.0, 3)]}, "logit_bias"),
        ([1], {"bad_words": "word"}, "bad_words"),
        ([1], {"bad_words": [" "]}, "bad_words"),
        ([1], {"bad_words": [3]}, "bad_words"),
        ([1], {"grammar": "x"}, "grammar"),
        ([1], {"grammar": Grammar(GrammarKind.REGEX, 3)}, "grammar"),  # type: ignore[arg-type]
        ([1], {"include_stop_str_in_output": 1}, "include_stop_str_in_output"),
        ([1], {"skip_special_tokens": None}, "skip_special_tokens"),
        ([1], {"n": 0}, "n"),
        ([1], {"n": 17}, "n"),
        ([1], {"n": 2.0}, "n"),
        ([1], {"n": 3, "best_of": 2}, "best_of"),
        ([1], {"best_of": 17}, "best_of"),
    ],
)
def test_a_bad_request_runs_nothing(llm: LLM, prompt: Any, params: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{param}: ") as raised:
        llm.generate([[1, 2], prompt], SamplingParams(**params))
    assert raised.value.param == param
    with pytest.raises(InvalidRequest, match=f"^{param}: "):
        llm.stream(prompt, SamplingParams(**params))
    assert state(llm.stats()) == (0, 0, 0)


@pytest.mark.parametrize("prompts", [7, None, b"ab", [1, 2]])
def test_something_that_is_no_prompts_is_refused(llm: LLM, prompts: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^prompts?: expected a text"):
        llm.generate(prompts)


@pytest.mark.parametrize("params", [{"max_tokens": 3}, 3])
def test_something_that_is_no_parameters_is_refused(llm: LLM, params: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^params: expected SamplingParams, got "):
        llm.generate("hi", params)


@pytest.mark.parametrize(
    "messages", [7, None, "hi", {"role": "user"}, [5], [{"content": "hi"}], [{"role": 5}], [{"role": "\ud800"}]]
)
def test_something_that_is_no_conversation_is_refused(llm: LLM, messages: Any) -> None:
    with pytest.raises(InvalidRequest) as raised:
        llm.chat(messages)
    assert raised.value.param == "messages"


def test_a_failure_in_the_middle_of_a_list_leaves_nothing_in_the_engine(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = llm._driver._engine
    submit = engine.submit

    def fails_on_2(request: Request) -> None:
        if request.prompt_ids == [2]:
            raise RuntimeError("out of luck")
        submit(request)

    monkeypatch.setattr(engine, "submit", fails_on_2)
    with pytest.raises(RuntimeError, match="out of luck"):
        llm.generate([[1], [2], [3]], seeded(5))
    assert state(llm.stats()) == (0, 0, 0)
    assert llm._driver._host.answers == {}


def test_one_stop_string_need_not_be_in_a_tuple(llm: LLM) -> None:
    tokens = oracle_tokens(PROMPT, 3, 9, VOCAB)
    stop = text_of(tokens)[8:13]
    one: Any = stop
    assert llm.generate([PROMPT], seeded(9, stop=one)) == llm.generate([PROMPT], seeded(9, stop=(stop,)))
    # Its characters alone would end the text much earlier.
    [completion] = llm.generate([PROMPT], seeded(9, stop=one))
    assert completion.text == text_of(tokens)[:8]


@pytest.mark.parametrize(("negative", "unsigned"), [(-1, 2**64 - 1), (-(2**63), 2**63)])
def test_a_negative_seed_is_the_unsigned_number_of_the_same_bits(llm: LLM, negative: int, unsigned: int) -> None:
    by_seed = [llm.generate([PROMPT], SamplingParams(max_tokens=8, seed=seed)) for seed in (negative, unsigned)]
    assert by_seed[0] == by_seed[1]
    assert by_seed[0][0].token_ids == oracle_tokens(PROMPT, unsigned, 8, VOCAB)


def test_after_close_everything_says_so_and_nothing_is_tried(caplog: pytest.LogCaptureFixture) -> None:
    llm = LLM("sim", sim=True, max_num_seqs=4)
    begun, waiting = llm.stream(PROMPT, seeded(50)), llm.stream(PROMPT, seeded(50))
    next(begun)
    llm.close()
    llm.close()
    uses: list[Callable[[], object]] = [
        lambda: llm.generate("hi"),
        lambda: llm.generate([]),
        lambda: llm.chat([{"role": "user", "content": "hi"}]),
        lambda: llm.stream("hi"),
        lambda: next(begun),
        lambda: next(waiting),
        llm.stats,
    ]
    for use in uses:
        with pytest.raises(RuntimeError, match=r"^this LLM is closed$"):
            use()
    begun.close()
    assert caplog.records == []


def test_a_seed_is_drawn_where_none_is_given(llm: LLM) -> None:
    one, other = llm.generate([PROMPT, PROMPT], SamplingParams(max_tokens=8))
    assert one.token_ids != other.token_ids


def test_bad_options_and_models_are_named() -> None:
    with pytest.raises(ConfigError, match="is no option"):
        LLM("sim", simm=True)
    with pytest.raises(ConfigError, match="Expected `int`"):
        LLM("sim", sim=True, max_num_seqs="8")
    with pytest.raises(ModelNotFound):
        LLM("no-such-model")


def test_tiny_gives_the_same_one_by_one_and_in_a_batch() -> None:
    with LLM("tiny", backend="reference", kv_cache_bytes=1 << 22) as llm:
        prompts = ["The tide", "comes in", "and goes out"]
        params = SamplingParams(max_tokens=6, temperature=0.8, seed=11)
        batch = llm.generate(prompts, params)
        assert batch == [llm.generate(prompt, params)[0] for prompt in prompts]
        assert "".join(llm.stream(prompts[0], params)) == batch[0].text
