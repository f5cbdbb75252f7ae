"""A worker is killed in the middle of streams that use every part of the sampling set: nobody can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.http import Stream, choices_of, stream_events
from support.metrics import resumes, wait_for_value
from support.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPLETIONS = "/v1/completions"
EVERYTHING = {
    "n": 2,
    "logprobs": 3,
    "echo": True,
    "top_k": 60,
    "min_p": 0.001,
    "top_p": 0.98,
    "presence_penalty": 0.4,
    "frequency_penalty": 0.02,
    "repetition_penalty": 1.1,
    "logit_bias": {"65": 2, "66": -3},
    "bad_words": ["ab", "z"],
    "min_tokens": 700,
    "stop": ["no such text"],
}
BOUND = {
    "n": 2,
    "logprobs": 1,
    "structured_outputs": {"regex": "([a-f]{2,9} [0-9]{1,3}[,;] ){60,90}"},
    "presence_penalty": 0.5,
}


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Server]:
    with Server("serve", "tiny", "--workers", "2") as server:
        server.wait_ready()
        yield server


@pytest.mark.parametrize("fields", [EVERYTHING, BOUND], ids=["every parameter", "a grammar"])
def test_kill_9_leaves_every_choice_as_it_is_without(two_workers: Server, fields: dict[str, Any]) -> None:
    for worker in ("w0", "w1"):
        wait_for_value(two_workers.ops, f'slackwater_worker_state{{worker="{worker}",state="ready"}}', 1)
    body = {"model": "tiny", "prompt": [7, 3, 9, 9, 40], "max_tokens": 700, "temperature": 1.0, "seed": 5}
    body |= {"stream": True, "return_token_ids": True, **fields}
    undisturbed = stream_events(two_workers.api, COMPLETIONS, body)
    before = resumes(two_workers.ops)
    with Stream(two_workers.api, COMPLETIONS, body) as stream:
        for index, _ in enumerate(stream):
            if index == 40:
                two_workers.kill_worker(two_workers.busy_worker())
        events = stream.raw
    wanted = choices_of(undisturbed)
    assert choices_of(events) == wanted
    assert events[-1] == undisturbed[-1] == "[DONE]"
    assert [(len(choice.finishes), len(choice.token_ids) > 400) for choice in wanted.values()] == [(1, True)] * 2
    # The kill hit the streams' own worker: without a resume the comparison would say nothing.
    while resumes(two_workers.ops) <= before:
        pass
