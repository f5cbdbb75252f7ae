"""Requests with a grammar: waiting for it, masks, drafts, and how they end."""

from __future__ import annotations

import pytest
from support.engine_rig import request_for_test, rig_for_test
from support.scheduler_stubs import StubGrammar, StubSpeculator, allows, wild_guess
from support.scheduler_world import World, world_for_test

from pyworker.engine.outputs import FinishReason
from pyworker.engine.policies import Policies
from pyworker.engine.request import Grammar, GrammarKind, Request, SamplingParams


def guided(name: str, text: str, *, length: int = 12, prompt: list[int] | None = None, **more: int) -> Request:
    params = SamplingParams(max_tokens=length, seed=7, grammar=Grammar(GrammarKind.REGEX, text), **more)
    return request_for_test(name, prompt or [1, 2, 3], params=params)


def grammar_world(seed: int | None = None, **limits: int) -> tuple[World, StubGrammar]:
    grammar = StubGrammar()
    speculator = None if seed is None else StubSpeculator(wild_guess(seed))
    return world_for_test(Policies(grammar=grammar, speculator=speculator), **limits), grammar  # type: ignore[arg-type]


def test_one_waits_for_its_grammar_and_holds_up_nobody() -> None:
    w, _ = grammar_world()
    w.add(guided("slow", "3"))
    w.add(request_for_test("other", [4, 5]))
    steps = w.run()
    assert [sorted(step) for step in steps[:4]] == [["other"]] * 3 + [["other", "slow"]]
    tokens = w.host.tokens("slow")
    assert len(tokens) == 12
    assert all(allows(index, token) for index, token in enumerate(tokens))


def test_a_grammar_that_cannot_be_ends_its_request_with_its_code() -> None:
    w, grammar = grammar_world()
    w.add(guided("bad", "grammar_too_complex"))
    w.add(request_for_test("other", [4, 5]))
    w.run()
    (end,) = w.host.outputs("bad")
    assert (end.finish, end.error_code, end.token_ids) == (FinishReason.ERROR, "grammar_too_complex", [])
    assert end.error_message == "grammar too complex"
    assert w.host.finish("other") is FinishReason.LENGTH
    assert grammar.known == {}


def test_the_text_ends_where_its_grammar_does() -> None:
    w, grammar = grammar_world()
    w.add(guided("a", "0 5"))
    w.run()
    assert (len(w.host.tokens("a")), w.host.finish("a")) == (5, FinishReason.STOP)
    assert grammar.known == grammar.followed == {}


def test_a_token_against_the_grammar_is_our_bug_and_is_not_handed_out() -> None:
    w, grammar = grammar_world()
    grammar.refuses_at = 3
    w.add(guided("a", "0"))
    w.add(request_for_test("other", [4, 5]))
    w.run()
    end = w.host.outputs("a")[-1]
    assert (end.finish, end.error_code, end.start, end.token_ids) == (FinishReason.ERROR, "internal", 3, [])
    assert len(w.host.tokens("a")) == len(w.requests["a", 0].output_ids) == 3
    assert w.host.finish("other") is FinishReason.LENGTH


def test_a_grammar_that_breaks_its_bounds_on_the_way_is_what_is_to_blame() -> None:
    w, grammar = grammar_world()
    grammar.refuses_at, grammar.breaks = 3, True
    w.add(guided("a", "0"))
    w.run()
    last = w.host.outputs("a")[-1]
    assert (last.finish, last.error_code, last.error_message) == (FinishReason.ERROR, "grammar_too_complex", "0")
    assert (len(w.host.tokens("a")), w.kv_cache.usage().used) == (3, 0)


def test_with_a_grammar_an_end_token_is_the_end_though_more_was_asked_for() -> None:
    w, _ = grammar_world()
    w.add(guided("probe", "0"))
    w.run()
    end = w.host.tokens("probe")[4]
    w, _ = grammar_world(eos_ids=frozenset({end}))  # type: ignore[arg-type]
    w.add(guided("a", "0", min_tokens=10))
    w.run()
    assert (w.host.tokens("a")[-1], w.host.finish("a")) == (end, FinishReason.STOP)
    assert len(w.host.tokens("a")) == 5


@pytest.mark.parametrize("seed", range(12))
def test_drafts_change_no_token_of_a_grammar(seed: int) -> None:
    plain, _ = grammar_world()
    w, _ = grammar_world(seed, num_blocks=24)
    for index in range(6):
        for world in (plain, w):
            text = f"{index % 3} {5 + index}" if index % 2 else "0"
            world.add(guided(f"r{index}", text, prompt=list(range(index, index + 5))))
    plain.run()
    w.run()
    for name, _ in w.requests:
        assert w.host.tokens(name) == plain.host.tokens(name)
        assert w.host.finish(name) is plain.host.finish(name)


def test_a_resume_goes_on_in_the_middle_of_its_grammar() -> None:
    w, _ = grammar_world()
    w.add(guided("a", "0"))
    w.run()
    whole = w.host.tokens("a")
    for position in range(1, 12):
        resumed = guided(f"r{position}", "1")
        resumed.output_ids = whole[:position]
        w.add(resumed)
    w.run()
    assert [w.host.tokens(f"r{position}") for position in range(1, 12)] == [
        whole[position:] for position in range(1, 12)
    ]


def test_a_higher_attempt_begins_its_grammar_anew() -> None:
    w, grammar = grammar_world()
    w.add(guided("a", "50"))
    again = guided("a", "0")
    again.attempt = 1
    w.add(again)
    assert grammar.known == {"a": again}
    w.run()
    assert len(w.host.tokens("a", 1)) == 12


def test_an_engine_that_waits_for_grammars_alone_is_not_idle_and_not_busy() -> None:
    grammar = StubGrammar()
    rig = rig_for_test(policies=Policies(grammar=grammar))
    rig.engine.submit(guided("a", "4"))
    assert [rig.engine.step() for _ in range(4)] == [True] * 4
    assert grammar.waited == [20_000] * 4
    assert rig.host.steps == []
    rig.run()
    assert rig.host.finish("a") is FinishReason.LENGTH
