"""What a grammar forces is drafted: fewer steps, the same tokens, and nothing that guesses would be blamed for."""

from __future__ import annotations

from typing import Unpack

import pytest
from support.engine_rig import UNLIMITED, VOCAB, ConfigOverrides, oracle_of, request_for_test
from support.scheduler_stubs import Pressure, StubGrammar, StubSpeculator, forced_at, right_drafts
from support.scheduler_world import World, world_for_test

from pyworker.engine.outputs import FinishReason, TokenLogprobs
from pyworker.engine.planner import InlinePlanner
from pyworker.engine.policies import Policies
from pyworker.engine.request import Grammar, GrammarKind, Request, RequestClass, SamplingParams
from pyworker.spec_decode.ledger import Ledger
from pyworker.spec_decode.ngram import NgramProposer
from pyworker.spec_decode.speculator import GatedSpeculator

LITERAL = Grammar(GrammarKind.REGEX, "0 99 18")
"""Of the positions before the 18th only each fifth leaves a choice."""


def forcing(*, guesses: bool = True, **limits: Unpack[ConfigOverrides]) -> tuple[World, StubSpeculator]:
    """A world that drafts what is forced; other drafts there are none, unless the request has no grammar."""

    def guess(request: Request) -> list[int]:
        assert request.params.grammar is None or forced_at(len(request.output_ids), 18) is None
        return right_drafts(request, 2) if request.params.grammar is None else []

    speculator = StubSpeculator(guess)
    policies = Policies(grammar=StubGrammar(), speculator=speculator if guesses else None)
    return world_for_test(policies, **limits), speculator


def guided(*, length: int = 20, credit: int = UNLIMITED, klass: RequestClass = RequestClass.STANDARD) -> Request:
    params = SamplingParams(max_tokens=length, seed=7, logprobs=1, grammar=LITERAL)
    return request_for_test("a", [1, 2, 3], params=params, credit=credit, expected=1, klass=klass)


def outcome(world: World) -> tuple[list[int], list[TokenLogprobs], FinishReason | None]:
    outputs = world.host.outputs("a")
    return world.host.tokens("a"), [one for output in outputs for one in output.logprobs], world.host.finish("a")


def plain_outcome(request: Request) -> tuple[list[int], list[TokenLogprobs], FinishReason | None]:
    """What comes without drafts."""
    world, _ = forcing(guesses=False)
    world.add(request_for_test("a", request.prompt_ids, params=request.params))
    world.run()
    return outcome(world)


def test_forced_tokens_save_their_steps_and_change_nothing() -> None:
    world, speculator = forcing()
    request = guided()
    world.add(request)
    assert world.run() == [{"a": 3}, {"a": 5}, {"a": 5}, {"a": 5}, {"a": 3}, {"a": 1}]
    assert outcome(world) == plain_outcome(request)
    emitted = [len(tokens) for _, drafts, tokens in speculator.observed if not drafts]
    assert emitted == [1, 5, 5, 5, 3, 1]
    assert [step[0] for step in speculator.steps] == [3, 5, 5, 5, 3, 1]


def test_without_speculation_nothing_is_drafted() -> None:
    world, _ = forcing(guesses=False)
    world.add(guided())
    assert [step["a"] for step in world.run()] == [3, *[1] * 19]


def test_guesses_learn_nothing_and_are_not_counted() -> None:
    world, speculator = forcing()
    world.add(guided())
    world.run()
    assert [drafts for _, drafts, _ in speculator.observed] == [[]] * len(speculator.observed)
    assert (world.counters()["draft_tokens"], world.counters()["accepted_draft_tokens"]) == (0, 0)


def test_nothing_is_booked_on_the_accounts_of_guesses(monkeypatch: pytest.MonkeyPatch) -> None:
    booked: list[tuple[float, float]] = []
    monkeypatch.setattr(Ledger, "book", lambda _self, _name, _step, extra, saved: booked.append((extra, saved)))
    speculator = GatedSpeculator(NgramProposer())
    world = world_for_test(Policies(grammar=StubGrammar(), speculator=speculator))
    world.add(guided(length=19))
    world.run()
    assert booked == [(0.0, 0.0)] * 4
    assert speculator._acceptance._table == {}


def test_others_guess_with_the_room_that_is_left() -> None:
    world, speculator = forcing(max_num_seqs=4, max_num_batched_tokens=20)
    world.add(guided())
    world.add(request_for_test("b", [8, 9], params=SamplingParams(max_tokens=12, seed=3)))
    world.step()
    assert dict(world.step().num_scheduled_tokens) == {"a": 5, "b": 3}
    assert speculator.rooms == [14]
    whole = oracle_of(world.requests["b", 0])
    assert speculator.observed[-1] == ("b", whole[1:3], whole[1:4])
    world.run()
    assert world.host.tokens("b") == whole


@pytest.mark.parametrize(
    ("change", "drafts"),
    [
        ({}, 4),
        ({"credit": 4}, 2),
        ({"credit": 2}, 0),
        ({"length": 4}, 2),
        ({"max_model_len": 6}, 1),
        ({"max_step_drafts": 3}, 3),
        ({"max_step_drafts": 0}, 0),
        ({"max_num_batched_tokens": 19}, 4),
        ({"num_blocks": 2}, 0),
    ],
    ids=str,
)
def test_forced_tokens_keep_within_the_same_limits(change: dict[str, int], drafts: int) -> None:
    limits: ConfigOverrides = {"max_num_seqs": 3}
    limits.update({name: value for name, value in change.items() if name not in ("credit", "length")})
    world, _ = forcing(**limits)
    length = 2 if "num_blocks" in change else change.get("length", 20)
    world.add(guided(length=length, credit=change.get("credit", 99)))
    world.step()
    assert len(world.scheduler.schedule(0).drafts.get("a", [])) == drafts


