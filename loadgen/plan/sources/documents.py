"""`documents:FILE`: many questions about each long text: QMSum meetings, SQuALITY stories, LooGLE articles.

The questions of one document are one group and begin with the whole of it.
"""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING, Any

from loadgen.errors import BadData
from loadgen.plan.rows import SourceRow
from loadgen.plan.sources import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    Asked = tuple[str, list[tuple[str, str | None]]]


class Documents:
    """See the module. Which of the three sets it is, its fields say."""

    has_times = False

    def __init__(self, path: Path) -> None:
        self.name = f"documents:{path.name}"
        self._path = path

    def rows(self) -> Iterator[SourceRow]:
        """See `Source`."""
        for row, values in files.json_rows(self._path, ()):
            try:
                document, questions = _read(values)
            except (KeyError, TypeError, ValueError, SyntaxError, IndexError) as error:
                raise BadData(str(self._path), row, _field(error), f"not a document with questions: {error}") from error
            # LooGLE has one article in two rows: equal texts are one group, whatever row they stand in.
            group = str(values.get("title") or row)
            for question, answer in questions:
                yield SourceRow(text=f"{document}\n\nQuestion: {question}\nAnswer:", answer=answer, group=group)


def _field(error: Exception) -> str:
    return str(error.args[0]) if isinstance(error, KeyError) else ""


def _read(values: dict[str, Any]) -> Asked:
    if "meeting_transcripts" in values:
        text = "\n".join(f"{part['speaker']}: {part['content']}" for part in values["meeting_transcripts"])
        both = [*values["general_query_list"], *values["specific_query_list"]]
        return text, [(str(item["query"]), str(item["answer"])) for item in both]
    if "questions" in values:
        asked = values["questions"]
        return str(values["document"]), [
            (item["question_text"], item["responses"][0]["response_text"]) for item in asked
        ]
    # A Python list as text in the file: only literals are read, nothing is run.
    pairs = ast.literal_eval(values["qa_pairs"])
    return str(values["input"]), [(str(pair["Q"]), str(pair["A"])) for pair in pairs]
