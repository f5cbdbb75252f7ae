"""`lengths:FILE`: pairs of prompt and output lengths of public corpora, by the Llama-2 tokeniser. No times, no text.

Rows repeat (ShareGPT: 17,548 distinct of 20,487), which is the corpus and no error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.plan.rows import SourceRow
from loadgen.plan.sources import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Lengths:
    """See the module."""

    has_times = False

    def __init__(self, path: Path, least: int = 1) -> None:
        """`least`: the shortest length that is taken; 0 where a `floor` was asked for."""
        self.name = f"lengths:{path.name}"
        self._path, self._least = path, least

    def rows(self) -> Iterator[SourceRow]:
        """See `Source`."""
        path, least = self._path, self._least
        for row, values in files.csv_rows(path, ("num_prefill_tokens", "num_decode_tokens")):
            yield SourceRow(
                in_tokens=files.whole(path, row, "num_prefill_tokens", values["num_prefill_tokens"], least),
                out_tokens=files.whole(path, row, "num_decode_tokens", values["num_decode_tokens"], least),
            )
