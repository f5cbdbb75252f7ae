"""`gsm8k:FILE;shots=8`: word problems with a number to check. The first `shots` rows are the examples of all others."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING

from loadgen.errors import BadData, BadInput
from loadgen.plan.rows import SourceRow
from loadgen.plan.sources import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FINAL = re.compile(r"#### *(-?[0-9][0-9,]*(?:\.[0-9]+)?)\s*$")
_MARK = re.compile(r"<<[^<>]*>>")


class Gsm8k:
    """See the module."""

    has_times = False

    def __init__(self, path: Path, shots: int = 8) -> None:
        if not 0 <= shots <= 64:
            raise BadInput("source", "shots", str(shots), "from 0 to 64 examples")
        self.name = f"gsm8k:{path.name}"
        self._path, self._shots = path, shots

    def rows(self) -> Iterator[SourceRow]:
        """See `Source`. The answer is the bare number, without commas."""
        problems = self._problems()
        head = "".join(f"Q: {question}\nA: {worked}\n\n" for question, worked, _ in islice(problems, self._shots))
        for question, _, number in problems:
            yield SourceRow(text=f"{head}Q: {question}\nA:", answer=number, group="gsm8k")

    def _problems(self) -> Iterator[tuple[str, str, str]]:
        path = self._path
        for row, values in files.json_rows(path, ("question", "answer")):
            worked = files.text(path, row, "answer", values["answer"])
            final = _FINAL.search(worked)
            if final is None:
                raise BadData(str(path), row, "answer", "does not end in #### and a number")
            yield (
                files.text(path, row, "question", values["question"]),
                _MARK.sub("", worked),
                final[1].replace(",", ""),
            )
