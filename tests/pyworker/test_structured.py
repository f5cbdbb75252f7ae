"""Structured output: masks against brute force, bad grammars, bombs, and a request that is resumed in the middle."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pyworker.engine.request import Grammar, GrammarKind, Request, SamplingParams
from pyworker.models.prepare import prepare
from pyworker.structured import compiler as compiler_module
from pyworker.structured.guide import READY, LLGuidance

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

VOCAB, EOS = 512, 258
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"enum": ["x", "yy"]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def guidance() -> Iterator[LLGuidance]:
    made = LLGuidance.for_model(prepare("tiny").model_dir, VOCAB, [EOS])
    yield made
    made.close()


@pytest.fixture(scope="module")
def byte_ids() -> dict[int, int]:
    """Token id by byte."""
    tokenizer = json.loads((prepare("tiny").model_dir / "tokenizer.json").read_text())
    from pyworker.models.byte_level import byte_characters

    characters = byte_characters()
    vocab = tokenizer["model"]["vocab"]
    return {byte: vocab[char] for char, byte in characters.items()}


def request(kind: GrammarKind, text: str, *, output: list[int] | None = None, request_id: str = "r") -> Request:
    params = SamplingParams(max_tokens=100, grammar=Grammar(kind, text))
    return Request(request_id, 0, [1], params, output_ids=list(output or []))


def settle(guidance: LLGuidance, one: Request) -> str:
    """Begin, and wait for the outcome."""
    guidance.forget(one.request_id)
    guidance.begin(one)
    deadline = time.monotonic() + 10.0
    while (outcome := guidance.poll(one)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return outcome


def allowed(guidance: LLGuidance, one: Request, drafts: list[int] | None = None) -> list[set[int]]:
    """Allowed ids at the next position and behind each draft."""
    drafts = drafts or []
    masks = guidance.masks({one.request_id: drafts}, {one.request_id: one})
    assert masks is not None
    bits: NDArray[np.int32] = np.full((len(drafts) + 1, VOCAB // 32), -1, dtype=np.int32)
    masks.fill([(one.request_id, index) for index in range(len(drafts) + 1)], bits)
    flat = np.unpackbits(bits.view(np.uint8), axis=1, bitorder="little")
    return [set(np.flatnonzero(row).tolist()) for row in flat]


def test_masks_are_those_of_brute_force(guidance: LLGuidance, byte_ids: dict[int, int]) -> None:
    """Every text of a small language, byte by byte: exactly the bytes that some text goes on with, or the end."""
    texts = [b"ab", b"abc", b"b", b"bcab", b"cc"]
    one = request(GrammarKind.REGEX, "ab|abc|b|bcab|cc")
    assert settle(guidance, one) == READY
    for prefix in sorted({text[:n] for text in texts for n in range(len(text) + 1)}):
        probe = request(GrammarKind.REGEX, "ab|abc|b|bcab|cc", output=[byte_ids[b] for b in prefix], request_id="p")
        assert settle(guidance, probe) == READY
        wanted = {byte_ids[text[len(prefix)]] for text in texts if text.startswith(prefix) and text != prefix}
        if prefix in texts:
            wanted.add(EOS)
        assert allowed(guidance, probe) == [wanted], prefix


def test_rows_behind_drafts_follow_the_drafts(guidance: LLGuidance, byte_ids: dict[int, int]) -> None:
    one = request(GrammarKind.CHOICE, json.dumps(["abc", "abd"]))
    assert settle(guidance, one) == READY
    a, b, c, d = (byte_ids[byte] for byte in b"abcd")
    assert allowed(guidance, one, [a, b]) == [{a}, {b}, {c, d}]
    assert guidance.cut_drafts(one, [a, b, a, c]) == [a, b]
    one.output_ids += [a, b, d]
    assert guidance.accept(one, [a, b, d])
    assert guidance.is_ended(one)


def test_a_resumed_request_goes_on_where_it_was(guidance: LLGuidance, byte_ids: dict[int, int]) -> None:
    whole = [byte_ids[byte] for byte in b'{"a": 12, "b": "yy"}']
    one = request(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA))
    assert settle(guidance, one) == READY
    for index, token in enumerate(whole):
        resumed = request(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA), output=whole[:index], request_id="again")
        assert settle(guidance, resumed) == READY
        here = allowed(guidance, one)
        assert here == allowed(guidance, resumed)
        assert token in here[0]
        one.output_ids.append(token)
        assert guidance.accept(one, [token])
    assert guidance.is_ended(one)


def test_a_token_that_is_not_allowed_is_noticed(guidance: LLGuidance, byte_ids: dict[int, int]) -> None:
    one = request(GrammarKind.REGEX, "a+")
    assert settle(guidance, one) == READY
    one.output_ids.append(byte_ids[ord("b")])
    assert not guidance.accept(one, one.output_ids)
    assert allowed(guidance, one) == [set()]


@pytest.mark.parametrize(
    ("kind", "text", "good"),
    [
        (GrammarKind.JSON_OBJECT, "", b"{}"),
        (GrammarKind.LARK, 'start: "x" /[0-9]/', b"x7"),
        (GrammarKind.REGEX, "[ab]{2}", b"ab"),
        (
            GrammarKind.STRUCTURAL_TAG,
            json.dumps(
                {
                    "structures": [{"begin": "<f>", "schema": {"type": "integer"}, "end": "</f>"}],
                    "triggers": ["<f"],
                }
            ),
            b"so <f>3</f> it is",
        ),
    ],
)
def test_kinds(guidance: LLGuidance, byte_ids: dict[int, int], kind: GrammarKind, text: str, good: bytes) -> None:
    one = request(kind, text)
    assert settle(guidance, one) == READY
    for byte in good:
        assert byte_ids[byte] in allowed(guidance, one)[0], chr(byte)
        one.output_ids.append(byte_ids[byte])
        assert guidance.accept(one, [byte_ids[byte]])
    assert EOS in allowed(guidance, one)[0]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (GrammarKind.JSON_SCHEMA, '{"type":'),
        (GrammarKind.JSON_SCHEMA, "[1]"),
        (GrammarKind.JSON_SCHEMA, '{"type": "nothing"}'),
        (GrammarKind.JSON_SCHEMA, '{"$ref": "#/definitions/x", "definitions": {"x": {"$ref": "#/definitions/x"}}}'),
        (GrammarKind.JSON_SCHEMA, "[" * 100_000),
        (GrammarKind.REGEX, "("),
        (GrammarKind.CHOICE, "[]"),
        (GrammarKind.CHOICE, '["a", ""]'),
        (GrammarKind.CHOICE, '{"a": 1}'),
        (GrammarKind.LARK, "start: nowhere"),
        (GrammarKind.STRUCTURAL_TAG, "{}"),
        (GrammarKind.STRUCTURAL_TAG, '{"structures": [{"begin": "<g>", "schema": {}, "end": ""}], "triggers": ["<f"]}'),
        (GrammarKind.STRUCTURAL_TAG, '{"structures": [{"begin": 1, "schema": {}, "end": ""}], "triggers": ["<f"]}'),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_reason(guidance: LLGuidance, kind: GrammarKind, text: str) -> None:
    one = request(kind, text)
    assert settle(guidance, one) == "grammar_invalid"
    assert guidance.message(one.request_id)


BOMBS = {
    "nested quantifiers": (GrammarKind.REGEX, "(a{1,1000}){1,1000}"),
    "nested stars": (GrammarKind.REGEX, "((((((a+)+)+)+)+)+)b"),
    "long repeat": (GrammarKind.REGEX, "[0-9]{100000}"),
    "look back": (GrammarKind.REGEX, "(x|y){5000}z(.*a.{60}){30}"),
    "deep reference": (
        GrammarKind.JSON_SCHEMA,
        json.dumps(
            {
                "$ref": "#/$defs/d0",
                "$defs": {
                    f"d{n}": {
                        "anyOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"type": "array", "items": {"$ref": "#/$defs/d0"}}]
                    }
                    for n in range(200)
                }
                | {"d200": {"type": "null"}},
            }
        ),
    ),
    "huge enum": (GrammarKind.JSON_SCHEMA, json.dumps({"enum": [f"x{n}" * 4 for n in range(20_000)]})),
    "pattern in pattern": (GrammarKind.JSON_SCHEMA, json.dumps({"type": "string", "pattern": "^(a|b|ab)*c{1,500}$"})),
    "too long": (GrammarKind.REGEX, "a" * 600_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_ends_soon_and_the_thread_serves_on(guidance: LLGuidance, name: str) -> None:
    kind, text = BOMBS[name]
    one = request(kind, text, request_id="bomb")
    began = time.monotonic()
    outcome = settle(guidance, one)
    assert outcome in (READY, "grammar_invalid", "grammar_too_complex")
    if outcome == READY:
        allowed(guidance, one)
    assert time.monotonic() - began < 2.5
    assert settle(guidance, request(GrammarKind.REGEX, "a")) == READY
    guidance.forget("bomb")


def test_what_takes_too_long_is_given_up(guidance: LLGuidance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler_module, "_LIMIT_SECONDS", 0.0)
    text = json.dumps({"enum": [f"slow{n}" * 4 for n in range(5_000)]})
    assert settle(guidance, request(GrammarKind.JSON_SCHEMA, text)) == "grammar_too_complex"


def test_the_cache_is_bounded_and_finds_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler_module, "_CACHE_BYTES", 400_000)
    made = LLGuidance.for_model(prepare("tiny").model_dir, VOCAB, [EOS])
    try:
        for index in range(20):
            assert settle(made, request(GrammarKind.REGEX, f"a{{{index}}}b")) == READY
            assert made._compiler.cached_bytes <= 400_000
        begun = request(GrammarKind.REGEX, "a{19}b")
        made.forget("r")
        made.begin(begun)
        assert made.poll(begun) == READY
    finally:
        made.close()


def test_greedy_walks_give_texts_that_match(guidance: LLGuidance, byte_ids: dict[int, int]) -> None:
    """Random choices among what is allowed always end in a text of the language."""
    rng = np.random.default_rng(5)
    by_id = {token: byte for byte, token in byte_ids.items()}
    for index in range(20):
        one = request(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA), request_id=f"walk{index}")
        assert settle(guidance, one) == READY
        while not guidance.is_ended(one) and len(one.output_ids) < 300:
            choices = sorted(allowed(guidance, one)[0] - {EOS} - {byte_ids[byte] for byte in b" \n\t\r"})
            token = int(rng.choice(choices)) if choices else EOS
            one.output_ids.append(token)
            assert guidance.accept(one, [token])
        text = bytes(by_id[token] for token in one.output_ids if token != EOS).decode()
        if guidance.is_ended(one):
            found = json.loads(text)
            assert set(found) == {"a", "b"}
            assert re.fullmatch(r"x|yy", found["b"])
        guidance.forget(one.request_id)


def chain(kind: GrammarKind, length: int) -> str:
    """A grammar whose rules lead from one to the next."""
    links = range(length)
    if kind is GrammarKind.LARK:
        rules = "\n".join(f"r{n}: r{n + 1}" for n in links)
        return f'start: r0\n{rules}\nr{length}: "a"'
    defs: dict[str, object] = {
        f"r{n}": {"type": "object", "properties": {"a": {"$ref": f"#/$defs/r{n + 1}"}}} for n in links
    }
    schema = {"$ref": "#/$defs/r0", "$defs": defs | {f"r{length}": {"type": "string"}}}
    if kind is GrammarKind.JSON_SCHEMA:
        return json.dumps(schema)
    return json.dumps({"structures": [{"begin": "<f>", "schema": schema, "end": "<"}], "triggers": ["<f"]})


@pytest.mark.parametrize(
    ("kind", "longest"),
    [(GrammarKind.LARK, 4_000), (GrammarKind.JSON_SCHEMA, 1_300), (GrammarKind.STRUCTURAL_TAG, 1_300)],
)
def test_the_longest_chain_of_rules_fits_the_compilers_stack(
    guidance: LLGuidance, kind: GrammarKind, longest: int
) -> None:
    fits = request(kind, chain(kind, longest))
    assert settle(guidance, fits) == READY, guidance.message("r")
    allowed(guidance, fits)
    assert settle(guidance, request(kind, chain(kind, 8_000))) == "grammar_too_complex"


def test_a_compiler_that_raises_ends_the_request_and_not_the_engine(
    guidance: LLGuidance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def panic(grammar: Grammar) -> str:
        raise BaseException(grammar.text)

    with monkeypatch.context() as patch:
        patch.setattr(compiler_module, "translate", panic)
        assert settle(guidance, request(GrammarKind.REGEX, "once more")) == "internal"
    assert settle(guidance, request(GrammarKind.REGEX, "once more")) == READY


def test_where_the_compiler_panicked_nothing_of_it_is_told() -> None:
    class Panicked:
        def get_error(self) -> str:
            return "panic: assertion failed: symbols.len() < u16::MAX\n<backtrace>\n 0: <unknown>"

    matcher: Any = Panicked()
    assert compiler_module.fault_of(matcher) == ("grammar_too_complex", "the grammar is too large")


def test_a_mask_that_takes_long_is_too_complex(guidance: LLGuidance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler_module, "_MASK_SECONDS", 0.0)
    assert settle(guidance, request(GrammarKind.REGEX, "slow to say")) == "grammar_too_complex"


def test_all_who_want_the_same_grammar_wait_for_one_compilation(
    guidance: LLGuidance, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    translate = compiler_module.translate

    def slowly(grammar: Grammar) -> str:
        compiled.append(grammar)
        time.sleep(0.05)
        return translate(grammar)

    monkeypatch.setattr(compiler_module, "translate", slowly)
    choices = [request(GrammarKind.REGEX, "wanted by many", request_id=f"many{index}") for index in range(8)]
    for one in choices:
        guidance.begin(one)
    while None in [guidance.poll(one) for one in choices]:
        guidance.wait(20_000)
    assert [guidance.poll(one) for one in choices] == [READY] * 8
    assert len(compiled) == 1
    for one in choices:
        guidance.forget(one.request_id)


@pytest.mark.parametrize("kind", GrammarKind)
def test_a_text_that_could_keep_the_compiler_for_long_is_not_tried(guidance: LLGuidance, kind: GrammarKind) -> None:
    assert settle(guidance, request(kind, " " * (128 * 1024 + 1))) == "grammar_too_complex"


def test_white_space_has_an_end(guidance: LLGuidance, byte_ids: dict[int, int]) -> None:
    one = request(GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA), request_id="space")
    assert settle(guidance, one) == READY
    one.output_ids += [byte_ids[ord("{")]] + [byte_ids[ord(" ")]] * 31
    assert guidance.accept(one, one.output_ids)
    assert byte_ids[ord(" ")] in allowed(guidance, one)[0]
    one.output_ids.append(byte_ids[ord(" ")])
    assert guidance.accept(one, one.output_ids)
    assert allowed(guidance, one)[0] == {byte_ids[ord('"')]}
