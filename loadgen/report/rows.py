"""A file of JSON lines as a table: a row a line, a column a key. The conformance suite writes such lines."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from loadgen.errors import BadData, BadInput
from loadgen.report import html, markdown, show, text
from loadgen.report.csv import safe
from loadgen.report.tables import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

_MOST_COLUMNS = 24
_MOST_ROWS = 10_000


def table(path: str) -> Table:
    """Cells in the order of the lines; a key that a line lacks is empty.

    Raises:
        BadData: no such file, a line that is no object, or more than fits into a table.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise BadData(path, 0, "", error.strerror or "cannot be read") from error
    found = [_object(path, row, line) for row, line in enumerate(lines, 1) if line.strip()]
    head = tuple(dict.fromkeys(key for each in found for key in each))
    if len(head) > _MOST_COLUMNS or len(found) > _MOST_ROWS:
        raise BadData(path, 0, "", f"{len(head)} keys and {len(found)} lines are more than a table holds")
    cells = tuple(tuple(_cell(each.get(key)) for key in head) for each in found)
    words = next((place for place, key in enumerate(head) if _numeric(found, key)), len(head))
    return Table(path, head, cells, left=max(words, 1))


def render(tables: Sequence[Table], form: str) -> str:
    """In the form that was asked for; `csv` of one file only.

    Raises:
        BadInput: several files as one CSV, or a page without plotly.
    """
    if form == "csv":
        if len(tables) > 1:
            raise BadInput("--format", "", "csv", "one file at a time")
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(
            [safe(cell) for cell in row] for row in (tables[0].head, *tables[0].rows)
        )
        return out.getvalue()
    if form == "json":
        tree = [
            {"file": each.title, "rows": [dict(zip(each.head, row, strict=True)) for row in each.rows]}
            for each in tables
        ]
        return msgspec.json.format(msgspec.json.encode(tree), indent=1).decode() + "\n"
    if form == "html":
        return html.page(tables[0].title, [html.Section("", tables)])
    show_one = markdown.show_table if form == "md" else text.show_table
    return "\n\n".join("\n".join(show_one(each)) for each in tables) + "\n"


def _object(path: str, row: int, line: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise BadData(path, row, "", f"not a JSON object: {error}") from error


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return show.yes(value)
    if isinstance(value, str):
        return show.plain(value)
    return show.plain(msgspec.json.encode(value).decode())


def _numeric(found: Sequence[dict[str, Any]], key: str) -> bool:
    values = [each[key] for each in found if each.get(key) is not None]
    return bool(values) and all(isinstance(each, int | float) and not isinstance(each, bool) for each in values)
