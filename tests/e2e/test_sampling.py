"""The sampling set as clients send it: each field does over HTTP what it says, streamed and not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support.http import call, choices_of, stream_events

if TYPE_CHECKING:
    from support.server import Server

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
PROMPT = [5, 9, 70, 71, 72]
SAMPLED = {"temperature": 1.0, "seed": 11}


def ask(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "prompt": PROMPT, "max_tokens": 16, "ignore_eos": True, "return_token_ids": True, **fields}


def choices(server: Server, **fields: Any) -> list[dict[str, Any]]:
    answer = call(server.api, "POST", COMPLETIONS, ask(**fields))
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json()["choices"]
    return found


def tokens(server: Server, **fields: Any) -> list[int]:
    [choice] = choices(server, **fields)
    found: list[int] = choice["token_ids"]
    return found


def test_choices_of_several_prompts_come_in_order_and_are_the_same_streamed(tiny: Server) -> None:
    prompts = [PROMPT, [8, 8, 8]]
    together = choices(tiny, prompt=prompts, n=3, logprobs=2, echo=True, **SAMPLED)
    assert [choice["index"] for choice in together] == list(range(6))
    assert len({tuple(choice["token_ids"]) for choice in together}) == 6
    for index, prompt in enumerate(prompts):
        alone = choices(tiny, prompt=prompt, n=3, logprobs=2, echo=True, **SAMPLED)
        # A choice's seed comes from the client's seed and its place among the choices of its prompt.
        assert [c["text"] for c in alone] == [c["text"] for c in together[3 * index : 3 * index + 3]]
    streamed = choices_of(
        stream_events(tiny.api, COMPLETIONS, ask(prompt=prompts, n=3, logprobs=2, echo=True, stream=True, **SAMPLED))
    )
    for choice in together:
        found = streamed[choice["index"]]
        assert found.text == choice["text"]
        assert found.token_ids == choice["token_ids"]
        assert found.token_logprobs == choice["logprobs"]["token_logprobs"]
        assert found.finishes == [choice["finish_reason"]] == ["length"]


def test_the_best_of_several_is_the_one_with_the_highest_mean_logprob(tiny: Server) -> None:
    every = choices(tiny, n=4, logprobs=0, **SAMPLED)
    means = [sum(choice["logprobs"]["token_logprobs"]) for choice in every]
    assert len(set(means)) == 4
    [best] = choices(tiny, n=1, best_of=4, **SAMPLED)
    assert best["token_ids"] == every[means.index(max(means))]["token_ids"]
    assert best["logprobs"] is None


def test_logprobs_of_completions_of_an_echo_and_of_the_prompt_agree(tiny: Server) -> None:
    [echoed] = choices(tiny, temperature=0, logprobs=3, echo=True)
    [plain] = choices(tiny, temperature=0, logprobs=3, prompt_logprobs=2)
    lists = echoed["logprobs"]
    length = len(PROMPT)
    assert lists["token_logprobs"][length:] == plain["logprobs"]["token_logprobs"]
    assert lists["token_logprobs"][0] is None
    assert lists["text_offset"] == sorted(lists["text_offset"])
    for value, top in zip(plain["logprobs"]["token_logprobs"], plain["logprobs"]["top_logprobs"], strict=True):
        assert value == max(top.values())  # what is greedy is the likeliest
    of_prompt = plain["prompt_logprobs"]
    assert of_prompt[0] is None
    found = [at[str(token)]["logprob"] for at, token in zip(of_prompt[1:], PROMPT[1:], strict=True)]
    assert found == lists["token_logprobs"][1:length]


def test_logprobs_of_chat_are_the_same_streamed(tiny: Server) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 12, "ignore_eos": True}
    body |= {"logprobs": True, "top_logprobs": 2, **SAMPLED}
    [whole] = call(tiny.api, "POST", CHAT, body).json()["choices"]
    entries = whole["logprobs"]["content"]
    assert len(entries) == 12
    for entry in entries:
        assert len(entry["top_logprobs"]) in (2, 3)
        assert entry["logprob"] <= max(top["logprob"] for top in entry["top_logprobs"])
    streamed = []
    for event in stream_events(tiny.api, CHAT, {**body, "stream": True})[:-1]:
        for choice in json.loads(event)["choices"]:
            streamed += (choice.get("logprobs") or {}).get("content") or []
    assert streamed == entries


def test_what_shapes_the_distribution_does_so(tiny: Server) -> None:
    greedy = tokens(tiny, temperature=0)
    assert tokens(tiny, top_k=1, **SAMPLED) == greedy
    assert tokens(tiny, min_p=1.0, **SAMPLED) == greedy
    assert tokens(tiny, temperature=0, logit_bias={"65": 100}) == [65] * 16
    allowed = tokens(tiny, allowed_token_ids=[65, 66], **SAMPLED)
    assert set(allowed) == {65, 66}
    assert greedy[0] not in tokens(tiny, temperature=0, logit_bias={str(greedy[0]): -100})
    long = {"temperature": 0, "max_tokens": 120}
    different = len(set(tokens(tiny, **long)))
    for penalty in ({"presence_penalty": 2}, {"frequency_penalty": 2}, {"repetition_penalty": 1.9}):
        assert len(set(tokens(tiny, **long, **penalty))) > different, penalty


def test_words_that_may_not_come_and_tokens_that_end(tiny: Server) -> None:
    [free] = choices(tiny, temperature=0, allowed_token_ids=[65, 66, 67])
    first = free["text"][0]
    [without] = choices(tiny, temperature=0, allowed_token_ids=[65, 66, 67], bad_words=[first])
    assert first not in without["text"]
    greedy = free["token_ids"]
    [ended] = choices(tiny, temperature=0, allowed_token_ids=[65, 66, 67], stop_token_ids=[greedy[0]])
    assert (ended["token_ids"], ended["finish_reason"], ended["text"]) == (greedy[:1], "stop", "")
    shown = {"stop_token_ids": [greedy[0]], "include_stop_str_in_output": True}
    [ended] = choices(tiny, temperature=0, allowed_token_ids=[65, 66, 67], **shown)
    assert (ended["finish_reason"], ended["text"]) == ("stop", first)
    [late] = choices(tiny, temperature=0, allowed_token_ids=[65, 66, 67], min_tokens=4, **shown)
    assert len(late["token_ids"]) >= 4


BAD: list[tuple[dict[str, Any], str]] = [
    ({"n": 0}, "n"),
    ({"n": 17}, "n"),
    ({"n": "2"}, "n"),
    ({"n": 2, "best_of": 1}, "best_of"),
    ({"best_of": 2, "stream": True}, "best_of"),
    ({"logprobs": 21}, "logprobs"),
    ({"logprobs": True}, "logprobs"),
    ({"prompt_logprobs": -1}, "prompt_logprobs"),
    ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs"),
    ({"echo": "yes"}, "echo"),
    ({"presence_penalty": -2.1}, "presence_penalty"),
    ({"frequency_penalty": "a"}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"logit_bias": {"x": 1}}, "logit_bias.x"),
    ({"logit_bias": {"1": 101}}, "logit_bias.1"),
    ({"logit_bias": {"9999": 1}}, "logit_bias"),
    ({"allowed_token_ids": []}, "allowed_token_ids"),
    ({"allowed_token_ids": [9999]}, "allowed_token_ids"),
    ({"bad_words": [""]}, "bad_words"),
    ({"stop_token_ids": [-1]}, "stop_token_ids"),
    ({"stop_token_ids": [9999]}, "stop_token_ids"),
    ({"min_p": 1.5}, "min_p"),
    ({"top_k": -2}, "top_k"),
    ({"return_token_ids": 1}, "return_token_ids"),
]


@pytest.mark.parametrize(("fields", "param"), BAD, ids=[json.dumps(fields) for fields, _ in BAD])
def test_bad_values_are_refused_by_name(tiny: Server, fields: dict[str, Any], param: str) -> None:
    answer = call(tiny.api, "POST", COMPLETIONS, ask(**fields))
    assert answer.status == 400, answer.body
    assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == ("invalid_request", param)


def test_a_cache_salt_keeps_a_prompt_to_those_who_name_it(tiny: Server) -> None:
    prompt = [9 + place % 50 for place in range(64)]

    def cached(**fields: Any) -> int:
        answer = call(tiny.api, "POST", COMPLETIONS, ask(prompt=prompt, **fields)).json()
        found: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        return found

    assert cached(cache_salt="ours") == 0
    assert cached(cache_salt="ours") > 0
    assert cached(cache_salt="theirs") == 0
    assert cached() == 0
