"""`mooncake:FILE`: the Mooncake traces. Arrival times, lengths, and an id for each block of 512 prompt tokens.

The conversation trace's times lie on a grid of 3 s (2 to 23 requests an instant): its burstiness below 3 s is an
artefact, unless `dequantise=3s` spreads each group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.errors import BadData
from loadgen.plan.rows import SourceRow
from loadgen.plan.sources import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLOCK_TOKENS = 512


class Mooncake:
    """See the module."""

    has_times = True

    def __init__(self, path: Path, least: int = 1) -> None:
        """`least`: the shortest length that is taken; 0 where a `floor` was asked for."""
        self.name = f"mooncake:{path.name}"
        self._path, self._least = path, least

    def rows(self) -> Iterator[SourceRow]:
        """See `Source`. The last block of a prompt is partial."""
        path, before = self._path, 0
        for row, values in files.json_rows(path, ("timestamp", "input_length", "output_length", "hash_ids")):
            millis = files.whole(path, row, "timestamp", values["timestamp"])
            before = files.forward(path, row, "timestamp", millis * 1_000, before)
            prompt = files.whole(path, row, "input_length", values["input_length"], self._least)
            yield SourceRow(
                time=before,
                in_tokens=prompt,
                out_tokens=files.whole(path, row, "output_length", values["output_length"], self._least),
                blocks=_blocks(path, row, values["hash_ids"], prompt),
                block_tokens=BLOCK_TOKENS,
            )


def _blocks(path: Path, row: int, value: object, prompt: int) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise BadData(str(path), row, "hash_ids", "not a list")
    wanted = -(-prompt // BLOCK_TOKENS)
    if len(value) != wanted:
        raise BadData(str(path), row, "hash_ids", f"{len(value)} blocks; a prompt of {prompt} tokens has {wanted}")
    return tuple(files.whole(path, row, "hash_ids", number) for number in value)
