"""An experiment as typed data: servers, arms, loads, questions. `plan_read.py` makes these from TOML.

Words: an *arm* is a server configuration under test; a *cell* is one load (trace, rate, body size, ...); a *setting*
is a cell with a value of the arm's knob; a *block* is all arms in one cell, window and repeat, one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from loadgen.errors import BadInput
from loadgen.experiment.fill import names_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ArmLoad = Literal["online", "offline", "both"]
Search = Literal["bisect", "grid"]
Goal = Literal["within", "least", "most"]

KNOB = "knob"
OWN_PORTS = ("port", "ops")
GIVEN = frozenset({"dir", "run", "log", "python", "tree", "shared", "model_dir", "data", "setting", "seed", *OWN_PORTS})
"""Placeholders that the runner fills for a server: its folder, a short folder for sockets, its log, what `prepare`
told, and ports. Any other name that begins with `port_` is a free port too.
"""
SOLVED = frozenset({"window", "scale", "rate", "len", "seed", "data", "duration", "dir", "run", *OWN_PORTS})
"""Placeholders of a load: what scaling gives, and what is known of the server once it runs."""


@dataclass(frozen=True, slots=True)
class Part:
    """A process of a server. `ready`: a path or an address that must answer 200, or `log:TEXT` in its log; empty: at
    once. `role`: `router` is what is measured, `mock` what stands behind it.
    """

    name: str
    up: str
    ready: str = ""
    role: str = ""


@dataclass(frozen=True, slots=True)
class Server:
    """How to start one. `within`: microseconds until it must be ready. `needs`: programs without which it is skipped;
    `path`: where they may be, beside PATH. `grace`: microseconds from SIGTERM to its end.
    """

    name: str
    parts: tuple[Part, ...]
    target: str = "http://127.0.0.1:{port}"
    ready: str = "/ready"
    within: int = 180_000_000
    grace: int = 40_000_000
    metrics: str | None = None
    control: str | None = None
    """Address of the mock behind it, for its truth log."""
    pids: str = ""
    """Parts whose pids are workers 0, 1, ... of faults, with blanks between."""
    collect: tuple[str, ...] = ()
    prepare: tuple[str, ...] = ()
    """Commands that are run once before the first start; `{shared}` is a folder for what they make. One whose last
    line is a JSON object gives placeholders, such as `model_dir`.
    """
    env: dict[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    simulate: str | None = None
    """The command of `--virtual`; it writes `{dir}/result.json`."""
    note: str = ""
    """What it does for each request, for the table."""


@dataclass(frozen=True, slots=True)
class Arm:
    """`params`: values for the placeholders of its server. `knob`: the one that is tuned; `settings`: its values where
    nothing was tuned.
    """

    name: str
    server: str
    title: str = ""
    load: ArmLoad = "both"
    params: dict[str, str] = field(default_factory=dict)
    knob: str | None = None
    settings: tuple[str, ...] = ()
    like: str = ""
    """The arm whose tuned settings it takes: one that differs from it in a single part is not tuned anew."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """One `[[run]]`. `cells`: values of its variables. `settings`: how many of the tuned settings of an arm are
    tested.
    """

    id: str
    arms: tuple[str, ...]
    load: str
    cells: tuple[dict[str, str], ...]
    ask: str = ""
    windows: int | None = None
    repeats: int | None = None
    tolerances: tuple[float, ...] = ()
    settings: int = 1
    duration: int | None = None
    warmup: int | None = None
    probe: str = ""
    """`quickack`: after the load, whole streams with and without TCP_QUICKACK."""


@dataclass(frozen=True, slots=True)
class Tune:
    """`lo`, `hi` of a search, or `values`. `metric`: a figure of the table, in its unit. `goal`: the largest offline
    rate `within` tolerance of the baseline's metric, or the setting with the `least` or `most` of it.
    """

    arm: str
    knob: str
    search: Search
    probes: int = 8
    lo: str = ""
    hi: str = ""
    values: tuple[str, ...] = ()
    metric: str = "chat.mean.tbt"
    goal: Goal = "within"
    tolerance: float = 0.2


@dataclass(frozen=True, slots=True)
class Calibrate:
    """`C_off` and `R_sat`. `start`: requests a second of the unloaded probe. Durations in microseconds."""

    load: str
    online: str
    offline: str
    cell: dict[str, str]
    start: float = 0.1
    highest: float = 100.0
    probes: int = 8
    factor: float = 5.0
    duration: int = 180_000_000
    confirm: int = 600_000_000
    online_class: str = "chat"


@dataclass(frozen=True, slots=True)
class Scaling:
    """Of traces: lengths x `length`, `floor` for the shortest, windows of the trace in microseconds."""

    length: float
    floor: tuple[int, int]
    tuning: tuple[int, int]
    windows: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole. `tables`: which are written beside `runs.csv` and `arms.csv`. `raw`: what was read, `--set`
    applied.
    """

    name: str
    baseline: str
    servers: dict[str, Server]
    arms: dict[str, Arm]
    loads: dict[str, dict[str, Any]]
    questions: tuple[Question, ...]
    raw: dict[str, Any]
    about: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    choices: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    traces: dict[str, dict[str, Any]] = field(default_factory=dict)
    tunes: tuple[Tune, ...] = ()
    calibrate: Calibrate | None = None
    scaling: Scaling | None = None
    tables: tuple[str, ...] = ()
    windows: int = 1
    repeats: int = 1
    duration: int = 60_000_000
    warmup: int = 10_000_000
    tune_duration: int | None = None
    """Of a probe; None: as a run."""
    seed: int = 1
    attempts: int = 3
    """Of a run that was disturbed, or in which the client was too slow."""
    quick_arms: tuple[str, ...] = ()
    quick_duration: int = 90_000_000
    online_class: str = "chat"
    note: str = ""
    """A sentence that stands with every table."""
    keep: str = ""
    """A folder of results in which finished blocks are kept too, from where `--resume` can go on."""

    def arm(self, name: str) -> Arm:
        """An arm by name.

        Raises:
            BadInput: there is none of this name.
        """
        if name not in self.arms:
            raise BadInput("--arms", "", name, "no such arm", self.arms)
        return self.arms[name]


