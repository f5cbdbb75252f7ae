"""Requests and their tokens: what the adapter makes of parameters, history, drafts and masks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pyworker.engine.outputs import RowResult, TokenLogprobs
from pyworker.engine.request import Request, SamplingParams
from pyworker.runner.sampler import Sampler, SampleRow
from slackwater._native.kernels import KernelError, Pool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

V = 50
EOS = 7
GREEDY = SamplingParams(max_tokens=99, temperature=0.0)


def sampler() -> Sampler:
    return Sampler(V, (EOS,), Pool(1))


def request(params: SamplingParams, output: Sequence[int] = (), name: str = "a") -> Request:
    return Request(name, 0, [1, 2, 3], params, output_ids=list(output))


def logits(*favourites: Sequence[int]) -> NDArray[np.float32]:
    """A row for each list of ids, the likeliest first."""
    rows = np.zeros((len(favourites), V), dtype=np.float32)
    for row, ids in zip(rows, favourites, strict=True):
        row[list(ids)] = 5.0 - np.arange(len(ids))
    return rows


class Masks:
    """Allows these ids at each position of the requests that are named."""

    def __init__(self, allowed: dict[str, list[list[int]]]) -> None:
        self.allowed = allowed

    def __contains__(self, request_id: object) -> bool:
        return request_id in self.allowed

    def fill(self, rows: Sequence[tuple[str, int]], masks: NDArray[np.int32]) -> None:
        assert masks.shape == (len(rows), 2)
        masks[:] = 0
        for (request_id, count), mask in zip(rows, masks, strict=True):
            for token in self.allowed[request_id][count]:
                mask[token // 32] |= np.uint32(1 << token % 32).astype(np.int32)


def test_each_request_gets_its_own_row() -> None:
    rows = [SampleRow(request(GREEDY, name=name)) for name in "abc"]
    got = sampler().sample(logits([4], [5], [6]), rows)
    assert got == [RowResult(token_ids=[token]) for token in (4, 5, 6)]


@pytest.mark.parametrize(
    ("drafts", "expected"), [([4, 5], [4, 5, 6]), ([4, 9], [4, 5]), ([9, 5], [4]), ([], [4])]
)  # fmt: skip
def test_drafts_count_as_far_as_they_are_right(drafts: list[int], expected: list[int]) -> None:
    rows = logits([4], [5], [6])[: len(drafts) + 1]
    assert sampler().sample(rows, [SampleRow(request(GREEDY), drafts)]) == [RowResult(token_ids=expected)]


def test_history_grows_with_the_request_and_is_made_anew_for_another_attempt() -> None:
    once, one = sampler(), request(replace(GREEDY, presence_penalty=2.0))
    got = []
    for _ in range(3):
        found = once.sample(logits([4, 5]), [SampleRow(one)])[0].token_ids
        one.output_ids += found
        got += found
    assert got == [4, 5, 4]
    again = replace(one, attempt=1, output_ids=[])
    assert once.sample(logits([4, 5]), [SampleRow(again)]) == [RowResult(token_ids=[4])]
    once.forget(["a", "b"])
    assert once.sample(logits([4, 5]), [SampleRow(one)]) == [RowResult(token_ids=[4])]


def test_end_tokens_are_held_back_until_min_tokens_in_drafted_rows_too() -> None:
    held = request(replace(GREEDY, min_tokens=2, stop_token_ids=(8,)), output=[3])
    rows = logits([EOS, 8, 5], [EOS, 8, 5])
    assert sampler().sample(rows, [SampleRow(held, [5])]) == [RowResult(token_ids=[5, EOS])]
    ignoring = request(replace(held.params, ignore_eos=True), output=[3])
    assert sampler().sample(logits([EOS, 8, 5]), [SampleRow(ignoring)]) == [RowResult(token_ids=[EOS])]


def test_masks_stand_beside_the_rows_of_their_request() -> None:
    masks = Masks({"b": [[40], [41, 6]], "c": [[33]]})
    rows = [
        SampleRow(request(GREEDY, name="a")),
        SampleRow(request(GREEDY, name="b"), [40]),
        SampleRow(request(GREEDY, name="c")),
    ]
    values = logits([4], [5], [5, 6], [9])
    got = sampler().sample(values, rows, masks)
    assert [row.token_ids for row in got] == [[4], [40, 6], [33]]


def test_errors_name_the_position_and_come_after_the_tokens_before_them() -> None:
    values = logits([4], [5], [6])
    values[1, 0] = np.nan
    rows = [SampleRow(request(GREEDY, name="a"), [4]), SampleRow(request(GREEDY, name="b"))]
    got = sampler().sample(values.copy(), rows)
    assert got == [RowResult(token_ids=[4]), RowResult(token_ids=[6])]
    one = SampleRow(request(GREEDY, output=[9, 9]))
    error = RowResult(error="numerics_error", message="the logits are not finite (output position 2)")
    assert sampler().sample(values[1:2].copy(), [one]) == [error]
    error = RowResult(error="grammar_dead_end", message="no token is allowed (output position 2)")
    assert sampler().sample(logits([4]), [one], Masks({"a": [[]]})) == [error]


def test_logprobs_stand_beside_the_tokens() -> None:
    one = request(replace(GREEDY, logprobs=2, logit_bias=((9, 50.0),)))
    got = sampler().sample(logits([4, 5], [4, 5]), [SampleRow(one, [9])])[0]
    total = np.log(np.exp(5.0) + np.exp(4.0) + V - 2)
    assert got.token_ids == [9, 9]
    assert (
        got.logprobs
        == [TokenLogprobs(pytest.approx(-total, abs=1e-6), (4, 5), pytest.approx((5 - total, 4 - total), abs=1e-6))] * 2
    )


def test_prompt_logprobs_are_those_of_the_tokens_that_follow() -> None:
    values = logits([4], [5])
    got = sampler().prompt_logprobs(values, [4, 0], 1)
    total = np.log(np.exp(5.0) + V - 1)
    assert got == [
        TokenLogprobs(pytest.approx(5 - total, abs=1e-6), (4,), pytest.approx((5 - total,), abs=1e-6)),
        TokenLogprobs(pytest.approx(-total, abs=1e-6), (5,), pytest.approx((5 - total,), abs=1e-6)),
    ]
    values[1, 3] = np.inf
    assert sampler().prompt_logprobs(values, [4, 0], 1) is None


def test_what_is_out_of_bounds_is_refused() -> None:
    with pytest.raises(KernelError, match=r"top_p is 0\.0, expected more than 0 and at most 1"):
        sampler().sample(logits([4]), [SampleRow(request(replace(GREEDY, top_p=0.0)))])
    with pytest.raises(KernelError, match="logits has 2 rows, expected 1"):
        sampler().sample(logits([4], [4]), [SampleRow(request(GREEDY))])
