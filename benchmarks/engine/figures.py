"""What was measured: ratios with their minimum, median and maximum, the goal, the command, and the raw numbers."""

from __future__ import annotations

import gzip
import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(slots=True)
class Figure:
    """One figure. `values` are the ratios of all rounds that count; `goal` is what they should reach (`at_most`: stay
    under). `note` says what a reader must know to believe it.
    """

    name: str
    values: list[float]
    goal: float | None = None
    at_most: bool = False
    unit: str = "x"
    discarded: int = 0
    note: str = ""
    raw: Sequence[Mapping[str, object]] = ()

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        """Whether the median reaches the goal."""
        if self.goal is None or not self.values:
            return "-"
        reached = self.median <= self.goal if self.at_most else self.median >= self.goal
        return "yes" if reached else "NO"


class Results:
    """Collects figures; prints each as one JSON line as soon as it is there, and a table at the end."""

    def __init__(self, folder: Path, command: str, machine: dict[str, object]) -> None:
        self._folder = folder
        self._command = command
        self._machine = machine
        self.figures: list[Figure] = []

    def add(self, figure: Figure) -> None:
        """Keep a figure, print it, and write all that there are: what comes later may fail."""
        self.figures.append(figure)
        print(json.dumps(_line(figure)), flush=True)
        self.write()

    def write(self) -> Path:
        """Write figures, raw data and the table into the results folder; gives the table's path."""
        self._folder.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"machine": self._machine, "command": self._command})]
        lines += [json.dumps(_line(figure)) for figure in self.figures]
        (self._folder / "figures.jsonl").write_text("\n".join(lines) + "\n")
        raw = [json.dumps({"figure": figure.name, **row}) for figure in self.figures for row in figure.raw]
        with gzip.open(self._folder / "raw.jsonl.gz", "wt") as file:
            file.write("\n".join(raw) + "\n")
        table = self._folder / "table.md"
        table.write_text(self.table())
        return table

    def table(self) -> str:
        """A table in Markdown."""
        machine = ", ".join(f"{key} {value}" for key, value in self._machine.items())
        rows = [f"`{self._command}` on {machine}.", ""]
        rows += [
            "| figure | goal | min | median | max | reached | rounds (discarded) |",
            "|---|---|---|---|---|---|---|",
        ]
        rows += [_row(figure) for figure in self.figures]
        notes = [f"- {figure.name}: {figure.note}" for figure in self.figures if figure.note]
        return "\n".join([*rows, "", *notes]) + "\n"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Round by round, ours over theirs."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def _line(figure: Figure) -> dict[str, object]:
    line = asdict(figure)
    del line["raw"]
    if figure.values:
        line |= {"min": min(figure.values), "median": figure.median, "max": max(figure.values)}
    return line | {"reached": figure.verdict}


def _row(figure: Figure) -> str:
    goal = "-" if figure.goal is None else f"{'<=' if figure.at_most else '>='} {figure.goal:g}{figure.unit}"
    if not figure.values:
        return f"| {figure.name} | {goal} | - | - | - | not measured | 0 ({figure.discarded}) |"
    low, mid, high = (f"{value:.3g}{figure.unit}" for value in (min(figure.values), figure.median, max(figure.values)))
    cells = (figure.name, goal, low, mid, high, figure.verdict, f"{len(figure.values)} ({figure.discarded})")
    return f"| {' | '.join(cells)} |"
