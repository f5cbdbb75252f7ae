"""Tables of keys: what may be said in a SPEC, a TOML table or a flag, and how each value is read and written.

One `Key` serves all three, and the help too, so that they cannot differ.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadgen.errors import BadData, BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Given = dict[str, list[str]]
"""By key, the texts given for it: one, or several where the key may be repeated."""


@dataclass(frozen=True, slots=True)
class Key:
    """`parse` raises ValueError with what is expected. `show` writes its result back: `parse(show(x)) == x`.

    `default`: for the help only. `choices`: the words it may have, of which the nearest is offered. `flag`: on the
    command line it takes no value.
    """

    name: str
    parse: Callable[[str], Any]
    help: str
    default: str = ""
    form: str = ""
    show: Callable[[Any], str] = str
    many: bool = False
    flag: bool = False
    choices: tuple[str, ...] = ()


Table = dict[str, Key]


class SecretValue(ValueError):
    """What was given may be a key, so it is not repeated in the error."""


def table(*keys: Key) -> Table:
    """By name, in the order of the help."""
    return {key.name: key for key in keys}


def split_spec(text: str, where: str, bare: Iterable[str] = ()) -> Given:
    """`key=value,key=value`; commas inside braces, brackets or quotes do not split. `bare`: keys that stand alone.

    Raises:
        BadInput: a piece without `=`, or an open brace or quote.
    """
    given: Given = {}
    for piece in _pieces(text, where):
        name, equals, value = piece.partition("=")
        name = name.strip()
        if not equals and name not in bare:
            raise BadInput(where, "", piece, "expected key=value pairs with commas between")
        given.setdefault(name, []).append(value.strip() if equals else "true")
    return given


def _pieces(text: str, where: str) -> list[str]:
    pieces, begin, depth, quoted, escaped = [], 0, 0, False, False
    for place, letter in enumerate(text):
        if escaped:
            escaped = False
        elif quoted:
            escaped = letter == "\\"
            quoted = letter != '"'
        elif letter == '"' and depth:
            quoted = True
        elif letter in "{[":
            depth += 1
        elif letter in "}]":
            depth -= 1
        elif letter == "," and depth <= 0:
            pieces.append(text[begin:place])
            begin = place + 1
    if quoted or depth > 0:
        raise BadInput(where, "", text, "a brace, bracket or quote is left open")
    return [piece for piece in [*pieces, text[begin:]] if piece.strip()]


def from_toml(found: Mapping[str, object], where: str) -> Given:
    """The same from a TOML table: numbers, booleans and inline tables are read as if written as text."""
    given: Given = {}
    for name, value in found.items():
        values = value if isinstance(value, list) else [value]
        given[name] = [_as_text(one, name, where) for one in values]
    return given


def _as_text(value: object, name: str, where: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, dict):
        try:
            return json.dumps(value)
        except TypeError as error:
            raise BadInput(where, name, str(value), "a date has no place here") from error
    raise BadInput(where, name, str(value), "expected a text, a number, true, false or a table")


def read(keys: Table, given: Given, where: str) -> dict[str, Any]:
    """Typed values of the keys that were given; a repeatable key gives a tuple.

    Raises:
        BadInput: an unknown key, one given twice, or a value that its key cannot have.
        BadData: a file that a value names.
    """
    values: dict[str, Any] = {}
    for name, texts in given.items():
        key = keys.get(name)
        if key is None:
            raise BadInput(where, name, "", "no such key", keys)
        if len(texts) != 1 and not key.many:
            raise BadInput(where, name, ", ".join(texts), "given more than once" if texts else "an empty list")
        read_all = tuple(read_one(key, text, where) for text in texts)
        values[name] = read_all if key.many else read_all[0]
    return values


def read_one(key: Key, text: str, where: str, name: str | None = None) -> Any:  # noqa: ANN401  each key has its own type
    """One value. `name`: how the key is told in an error, where not by its own name."""
    told = key.name if name is None else name
    try:
        return key.parse(text)
    except SecretValue as error:
        raise BadInput(where, told, "***" if told else "", str(error)) from None
    except ValueError as error:
        # A word that exists is not what is wrong, so it is not offered again.
        valid = () if text.partition(":")[0] in key.choices else key.choices
        raise BadInput(where, told, text, str(error), valid) from error
    except OSError as error:
        raise BadData(str(error.filename or text), 0, "", error.strerror or "cannot be read") from error


def write(keys: Table, values: Mapping[str, Any]) -> dict[str, str | list[str]]:
    """Values as texts that `read` turns back into them; None is left out."""
    texts: dict[str, str | list[str]] = {}
    for name, value in values.items():
        key = keys[name]
        if value is None or (key.many and not value):
            continue
        texts[name] = [key.show(one) for one in value] if key.many else key.show(value)
    return texts


def help_lines(keys: Table) -> list[str]:
    """For `--help` and for the page: one line a key."""
    width = max(len(_left(key)) for key in keys.values())
    return [f"  {_left(key).ljust(width)}  {_right(key)}" for key in keys.values()]


def markdown(keys: Table) -> str:
    """The same as a table."""
    rows = [f"| `{_cell(_left(key))}` | {_cell(_right(key))} |" for key in keys.values()]
    return "\n".join(["| key | meaning |", "|---|---|", *rows]) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _left(key: Key) -> str:
    return f"{key.name}={key.form or '|'.join(key.choices)}"


def _right(key: Key) -> str:
    again = " (may be repeated)" if key.many else ""
    return f"{key.help}{again}{f'; default {key.default}' if key.default else ''}"


def one_of(*words: str) -> Callable[[str], str]:
    """A parser for a choice."""

    def parse(text: str) -> str:
        if text not in words:
            raise ValueError("expected " + " or ".join(filter(None, (", ".join(words[:-1]), words[-1]))))
        return text

    return parse


def choice(name: str, words: Sequence[str], help: str, default: str = "") -> Key:
    """A key with a fixed set of words."""
    return Key(name, one_of(*words), help, default, choices=tuple(words))


def yes_no(text: str) -> bool:
    """A TOML boolean, or a bare flag."""
    if text not in ("true", "false"):
        raise ValueError("expected true or false")
    return text == "true"


def switch(name: str, help: str) -> Key:
    """A key that is on or off."""
    return Key(name, yes_no, help, form="true|false", show=lambda on: "true" if on else "false", flag=True)


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """A parser for whole numbers from `low` to `high`, both included."""

    def parse(text: str) -> int:
        end = f" to {high}" if high is not None else " or more"
        # Not int(): it takes `1_000`, spaces and digits of other scripts.
        if not (text.lstrip("-").isascii() and text.removeprefix("-").isdigit()) or len(text) > 24:
            raise ValueError(f"expected a whole number, {low}{end}")
        value = int(text)
        if value < low or (high is not None and value > high):
            raise ValueError(f"expected a whole number, {low}{end}")
        return value

    return parse
