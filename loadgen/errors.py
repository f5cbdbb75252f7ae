"""What may go wrong for the one who runs the tool, and the exit code that says so."""

from __future__ import annotations

import difflib
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class ExitCode(IntEnum):
    """How a command ends."""

    OK = 0
    ASSERTION = 1
    """An `--assert` does not hold, or an offline job lost or repeated an item."""
    BAD_INPUT = 2
    UNREACHABLE = 3
    """No target, or stopped by `--abort`."""
    INVALID = 4
    """The client was the bottleneck, or a fault was not seen: the figures say nothing about the server."""
    INTERRUPTED = 130


_ORDER = (
    ExitCode.INTERRUPTED,
    ExitCode.BAD_INPUT,
    ExitCode.UNREACHABLE,
    ExitCode.INVALID,
    ExitCode.ASSERTION,
    ExitCode.OK,
)


def first_of(codes: Iterable[ExitCode]) -> ExitCode:
    """The one that is told when several apply."""
    given = set(codes) | {ExitCode.OK}
    return next(code for code in _ORDER if code in given)


class LoadgenError(Exception):
    """Ends the command with `code`; the text is one line for the user."""

    code = ExitCode.BAD_INPUT


class BadInput(LoadgenError):
    """A flag, key or value that cannot be meant.

    `where`: the flag or table, such as `--online` or `[[offline]]`. `key` may be empty. `valid`: names that exist, of
    which the nearest is offered.
    """

    def __init__(self, where: str, key: str, value: str, why: str, valid: Iterable[str] = ()) -> None:
        self.where, self.key, self.value, self.why = where, key, value, why
        near = difflib.get_close_matches(value or key, list(valid), n=1, cutoff=0.4)
        self.nearest = near[0] if near else None
        given = f"{key}={value}" if key and value else key or value
        what = f"{where}: {given}" if given else where
        hint = f"; did you mean {self.nearest!r}?" if self.nearest else ""
        super().__init__(f"{what}: {why}{hint}")


class BadData(LoadgenError):
    """A row of a data file that cannot be used. `row` counts from 1, the header included; 0: the file as a whole."""

    def __init__(self, file: str, row: int, field: str, why: str) -> None:
        self.file, self.row, self.field, self.why = file, row, field, why
        place = f", row {row}" if row else ""
        super().__init__(f"{file}{place}{f', {field}' if field else ''}: {why}")


class Unreachable(LoadgenError):
    """Nobody answers at `target`."""

    code = ExitCode.UNREACHABLE

    def __init__(self, target: str, why: str) -> None:
        self.target, self.why = target, why
        super().__init__(f"{target} does not answer: {why}")
