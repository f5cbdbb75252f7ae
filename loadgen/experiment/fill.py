"""`{name}` in texts of a plan. Braces around anything but a name, such as those of JSON, stay as they are."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any, Final

from loadgen.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAME: Final = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_DEEPEST: Final = 5
"""A value may hold placeholders itself, so deep at most."""


def names_in(text: str) -> list[str]:
    """Placeholders of a text, in order."""
    return _NAME.findall(text)


def fill(text: str, values: Mapping[str, str], where: str) -> str:
    """The text with its values.

    Raises:
        BadInput: a placeholder without a value, or values that hold each other.
    """
    for _ in range(_DEEPEST):
        if not _NAME.search(text):
            return text
        text = _NAME.sub(lambda found: _value(found[1], values, where), text)
    raise BadInput(where, "", text, "its placeholders stand for each other without end")


def _value(name: str, values: Mapping[str, str], where: str) -> str:
    if name not in values:
        raise BadInput(where, "", name, "no value for this placeholder", values)
    return values[name]


def fill_all(value: Any, values: Mapping[str, str], where: str) -> Any:  # noqa: ANN401 - a TOML tree
    """The same in every text of a TOML tree; the tree given is not changed."""
    if isinstance(value, str):
        return fill(value, values, where)
    if isinstance(value, dict):
        return {name: fill_all(one, values, where) for name, one in value.items()}
    if isinstance(value, list):
        return [fill_all(one, values, where) for one in value]
    return value


def words(command: str, values: Mapping[str, str], where: str) -> list[str]:
    """A command line as words. It is split as a shell would after it was filled, so a value may be several words.

    Raises:
        BadInput: a placeholder without a value, an open quote, or no word at all.
    """
    filled = fill(command, values, where)
    try:
        found = shlex.split(filled)
    except ValueError as error:
        raise BadInput(where, "up", filled, str(error)) from error
    if not found:
        raise BadInput(where, "up", command, "is no command")
    return found
