"""A job's result files: fetched, read line by line into its ledger, and looked at once more when nothing may change."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

from loadgen.jobs.answer import ApiRefused, NoAnswer
from loadgen.jobs.checks import Ledger, Tally, compare

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from loadgen.jobs.batch_object import BatchObject
    from loadgen.jobs.files_api import BatchApi
    from loadgen.jobs.inputs import JobInput, Part

_AT_ONCE = 1_000
"""Lines between which others get their turn."""
_MOST_LINE = 64 << 20
_COMPARED = 16 << 20
"""Bytes up to which a file is read a second time; of a longer one its length is looked at."""


@dataclass(slots=True)
class Collector:
    """Of one job. Files are known by the number of their batch."""

    job: JobInput
    keep_text: bool
    ledger: Ledger = field(init=False)
    usage_agrees: bool = True
    _files: dict[int, list[tuple[str, Path]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        items = {custom: item for part in self.job.parts for custom, item in part.items.items()}
        self.ledger = Ledger(items, self.keep_text)

    def path(self, number: int, name: str) -> Path:
        """Where a file of batch `number` goes; `name`: `out` or `err`."""
        sent = self.job.parts[number - 1].file
        return sent.with_name(sent.name.removesuffix(".in.jsonl") + f".{name}.jsonl")

    def add(self, number: int, file_id: str, path: Path) -> None:
        """A file that is here."""
        self._files.setdefault(number, []).append((file_id, path))

    def ids(self, number: int) -> list[str]:
        """Of the files that are here."""
        return [file_id for file_id, _ in self._files.get(number, ())]

    def unread(self, batch: BatchObject, why: str) -> None:
        """A result file that cannot be had."""
        self.ledger.say("partial", f"a file of batch {batch.id}, which is {batch.status}, cannot be read: {why}")

    async def read(self, number: int, part: Part, batch: BatchObject) -> None:
        """All files of a batch that is over."""
        if batch.counts.completed and batch.output_file_id is None:
            self.ledger.say("partial", f"batch {batch.id} counts {batch.counts.completed} completed and has no output")
        tally = Tally()
        for _, path in self._files.get(number, ()):
            lines = _lines(path)
            while some := list(islice(lines, _AT_ONCE)):
                self.ledger.take(some, part.items, batch.status, tally)
                await asyncio.sleep(0)
        self.ledger.find_lost(part.items, batch.status)
        self.usage_agrees &= compare(batch, tally, len(part.items), self.ledger)

    async def look_again(self, calls: BatchApi, number: int, before: BatchObject) -> None:
        """Whether a batch that was over has changed since. A server that is gone by now has changed nothing."""
        try:
            after = await calls.get(before.id)
            if after != before:
                self.ledger.say("late", f"batch {before.id} changed after it was {before.status}")
            for file_id, path in self._files.get(number, ()):
                await self._compare(calls, file_id, path, before)
        except (NoAnswer, ApiRefused):
            return

    async def _compare(self, calls: BatchApi, file_id: str, path: Path, batch: BatchObject) -> None:
        had, has = path.stat().st_size, await calls.num_bytes(file_id)
        if had == has and had <= _COMPARED:
            again = path.with_name(path.name + ".again")
            await calls.download(file_id, again)
            same = again.read_bytes() == path.read_bytes()
            again.unlink()
        else:
            same = had == has
        if not same:
            grown = "" if had == has else f", from {had} to {has} bytes"
            self.ledger.say("late", f"file {file_id} changed after batch {batch.id} was {batch.status}{grown}")


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while line := file.readline(_MOST_LINE):
            yield line
