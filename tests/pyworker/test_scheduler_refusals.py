"""What the engine refuses, whoever sends it: every parameter at both of its ends."""

from __future__ import annotations

import dataclasses
import math

import pytest
from support.engine_rig import request_for_test
from support.scheduler_world import world_for_test

from pyworker.engine.request import Grammar, GrammarKind, SamplingParams
from pyworker.errors import InvalidRequest


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"prompt_ids": []}, "invalid_request", "prompt"),
        ({"prompt_ids": [1000]}, "invalid_request", "prompt"),
        ({"prompt_ids": [-1]}, "invalid_request", "prompt"),
        ({"output_ids": [1000]}, "invalid_request", "prompt"),
        ({"output_ids": [1] * 8}, "invalid_request", "max_tokens"),
        ({"prompt_ids": [1] * 64}, "context_length_exceeded", "prompt"),
        ({"prompt_ids": [1] * 60, "output_ids": [1] * 4}, "context_length_exceeded", "prompt"),
        ({"prompt_ids": [1] * 34}, "kv_never_fits", "max_tokens"),
        ({"max_tokens": 0}, "invalid_request", "max_tokens"),
        ({"max_tokens": 2**32}, "invalid_request", "max_tokens"),
        ({"min_tokens": 9}, "invalid_request", "min_tokens"),
        ({"min_tokens": -1}, "invalid_request", "min_tokens"),
        ({"temperature": math.nan}, "invalid_request", "temperature"),
        ({"temperature": math.inf}, "invalid_request", "temperature"),
        ({"temperature": -0.1}, "invalid_request", "temperature"),
        ({"temperature": 100.5}, "invalid_request", "temperature"),
        ({"top_p": 0.0}, "invalid_request", "top_p"),
        ({"top_p": 1.5}, "invalid_request", "top_p"),
        ({"top_p": math.nan}, "invalid_request", "top_p"),
        ({"seed": 2**64}, "invalid_request", "seed"),
        ({"seed": -1}, "invalid_request", "seed"),
        ({"top_k": -2}, "invalid_request", "top_k"),
        ({"top_k": 1001}, "invalid_request", "top_k"),
        ({"min_p": -0.1}, "invalid_request", "min_p"),
        ({"min_p": 1.1}, "invalid_request", "min_p"),
        ({"min_p": math.nan}, "invalid_request", "min_p"),
        ({"frequency_penalty": 2.1}, "invalid_request", "frequency_penalty"),
        ({"frequency_penalty": -math.inf}, "invalid_request", "frequency_penalty"),
        ({"presence_penalty": -2.1}, "invalid_request", "presence_penalty"),
        ({"presence_penalty": math.nan}, "invalid_request", "presence_penalty"),
        ({"repetition_penalty": 0.0}, "invalid_request", "repetition_penalty"),
        ({"repetition_penalty": 10.5}, "invalid_request", "repetition_penalty"),
        ({"repetition_penalty": math.nan}, "invalid_request", "repetition_penalty"),
        ({"logit_bias": ((1, 0.0),) * 301}, "invalid_request", "logit_bias"),
        ({"logit_bias": ((1000, 0.0),)}, "invalid_request", "logit_bias"),
        ({"logit_bias": ((-1, 0.0),)}, "invalid_request", "logit_bias"),
        ({"logit_bias": ((1, 100.5),)}, "invalid_request", "logit_bias"),
        ({"logit_bias": ((1, math.nan),)}, "invalid_request", "logit_bias"),
        ({"allowed_token_ids": ()}, "invalid_request", "allowed_token_ids"),
        ({"allowed_token_ids": (1,) * 1025}, "invalid_request", "allowed_token_ids"),
        ({"allowed_token_ids": (1, 1000)}, "invalid_request", "allowed_token_ids"),
        ({"bad_words": ((1,),) * 129}, "invalid_request", "bad_words"),
        ({"bad_words": ((1,), ())}, "invalid_request", "bad_words"),
        ({"bad_words": ((1,) * 65,)}, "invalid_request", "bad_words"),
        ({"bad_words": ((1, 1000),)}, "invalid_request", "bad_words"),
        ({"stop_token_ids": (1,) * 65}, "invalid_request", "stop_token_ids"),
        ({"stop_token_ids": (-1,)}, "invalid_request", "stop_token_ids"),
        ({"n": 0}, "invalid_request", "n"),
        ({"n": 17}, "invalid_request", "n"),
        ({"n": 2, "best_of": 1}, "invalid_request", "best_of"),
        ({"best_of": 17}, "invalid_request", "best_of"),
        ({"logprobs": 21}, "invalid_request", "logprobs"),
        ({"logprobs": -1}, "invalid_request", "logprobs"),
        ({"prompt_logprobs": 21}, "invalid_request", "prompt_logprobs"),
        ({"prompt_logprobs": -1}, "invalid_request", "prompt_logprobs"),
        ({"stop": ("a",) * 17}, "invalid_request", "stop"),
        ({"stop": ("",)}, "invalid_request", "stop"),
        ({"stop": ("\u00e9" * 129,)}, "invalid_request", "stop"),
        ({"stop": "x" * 257}, "invalid_request", "stop"),
        ({"grammar": Grammar(GrammarKind.REGEX, "a" * 524_289)}, "invalid_request", "grammar"),
        ({"grammar": Grammar(GrammarKind.REGEX, "a")}, "unsupported_parameter", "grammar"),
        ({"group": "g" * 129}, "invalid_request", "group"),
        ({"expected_output": -1}, "invalid_request", "expected_output"),
        ({"salt": 2**64}, "invalid_request", "salt"),
        ({"choice_index": 2**32}, "invalid_request", "choice_index"),
        ({"attempt": -1}, "invalid_request", "attempt"),
        ({"credit_up_to": -1}, "invalid_request", "credit_up_to"),
    ],
)
def test_refusals(change: dict[str, object], code: str, param: str) -> None:
    w = world_for_test(num_blocks=11, max_model_len=64)
    names = {field.name for field in dataclasses.fields(SamplingParams)}
    request = request_for_test("a", [1, 2])
    request.params = dataclasses.replace(request.params, **{k: v for k, v in change.items() if k in names})
    for name, value in change.items():
        if name not in names:
            setattr(request, name, value)
    with pytest.raises(InvalidRequest) as caught:
        w.add(request)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert (w.scheduler.num_waiting, w.run()) == (0, [])


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.0},
        {"temperature": 100.0},
        {"top_p": 1e-9},
        {"top_k": -1},
        {"top_k": 1000},
        {"min_p": 1.0},
        {"frequency_penalty": -2.0, "presence_penalty": 2.0, "repetition_penalty": 10.0},
        {"logit_bias": ((999, -100.0), (0, 100.0)) * 150},
        {"allowed_token_ids": (0, 999) * 512},
        {"bad_words": ((1,) * 64,) * 128},
        {"stop_token_ids": (0, 999) * 32},
        {"logprobs": 0, "prompt_logprobs": 20},
        {"stop": ("\u00e9" * 128,) * 16},
        {"stop": "one"},
        {"seed": 2**64 - 1},
        {"min_tokens": 8},
        {"n": 16, "best_of": 16},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_is_just_allowed_is_taken(change: dict[str, object]) -> None:
    w = world_for_test()
    request = request_for_test("a", [1, 2])
    request.params = dataclasses.replace(request.params, **change)
    w.add(request)
    assert w.scheduler.num_waiting == 1


def test_lengths_are_checked_before_values() -> None:
    """A list that is far too long is not walked through: what is wrong in it is not found."""
    w = world_for_test()
    request = request_for_test("a", [1, 2])
    request.params = dataclasses.replace(request.params, stop_token_ids=(-1,) * 65)
    with pytest.raises(InvalidRequest, match=r"a length of 65 is not in 0\.\.64"):
        w.add(request)
