"""What a request, or the process, gets when something goes wrong; on the whole way from `LLM` and the program."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import pytest

from pyworker import cli
from pyworker.errors import BackendBroken, EngineFailed, IntegrityError
from pyworker.llm import LLM, GenerationFailed, Grammar, GrammarKind, SamplingParams

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM("tiny", kv_cache_bytes=1 << 22, threads=1) as llm:
        yield llm


@pytest.mark.parametrize(
    ("kind", "text", "code"),
    [
        (GrammarKind.REGEX, "(", "grammar_invalid"),
        (GrammarKind.JSON_SCHEMA, '{"type": "nothing"}', "grammar_invalid"),
        (GrammarKind.STRUCTURAL_TAG, '{"structures": [{"begin": 1, "schema": {}, "end": 2}], "triggers": [""]}', None),
        (GrammarKind.LARK, "start: r0\n" + "\n".join(f"r{n}: r{n + 1}" for n in range(20_000)), "grammar_too_complex"),
        (GrammarKind.JSON_SCHEMA, json.dumps({"allOf": [{"type": "string"}] * 14_000}), "grammar_too_complex"),
    ],
)
def test_a_grammar_that_cannot_be_ends_its_request_alone(
    llm: LLM, kind: GrammarKind, text: str, code: str | None
) -> None:
    params = SamplingParams(max_tokens=4, seed=1, temperature=0.0)
    before = llm.generate("abc", params)
    with pytest.raises(GenerationFailed) as caught:
        llm.generate("abc", SamplingParams(max_tokens=4, grammar=Grammar(kind, text)))
    assert caught.value.code == (code or "grammar_invalid")
    assert llm.generate("abc", params) == before
    assert llm.stats().kv_blocks_used == 0


def test_a_grammar_that_leaves_no_token_is_a_dead_end(llm: LLM) -> None:
    [a, b] = (llm._texts.encode(letter)[-1] for letter in "ab")
    grammar = Grammar(GrammarKind.REGEX, "ab+")
    with pytest.raises(GenerationFailed) as caught:
        llm.generate("x", SamplingParams(max_tokens=4, grammar=grammar, allowed_token_ids=(a,)))
    assert caught.value.code == "grammar_dead_end"
    [good] = llm.generate("x", SamplingParams(max_tokens=4, grammar=grammar, allowed_token_ids=(a, b)))
    assert good.text == "abbb"
    assert llm.stats().kv_blocks_used == 0


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EngineFailed("twice", 10), 70),
        (BackendBroken("native", "torn"), 70),
        (IntegrityError("leak", {}), 71),
        (ZeroDivisionError("a bug"), 70),
    ],
    ids=["two steps", "kernel", "books", "bug"],
)
def test_an_engine_that_has_failed_ends_the_process_with_its_code(
    error: Exception, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(args: list[str]) -> None:
        del args
        raise error

    monkeypatch.setattr(cli, "_serve", serve)
    with pytest.raises(SystemExit) as caught:
        raise SystemExit(cli.main([]))
    assert caught.value.code == code


def test_no_thread_outlives_a_closed_llm() -> None:
    before = set(threading.enumerate())
    with LLM("tiny", kv_cache_bytes=1 << 22, threads=1) as llm:
        llm.generate("x", SamplingParams(max_tokens=2, grammar=Grammar(GrammarKind.REGEX, "a+")))
        assert any(thread.name.startswith("grammars") for thread in set(threading.enumerate()) - before)
    assert set(threading.enumerate()) <= before
