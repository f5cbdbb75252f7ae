"""Structured output over HTTP: what comes matches, what cannot be is refused, and nobody else notices."""

from __future__ import annotations

import json
import re
import threading
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from support.http import Stream, call, stream_events, text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.server import Server

CHAT = "/v1/chat/completions"
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["ebb", "flood"]}, "hours": {"type": "integer", "minimum": 0, "maximum": 12}},
    "required": ["kind", "hours"],
    "additionalProperties": False,
}
LARK = 'start: "(" NUM ("," NUM)* ")"\nNUM: /[0-9]{1,3}/'
TAG = {
    "type": "structural_tag",
    "structures": [{"begin": "<", "schema": SCHEMA, "end": "/>"}],
    "triggers": ["<"],
}


def ask(**fields: Any) -> dict[str, Any]:
    # Free whitespace would go on for long: the toy model likes any byte as much as any other.
    no_blanks = {str(byte): -100 for byte in b" \n\r\t"}
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 120, "seed": 3}
    return {**body, "logit_bias": no_blanks, **fields}


def schema(value: object) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": value}}}


def outputs(**value: Any) -> dict[str, Any]:
    return {"structured_outputs": value}


def is_tide(text: str) -> bool:
    found = json.loads(text)
    return set(found) == {"kind", "hours"} and found["kind"] in ("ebb", "flood") and 0 <= found["hours"] <= 12


