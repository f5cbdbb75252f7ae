"""What became of an offline job: its figures, its items, and which rules were broken."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from loadgen.measure.facts import JobFacts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ItemStatus = Literal["ok", "failed", "expired", "cancelled"]


class ItemResult(NamedTuple):
    """One item as its line says. `in_got`, `out_got`: tokens by its usage, None without one. `text` None: not kept."""

    item: int
    status: ItemStatus
    in_got: int | None
    out_got: int | None
    text: str | None
    error: str | None


@dataclass(frozen=True, slots=True)
class JobReport:
    """`violations`: sentences; with any the command ends with `ExitCode.ASSERTION`. They stand in `facts` as well."""

    facts: JobFacts
    items: list[ItemResult] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def with_more(self, violations: Sequence[str], **changed: object) -> JobReport:
        """The same with further findings, and with other values of some facts."""
        found = [*self.violations, *violations]
        facts = msgspec.structs.replace(self.facts, violations=tuple(found), **changed)
        return JobReport(facts, self.items, found)


def write_reports(reports: Sequence[JobReport], folder: Path) -> None:
    """`NAME.json` of each: its facts and how its items that are not `ok` ended."""
    for report in reports:
        bad = [
            {"item": each.item, "status": each.status, "error": each.error}
            for each in report.items
            if each.status != "ok"
        ]
        text = msgspec.json.encode({"facts": report.facts, "not_ok": bad})
        path = folder / f"{report.facts.name}.json"
        part = path.with_name(path.name + ".part")
        part.write_bytes(msgspec.json.format(text, indent=1) + b"\n")
        part.replace(path)
