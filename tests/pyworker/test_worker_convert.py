"""The wire's words into the engine's and back, whole."""

from __future__ import annotations

import pytest
from support.fake_router import make_submit

from pyworker.engine.outputs import FinishReason, KVEvents, RequestOutput, StoredBlock, TokenLogprobs
from pyworker.engine.request import Grammar, GrammarKind, Request, RequestClass, SamplingParams
from pyworker.transport import convert
from pyworker.transport.convert import to_blocks, to_request, to_step_outputs
from pyworker.wire import messages as wire
from pyworker.wire.frame import decode, encode

A, B = "a" * 32, "b" * 32


def test_a_submit_with_everything_becomes_a_request_with_everything() -> None:
    submit = make_submit(
        A,
        3,
        2,
        group=B,
        choice_index=4,
        salt=2**64 - 1,
        remaining_micros=500,
        top_k=40,
        min_p=0.25,
        frequency_penalty=-2.0,
        presence_penalty=1.5,
        repetition_penalty=1.25,
        logprobs=20,
        prompt_logprobs=0,
        grammar=wire.Grammar(kind=wire.GrammarKind.choice, text='["a"]'),
        num_stop_token_ids=2,
        num_allowed_token_ids=1,
        bad_word_lengths=[1, 2],
        num_logit_bias=2,
    )
    message = decode(encode(submit, [1, 2, 3, 4, 10, 11, 20, 30, 31, 32, 40, 41], [-100.0, 0.5]))
    request = to_request(submit, message.ids, message.floats, 1_000)
    params = SamplingParams(
        max_tokens=8,
        top_k=40,
        min_p=0.25,
        frequency_penalty=-2.0,
        presence_penalty=1.5,
        repetition_penalty=1.25,
        logit_bias=((40, -100.0), (41, 0.5)),
        allowed_token_ids=(20,),
        bad_words=((30,), (31, 32)),
        seed=7,
        stop_token_ids=(10, 11),
        logprobs=20,
        prompt_logprobs=0,
        grammar=Grammar(GrammarKind.CHOICE, '["a"]'),
    )
    assert request.params == params
    wanted = Request(A, 3, [1, 2], params, output_ids=[3, 4], choice_index=4, group=B)
    wanted.salt, wanted.deadline_micros, wanted.credit_up_to = 2**64 - 1, 1_500, 1_024
    assert {name: getattr(request, name) for name in Request.__slots__} == {
        name: getattr(wanted, name) for name in Request.__slots__
    }
    assert request.klass is RequestClass.STANDARD


@pytest.mark.parametrize("kind", list(GrammarKind))
def test_both_sides_have_the_same_words_for_grammars(kind: GrammarKind) -> None:
    submit = make_submit(A, grammar=wire.Grammar(kind=wire.GrammarKind(kind.value), text="x"))
    assert to_request(submit, [1], [], 0).params.grammar == Grammar(kind, "x")


def test_logprobs_stand_in_the_parts_in_the_order_that_the_wire_says() -> None:
    tops = ((8, 9), (-0.25, -2.0))
    outputs = [
        RequestOutput(
            A,
            1,
            0,
            [7],
            logprobs=[TokenLogprobs(-0.5, *tops)],
            prompt_logprobs=[TokenLogprobs(-1.0, (3,), (-0.75,)), TokenLogprobs(-1.5, (4,), (-1.25,))],
        ),
        RequestOutput(B, 1, 5, [10, 11], logprobs=[TokenLogprobs(-3.0), TokenLogprobs(-4.0)]),
        RequestOutput("c" * 32, 1, 0, [12], finish=FinishReason.LENGTH),
    ]
    body, ids, floats = to_step_outputs(outputs, 3)
    message = decode(encode(body, ids, floats))
    counts = [(row.num_top_logprobs, row.num_prompt_logprobs, row.num_top_prompt_logprobs) for row in body.outputs]
    assert counts == [(2, 2, 1), (0, 0, 0), (None, 0, 0)]
    assert message.ids == [7, 10, 11, 12, 3, 4, 8, 9]
    assert message.floats == [-1.0, -1.5, -0.75, -1.25, -0.5, -0.25, -2.0, -3.0, -4.0]


def test_positions_with_unequal_numbers_of_likeliest_tokens_are_cut_to_the_fewest() -> None:
    positions = [TokenLogprobs(-1.0, (1, 2), (-1.0, -2.0)), TokenLogprobs(-2.0, (3,), (-1.0,))]
    body, ids, floats = to_step_outputs([RequestOutput(A, 1, 0, [5, 6], logprobs=positions)], 0)
    assert (body.outputs[0].num_top_logprobs, ids) == (1, [5, 6, 1, 3])
    encode(body, ids, floats)


def test_kv_events_are_said_in_their_order_and_in_bounded_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "BLOCKS_PER_MESSAGE", 2)
    big = 2**64 - 1
    events = KVEvents(cleared=True, removed=[(5, big)], stored=[StoredBlock(n, big, 5) for n in (1, 2**32, 3)])
    said = [(decode(encode(body, words)).body, words) for body, words in to_blocks(events)]
    ones = 0xFFFF_FFFF
    assert said == [
        (wire.BlocksCleared(seq=0), []),
        (wire.BlocksRemoved(seq=0, num_blocks=1), [5, 0, ones, ones]),
        (wire.BlocksStored(seq=0, num_blocks=2), [1, 0, ones, ones, 5, 0, 0, 1, ones, ones, 5, 0]),
        (wire.BlocksStored(seq=0, num_blocks=1), [3, 0, ones, ones, 5, 0]),
    ]
    assert list(to_blocks(KVEvents())) == []
