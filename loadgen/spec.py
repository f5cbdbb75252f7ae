"""What a run is asked to do, typed and frozen: the classes, jobs, faults and options of one scenario.

`keys.py` turns SPEC text and TOML tables into these; nothing else makes them. Times are microseconds, rates are per
second.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from loadgen.units import Dist

ArrivalKind = Literal["const", "poisson", "gamma", "weibull", "onoff", "sine", "ramp", "step", "closed", "trace"]
Dialect = Literal["slackwater", "vllm", "sglang", "smg", "dynamo", "llamacpp", "openai"]
Tier = Literal["interactive", "standard", "offline"]
SloMetric = Literal["ttft", "ttfo", "tpot", "max_gap", "e2e", "late"]
AUTO_WARMUP_MICROS = 60_000_000


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When requests are due.

    `rate`: of `const`, `poisson`, `gamma`, `weibull`. `cv`: of the gaps of `gamma` and `weibull`. `levels`: (rate,
    length) of `onoff` and `step`. `span`: lowest and highest rate of `sine`, first and last of `ramp`. `period`: of
    `sine` and `ramp`. `slots`: of `closed`, whose `rate` is what each slot may use at most; 0: 10/s.
    """

    kind: ArrivalKind
    rate: float = 0.0
    cv: float = 1.0
    levels: tuple[tuple[float, int], ...] = ()
    span: tuple[float, float] = (0.0, 0.0)
    period: int = 0
    slots: int = 0


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """`kind:path;option=value`; two files of one source are joined by `+`."""

    kind: str
    paths: tuple[str, ...] = ()
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Transforms:
    """What is done to a trace, in this order, whatever order they were written in."""

    window: tuple[int, int] | None = None
    dequantise: int = 0
    scale: float = 1.0
    """Rate factor: 0.1 stretches all gaps by ten."""
    thin: float = 1.0
    repeat: int = 1
    length: float = 1.0
    """Factor of all lengths (key `len`)."""
    cap: int | None = None
    floor: tuple[int, int] = (1, 1)
    """Least prompt and output tokens."""
    missing: Literal["pool", "drop"] | None = None


@dataclass(frozen=True, slots=True)
class PrefixSpec:
    """What prompts share. `tree`: `depth` levels of `block` tokens with `fanout` children each, chosen by Zipf with
    exponent `zipf`. `groups`: so many common beginnings of `block` tokens. `trace`: the trace's own blocks.
    """

    kind: Literal["tree", "groups", "trace", "none"] = "none"
    depth: int = 0
    fanout: int = 0
    block: int = 0
    zipf: float = 0.0
    groups: int = 0


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """Several turns by one user. `turns_mean` 0: the source's own turns, with its own times where `think` is None."""

    turns_mean: float
    turns_deviation: float
    think: Dist | None
    mode: Literal["live", "recorded"] = "live"


@dataclass(frozen=True, slots=True)
class SloTerm:
    """`metric <= bound`; microseconds for times, a plain number for `late`. `quantile` None: of each request; else of
    the whole class, such as 0.99 of `p99.ttft`.
    """

    metric: SloMetric
    bound: float
    quantile: float | None = None


@dataclass(frozen=True, slots=True)
class Slo:
    """All terms must hold."""

    per_request: tuple[SloTerm, ...] = ()
    population: tuple[SloTerm, ...] = ()


@dataclass(frozen=True, slots=True)
class OnlineSpec:
    """One `--online` or `[[online]]`."""

    name: str
    arrivals: Arrivals
    source: SourceSpec
    input: Dist | None
    output: Dist | None
    transforms: Transforms = Transforms()
    prefix: PrefixSpec = PrefixSpec()
    session: SessionSpec | None = None
    slo: Slo = Slo()
    tier: Tier = "interactive"
    priority: int | None = None
    tenant: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: dict[str, object] = field(default_factory=dict)
    send_slo: Literal["slackwater", "llm-d", "sgl", "none"] | None = None
    retry: Literal["none", "sdk"] = "none"
    inflight: int | None = None
    connections: Literal["keep", "fresh"] = "keep"
    timeout: int | None = None
    cancel: tuple[float, Dist] | None = None
    """Share of requests that hang up, and after how long (microseconds)."""
    slow_reader: tuple[float, int] | None = None
    """Share of requests that read slowly, and bytes a second."""


@dataclass(frozen=True, slots=True)
class OfflineSpec:
    """One `--offline` or `[[offline]]`: a kind of job."""

    name: str
    source: SourceSpec
    submit: Literal["batch", "stream"] = "batch"
    at: int = 0
    jobs: Arrivals | None = None
    """Several jobs; None: one, at `at`."""
    pool_closed: bool = False
    items: int | None = None
    window: int = 64
    deadline: int | None = None
    verify: tuple[Literal["count", "answers", "reference"], str] = ("count", "")
    input: Dist | None = None
    output: Dist | None = None
    transforms: Transforms = Transforms()
    prefix: PrefixSpec = PrefixSpec()
    tier: Tier = "offline"
    priority: int | None = None
    tenant: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """One `--fault` or `[[fault]]`. `kind` is the key that says what is done, `target` its value."""

    name: str
    at: int
    kind: Literal["kill", "stop", "net", "http", "exec", "flood", "hangup"]
    target: str
    duration: int | None = None
    options: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ProxySpec:
    """`NAME=LISTEN>UPSTREAM`, each `host:port` or `unix:PATH`."""

    name: str
    listen: str
    upstream: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """The whole of a run, as flags and file give it."""

    target: str
    online: tuple[OnlineSpec, ...]
    offline: tuple[OfflineSpec, ...] = ()
    faults: tuple[FaultSpec, ...] = ()
    proxies: tuple[ProxySpec, ...] = ()
    probe: float | None = None
    model: str | None = None
    dialect: Dialect | None = None
    api: Literal["chat", "completions"] = "chat"
    duration: int = 60_000_000
    max_duration: int = 1_800_000_000
    """What `duration` may be at most, unless this is raised by name."""
    warmup: int | None = None
    """None: `auto`."""
    drain: int = 30_000_000
    max_requests: int = 1_000_000
    seed: int = 0
    repeat: int = 1
    procs: int | None = None
    """None: `auto`."""
    cache: Literal["cold", "primed", "as-is"] = "cold"
    reset_url: str | None = None
    lengths: Literal["exact", "eos"] | None = None
    """None: `exact` where the dialect can, else `eos`."""
    tokenizer: str | None = None
    """A file, `server` or `words`; None: `server` where it exists, else `words`."""
    asserts: tuple[str, ...] = ()
    aborts: tuple[str, ...] = ()
    metrics_url: str | None = None
    collect: tuple[str, ...] = ()
    data: str | None = None
    api_key_env: str | None = None
    admin_url: str | None = None
    admin_key_env: str | None = None
    pids: str | None = None
    scribe: Literal["live", "after"] | None = None
    payload_limit: int = 4 << 30
    keep_outputs: bool = False
    tokens: tuple[Literal["all", "sample", "none"], int] = ("all", 0)
    labels: dict[str, str] = field(default_factory=dict)
    allow_remote: bool = False
    allow_lag: bool = False

    @property
    def warmup_micros(self) -> int:
        """What the plan adds before the window: as asked, or a sixth of it, at most a minute."""
        return min(AUTO_WARMUP_MICROS, self.duration // 6) if self.warmup is None else self.warmup
