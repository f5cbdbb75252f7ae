"""Drafts: what is taken into a step, what becomes of it, and that tokens are those of a run without."""

from __future__ import annotations

import pytest
from support.engine_rig import VOCAB, oracle_of, request_for_test
from support.scheduler_stubs import StubSpeculator, right_drafts, wild_guess
from support.scheduler_world import World, world_for_test

from pyworker.engine.outputs import FinishReason, RowResult
from pyworker.engine.policies import Policies
from pyworker.engine.request import Request, RequestStatus, SamplingParams

LONG = SamplingParams(max_tokens=20, seed=7)


def drafting(guess: object, **limits: int) -> tuple[World, StubSpeculator]:
    assert callable(guess)
    speculator = StubSpeculator(guess)
    return world_for_test(Policies(speculator=speculator), **limits), speculator  # type: ignore[arg-type]


def test_right_drafts_save_steps_and_change_no_token() -> None:
    w, speculator = drafting(lambda request: right_drafts(request, 4))
    w.add(request_for_test("a", [1, 2, 3], params=LONG))
    assert w.run() == [{"a": 3}, {"a": 5}, {"a": 5}, {"a": 5}, {"a": 4}]
    whole = oracle_of(w.requests["a", 0])
    assert (w.host.tokens("a"), w.host.finish("a")) == (whole, FinishReason.LENGTH)
    assert [output.start for output in w.host.outputs("a")] == [0, 1, 6, 11, 16]
    assert speculator.observed[:2] == [("a", [], whole[:1]), ("a", whole[1:5], whole[1:6])]
    assert [step[:2] for step in speculator.steps] == [(3, 1), (5, 1), (5, 1), (5, 1), (4, 1)]
    assert speculator.forgotten == ["a"]
    assert (w.counters()["draft_tokens"], w.counters()["accepted_draft_tokens"]) == (15, 15)


def test_wrong_drafts_are_computed_for_nothing() -> None:
    w, _ = drafting(lambda request: [*right_drafts(request, 1), 5, 5])
    request = request_for_test("a", [1, 2, 3], params=LONG)
    w.add(request)
    w.step()
    w.step()
    assert (len(request.output_ids), request.num_computed_tokens) == (3, 5)
    w.run()
    assert w.host.tokens("a") == oracle_of(request)


def test_rejected_drafts_are_not_found_by_others() -> None:
    w, _ = drafting(lambda _: [5] * 6)
    request = request_for_test("a", [1, 2, 3], params=LONG)
    w.add(request)
    w.step()
    w.step()
    w.scheduler.cancel("a")
    w.add(request_for_test("b", [1, 2, 3, request.output_ids[0], 5, 5, 5, 5, 5]))
    w.run()
    assert w.host.outputs("b")[0].num_cached_tokens == 4


@pytest.mark.parametrize(
    ("change", "drafts"),
    [
        ({}, 9),
        ({"credit": 2}, 0),
        ({"credit": 5}, 3),
        ({"max_tokens": 4}, 2),
        ({"max_model_len": 10}, 5),
        ({"max_num_batched_tokens": 20}, 9),
        ({"num_blocks": 4}, 8),
    ],
    ids=lambda value: "".join(value) if isinstance(value, dict) else str(value),
)
def test_drafts_are_cut_to_what_could_be_emitted_and_has_room(change: dict[str, int], drafts: int) -> None:
    limits = {
        name: change[name] for name in ("max_model_len", "max_num_batched_tokens", "num_blocks") if name in change
    }
    w, _ = drafting(lambda request: right_drafts(request, 9), max_num_seqs=4, **limits)
    params = SamplingParams(max_tokens=change.get("max_tokens", 10 if "num_blocks" in change else 20), seed=7)
    w.add(request_for_test("a", [1, 2, 3], params=params, credit=change.get("credit", 99), expected=1))
    w.step()
    assert len(w.scheduler.schedule(0).drafts.get("a", [])) == drafts


