"""The whole path over the oracle worker: every token that reaches a client is checked against the chain."""

from __future__ import annotations

import json
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from support.http import Stream, call, choices_of, masked, stream_events, text_of
from support.metrics import resumes, value, wait_for_value
from support.server import Server

from pyworker.runner.sim import oracle_tokens

VOCAB = 4096
COMPLETIONS = "/v1/completions"


def ask(prompt: list[int], tokens: int, **more: Any) -> dict[str, Any]:
    return {"model": "sim", "prompt": prompt, "max_tokens": tokens, "seed": 7, "stream": True, **more}


def oracle_text(prompt: list[int], tokens: int) -> str:
    ids = oracle_tokens(prompt, 7, tokens, VOCAB)
    # The logits are wider than the tokeniser by eight ids, which are no text.
    return "".join(f" t{token:05d}" for token in ids if token < VOCAB - 8)


def test_a_stream_is_the_oracles_text(oracle: Server) -> None:
    events = stream_events(oracle.api, COMPLETIONS, ask([300, 301], 50))
    assert events[-1] == "[DONE]"
    assert text_of(events) == oracle_text([300, 301], 50)
    chunks = [json.loads(event) for event in events[:-1]]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]


def test_64_streams_at_once_are_each_their_own(oracle: Server) -> None:
    prompts = [[1000 + index, 5] for index in range(64)]
    with ThreadPoolExecutor(64) as pool:
        texts = list(pool.map(lambda p: text_of(stream_events(oracle.api, COMPLETIONS, ask(p, 100))), prompts))
    assert texts == [oracle_text(prompt, 100) for prompt in prompts]


def test_an_answer_that_is_not_streamed_counts_its_tokens(oracle: Server) -> None:
    answer = call(oracle.api, "POST", COMPLETIONS, {**ask([400], 20), "stream": False}).json()
    assert answer["usage"] == {
        "prompt_tokens": 1,
        "completion_tokens": 20,
        "total_tokens": 21,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    assert answer["choices"][0]["text"] == oracle_text([400], 20)


def test_a_stop_string_ends_the_stream_before_it_and_frees_the_worker(oracle: Server) -> None:
    text = oracle_text([500, 1], 40)
    stop = text[7 * 20 : 7 * 21]
    events = stream_events(oracle.api, COMPLETIONS, ask([500, 1], 2000, stop=stop))
    assert text_of(events) == text[: text.index(stop)]
    assert json.loads(events[-2])["choices"][0]["finish_reason"] == "stop"
    wait_for_value(oracle.ops, 'slackwater_worker_in_flight{worker="w0"}', 0)


def test_a_client_that_hangs_up_frees_the_worker(oracle: Server) -> None:
    with Stream(oracle.api, COMPLETIONS, ask([600], 3000)) as stream:
        assert next(iter(stream))
    wait_for_value(oracle.ops, 'slackwater_worker_in_flight{worker="w0"}', 0)


@pytest.fixture(scope="module")
def two_workers() -> Any:
    command = "slackwater-worker --sim --step-micros 3000,10"
    with Server("serve", "sim", "--workers", "2", "--worker-command", command) as server:
        server.wait_ready()
        wait_for_value(server.ops, 'slackwater_worker_state{worker="w1",state="ready"}', 1)
        wait_for_value(server.ops, 'slackwater_worker_state{worker="w0",state="ready"}', 1)
        yield server


@pytest.mark.parametrize("after", [1, 7, 40])
def test_kill_9_of_the_worker_leaves_the_stream_as_it_is_without(two_workers: Server, after: int) -> None:
    body = ask([700 + after, 2], 500, stream_options={"include_usage": True})
    undisturbed = stream_events(two_workers.api, COMPLETIONS, body)
    before = resumes(two_workers.ops)
    with Stream(two_workers.api, COMPLETIONS, body) as stream:
        for index, _ in enumerate(stream):
            if index == after:
                two_workers.kill_worker(two_workers.busy_worker())
        events = stream.raw
    assert masked(events) == masked(undisturbed)
    assert text_of(events) == oracle_text(body["prompt"], 500)
    # The kill hit the stream's own worker: without a resume the comparison would say nothing.
    while resumes(two_workers.ops) <= before:
        pass
    for worker in ("w0", "w1"):
        wait_for_value(two_workers.ops, f'slackwater_worker_state{{worker="{worker}",state="ready"}}', 1)


@pytest.mark.parametrize("after", [5, 60])
def test_kill_9_leaves_choices_and_logprobs_as_they_are_without(two_workers: Server, after: int) -> None:
    body = ask([760 + after, 2], 200, n=2, logprobs=2, echo=True, return_token_ids=True)
    undisturbed = stream_events(two_workers.api, COMPLETIONS, body)
    before = resumes(two_workers.ops)
    with Stream(two_workers.api, COMPLETIONS, body) as stream:
        for index, _ in enumerate(stream):
            if index == after:
                two_workers.kill_worker(two_workers.busy_worker())
        events = stream.raw

    wanted = choices_of(undisturbed)
    assert choices_of(events) == wanted
    assert [(c.finishes, len(c.token_ids), len(c.token_logprobs)) for c in wanted.values()] == [
        (["length"], 200, 202)
    ] * 2
    assert (events[-1], undisturbed[-1]) == ("[DONE]", "[DONE]")
    while resumes(two_workers.ops) <= before:
        pass
    for worker in ("w0", "w1"):
        wait_for_value(two_workers.ops, f'slackwater_worker_state{{worker="{worker}",state="ready"}}', 1)


def test_sigterm_lets_a_stream_finish() -> None:
    command = "slackwater-worker --sim --step-micros 5000,10"
    with Server("serve", "sim", "--settle", "0", "--worker-command", command) as server:
        server.wait_ready()
        with Stream(server.api, COMPLETIONS, ask([800], 200)) as stream:
            reader = iter(stream)
            next(reader)
            server.process.send_signal(signal.SIGTERM)
            rest = list(reader)
        assert rest[-1] == "[DONE]"
        assert text_of(stream.raw) == oracle_text([800], 200)
        assert server.process.wait(30) == 0


def test_sigterm_waits_for_a_reader_that_is_behind() -> None:
    with Server("serve", "sim", "--settle", "0", "--worker-command", "slackwater-worker --sim") as server:
        server.wait_ready()
        with Stream(server.api, COMPLETIONS, ask([850], 1000), receive_bytes=4096) as stream:
            reader = iter(stream)
            next(reader)
            # The worker is done, and the text waits for its reader.
            wait_for_value(server.ops, "slackwater_tokens_total", 1000)
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                server.process.wait(2)
            rest = list(reader)
        assert rest[-1] == "[DONE]"
        assert text_of(stream.raw) == oracle_text([850], 1000)
        assert server.process.wait(30) == 0


def test_figures_of_a_dead_worker_are_gone() -> None:
    with Server("serve", "sim", "--worker-command", "slackwater-worker --sim") as server:
        server.wait_ready()
        running = 'vllm:num_requests_running{model_name="sim",engine="0"}'
        wait_for_value(server.ops, running, 0)
        server.kill_worker("w0")
        while value(server.ops, running, default=-1) != -1:
            pass


def test_events_come_in_order_of_time(oracle: Server) -> None:
    created = [
        json.loads(e)["created"] for e in stream_events(oracle.api, COMPLETIONS, ask([900], 30)) if e != "[DONE]"
    ]
    assert all(a <= b for a, b in pairwise(created))
