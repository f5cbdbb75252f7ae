"""Offline work behind the whole path: it gives way in the middle of a step, and its text does not show it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from support.http import call
from support.metrics import value, wait_for_value
from support.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPLETIONS = "/v1/completions"
IN_FLIGHT = 'slackwater_worker_in_flight{worker="w0"}'
PARKED = 'slackwater_worker_parked_slices_total{worker="w0"}'


@pytest.fixture(scope="module")
def slow() -> Iterator[Server]:
    """The slow backend, which takes a good part of a second for a step of 2,000 tokens."""
    with Server("serve", "tiny", "--", "--backend", "reference", "--max-num-batched-tokens", "2048") as server:
        yield server.wait_ready()


def seconds(server: Server, body: dict[str, Any]) -> tuple[float, list[int]]:
    """How long an answer takes, and its tokens."""
    begin = time.monotonic()
    answer = call(server.api, "POST", COMPLETIONS, {"model": "tiny", "temperature": 0, "ignore_eos": True, **body})
    found: list[int] = answer.json()["choices"][0]["token_ids"]
    return time.monotonic() - begin, found


def test_an_online_arrival_does_not_wait_for_an_offline_chunk(slow: Server) -> None:
    def offline(first: int, max_tokens: int) -> dict[str, Any]:
        # Each begins otherwise, so that none finds another's prompt in the cache.
        prompt = [first, *(1 + index * 7 % 250 for index in range(1900))]
        return {"prompt": prompt, "max_tokens": max_tokens, "service_tier": "flex", "return_token_ids": True}

    online = {"prompt": [5, 6, 7], "max_tokens": 1, "return_token_ids": True}
    _, wanted_online = seconds(slow, online)
    ratios = []
    for attempt in range(3):
        chunk, _ = seconds(slow, offline(100 + attempt, 1))
        wait_for_value(slow.ops, IN_FLIGHT, 0)
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(seconds, slow, offline(200 + attempt, 12))
            slow.busy_worker()
            waited, found = seconds(slow, online)
            assert not held.done()
            parked = held.result()[1]
        assert found == wanted_online
        # The second time the prompt is in the cache, and nothing disturbs.
        assert parked == seconds(slow, offline(200 + attempt, 12))[1]
        ratios.append(waited / chunk)
    # It arrives in the first of two layers, and waits for the rest of that one.
    assert min(ratios) < 0.7
    while value(slow.ops, PARKED, default=0) < 2:
        pass
    assert value(slow.ops, 'slackwater_worker_parked_tokens_wasted_total{worker="w0"}') == 0