def test_the_step_is_never_filled_beyond_its_tokens() -> None:
    w, speculator = drafting(
        lambda request: right_drafts(request, 30), max_num_seqs=4, max_num_batched_tokens=20, num_blocks=200
    )
    for name in ("a", "b", "c"):
        w.add(request_for_test(name, [*name.encode(), 1], params=SamplingParams(max_tokens=60, seed=7)))
    w.step()
    assert w.step().total_tokens == 20
    assert speculator.rooms[0] == 17
    w.run()
    assert all(w.host.tokens(name) == oracle_of(w.requests[name, 0]) for name in ("a", "b", "c"))


def test_nobody_yields_a_block_for_a_draft() -> None:
    w, _ = drafting(lambda request: right_drafts(request, 9), num_blocks=5)
    w.add(request_for_test("a", [1, 2, 3], params=SamplingParams(max_tokens=9, seed=7), expected=1))
    w.add(request_for_test("b", [4, 5, 6], params=SamplingParams(max_tokens=3, seed=7), expected=1))
    w.run()
    assert w.counters()["preemptions"] == 0
    assert all(w.host.tokens(name) == oracle_of(w.requests[name, 0]) for name in ("a", "b"))


@pytest.mark.parametrize("wrong", [VOCAB, -1])
def test_ids_that_no_vocabulary_has_end_the_drafts(wrong: int) -> None:
    w, _ = drafting(lambda request: [*right_drafts(request, 2), wrong, 3])
    w.add(request_for_test("a", [1, 2, 3], params=LONG))
    w.step()
    assert len(w.step().drafts["a"]) == 2


@pytest.mark.parametrize("where", [1, 2, 3, 4])
def test_what_comes_after_an_end_token_is_cut(where: int) -> None:
    end = oracle_of(request_for_test("a", [1, 2, 3]))[where]
    w, _ = drafting(lambda request: right_drafts(request, 4), eos_ids=frozenset({end}))  # type: ignore[arg-type]
    request = request_for_test("a", [1, 2, 3])
    w.add(request)
    w.run()
    assert w.host.tokens("a") == oracle_of(request)[: where + 1]
    assert w.host.finish("a") is FinishReason.STOP
    assert request.num_computed_tokens == 3 + where


@pytest.mark.parametrize(
    "row",
    [RowResult([1, 2, 3]), RowResult([1] * 6), RowResult([]), RowResult([VOCAB])],
    ids=["not the drafts", "too many", "none", "too high"],
)
def test_tokens_that_cannot_be_end_the_request(row: RowResult) -> None:
    w, _ = drafting(lambda request: right_drafts(request, 4))
    w.add(request_for_test("a", [1, 2, 3], params=LONG))
    w.step()
    out = w.scheduler.schedule(0)
    result = w.runner.execute(out, w.host)
    result.rows["a"] = row
    (output,) = w.scheduler.update_from_output(out, result).outputs
    assert (output.finish, output.error_code, output.token_ids) == (FinishReason.ERROR, "internal", [])
    w.scheduler.check()


def test_one_that_was_turned_out_is_forgotten() -> None:
    w, speculator = drafting(lambda _: [], num_blocks=7)
    for name in ("old", "young"):
        params = SamplingParams(max_tokens=12, seed=7)
        w.add(request_for_test(name, [*name.encode(), 1, 2, 3, 4, 5][:6], params=params, expected=1))
    while w.requests["young", 0].status is not RequestStatus.PREEMPTED:
        w.step()
    assert speculator.forgotten == ["young"]


@pytest.mark.parametrize("seed", range(20))
def test_any_drafter_gives_the_same_tokens(seed: int) -> None:
    w, _ = drafting(wild_guess(seed), num_blocks=40 if seed % 2 else 14)
    for index in range(10):
        params = SamplingParams(max_tokens=5 + index, seed=index, logprobs=index % 3)
        w.add(request_for_test(f"r{index}", list(range(index, index + 8)), params=params, expected=seed % 3 or None))
    w.run()
    plain = world_for_test()
    for index in range(10):
        request: Request = w.requests[f"r{index}", 0]
        plain.add(request_for_test(f"r{index}", request.prompt_ids, params=request.params))
        plain.run()
    for name, _ in w.requests:
        assert w.host.tokens(name) == plain.host.tokens(name)
        assert [one for out in w.host.outputs(name) for one in out.logprobs] == [
            one for out in plain.host.outputs(name) for one in out.logprobs
        ]
