"""`mmlu:FILE;shots=5`: multiple choice, one letter to answer. All items of a subject share its worked examples.

The examples are the subject's rows of the file's own `dev` split, `dev` in the place of `test` or `val` in its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.errors import BadData, BadInput
from loadgen.plan.rows import SourceRow
from loadgen.plan.sources import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_COLUMNS = ("subject", "question", "A", "B", "C", "D", "answer")


class Mmlu:
    """See the module."""

    has_times = False

    def __init__(self, path: Path, shots: int = 5) -> None:
        """`shots`: examples before each question, at most 5."""
        if not 0 <= shots <= 5:
            raise BadInput("source", "shots", str(shots), "MMLU has 5 examples a subject")
        self.name = f"mmlu:{path.name}"
        self._path, self._shots = path, shots

    def rows(self) -> Iterator[SourceRow]:
        """See `Source`. The output is one token."""
        examples = self._examples() if self._shots else {}
        for row, values in files.csv_rows(self._path, _COLUMNS):
            subject, answer = values["subject"], values["answer"]
            _check(self._path, row, answer)
            shown = examples.get(subject, [])[: self._shots]
            if len(shown) < self._shots:
                raise BadData(str(self._path), row, "subject", f"{subject} has {len(shown)} of {self._shots} examples")
            topic = subject.replace("_", " ")
            head = f"Questions about {topic}. Answer with one letter.\n\n" + "".join(shown)
            yield SourceRow(text=head + _question(values), answer=answer, out_tokens=1, group=subject)

    def _examples(self) -> dict[str, list[str]]:
        name = self._path.name
        for split in ("test", "val"):
            name = name.replace(split, "dev", 1) if name.startswith(split) else name
        path = self._path.with_name(name)
        if not path.is_file():
            raise BadData(str(path), 0, "", "the examples are not there; shots=0 does without")
        found: dict[str, list[str]] = {}
        for row, values in files.csv_rows(path, _COLUMNS):
            _check(path, row, values["answer"])
            found.setdefault(values["subject"], []).append(f"{_question(values)} {values['answer']}\n\n")
        return found


def _check(path: Path, row: int, answer: str) -> None:
    if answer not in ("A", "B", "C", "D"):
        raise BadData(str(path), row, "answer", f"{answer!r} is not A, B, C or D")


def _question(values: dict[str, str]) -> str:
    choices = "".join(f"{letter}. {values[letter]}\n" for letter in "ABCD")
    return f"{values['question']}\n{choices}Answer:"
