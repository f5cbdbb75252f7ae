"""Numbers over time as `server.csv` and `host.csv` hold them: a time, and beside it what was read then."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from loadgen.errors import BadData

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

_SECONDS = ("t", "s", "t_s", "seconds")


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """`times`: f64[n] microseconds from `t0`; `columns`: by name f64[n], NaN where nothing was read."""

    times: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    columns: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    def known(self, *names: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Times and values of the first of these columns that exists, without gaps; both empty if none does."""
        for name in names:
            if name in self.columns:
                held = ~np.isnan(self.columns[name])
                return self.times[held], self.columns[name][held]
        return np.zeros(0), np.zeros(0)


def read_series(path: Path) -> Series:
    """Of a CSV file whose first column is the time; a cell that is empty is not known.

    Raises:
        BadData: a cell that is no number, or a row of another width.
    """
    if not path.is_file():
        return Series()
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadData(str(path), 0, "", f"cannot be read: {error}") from error
    if not rows:
        return Series()
    head = [name.strip() for name in rows[0]]
    table = np.array(
        [_numbers(path, row, cells, head) for row, cells in enumerate(rows[1:], 2) if cells], dtype=np.float64
    ).reshape(-1, len(head))
    scale = 1e6 if head[0] in _SECONDS else 1.0
    return Series(table[:, 0] * scale, {name: table[:, place] for place, name in enumerate(head) if place})


def _numbers(path: Path, row: int, cells: list[str], head: list[str]) -> list[float]:
    if len(cells) != len(head):
        raise BadData(str(path), row, "", f"{len(cells)} values for {len(head)} columns")
    found = []
    for name, cell in zip(head, cells, strict=True):
        try:
            found.append(float(cell) if cell.strip() else float("nan"))
        except ValueError as error:
            raise BadData(str(path), row, name, f"{cell!r} is no number") from error
    return found
