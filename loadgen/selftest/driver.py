"""The self-test: real runs against a mock on this host, a step higher each time, for as long as the gate passes."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from loadgen import scenario as scenarios
from loadgen.campaign import carry_out
from loadgen.options import RunOptions
from loadgen.selftest import limits, timers
from loadgen.selftest.ladder import Step, climb
from loadgen.selftest.limits import Highest, Limit, Limits
from loadgen.selftest.mock_process import CpuWatch, MockProcess, cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from loadgen.campaign import Tools
    from loadgen.result import Result
    from loadgen.run.stage import Stage
    from loadgen.selftest.limits import LimitedBy

    Client = Callable[[int, Callable[[str], None]], AbstractContextManager[tuple[Tools, Stage]]]

REQUEST_RATES = (250.0, 500.0, 1_000.0, 2_000.0, 3_000.0, 4_000.0)
"""Short requests a second, for each load process."""
CHUNK_RATES = (1_000.0, 2_500.0, 5_000.0, 10_000.0, 15_000.0, 20_000.0)
STREAM_CHUNKS = 50
"""Of one answer, one every 20 ms: so many streams are open as there are begun a second."""
MOST_MOCK_CPU = 0.70
_LEAST_DONE = 0.999
_SECONDS = 4
Kind = Literal["requests", "chunks"]
SHAPES: dict[Kind, str] = {"requests": "json:1", "chunks": f"paced:{STREAM_CHUNKS}@20ms"}


@dataclass(slots=True)
class Selftest:
    """`client`: load processes that stand for several runs, as `compare` has them."""

    client: Client
    say: Callable[[str], None]
    seconds: int = _SECONDS
    request_rates: Sequence[float] = REQUEST_RATES
    chunk_rates: Sequence[float] = CHUNK_RATES

    def run(self, procs: Sequence[int]) -> Limits:
        """All of it.

        Raises:
            LoadgenError: the mock or a load process does not come up.
        """
        return Limits(
            host=limits.host(),
            taken=datetime.now(UTC).isoformat(timespec="seconds"),
            timers=_timers(),
            limits=[self._limit(each) for each in procs],
        )

    def _limit(self, procs: int) -> Limit:
        with self.client(procs, self.say) as (tools, stage):
            requests = self._highest("requests", procs, tools, stage)
            chunks = self._highest("chunks", procs, tools, stage)
        return Limit(procs=procs, requests=requests, chunks=chunks)

    def _highest(self, kind: Kind, procs: int, tools: Tools, stage: Stage) -> Highest:
        rates = self.request_rates if kind == "requests" else self.chunk_rates
        with MockProcess("--shape", SHAPES[kind], "--text", "fixed", "--procs", str(procs)) as mock:
            return climb([rate * procs for rate in rates], lambda rate: self._step(kind, rate, mock, tools, stage))

    def _step(self, kind: Kind, rate: float, mock: MockProcess, tools: Tools, stage: Stage) -> Step:
        folder = Path(tempfile.mkdtemp(prefix="loadgen-selftest-"))
        pids = [] if stage.crew is None else stage.crew.pids
        watch = CpuWatch(pids, [mock.pid])
        own = cpu_seconds([os.getpid()])
        try:
            outcome = carry_out(tools, options(kind, rate, mock.url, self.seconds, folder / "run"), stage)
            step = judged(kind, outcome.result, watch, cpu_seconds([os.getpid()]) - own)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self.say(f"{rate:.0f} {kind}/s: {step.why or 'clean'}")
        return step


def options(kind: Kind, rate: float, url: str, seconds: int, folder: Path) -> RunOptions:
    """A run of one step: constant arrivals, so that a step is a rate and not a draw."""
    tokens, arrivals = (1, rate) if kind == "requests" else (STREAM_CHUNKS, rate / STREAM_CHUNKS)
    spec = f"name=self,arrivals=const:{arrivals:.6g}/s,in=fixed:16,out=fixed:{tokens}"
    run = {
        "target": [url],
        "duration": [f"{seconds}s"],
        "warmup": ["1s"],
        "drain": ["10s"],
        "cache": ["as-is"],
        "tokenizer": ["words"],
        "dialect": ["vllm"],
        "model": ["mock"],
    }
    made = scenarios.build(scenarios.from_flags(run, [spec], [], []))
    return RunOptions(made, out=str(folder), ui="none")


def judged(kind: Kind, result: Result, watch: CpuWatch, own_seconds: float) -> Step:
    """Clean: the gate passes, the mock was no bottleneck, and all came."""
    found = result.classes["self"]
    tokens = found.tokens.out_got
    # The whole run was paid for, the warm-up and the drain too.
    units = result.records if kind == "requests" else round(result.records * tokens / max(1, found.outcomes["ok"]))
    why, limited_by = _fault(result, watch)
    seconds = watch.seconds()
    return Step(units, watch.share(_sending(result)), seconds, seconds + own_seconds, why, limited_by)


def _sending(result: Result) -> float:
    """Seconds in which something was due: planning and reading back must not thin out a share of a core."""
    return result.window.end / 1e6


def _fault(result: Result, watch: CpuWatch) -> tuple[str, LimitedBy]:
    mock = watch.others_share(_sending(result))
    if mock > MOST_MOCK_CPU:
        return f"the mock used {mock:.0%} of a core, bound {MOST_MOCK_CPU:.0%}", "mock"
    if result.invalid:
        return result.invalid[0], "gate"
    found = result.classes["self"]
    if found.outcomes["ok"] < _LEAST_DONE * found.offered:
        return f"{found.outcomes['ok']} of {found.offered} requests were answered", "errors"
    return "", "gate"


def _timers() -> dict[str, limits.TimerError]:
    import uvloop

    found = {"timerfd": uvloop.run(timers.timerfd_error()), "uvloop": uvloop.run(timers.loop_error())}
    return found | {"asyncio": asyncio.run(timers.loop_error())}


def processes_to_try(asked: int | None, cores: int) -> tuple[int, ...]:
    """As asked, else 1, 2 and 4 as far as there are cores for them, their mock and the rest."""
    if asked is not None:
        return (asked,)
    return tuple(each for each in (1, 2, 4) if each == 1 or cores >= 2 * each)


def text(found: Limits) -> str:
    """As the command prints it."""
    lines = [f"{found.host['cpu']}, {found.host['cores']} cores, kernel {found.host['kernel']}"]
    for name, each in found.timers.items():
        early = f", up to {-each.least / 1e3:.2f} ms EARLY" if each.least < 0 else ""
        late = f"late by {each.p50 / 1e3:.2f} ms p50, {each.p99 / 1e3:.2f} ms p99{early}"
        lines.append(f"timer {name}: {late}, {each.cpu:.0%} of a core at 500/s")
    for limit in found.limits:
        for what, highest in (("requests", limit.requests), ("chunks", limit.chunks)):
            lines.append(f"{limit.procs} load processes: {_highest_text(what, highest)}")
    return "\n".join(lines) + "\n"


def _highest_text(what: str, highest: Highest) -> str:
    if not highest.rate:
        return f"no clean rate of {what}: {highest.reason}"
    cost = "" if highest.micros is None else f", {highest.micros:.1f} us each"
    if highest.all_micros is not None:
        cost += f" ({highest.all_micros:.1f} us with parsing)"
    return f"{highest.rate:.0f} {what}/s clean at {highest.cpu:.0%} of a core{cost}; above: {highest.reason}"
