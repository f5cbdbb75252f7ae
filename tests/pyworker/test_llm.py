"""`LLM` in process: text, stops and streams; on the oracle, where every token is known, and on `tiny`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pyworker.errors import ConfigError, InvalidRequest, ModelNotFound
from pyworker.llm import LLM, Completion, SamplingParams
from pyworker.runner.sim import oracle_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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


def text_of(tokens: list[int]) -> str:
    return "".join(f" t{token:05d}" for token in tokens)


def test_each_prompt_gets_its_own_answer_in_order(llm: LLM) -> None:
    prompts = [[*PROMPT, number] for number in range(10)]
    wanted = [oracle_tokens(prompt, 3, 7, VOCAB) for prompt in prompts]
    assert llm.generate(prompts, seeded(7)) == [
        Completion(text_of(tokens), tokens, "length", prompt) for tokens, prompt in zip(wanted, prompts, strict=True)
    ]
    stats = llm.stats()
    assert (stats.num_running, stats.num_waiting, stats.kv_blocks_used) == (0, 0, 0)


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
    assert completion == Completion(text_of(tokens)[:cut], tokens[: cut // 7 + 1 + (cut % 7 > 3)], "stop", PROMPT)
    assert "".join(llm.stream(PROMPT, seeded(9, stop=(stop,)))) == completion.text
    stats = llm.stats()
    assert (stats.num_running, stats.num_waiting, stats.kv_blocks_used) == (0, 0, 0)


def test_a_stop_string_counts_only_after_min_tokens(llm: LLM) -> None:
    [completion] = llm.generate([PROMPT], seeded(5, min_tokens=3, stop=(" t",)))
    tokens = oracle_tokens(PROMPT, 3, 4, VOCAB)
    assert completion == Completion(text_of(tokens[:3]), tokens, "stop", PROMPT)


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
    stream.close()  # type: ignore[attr-defined]
    stats = llm.stats()
    assert (stats.num_running, stats.num_waiting, stats.kv_blocks_used) == (0, 0, 0)


@pytest.mark.parametrize(
    ("prompt", "params", "param"),
    [
        ([], SamplingParams(), "prompt"),
        ([1, VOCAB], SamplingParams(), "prompt"),
        ([1], SamplingParams(temperature=float("nan")), "temperature"),
        ([1], SamplingParams(max_tokens=0), "max_tokens"),
        ([1], SamplingParams(stop=("",)), "stop"),
        ([1], SamplingParams(stop=("x",) * 17), "stop"),
    ],
)
def test_a_bad_request_runs_nothing(llm: LLM, prompt: list[int], params: SamplingParams, param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        llm.generate([[1, 2], prompt], params)
    assert raised.value.param == param
    with pytest.raises(InvalidRequest):
        llm.stream(prompt, params)
    stats = llm.stats()
    assert (stats.num_running, stats.num_waiting, stats.kv_blocks_used) == (0, 0, 0)


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
