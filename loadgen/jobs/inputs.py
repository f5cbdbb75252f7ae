"""What a batch job sends: its lines, written to files before the run, each within what the API takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from loadgen.errors import BadInput
from loadgen.plan import payload
from loadgen.plan.dialects import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from loadgen.plan.model import Plan, PlannedJob, PlannedRequest
    from loadgen.spec import OfflineSpec, Scenario

MOST_LINES = 50_000
MOST_BYTES = 200_000_000
"""Of one file; larger jobs are several batches and one report."""
MOST_LINE = 8 << 20


@dataclass(frozen=True, slots=True)
class JobItem:
    """One line. `item`: its place in the job; `exact`: just so many tokens were asked for, else at most."""

    item: int
    custom_id: str
    out_want: int
    exact: bool


@dataclass(frozen=True, slots=True)
class Part:
    """One file, and so one batch. `items`: by custom id."""

    file: Path
    items: Mapping[str, JobItem]


@dataclass(frozen=True, slots=True)
class JobInput:
    """One job of `submit=batch`. Times in microseconds, `at` from t0 (`NOT_DUE`: when the pool wants it), `deadline`
    from submission. `headers`: of the calls that make it.
    """

    name: str
    cls: str
    at: int
    deadline: int | None
    endpoint: str
    parts: tuple[Part, ...]
    pool: bool = False
    keep_text: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_items(self) -> int:
        """All of its parts."""
        return sum(len(part.items) for part in self.parts)


def prepare_jobs(
    scenario: Scenario,
    plan: Plan,
    wire: payload.Wire,
    folder: Path,
    *,
    most_lines: int = MOST_LINES,
    most_bytes: int = MOST_BYTES,
) -> list[JobInput]:
    """Writes `NAME-1.in.jsonl` and so on into `folder` for every batch job of the plan. Tests set smaller bounds.

    Raises:
        BadInput: an item that no server takes.
    """
    specs = {spec.name: spec for spec in scenario.offline if spec.submit == "batch"}
    jobs = [job for job in plan.jobs if job.cls in specs]
    wanted = {number for job in jobs for number in job.items}
    requests = {request.id: request for request in plan.requests if request.id in wanted}
    found = []
    for job in jobs:
        writer = _Writer(job, specs[job.cls], wire, folder, (most_lines, most_bytes))
        found.append(_input(job, specs[job.cls], wire, writer.write([requests[number] for number in job.items])))
    return found


def _input(job: PlannedJob, spec: OfflineSpec, wire: payload.Wire, parts: tuple[Part, ...]) -> JobInput:
    return JobInput(
        name=job.name,
        cls=job.cls,
        at=job.at,
        deadline=job.deadline,
        endpoint=payload.PATHS[wire.api],
        parts=parts,
        pool=spec.pool_closed,
        keep_text=spec.verify[0] != "count",
        headers=wire.fields.get(job.cls, Fields()).headers,
    )


class _Writer:
    """Puts lines into a file until the next one would be too many."""

    def __init__(
        self, job: PlannedJob, spec: OfflineSpec, wire: payload.Wire, folder: Path, most: tuple[int, int]
    ) -> None:
        self._job, self._spec, self._wire, self._folder = job, spec, wire, folder
        self._most_lines, self._most_bytes = most
        self._parts: list[Part] = []

    def write(self, requests: Sequence[PlannedRequest]) -> tuple[Part, ...]:
        lines: list[bytes] = []
        items: dict[str, JobItem] = {}
        size = 0
        for place, request in enumerate(requests):
            item = place if request.item is None else request.item
            custom = f"{self._job.name}.{item}"
            line = self._line(custom, request)
            if lines and (len(lines) >= self._most_lines or size + len(line) > self._most_bytes):
                self._flush(lines, items)
                lines, items, size = [], {}, 0
            lines.append(line)
            items[custom] = JobItem(item, custom, request.out, self._wire.lengths == "exact")
            size += len(line)
        self._flush(lines, items)
        return tuple(self._parts)

    def _flush(self, lines: list[bytes], items: dict[str, JobItem]) -> None:
        path = self._folder / f"{self._job.name}-{len(self._parts) + 1}.in.jsonl"
        with path.open("wb") as file:
            file.writelines(lines)
        self._parts.append(Part(path, items))

    def _line(self, custom: str, request: PlannedRequest) -> bytes:
        body: dict[str, Any] = payload.body(request, self._wire, stream=False)
        # The batch itself is the tier; on a line the field would ask for a batch within the batch.
        if "service_tier" not in self._spec.body:
            body.pop("service_tier", None)
        url = payload.PATHS[self._wire.api]
        line = msgspec.json.encode({"custom_id": custom, "method": "POST", "url": url, "body": body}) + b"\n"
        if len(line) > min(MOST_LINE, self._most_bytes):
            most = min(MOST_LINE, self._most_bytes)
            raise BadInput(
                "--offline", "name", self._job.name, f"item {custom} has {len(line)} bytes; {most} are taken"
            )
        return line
