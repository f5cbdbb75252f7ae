"""What the parts share: runs with their cost, the mock's truth, and rounds that nobody disturbed."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from benchmarks.engine.machine import IdleWatch
from loadgen import scenario as scenarios
from loadgen.campaign import Evidence, carry_out
from loadgen.compare.client import one_client
from loadgen.options import RunOptions
from loadgen.run import execute
from loadgen.run.server import Server
from loadgen.selftest.mock_process import CpuWatch, MockProcess, cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from benchmarks.engine.figures import Results
    from loadgen.result import Result

_T = TypeVar("_T")
ROOT = Path(__file__).resolve().parents[2]
"""Where `python -m benchmarks...` finds itself."""
_TRIES = 3
_PAUSE, _MOST_PAUSES = 0.3, 30


@dataclass(slots=True)
class Bench:
    """`seconds`: measured part of a run. `peers`: folder with other tools. `quick`: only whether it works."""

    results: Results
    rounds: int
    seconds: int
    peers: Path
    quick: bool = False

    def say(self, line: str) -> None:
        """To stderr; figures go to stdout."""
        os.write(2, f"{line}\n".encode())

    def undisturbed(self, measure: Callable[[], _T]) -> tuple[list[_T], int]:
        """One value a round, and how many were thrown away because others used more than a tenth of a core."""
        found: list[_T] = []
        discarded = 0
        for _ in range(self.rounds):
            for attempt in range(_TRIES):
                watch = IdleWatch({os.getpid()})
                value = measure()
                if self.quick or not watch.disturbed:
                    found.append(value)
                    break
                discarded += 1
                self.say(f"others were at work, try {attempt + 1} of {_TRIES}")
        return found, discarded


@dataclass(slots=True)
class Ran:
    """One run. CPU seconds: `load` of all load processes, `scribe` of parsing and writing records, `mock` of it.
    `share`: of a load process while it sent, as a share of a core; `mock_share` likewise.
    """

    result: Result
    evidence: Evidence
    load: float
    scribe: float
    mock: float
    share: float
    mock_share: float

    @property
    def chunks(self) -> int:
        """Of all phases."""
        return len(self.evidence.at.stamps)

    @property
    def clean(self) -> str:
        """Why it is not; empty if it is."""
        return "; ".join(self.result.invalid)


def run(mock: MockProcess, spec: Sequence[str], seconds: float, *, procs: int = 1, **flags: str) -> Ran:
    """Classes `spec` (as of `--online`) at the mock. `flags`: those of `run`, without dashes before.

    Raises:
        LoadgenError: it could not be made.
    """
    given = {
        "target": [mock.url],
        "duration": [f"{seconds:g}s"],
        "warmup": ["1s"],
        "drain": ["15s"],
        "cache": ["as-is"],
        "tokenizer": ["words"],
        "dialect": ["vllm"],
        "model": ["mock"],
    }
    faults = [flags.pop("fault")] if "fault" in flags else []
    given |= {name.replace("_", "-"): [value] for name, value in flags.items()}
    options = RunOptions(scenarios.build(scenarios.from_flags(given, list(spec), [], faults)), ui="none")
    folder = Path(tempfile.mkdtemp(prefix="loadgen-bench-"))
    try:
        return _run(options, folder, mock, procs, seconds + 1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(options: RunOptions, folder: Path, mock: MockProcess, procs: int, sending: float) -> Ran:
    from dataclasses import replace

    with one_client(procs, lambda _: None) as (tools, stage), _scribe_time() as scribe:
        pids = stage.crew.pids if stage.crew is not None else []
        _settled([*pids, mock.pid])
        watch, server = CpuWatch(pids), CpuWatch([mock.pid])
        outcome = carry_out(tools, replace(options, out=str(folder / "run")), stage)
        load, served = watch.seconds(), server.seconds()
        # The shares are of the time in which something was due, so that set-up and drain do not thin them out.
        shares = [load / len(pids) / sending, served / sending]
        return Ran(outcome.result, tools.opener(outcome), load, scribe[0], served, *shares)


def _settled(pids: Sequence[int]) -> None:
    """Wait until these processes have done with starting: what an interpreter costs is no cost of a request."""
    before = -1.0
    for _ in range(_MOST_PAUSES):
        now = cpu_seconds(pids)
        if now == before:
            return
        before = now
        time.sleep(_PAUSE)


@contextmanager
def _scribe_time() -> Iterator[list[float]]:
    """CPU seconds of parsing the spools and writing the records, which the parent does after the run."""
    found = [0.0]
    whole = execute._records

    def timed(*given: object) -> object:
        began = time.process_time()
        try:
            return whole(*given)  # type: ignore[arg-type]
        finally:
            found[0] += time.process_time() - began

    execute._records = timed  # type: ignore[assignment]
    try:
        yield found
    finally:
        execute._records = whole


@dataclass(slots=True)
class Truth:
    """Of one request, by the mock's own clock, microseconds."""

    received: int
    emits: list[int]


def truth(mock: MockProcess) -> list[Truth]:
    """All streamed requests that the mock has answered."""
    import json
    import urllib.request

    found: list[Truth] = []
    since = 0
    while True:
        with urllib.request.urlopen(f"{mock.control}/mock/truth?since={since}", timeout=30) as answer:
            lines = [json.loads(line) for line in answer.read().splitlines() if line]
        if not lines:
            return found
        since = lines[-1]["id"]
        found += [
            Truth(each["received_micros"], each["emit_micros"])
            for each in lines
            if each["path"].endswith("/completions") and each["emit_micros"]
        ]


def forget(mock: MockProcess) -> None:
    """Empty the truth."""
    server = Server(mock.control)
    server.call("DELETE", "/mock/truth")
    server.close()


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0))
