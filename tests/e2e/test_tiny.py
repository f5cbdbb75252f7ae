"""A real model behind the whole path: the same tokens alone and in a crowd, with and without a death on the way."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from support.http import Stream, call, choices_of, masked, stream_events, text_of
from support.metrics import resumes, value, wait_for_value
from support.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPLETIONS = "/v1/completions"


def ask(index: int, tokens: int, **more: Any) -> dict[str, Any]:
    prompt = [1 + (index * 37 + offset * 11) % 250 for offset in range(8)]
    return {"model": "tiny", "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "stream": True, **more}


def test_16_streams_run_in_one_batch_and_each_is_as_it_is_alone(tiny: Server) -> None:
    bodies = [ask(index, 800, temperature=0.8 * (index % 2), seed=index) for index in range(16)]
    alone = [text_of(stream_events(tiny.api, COMPLETIONS, body)) for body in bodies]
    with ThreadPoolExecutor(16) as pool:
        # The model is quick: the first streams may have ended before this machine has started the last.
        for _ in range(8):
            before = num_steps(tiny)
            together = list(pool.map(lambda body: text_of(stream_events(tiny.api, COMPLETIONS, body)), bodies))
            assert together == alone
            # The worker says its figures once a second.
            while num_steps(tiny) <= before:
                pass
            if steps_of_16_rows(tiny):
                return
    pytest.fail("no step had all 16 rows")


def num_steps(server: Server) -> float:
    return value(server.ops, 'slackwater_worker_step_rows_count{worker="w0"}', default=0)


def steps_of_16_rows(server: Server) -> float:
    bucket = 'slackwater_worker_step_rows_bucket{{worker="w0",le="{}"}}'
    low, high = (value(server.ops, bucket.format(le), default=0) for le in ("15", "16"))
    return high - low


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Server]:
    with Server("serve", "tiny", "--workers", "2") as server:
        server.wait_ready()
        for worker in ("w0", "w1"):
            wait_for_value(server.ops, f'slackwater_worker_state{{worker="{worker}",state="ready"}}', 1)
        yield server


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 0.9, "top_p": 0.9, "seed": 11}])
def test_kill_9_in_the_middle_leaves_the_same_stream(two_workers: Server, sampling: dict[str, Any]) -> None:
    body = ask(3, 1500, stream_options={"include_usage": True}, return_token_ids=True, **sampling)
    undisturbed = stream_events(two_workers.api, COMPLETIONS, body)
    before = resumes(two_workers.ops)
    with Stream(two_workers.api, COMPLETIONS, body) as stream:
        for index, _ in enumerate(stream):
            if index == 20:
                two_workers.kill_worker(two_workers.busy_worker())
        events = stream.raw
    # Which tokens share an event depends on the guesses of the moment; all else is equal.
    assert choices_of(events) == choices_of(undisturbed)
    assert masked(events[-2:]) == masked(undisturbed[-2:])
    while resumes(two_workers.ops) <= before:
        pass
    for worker in ("w0", "w1"):
        wait_for_value(two_workers.ops, f'slackwater_worker_state{{worker="{worker}",state="ready"}}', 1)


def test_a_seeded_answer_repeats_and_another_seed_differs(tiny: Server) -> None:
    def text(seed: int) -> str:
        return text_of(stream_events(tiny.api, COMPLETIONS, ask(5, 60, temperature=1.0, seed=seed)))

    assert text(1) == text(1) != text(2)


def test_streamed_text_holds_no_broken_character(tiny: Server) -> None:
    # The toy model's tokens are raw bytes, so that most of them are parts of characters.
    for event in stream_events(tiny.api, COMPLETIONS, ask(9, 500, temperature=1.0, seed=3)):
        event.encode("utf-8")
        assert event == "[DONE]" or json.loads(event)


def test_chat_and_completions_answer_without_a_stream(tiny: Server) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5, "temperature": 0}
    answer = call(tiny.api, "POST", "/v1/chat/completions", body).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert answer["usage"]["completion_tokens"] <= 5
    listed = call(tiny.api, "GET", "/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["tiny"]
