"""Reads one TOML table key by key, and says which key it does not know and which value it cannot take."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeVar, overload

from loadgen import units
from loadgen.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_T = TypeVar("_T")


class Take:
    """A table at `where`. Take every key that there may be, then call `end`."""

    def __init__(self, table: object, where: str) -> None:
        if not isinstance(table, dict):
            raise BadInput(where, "", str(table), "expected a table")
        self.where, self._left, self._known = where, dict(table), list[str]()

    def raw(self, key: str, default: Any = None) -> Any:  # noqa: ANN401 - a TOML value
        """Whatever stands there."""
        self._known.append(key)
        return self._left.pop(key, default)

    @overload
    def text(self, key: str) -> str | None: ...
    @overload
    def text(self, key: str, default: str) -> str: ...
    def text(self, key: str, default: str | None = None) -> str | None:
        """A text; numbers and booleans are read as if written as one."""
        found = self.raw(key)
        return default if found is None else as_text(found, self.where, key)

    def need(self, key: str) -> str:
        """A text that must be there."""
        found = self.text(key)
        if found is None:
            raise BadInput(self.where, key, "", "is missing")
        return found

    def texts(self, key: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        """A list of texts; one alone is a list of one."""
        found = self.raw(key)
        if found is None:
            return default
        return tuple(as_text(one, self.where, key) for one in (found if isinstance(found, list) else [found]))

    def parsed(self, key: str, parse: Callable[[str], _T], default: _T) -> _T:
        """A text that `parse` reads; its ValueError says what is expected."""
        found = self.text(key)
        if found is None:
            return default
        try:
            return parse(found)
        except ValueError as error:
            raise BadInput(self.where, key, found, str(error)) from error

    def parsed_each(self, key: str, parse: Callable[[str], _T]) -> tuple[_T, ...]:
        """A list of texts that `parse` reads."""
        found = []
        for text in self.texts(key):
            try:
                found.append(parse(text))
            except ValueError as error:
                raise BadInput(self.where, key, text, str(error)) from error
        return tuple(found)

    def duration(self, key: str, default: int) -> int:
        """Microseconds."""
        return self.parsed(key, units.duration, default)

    def maybe_duration(self, key: str) -> int | None:
        """Microseconds, or None where it is not there."""
        return self.parsed(key, units.duration, -1) if key in self._left else self.raw(key)

    def count(self, key: str, default: int, least: int = 1) -> int:
        """A whole number."""
        found = self.raw(key, default)
        if not isinstance(found, int) or isinstance(found, bool) or found < least:
            raise BadInput(self.where, key, str(found), f"expected a whole number, {least} or more")
        return found

    def maybe_count(self, key: str) -> int | None:
        """A whole number, or None where it is not there."""
        return self.count(key, 1) if key in self._left else self.raw(key)

    def number(self, key: str, default: float) -> float:
        """A number above zero."""
        found = self.raw(key, default)
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 < found < math.inf:
            raise BadInput(self.where, key, str(found), "expected a number above zero")
        return float(found)

    def shares(self, key: str) -> tuple[float, ...]:
        """Shares, as `0.05` or `5%`."""
        return self.parsed_each(key, units.share)

    def choice(self, key: str, names: tuple[str, ...], default: str) -> str:
        """One of these words."""
        found = self.text(key, default)
        if found not in names:
            raise BadInput(self.where, key, found, f"expected {' or '.join(names)}", names)
        return found

    def table(self, key: str) -> dict[str, Any]:
        """A table; empty where it is not there."""
        found = self.raw(key, {})
        if not isinstance(found, dict):
            raise BadInput(self.where, key, str(found), "expected a table")
        return found

    def flat(self, key: str) -> dict[str, str]:
        """A table of texts."""
        return {name: as_text(value, self.where, f"{key}.{name}") for name, value in self.table(key).items()}

    def tables(self, key: str) -> list[dict[str, Any]]:
        """Tables of one name."""
        found = self.raw(key, [])
        if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
            raise BadInput(self.where, key, "", f"expected tables: [[{key}]]")
        return found

    def end(self) -> None:
        """Refuse what is left.

        Raises:
            BadInput: a key that the table does not have.
        """
        for key in self._left:
            raise BadInput(self.where, key, "", "no such key", self._known)


def as_text(value: object, where: str, key: str) -> str:
    """A plain value as it would be written."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    if isinstance(value, (str, int)):
        return str(value)
    raise BadInput(where, key, str(value), "expected a text or a number")


def named(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A table of tables."""
    for name, value in table.items():
        if not isinstance(value, dict):
            raise BadInput(where, name, str(value), "expected a table")
    return dict(table)
