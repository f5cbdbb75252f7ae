"""What a request asks for, in the language of llguidance."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from llguidance import LLMatcher, StructTag

from pyworker.engine.request import GrammarKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from llguidance._lib import JsonCompileOptions

    from pyworker.engine.request import Grammar

MOST_TEXT = 128 * 1024
"""Characters of a grammar. The time that a compilation takes may grow with their square, it cannot be stopped, and all
other grammars wait for it: some of this size take five seconds.
"""
_MOST_CHOICES = 10_000
_MOST_TAGS = 128
_MOST_RULES = 4_096
"""Rules of a Lark grammar: the compiler goes down one call for each in a chain of them."""
_MOST_DEPTH = 8_192
"""References of a schema, times the depth to which it is nested: no chain of calls is longer."""

_JSON: JsonCompileOptions = {"whitespace_pattern": r"[\x20\x0A\x0D\x09]{1,32}"}
"""White space between two parts of JSON has an end: a small model asked for JSON may write nothing else."""


class GrammarError(Exception):
    """A grammar that cannot be meant, or that is too large. The text is for the one who wrote it."""

    def __init__(self, message: str, *, too_large: bool = False) -> None:
        self.too_large = too_large
        super().__init__(message)


def translate(grammar: Grammar) -> str:
    """The grammar as llguidance reads it. Whether it compiles is another question.

    Raises:
        GrammarError: it is not even written as its kind should be.
    """
    if len(grammar.text) > MOST_TEXT:
        raise GrammarError(f"the grammar is longer than {MOST_TEXT} characters", too_large=True)
    try:
        return _TRANSLATORS[grammar.kind](grammar.text)
    except (ValueError, TypeError, KeyError, RecursionError, AssertionError) as error:
        raise GrammarError(f"{grammar.kind.value}: {error}") from error


def _json_schema(text: str) -> str:
    schema = json.loads(text)
    if not isinstance(schema, dict | bool):
        raise GrammarError("json_schema: a schema is an object, true or false")
    _check_depth(schema)
    return LLMatcher.grammar_from_json_schema(text, defaults=_JSON)


def _check_depth(schema: object) -> None:
    """Refuse chains of references that would take the compiler's stack."""
    num_refs = deepest = 0
    open_ = [(schema, 1)]
    while open_:
        value, depth = open_.pop()
        deepest = max(deepest, depth)
        if isinstance(value, dict):
            num_refs += isinstance(value.get("$ref"), str)
            open_ += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list):
            open_ += [(inner, depth + 1) for inner in value]
    if num_refs * deepest > _MOST_DEPTH:
        raise GrammarError(f"{num_refs} references in a schema {deepest} deep are too many", too_large=True)


def _lark(text: str) -> str:
    # Each rule has a colon, and so has each reference of a schema inside; nothing else has many.
    if text.count(":") > _MOST_RULES:
        raise GrammarError(f"lark: more than {_MOST_RULES} rules", too_large=True)
    return LLMatcher.grammar_from_lark(text)


def _json_object(text: str) -> str:
    del text
    return LLMatcher.grammar_from_json_schema('{"type": "object"}', defaults=_JSON)


def _choice(text: str) -> str:
    choices = json.loads(text)
    if not isinstance(choices, list) or not 0 < len(choices) <= _MOST_CHOICES:
        raise GrammarError(f"choice: expected a list of 1 to {_MOST_CHOICES} texts")
    if not all(isinstance(choice, str) and choice for choice in choices):
        raise GrammarError("choice: each must be a text, and not an empty one")
    # A terminal is one automaton; as a rule, a few thousand choices would break the bound of a parser's row.
    return LLMatcher.grammar_from_lark("start: CHOICE\nCHOICE: " + " | ".join(json.dumps(choice) for choice in choices))


def _regex(text: str) -> str:
    if (len(text) - len(text.rstrip("\\"))) % 2:
        raise GrammarError("regex: a backslash at the end stands for nothing")
    return LLMatcher.grammar_from_regex(text)


def _structural_tag(text: str) -> str:
    """`{"structures": [{"begin", "schema", "end"}], "triggers": [...]}`, as OpenAI-compatible servers take it."""
    tag = json.loads(text)
    structures, triggers = tag["structures"], tag["triggers"]
    if not 0 < len(structures) <= _MOST_TAGS or not all(isinstance(trigger, str) for trigger in triggers):
        raise GrammarError(f"structural_tag: expected 1 to {_MOST_TAGS} structures, and texts as triggers")
    tags = [_tag(structure, triggers) for structure in structures]
    return StructTag.to_grammar(tags, assume_special=False)


def _tag(structure: dict[str, Any], triggers: list[str]) -> StructTag:
    begin, end, schema = structure["begin"], structure["end"], structure["schema"]
    if not isinstance(begin, str) or not isinstance(end, str):
        raise GrammarError("structural_tag: begin and end are texts")
    _check_depth(schema)
    fitting = [trigger for trigger in triggers if trigger and begin.startswith(trigger)]
    if not fitting:
        raise GrammarError(f"structural_tag: no trigger begins {begin!r}")
    return StructTag(trigger=max(fitting, key=len), begin=begin, grammar=schema, end=end)


_TRANSLATORS: dict[GrammarKind, Callable[[str], str]] = {
    GrammarKind.JSON_SCHEMA: _json_schema,
    GrammarKind.JSON_OBJECT: _json_object,
    GrammarKind.REGEX: _regex,
    GrammarKind.CHOICE: _choice,
    GrammarKind.LARK: _lark,
    GrammarKind.STRUCTURAL_TAG: _structural_tag,
}
