"""`outputs.jsonl.gz`: what was answered, one line an answer, online and offline."""

from __future__ import annotations

import gzip
import zlib
from typing import TYPE_CHECKING

import msgspec

from loadgen.errors import BadData

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from loadgen.jobs.report import JobReport
    from loadgen.plan.model import Plan
    from loadgen.spec import Scenario

_BLOCK = 1 << 20


class OutputLine(msgspec.Struct, frozen=True):
    """One answer. `id`: of its planned request. `whole` false: it broke off, and so may be shorter than it should."""

    id: int
    cls: str = msgspec.field(name="class")
    job: str | None
    item: int | None
    text: str
    reasoning: str = ""
    """Before the text."""
    token_ids: list[int] | None = None
    whole: bool = True


def needs_outputs(scenario: Scenario) -> bool:
    """Whether texts must be kept: they were asked for, or somebody will compare them."""
    return scenario.keep_outputs or any(spec.verify[0] != "count" for spec in scenario.offline)


def outputs_of(reports: Sequence[JobReport], plan: Plan) -> Iterator[OutputLine]:
    """The answers of batch items whose text was kept, in the order of jobs and items."""
    ids = {job.name: job.items for job in plan.jobs}
    for report in reports:
        facts = report.facts
        for result in sorted(report.items, key=lambda each: each.item):
            if result.text is not None:
                number = ids[facts.name][result.item]
                yield OutputLine(id=number, cls=facts.cls, job=facts.name, item=result.item, text=result.text)


def write_outputs(lines: Iterable[OutputLine], path: Path) -> int:
    """All of them, and how many they were. Equal lines make equal bytes; the file has its name when it is whole."""
    encoder = msgspec.json.Encoder()
    part = path.with_name(path.name + ".part")
    count = 0
    held = bytearray()
    with part.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
        for line in lines:
            held += encoder.encode(line) + b"\n"
            count += 1
            if len(held) >= _BLOCK:
                packed.write(held)
                held.clear()
        packed.write(held)
    part.replace(path)
    return count


def read_outputs(path: Path) -> Iterator[OutputLine]:
    """One by one.

    Raises:
        BadData: there is no such file, or a line of another kind.
    """
    decoder = msgspec.json.Decoder(OutputLine)
    row = 0
    try:
        with gzip.open(path, "rb") as file:
            for line in file:
                row += 1
                yield decoder.decode(line)
    except FileNotFoundError as error:
        raise BadData(str(path), 0, "", "is not there; that run kept no outputs (--outputs)") from error
    except (OSError, EOFError, zlib.error, msgspec.DecodeError) as error:
        raise BadData(str(path), row, "", f"cannot be read: {error}") from error