def cell_values(plan: Plan, cell: Mapping[str, str]) -> dict[str, str]:
    """Placeholders that a cell gives: its variables, and what their values stand for by `[choice.VAR.VALUE]`."""
    values = dict(plan.variables)
    for name, value in cell.items():
        values[name] = value
        values |= plan.choices.get(name, {}).get(value, {})
    return values


def arm_values(plan: Plan, arm: Arm, cell: Mapping[str, str], knob: str | None) -> dict[str, str]:
    """Placeholders of an arm's server in a cell; its own params win over the cell's."""
    values = cell_values(plan, cell) | arm.params
    if arm.knob is not None and knob is not None:
        values[arm.knob] = knob
    return values


def cell_name(cell: Mapping[str, str]) -> str:
    """Such as `azure-conv,rho0.3`: values that are words stand alone, numbers have their variable's name before
    them.
    """
    words = [value if value[:1].isalpha() else f"{name}{value}" for name, value in cell.items()]
    return ",".join(words) or "all"


def setting_name(cell: Mapping[str, str], arm: Arm, knob: str | None) -> str:
    """The cell, and the knob's value where the arm has one; also a folder's name."""
    tail = f"+{arm.knob}={knob}" if arm.knob is not None and knob is not None else ""
    return "".join(letter if letter.isalnum() or letter in ".,+=-_@" else "_" for letter in cell_name(cell) + tail)


def check_filled(plan: Plan) -> None:
    """Every placeholder of every server and load has a value.

    Raises:
        BadInput: the first that has none, with the nearest name.
    """
    for question in plan.questions:
        for arm in (plan.arms[name] for name in question.arms):
            for cell in question.cells:
                known = {*arm_values(plan, arm, cell, "")}
                _check(f"[load.{question.load}]", _texts(_with_trace(plan, question.load, cell)), known | SOLVED)
                _check(f"[server.{arm.server}]", _server_texts(plan.servers[arm.server], arm), known | GIVEN)


def _with_trace(plan: Plan, load: str, cell: Mapping[str, str]) -> dict[str, Any]:
    return {"load": plan.loads[load], "trace": plan.traces.get(cell.get("trace", ""), {})}


def _server_texts(server: Server, arm: Arm) -> list[str]:
    ends = [server.target, server.ready, server.metrics or "", server.control or "", *server.collect, *server.prepare]
    parts = [text for part in server.parts for text in (part.up, part.ready)]
    return [*ends, *parts, *server.env.values(), *arm.params.values()]


def _texts(value: object) -> list[str]:
    if isinstance(value, dict):
        return [text for one in value.values() for text in _texts(one)]
    if isinstance(value, list):
        return [text for one in value for text in _texts(one)]
    return [value] if isinstance(value, str) else []


def _check(where: str, texts: Iterable[str], known: Iterable[str]) -> None:
    known = set(known)
    for text in texts:
        for name in names_in(text):
            if name not in known and not name.startswith("port_"):
                raise BadInput(where, "", name, f"no value for this placeholder in {text!r}", known)
