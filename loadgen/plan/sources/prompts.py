"""`prompts:FILE`: real questions as prompts: Spec-Bench, MT-bench (`turns`), HumanEval (`prompt`), or lines with
`text`.

`turns` of one question are one session, with only the user's side known. Generated code is never run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loadgen.errors import BadData
from loadgen.plan.rows import SourceRow
from loadgen.plan.sources import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Prompts:
    """See the module."""

    has_times = False

    def __init__(self, path: Path, first_turn_only: bool = False) -> None:
        """`first_turn_only`: one row a question, as jobs want it."""
        self.name = f"prompts:{path.name}"
        self._path, self._first_only = path, first_turn_only

    def rows(self) -> Iterator[SourceRow]:
        """See `Source`."""
        for row, values in files.json_rows(self._path, ()):
            turns = _turns(self._path, row, values)
            session = f"{row}" if len(turns) > 1 and not self._first_only else None
            answer = _answer(values)
            for turn, text in enumerate(turns[:1] if self._first_only else turns):
                yield SourceRow(text=text, answer=answer if turn == 0 else None, session=session, turn=turn)


def _turns(path: Path, row: int, values: dict[str, Any]) -> list[str]:
    for field in ("turns", "prompt", "text"):
        if field not in values:
            continue
        given = values[field] if field == "turns" else [values[field]]
        if not isinstance(given, list) or not given:
            raise BadData(str(path), row, field, "not a list of texts")
        return [files.text(path, row, field, text) for text in given]
    raise BadData(str(path), row, "turns", "none of turns, prompt and text is there")


def _answer(values: dict[str, Any]) -> str | None:
    reference = values.get("reference")
    if isinstance(reference, list):
        reference = reference[0] if reference else None
    return reference if isinstance(reference, str) else None
