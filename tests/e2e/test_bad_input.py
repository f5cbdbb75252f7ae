"""What a client gets for what cannot be served: the error object, the parameter by name; no stream is disturbed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support.http import Stream, call, text_of

from pyworker.runner.sim import oracle_tokens

if TYPE_CHECKING:
    from support.server import Server

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "hello"}]


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": "sim", "messages": HELLO, "max_tokens": 2, **fields}


def completion(**fields: Any) -> dict[str, Any]:
    return {"model": "sim", "prompt": [300], "max_tokens": 2, **fields}


CASES: list[tuple[str, str, object, int, str, str | None]] = [
    ("not JSON", CHAT, b"{", 400, "invalid_json", None),
    ("nothing", CHAT, b"", 400, "invalid_json", None),
    ("a list", CHAT, [], 400, "invalid_request", None),
    ("bad UTF-8", CHAT, b'{"model":"\xff"}', 400, "invalid_json", None),
    ("too deep", CHAT, b'{"model":' + b"[" * 65 + b"]" * 65 + b"}", 400, "invalid_json", None),
    ("no model", CHAT, {"messages": HELLO}, 400, "invalid_request", "model"),
    ("unknown model", CHAT, chat(model="gpt-9"), 404, "model_not_found", "model"),
    ("no messages", CHAT, chat(messages=[]), 400, "invalid_request", "messages"),
    ("messages of a wrong type", CHAT, chat(messages="hi"), 400, "invalid_request", "messages"),
    ("an unknown field", CHAT, chat(temperatur=1), 400, "unknown_parameter", "temperatur"),
    ("a field that is not built", CHAT, chat(use_beam_search=True), 400, "unsupported_parameter", "use_beam_search"),
    ("too many choices", CHAT, chat(n=17), 400, "invalid_request", "n"),
    ("a penalty too large", CHAT, chat(presence_penalty=2.5), 400, "invalid_request", "presence_penalty"),
    ("a stop token outside the logits", CHAT, chat(stop_token_ids=[4096]), 400, "invalid_request", "stop_token_ids"),
    ("a bias over the bound", CHAT, chat(logit_bias={"7": 101}), 400, "invalid_request", "logit_bias.7"),
    ("a schema that is none", CHAT, chat(response_format={"type": "json_schema"}), 400, "invalid_request", None),
    (
        "temperature NaN",
        CHAT,
        b'{"model":"sim","messages":[{"role":"user","content":"a"}],"temperature":NaN}',
        400,
        "invalid_json",
        None,
    ),
    ("temperature negative", CHAT, chat(temperature=-0.1), 400, "invalid_request", "temperature"),
    (
        "temperature huge",
        CHAT,
        b'{"model":"sim","messages":[{"role":"user","content":"a"}],"temperature":1e999}',
        400,
        "",
        None,
    ),
    ("top_p 0", CHAT, chat(top_p=0), 400, "invalid_request", "top_p"),
    ("max_tokens 0", CHAT, chat(max_tokens=0), 400, "invalid_request", "max_tokens"),
    ("max_tokens negative", CHAT, chat(max_tokens=-1), 400, "invalid_request", "max_tokens"),
    ("max_tokens huge", CHAT, chat(max_tokens=2**63), 400, "", "max_tokens"),
    ("max_tokens a word", CHAT, chat(max_tokens="ten"), 400, "invalid_request", "max_tokens"),
    ("min over max", CHAT, chat(min_tokens=3), 400, "invalid_request", "min_tokens"),
    ("an empty stop string", CHAT, chat(stop=""), 400, "invalid_request", "stop"),
    ("an empty prompt", COMPLETIONS, completion(prompt=[]), 400, "invalid_request", "prompt"),
    ("a token outside the logits", COMPLETIONS, completion(prompt=[4096]), 400, "invalid_request", "prompt"),
    ("a negative token", COMPLETIONS, completion(prompt=[-1]), 400, "invalid_request", "prompt"),
    ("a prompt over the context", COMPLETIONS, completion(prompt=[300] * 5000), 400, "context_length_exceeded", None),
]


@pytest.mark.parametrize(("path", "body", "status", "code", "param"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_bad_input_is_refused_by_name(
    oracle: Server, path: str, body: object, status: int, code: str, param: str | None
) -> None:
    answer = call(oracle.api, "POST", path, body)
    assert answer.status == status, answer.body
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code or not code
    if param is not None:
        assert error["param"] == param
    assert "Traceback" not in error["message"]


def test_other_paths_and_verbs(oracle: Server) -> None:
    unknown = call(oracle.api, "GET", "/v1/nothing")
    assert (unknown.status, unknown.json()["error"]["code"]) == (404, "unknown_url")
    verb = call(oracle.api, "GET", CHAT)
    assert (verb.status, verb.json()["error"]["code"], verb.headers["allow"]) == (405, "method_not_allowed", "POST")
    coded = call(oracle.api, "POST", CHAT, chat(), {"content-encoding": "gzip"})
    assert (coded.status, coded.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_a_body_over_the_limit_is_refused_before_it_is_read(oracle: Server) -> None:
    answer = call(oracle.api, "POST", CHAT, b"x", {"content-length": str(9 << 20)})
    assert (answer.status, answer.json()["error"]["code"]) == (413, "body_too_large")


def test_none_of_it_disturbs_a_stream(oracle: Server) -> None:
    body = completion(prompt=[333], max_tokens=400, seed=1, stream=True)
    with Stream(oracle.api, COMPLETIONS, body) as stream:
        reader = iter(stream)
        for case in CASES:
            next(reader)
            call(oracle.api, "POST", case[1], case[2])
        list(reader)
    expected = oracle_tokens([333], 1, 400, 4096)
    assert text_of(stream.raw) == "".join(f" t{token:05d}" for token in expected if token < 4088)
    assert json.loads(stream.raw[-2])["choices"][0]["finish_reason"] == "length"