def test_a_resume_goes_on_with_what_is_forced_from_there() -> None:
    whole, _, _ = plain_outcome(guided())
    for position in range(1, 20):
        world, _ = forcing()
        resumed = guided()
        resumed.output_ids = whole[:position]
        world.add(resumed)
        steps = world.run()
        assert world.host.tokens("a") == whole[position:]
        assert len(steps) < 9


def test_a_cancel_between_forced_steps_is_confirmed_and_leaves_nothing() -> None:
    world, _ = forcing()
    world.add(guided())
    world.step()
    world.step()
    world.scheduler.cancel("a")
    world.run()
    assert (len(world.host.tokens("a")), world.host.finish("a")) == (6, FinishReason.CANCELLED)
    assert world.kv_cache.usage().used == 0


@pytest.mark.parametrize("where", range(7))
def test_what_is_forced_behind_an_end_token_is_cut(where: int) -> None:
    request = guided()
    whole, _, _ = plain_outcome(request)
    world, _ = forcing(eos_ids=frozenset({whole[where]}))
    world.add(request)
    world.run()
    end = whole.index(whole[where]) + 1
    assert (world.host.tokens("a"), world.host.finish("a")) == (whole[:end], FinishReason.STOP)


def test_forced_tokens_are_bound_when_the_step_before_has_ended() -> None:
    world, _ = forcing()
    world.planner = InlinePlanner()
    world.add(guided())
    world.step()
    assert world.scheduler.has_plan
    world.scheduler._choose = None
    out = world.scheduler.schedule(world.now)
    assert (out.drafts["a"], out.forced) == ([301, 302, 303, 304], {"a"})


def test_rows_that_left_in_the_middle_come_back_with_what_was_forced() -> None:
    policies = Policies(grammar=StubGrammar(), speculator=(speculator := StubSpeculator(lambda _: [])))
    world = world_for_test(policies, 2)
    request = guided(klass=RequestClass.OFFLINE)
    world.add(request)
    world.step()
    world.runner.ask_at(1)
    world.step()
    assert world.scheduler.num_parked == 1
    world.runner.safepoint.clear()
    out = world.step()
    assert (out.drafts, out.forced, len(out.joins)) == ({"a": [301, 302, 303, 304]}, {"a"}, 1)
    assert speculator.observed[-1][1] == []
    world.run()
    assert outcome(world) == plain_outcome(request)


def test_drafts_of_rows_that_come_back_count_against_the_limit_of_a_step() -> None:
    def one(name: str, klass: RequestClass) -> Request:
        return request_for_test(name, [1, 2, 3], params=guided().params, credit=UNLIMITED, expected=1, klass=klass)

    policies = Policies(grammar=StubGrammar(), speculator=StubSpeculator(lambda _: []))
    world = world_for_test(policies, 2, max_step_drafts=8, max_num_seqs=8, max_num_batched_tokens=64, num_blocks=64)
    for index in range(2):
        world.add(one(f"off{index}", RequestClass.OFFLINE))
    world.step()
    world.runner.ask_at(1)
    assert world.step().num_drafts == 8
    assert world.scheduler.num_parked == 1
    world.runner.safepoint.clear()
    world.add(one("on", RequestClass.STANDARD))
    seen = [(out.num_drafts, len(out.joins)) for out in (world.step() for _ in range(3))]
    assert sum(joins for _, joins in seen) == 1
    assert max(drafts for drafts, _ in seen) == 8


def test_lots_come_back_one_by_one_where_their_drafts_do_not_fit_together() -> None:
    pressure = Pressure()
    policies = Policies(grammar=StubGrammar(), speculator=StubSpeculator(lambda _: []), joins=pressure)
    world = world_for_test(policies, 2, max_step_drafts=4, max_num_seqs=8, num_blocks=64)
    for name in ("a", "c"):
        params = guided().params
        world.add(request_for_test(name, [1, 2, 3], params=params, expected=1, klass=RequestClass.OFFLINE))
        world.step()
        pressure.on = True
        world.runner.ask_at(1)
        assert world.step().num_drafts == 4
        world.runner.safepoint.clear()
    assert world.scheduler.num_parked == 2
    pressure.on = False
    assert [len(world.step().joins) for _ in range(2)] == [1, 1]
    world.run()
    assert [world.host.finish(name) for name in ("a", "c")] == [FinishReason.LENGTH] * 2


def test_nothing_is_forced_on_offline_rows_while_somebody_waits_for_the_step() -> None:
    policies = Policies(grammar=StubGrammar(), speculator=StubSpeculator(lambda _: []))
    world = world_for_test(policies, max_num_seqs=4)
    world.add(guided(klass=RequestClass.OFFLINE))
    world.add(request_for_test("b", [8, 9], params=SamplingParams(max_tokens=3, ignore_eos=True)))
    world.step()
    assert dict(world.step().num_scheduled_tokens)["a"] == 1
    while "b" in world.step().num_scheduled_tokens:
        pass
    assert world.step().forced == {"a"}


def test_ids_that_no_vocabulary_has_are_not_drafted() -> None:
    class Mad(StubGrammar):
        def forced(self, request: Request, most: int) -> list[int]:
            return [*super().forced(request, most)[:1], VOCAB, 5][:most]

    world = world_for_test(Policies(grammar=Mad(), speculator=StubSpeculator(lambda _: [])))
    request = guided()
    world.add(request)
    world.step()
    assert world.step().drafts == {"a": [301]}
    world.run()
    assert outcome(world) == plain_outcome(request)
