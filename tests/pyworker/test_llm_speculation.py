"""`LLM` on the tiny model: guessing ahead changes nothing that comes out, with and without a grammar."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from pyworker.inprocess import Answer
from pyworker.llm import LLM, Grammar, GrammarKind, SamplingParams
from pyworker.spec_decode import speculator
from pyworker.spec_decode.proposer import NO_DRAFT, Draft
from pyworker.spec_decode.speculator import PROPOSERS, GatedSpeculator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyworker.engine.request import Request

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1, "maxItems": 3},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "tags", "count"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},  # a model without sense writes nothing else
}


@pytest.fixture(autouse=True)
def _every_guess_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a guess pays is a matter of time, and no matter here."""

    def make(name: str, most_drafts: int) -> GatedSpeculator | None:
        return None if name == "off" else GatedSpeculator(PROPOSERS[name](), most_drafts=most_drafts, gated=False)

    monkeypatch.setattr(speculator, "make_speculator", make)


def load() -> tuple[list[list[int]], list[SamplingParams]]:
    """Fifty prompts, most of which repeat themselves, and parameters of all kinds."""
    rng = Random(5)
    prompts, params = [], []
    for index in range(50):
        piece = [rng.randrange(256) for _ in range(rng.randint(1, 12))]
        prompts.append(piece * rng.randint(1, 8))
        params.append(
            SamplingParams(
                max_tokens=rng.randint(1, 40),
                temperature=rng.choice([0.0, 0.0, 0.3, 1.0]),
                top_p=rng.choice([1.0, 0.7]),
                top_k=rng.choice([0, 5]),
                repetition_penalty=rng.choice([1.0, 1.0, 1.2]),
                frequency_penalty=rng.choice([0.0, 0.0, 0.5]),
                presence_penalty=rng.choice([0.0, -0.5]),
                logprobs=rng.choice([None, 0, 3]),
                min_tokens=rng.choice([0, 1]),
                logit_bias=rng.choice([(), ((7, 5.0),)]),
                bad_words=rng.choice([(), ((3,), (4, 5))]),
                seed=index,
                ignore_eos=rng.random() < 0.5,
            )
        )
    return prompts, params


def outcome(llm: LLM, prompts: Sequence[list[int]], params: Sequence[SamplingParams]) -> list[Answer]:
    """All at once, each with parameters of its own."""
    answers = [Answer(prompt, one, llm._texts) for prompt, one in zip(prompts, params, strict=True)]
    llm._driver.complete(answers)
    stats = llm.stats()
    assert (stats.num_running, stats.num_waiting, stats.kv_blocks_used) == (0, 0, 0)
    return answers


def results(answers: Sequence[Answer]) -> list[object]:
    return [(one.token_ids, one.logprobs, one.text, one.finish_reason, one.failure) for one in answers]


def counters(llm: LLM) -> dict[str, float]:
    return {name: value for name, label, value in llm.stats().metrics if label is None}


def test_guessing_changes_no_token_and_no_logprob() -> None:
    prompts, params = load()
    found = {}
    for name in ("off", *PROPOSERS):
        with LLM("tiny", speculative=name, kv_cache_bytes=1 << 23, threads=1) as llm:
            found[name] = outcome(llm, prompts, params)
            counts = counters(llm)
            assert (counts["draft_tokens"] > counts["accepted_draft_tokens"] > 20) is (name != "off")
    assert results(found["ngram"]) == results(found["off"])
    assert results(found["suffix"]) == results(found["off"])
    assert all(one.failure is None for one in found["off"])


def test_texts_of_a_schema_are_valid_and_the_same_with_guesses() -> None:
    grammar = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA))
    params = [
        SamplingParams(max_tokens=200, temperature=0.0 if seed == 0 else 1.0, seed=seed, logprobs=1, grammar=grammar)
        for seed in range(8)
    ]
    found = {}
    for name in ("off", *PROPOSERS):
        with LLM("tiny", speculative=name, kv_cache_bytes=1 << 23, threads=1) as llm:
            found[name] = outcome(llm, [[104, 105]] * len(params), params)
    assert results(found["ngram"]) == results(found["off"])
    assert results(found["suffix"]) == results(found["off"])
    assert all(one.failure is None for one in found["off"])
    for one in found["off"]:
        value = json.loads(one.text)
        assert sorted(value) == ["count", "name", "tags"]
        assert isinstance(value["name"], str)
        assert len(value["name"]) <= 12
        assert 1 <= len(value["tags"]) <= 3
        assert set(value["tags"]) <= {"red", "green", "blue"}
        assert value["count"] in range(100)
        assert one.finish_reason == "stop"


class Silent:
    """A proposer that guesses nothing."""

    name = "silent"

    def propose(self, request: Request, k: int) -> Draft:
        del request, k
        return NO_DRAFT

    def observe(self, request: Request, tokens: Sequence[int]) -> None:
        """Nothing to learn."""

    def forget(self, request_id: str) -> None:
        """Nothing is known."""


def test_the_keys_of_a_schema_take_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ("the_first_and_longest_of_all_keys", "the_second_key_which_is_not_short", "the_third")
    schema = SCHEMA | {"properties": {key: {"type": "boolean"} for key in keys}, "required": keys}
    grammar = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema))
    no_space = tuple((byte, -100.0) for byte in b" \t\r\n")
    params = [
        SamplingParams(max_tokens=200, seed=seed, logprobs=1, grammar=grammar, logit_bias=no_space) for seed in range(3)
    ]
    monkeypatch.setitem(PROPOSERS, "ngram", Silent)
    found, steps, drafted = {}, {}, {}
    for name in ("off", "ngram"):
        with LLM("tiny", speculative=name, kv_cache_bytes=1 << 23, threads=1) as llm:
            found[name] = outcome(llm, [[104, 105]] * len(params), params)
            steps[name], drafted[name] = counters(llm)["step_rows_count"], counters(llm)["draft_tokens"]
    assert results(found["ngram"]) == results(found["off"])
    assert [sorted(json.loads(one.text)) for one in found["ngram"]] == [sorted(keys)] * len(params)
    assert steps["off"] > 90
    assert steps["ngram"] < 20
    assert drafted["ngram"] == 0