GOOD: list[tuple[str, dict[str, Any], Any]] = [
    ("json_schema", schema(SCHEMA), is_tide),
    ("json", outputs(json=SCHEMA), is_tide),
    ("json as text", outputs(json=json.dumps(SCHEMA)), is_tide),
    ("regex", outputs(regex="[A-C]{3}-[0-9]{4}"), re.compile("[A-C]{3}-[0-9]{4}").fullmatch),
    ("choice", outputs(choice=["slack", "slack water", 'a "quoted" one']), {"slack", "slack water"}.__contains__),
    ("grammar", outputs(grammar=LARK), re.compile(r"\([0-9]{1,3}(,[0-9]{1,3})*\)").fullmatch),
]


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1.0, "n": 3}], ids=["greedy", "sampled"])
@pytest.mark.parametrize(("fields", "fits"), [case[1:] for case in GOOD], ids=[case[0] for case in GOOD])
def test_what_comes_matches(tiny: Server, fields: dict[str, Any], fits: Any, sampling: dict[str, Any]) -> None:
    answer = call(tiny.api, "POST", CHAT, ask(**fields, **sampling)).json()
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert all(fits(text) for text in texts), texts
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"stop"}
    if "n" not in sampling:
        events = stream_events(tiny.api, CHAT, ask(**fields, **sampling, stream=True))
        assert text_of(events) == texts[0]
        assert json.loads(events[-2])["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("fields", [{"response_format": TAG}, outputs(structural_tag=TAG)], ids=["format", "outputs"])
def test_behind_a_trigger_the_text_is_bound(tiny: Server, fields: dict[str, Any]) -> None:
    # The bias makes the model begin a tag whenever it may.
    body = ask(**fields, temperature=1.0)
    body["logit_bias"] = {**body["logit_bias"], str(ord("<")): 5}
    answer = call(tiny.api, "POST", CHAT, {**body, "max_tokens": 300}).json()
    text = answer["choices"][0]["message"]["content"]
    tagged = re.findall("<(.*?)/>", text)
    assert len(tagged) > 1, text
    assert all(is_tide(inner) for inner in tagged), text


def test_any_json_object_is_an_object(tiny: Server) -> None:
    fields = {"response_format": {"type": "json_object"}, "temperature": 1.0, "max_tokens": 400}
    # An end is likelier than it would be.
    body = ask(**fields)
    body["logit_bias"] = {**body["logit_bias"], str(ord('"')): 8, str(ord("}")): 12}
    [choice] = call(tiny.api, "POST", CHAT, body).json()["choices"]
    assert choice["finish_reason"] == "stop"
    assert isinstance(json.loads(choice["message"]["content"]), dict)


def doubling(levels: int) -> str:
    return "\n".join(["start: a0", *(f"a{n}: a{n + 1} a{n + 1}" for n in range(levels)), f'a{levels}: "x"'])


FORMAT, OUTPUTS = "response_format", "structured_outputs"
WRONG: list[tuple[str, dict[str, Any], str, str]] = [
    ("no such type", {FORMAT: {"type": "xml"}}, "invalid_request", f"{FORMAT}.type"),
    ("no schema", {FORMAT: {"type": "json_schema", "json_schema": {"name": "a"}}}, "invalid_request", ""),
    ("two at once", outputs(regex="a", choice=["a"]), "invalid_request", OUTPUTS),
    ("both fields", {**schema(SCHEMA), **outputs(regex="a")}, "invalid_request", OUTPUTS),
    ("an unknown way", outputs(sonnet="a"), "unknown_parameter", f"{OUTPUTS}.sonnet"),
    ("an empty choice", outputs(choice=["a", ""]), "invalid_request", f"{OUTPUTS}.choice"),
    ("an unknown JSON type", schema({"type": "tide"}), "grammar_invalid", FORMAT),
    ("a reference to nowhere", schema({"$ref": "#/nowhere"}), "grammar_invalid", FORMAT),
    ("a reference to elsewhere", schema({"$ref": "http://localhost/a.json"}), "grammar_invalid", FORMAT),
    ("a schema of nothing", schema(False), "grammar_invalid", FORMAT),
    ("bounds that cross", schema({"type": "integer", "minimum": 5, "maximum": 1}), "grammar_invalid", FORMAT),
    ("a schema that is a circle", schema({"$ref": "#"}), "grammar_invalid", FORMAT),
    ("half a regex", outputs(regex="("), "grammar_invalid", OUTPUTS),
    ("a regex that ends with a backslash", outputs(regex="a\\"), "grammar_invalid", OUTPUTS),
    ("a regex of nothing", outputs(regex="[^\\s\\S]"), "grammar_invalid", OUTPUTS),
    ("no grammar", outputs(grammar="nonsense"), "grammar_invalid", OUTPUTS),
    ("half a schema", outputs(json="{"), "grammar_invalid", OUTPUTS),
    ("a tag without its trigger", outputs(structural_tag={**TAG, "triggers": ["x"]}), "grammar_invalid", OUTPUTS),
    ("a text of 2^40 tokens", outputs(grammar=doubling(40)), "grammar_too_complex", OUTPUTS),
    (
        "any of 8 to the power of 10",
        schema({"allOf": [{"anyOf": [{"properties": {f"k{i}{j}": {}}} for j in range(8)]} for i in range(10)]}),
        "grammar_too_complex",
        FORMAT,
    ),
    (
        "500 patterns",
        schema({"type": "object", "properties": {f"p{n}": {"pattern": f"(a|b)*{n}(c|d)*"} for n in range(700)}}),
        "grammar_too_complex",
        FORMAT,
    ),
    ("a grammar over the bound", outputs(regex="a" * (513 << 10)), "invalid_request", OUTPUTS),
]


@pytest.mark.parametrize(("fields", "code", "param"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_cannot_be_is_refused_by_name(tiny: Server, fields: dict[str, Any], code: str, param: str) -> None:
    for stream in (False, True):
        answer = call(tiny.api, "POST", CHAT, ask(**fields, stream=stream))
        assert answer.status == 400, answer.body
        error = answer.json()["error"]
        assert error["code"] == code
        assert error["param"] == param or not param
        assert "NoExtension" not in error["message"]


def test_where_nothing_may_come_the_request_ends_and_no_other(tiny: Server) -> None:
    """The grammar wants a `b`, and only an `a` is allowed."""
    steady = ask(temperature=0, max_tokens=300, ignore_eos=True, stream=True)
    wanted = text_of(stream_events(tiny.api, CHAT, steady))
    with Stream(tiny.api, CHAT, steady) as stream:
        next(iter(stream))
        body = ask(**outputs(regex="ab+"), allowed_token_ids=[ord("a")])
        answer = call(tiny.api, "POST", CHAT, body)
        events = stream_events(tiny.api, CHAT, {**body, "stream": True})
        list(stream)
    assert (answer.status, answer.json()["error"]["code"]) == (500, "grammar_dead_end")
    assert json.loads(events[-1])["error"]["code"] == "grammar_dead_end"
    assert text_of(stream.raw) == wanted


BOMBS: list[tuple[str, dict[str, Any]]] = [
    ("nested quantifiers", outputs(regex="((((a{1,200}){1,200}){1,200}){1,200})b")),
    ("states without end", outputs(regex="|".join(f".*{c}.{{{20 + n}}}" for n, c in enumerate("abcdefghijklmnop")))),
    ("a choice of 10,000", outputs(choice=[f"w{n}" for n in range(10_000)])),
    ("an enum of 400 kB", schema({"enum": [f"v{n:06d}" for n in range(40_000)]})),
    ("circles", schema({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"})),
    ("doubling", outputs(grammar=doubling(60))),
    ("ambiguity", outputs(grammar='start: e\ne: e e | "a" | "b" | ')),
    ("a long pattern", schema({"type": "string", "pattern": "^(([a-z])+.)+[A-Z]([a-z])+$"})),
]


@pytest.fixture
def pace(tiny: Server) -> Iterator[list[float]]:
    """The moments at which tokens of a steady stream came, while the test runs."""
    moments: list[float] = []
    done = threading.Event()
    body = ask(temperature=0, max_tokens=1900, ignore_eos=True, stream=True)

    def read() -> None:
        while not done.is_set():
            with Stream(tiny.api, CHAT, body) as stream:
                for _ in stream:
                    moments.append(time.monotonic())
                    if done.is_set():
                        return

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield moments
    finally:
        done.set()
        thread.join()


def test_bombs_end_soon_and_no_other_stream_waits_for_them(tiny: Server, pace: list[float]) -> None:
    while len(pace) < 100:
        time.sleep(0.01)
    for name, fields in BOMBS:
        first, begin = len(pace) - 1, time.monotonic()
        answer = call(tiny.api, "POST", CHAT, ask(**fields, max_tokens=30))
        spent = time.monotonic() - begin
        assert answer.status in (200, 400), (name, answer.body)
        assert spent < 2.5, name
        seen = [*pace[first:], time.monotonic()]
        assert max(later - earlier for earlier, later in pairwise(seen)) < 0.5, name
