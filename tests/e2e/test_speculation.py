"""Guessing tokens changes no text: what a worker without it says over HTTP, one with each way to guess says too."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from support.http import call
from support.metrics import value
from support.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPLETIONS = "/v1/completions"
REPEATING = [10, 11, 12, 13, 14, 15] * 12
SHAPES: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 0, "prompt": REPEATING, "logprobs": 2},
    {"temperature": 1.0, "seed": 4, "n": 3, "prompt": REPEATING, "presence_penalty": 0.5, "top_k": 40},
    {"temperature": 0.7, "seed": 9, "allowed_token_ids": [65, 66], "logprobs": 0, "bad_words": ["AAAA"]},
    {"temperature": 0, "logit_bias": {"65": 100}, "min_tokens": 10},
    {"temperature": 0, "structured_outputs": {"choice": ["slack water, slack water, slack water and ebb"]}},
    {"temperature": 1.0, "seed": 2, "n": 2, "structured_outputs": {"regex": "(tide [a-c]{1,4}; ){3,9}"}, "logprobs": 1},
]
"""A text that repeats itself, forced tokens, and texts where no guess can be right."""


@pytest.fixture(scope="module")
def others() -> Iterator[dict[str, Server]]:
    """Workers that guess not at all, and in the other way; they load at the same time."""
    with ExitStack() as stack:
        servers = {
            how: stack.enter_context(Server("serve", "tiny", "--", "--speculative", how)) for how in ("off", "suffix")
        }
        yield {how: server.wait_ready() for how, server in servers.items()}


def answers(server: Server) -> list[list[tuple[Any, ...]]]:
    """Every shape's choices, all asked for at once."""

    def ask(shape: dict[str, Any]) -> list[tuple[Any, ...]]:
        body = {"model": "tiny", "prompt": [40, 41, 42], "max_tokens": 150, "return_token_ids": True, **shape}
        found = call(server.api, "POST", COMPLETIONS, body).json()["choices"]
        return [(c["text"], c["token_ids"], c["logprobs"], c["finish_reason"]) for c in found]

    with ThreadPoolExecutor(len(SHAPES)) as pool:
        return list(pool.map(ask, SHAPES))


def drafted(server: Server) -> float:
    return value(server.ops, 'slackwater_worker_draft_tokens_total{worker="w0"}', default=0)


def test_texts_and_logprobs_are_equal_with_each_way_to_guess(tiny: Server, others: dict[str, Server]) -> None:
    wanted = answers(others["off"])
    guessing = {"ngram": tiny, "suffix": others["suffix"]}
    before = {how: drafted(server) for how, server in guessing.items()}
    for how, server in guessing.items():
        assert answers(server) == wanted, how
    for how, server in guessing.items():
        while drafted(server) <= before[how]:  # the worker says its figures once a second
            pass
    assert drafted(others["off"]) == 0
