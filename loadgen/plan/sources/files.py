"""Reads data files, plain or gzip, and says file, row and field of what cannot be used."""

from __future__ import annotations

import csv
import gzip
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from loadgen.errors import BadData

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def find(path: str, data: Path) -> Path:
    """The file itself, or that file under the data folder.

    Raises:
        BadData: neither exists.
    """
    for candidate in (Path(path), data / path):
        if candidate.is_file():
            return candidate
    raise BadData(path, 0, "", f"no such file, neither as it stands nor under {data}")


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """(row from 1, text) of each line that is not empty.

    Raises:
        BadData: not UTF-8, or broken gzip.
    """
    row = 0
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for row, line in enumerate(file, 1):
                if line.strip():
                    yield row, line
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise BadData(str(path), row + 1, "", f"cannot be read: {error}") from error


def csv_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(row, values by column). A quoted value may hold line ends; `row` counts records, the header is 1.

    Raises:
        BadData: a column is missing, or a row is short or long.
    """
    reader = csv.reader(line for _, line in lines(path))
    header = next(reader, [])
    for column in columns:
        if column not in header:
            raise BadData(str(path), 1, column, f"no such column; the file has {', '.join(header) or 'none'}")
    try:
        for row, values in enumerate(reader, 2):
            if len(values) != len(header):
                raise BadData(str(path), row, "", f"{len(values)} values for {len(header)} columns")
            yield row, dict(zip(header, values, strict=True))
    except csv.Error as error:
        raise BadData(str(path), reader.line_num, "", str(error)) from error


def json_rows(path: Path, fields: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row, object) of each line of JSON.

    Raises:
        BadData: not an object, or one without these fields.
    """
    decoder = msgspec.json.Decoder()
    for row, line in lines(path):
        try:
            value = decoder.decode(line)
        except msgspec.DecodeError as error:
            raise BadData(str(path), row, "", f"not JSON: {error}") from error
        if not isinstance(value, dict):
            raise BadData(str(path), row, "", "not a JSON object")
        for field in fields:
            if field not in value:
                raise BadData(str(path), row, field, "missing")
        yield row, value


def whole(path: Path, row: int, field: str, value: object, least: int = 0) -> int:
    """`value` as a whole number that is not below `least`.

    Raises:
        BadData: it is none.
    """
    try:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise ValueError
        number = int(value)
    except ValueError as error:
        raise BadData(str(path), row, field, f"{value!r} is not a whole number") from error
    if number < least:
        raise BadData(str(path), row, field, f"{number} is below {least}")
    return number


def real(path: Path, row: int, field: str, value: object) -> float:
    """`value` as a finite number that is not negative.

    Raises:
        BadData: it is none.
    """
    try:
        number = float(value) if isinstance(value, int | float | str) else float("nan")
    except ValueError:
        number = float("nan")
    if not 0 <= number < float("inf"):
        raise BadData(str(path), row, field, f"{value!r} is not a number from 0 up")
    return number


def text(path: Path, row: int, field: str, value: object) -> str:
    """`value` as text.

    Raises:
        BadData: it is none.
    """
    if not isinstance(value, str):
        raise BadData(str(path), row, field, "not text")
    return value


def forward(path: Path, row: int, field: str, time: int, before: int) -> int:
    """`time`, which must not lie before the row above.

    Raises:
        BadData: it does.
    """
    if time < before:
        raise BadData(str(path), row, field, f"time goes backwards by {before - time} us")
    return time
