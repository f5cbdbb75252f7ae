"""`workload.jsonl.gz`: a plan on disk, the same bytes for the same plan, and its cut into load processes.

One line of head, one a job, one a request. A plan's hash is XXH3-128 over the lines, so that it says nothing of gzip.
"""

from __future__ import annotations

import gzip
import heapq
import io
from typing import TYPE_CHECKING, TypeVar

import msgspec
import xxhash

from loadgen.errors import BadData
from loadgen.plan.model import Plan, PlannedJob, PlannedRequest
from loadgen.plan.sources import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VERSION = 1
_Line = TypeVar("_Line")


class _Head(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    version: int
    seed: int
    jobs: int
    requests: int
    window: tuple[int, int]
    transforms: dict[str, str]
    realised: dict[str, float]


def _lines(plan: Plan) -> Iterator[bytes]:
    # Maps are sorted, fields are in the order of their definition: the bytes depend on the plan alone.
    encoder = msgspec.json.Encoder(order="deterministic")
    yield encoder.encode(
        _Head(
            version=VERSION,
            seed=plan.seed,
            jobs=len(plan.jobs),
            requests=len(plan.requests),
            window=plan.window,
            transforms=plan.transforms,
            realised=plan.realised,
        )
    )
    for job in plan.jobs:
        yield encoder.encode(job)
    for request in plan.requests:
        yield encoder.encode(request)


def plan_hash(plan: Plan) -> str:
    """32 hex digits; equal for equal plans, in every process."""
    state = xxhash.xxh3_128()
    for line in _lines(plan):
        state.update(line + b"\n")
    return state.hexdigest()


def write(plan: Plan, path: Path) -> None:
    """Writes the plan; no time and no file name get into the gzip."""
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
        buffered = io.BufferedWriter(packed, 1 << 20)
        for line in _lines(plan):
            buffered.write(line + b"\n")
        buffered.flush()


def read(path: Path) -> Plan:
    """The plan as it was written.

    Raises:
        BadData: not a plan, or not a whole one.
    """
    source = files.lines(path)
    row, first = next(source, (0, ""))
    head = _decode(first, _Head, path, row)
    if head.version != VERSION:
        raise BadData(str(path), row, "version", f"{head.version}; this program reads {VERSION}")
    jobs: list[PlannedJob] = []
    requests: list[PlannedRequest] = []
    for row, line in source:
        if len(jobs) < head.jobs:
            jobs.append(_decode(line, PlannedJob, path, row))
        else:
            requests.append(_decode(line, PlannedRequest, path, row))
    if len(requests) != head.requests:
        raise BadData(str(path), row, "", f"{len(requests)} requests; its head says {head.requests}")
    return Plan(head.seed, requests, jobs, head.window, head.transforms, head.realised)


def _decode(line: str, kind: type[_Line], path: Path, row: int) -> _Line:
    try:
        return msgspec.json.decode(line, type=kind)
    except msgspec.DecodeError as error:
        raise BadData(str(path), row, "", f"not a line of a plan: {error}") from error


def slices(plan: Plan, processes: int) -> list[list[int]]:
    """Places in `plan.requests` for each load process, ascending.

    All turns of a conversation and all items of a job stay together; the largest are given first, each to the process
    with the fewest expected chunks so far.
    """
    groups: dict[tuple[str, str | int], list[int]] = {}
    for place, request in enumerate(plan.requests):
        key: tuple[str, str | int] = ("one", place)
        if request.session is not None:
            key = (f"session {request.cls}", request.session)
        elif request.job is not None:
            key = ("job", request.job)
        groups.setdefault(key, []).append(place)
    weighed = [(sum(plan.requests[place].out for place in places), places) for places in groups.values()]
    weighed.sort(key=lambda group: (-group[0], group[1][0]))
    loads = [(0, number) for number in range(processes)]
    found: list[list[int]] = [[] for _ in range(processes)]
    for chunks, places in weighed:
        load, number = heapq.heappop(loads)
        found[number] += places
        heapq.heappush(loads, (load + chunks, number))
    return [sorted(places) for places in found]
