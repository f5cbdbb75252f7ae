"""From TOML to a `Plan`: the file of a plan, the arms beside it, `--set`, and every name checked."""

from __future__ import annotations

import copy
import itertools
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from loadgen import forms
from loadgen.errors import BadData, BadInput
from loadgen.experiment import plan as tree
from loadgen.experiment.take import Take, as_text, named

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PLANS: Final = Path(__file__).resolve().parent.parent / "plans"
TABLES: Final = ("pooled", "tolerance", "frontier", "overhead", "cache", "failover")
_MAX_FILE: Final = 4 << 20


def plan_names() -> list[str]:
    """Those that come with the program."""
    return sorted(path.stem for path in PLANS.glob("*.toml"))


def find_plan(name: str) -> Path:
    """A name of `plans/`, or a file.

    Raises:
        BadInput: neither.
    """
    for path in (PLANS / f"{name}.toml", Path(name)):
        if path.is_file():
            return path
    raise BadInput("experiment", "", name, "no such plan, and no such file", plan_names())


def load_toml(path: Path) -> dict[str, Any]:
    """A TOML file.

    Raises:
        BadData: it cannot be read, or is no TOML.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise BadData(str(path), 0, "", error.strerror or "cannot be read") from error
    if len(content) > _MAX_FILE:
        raise BadData(str(path), 0, "", "is larger than 4 MiB, which no plan is")
    try:
        return tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadData(str(path), 0, "", f"is no TOML: {error}") from error


def read_plan(name: str, sets: Mapping[str, str], arms_at: Path | None = None) -> tree.Plan:
    """A plan with its arms. `arms_at`: what a relative folder of arms is relative to; None: here, else the tree of the
    program.

    Raises:
        BadInput, BadData: what cannot be meant.
    """
    path = find_plan(name)
    raw = load_toml(path)
    for key, value in sets.items():
        put(raw, key, value)
    return parse_plan(raw, path.stem, arms_at)


def put(raw: dict[str, Any], key: str, value: str) -> None:
    """`--set`: a dotted path, where a row of tables is named by its `id`, `arm`, `name` or number; a TOML value, or
    text.

    Raises:
        BadInput: a table on the way is not there.
    """
    *way, last = key.split(".")
    places: list[Any] = [raw]
    for number, step in enumerate(way):
        where = f"--set {'.'.join(way[: number + 1])}"
        places = [found for at in places for found in _step(at, step, where)]
    for at in places:
        if not isinstance(at, dict):
            raise BadInput("--set", key, value, "leads to no table")
        at[last] = _value(value)


def _step(at: object, step: str, where: str) -> list[Any]:
    """The tables that a step leads to: several where rows share an id."""
    if isinstance(at, list):
        rows = [row for row in at if step in (row.get("id"), row.get("arm"), row.get("name"))]
        if rows or not step.isdigit() or int(step) >= len(at):
            if not rows:
                names = [str(row.get("id") or row.get("arm") or row.get("name")) for row in at]
                raise BadInput(where, "", step, "no such row", names)
            return rows
        return [at[int(step)]]
    if not isinstance(at, dict) or step not in at:
        raise BadInput(where, "", step, "no such table of the plan", at if isinstance(at, dict) else ())
    return [at[step]]


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def parse_plan(raw: Mapping[str, Any], stem: str, arms_at: Path | None = None) -> tree.Plan:
    """Of TOML as read.

    Raises:
        BadInput: an unknown key, name or placeholder, or a value that cannot be meant.
    """
    kept = copy.deepcopy(dict(raw))
    take = Take(raw, stem)
    variables = take.flat("vars")
    choices = {name: _flat_tables(rows, f"[choice.{name}]") for name, rows in named(take.table("choice"), stem).items()}
    servers = {name: _server(name, table) for name, table in named(take.table("server"), stem).items()}
    arms = _arms(take, arms_at)
    loads, traces = named(take.table("load"), stem), named(take.table("trace"), stem)
    plan = tree.Plan(
        name=take.text("name", stem),
        about=take.text("about", ""),
        note=take.text("note", ""),
        keep=take.text("keep", ""),
        baseline=take.text("baseline", ""),
        servers=servers,
        arms=arms,
        loads=loads,
        traces=traces,
        variables=variables,
        choices=choices,
        questions=tuple(_question(table, loads, arms) for table in take.tables("run")),
        tunes=tuple(_tune(table, arms) for table in take.tables("tune")),
        calibrate=_calibrate(take.raw("calibrate"), loads, arms),
        scaling=_scaling(take.raw("scaling")),
        tables=tuple(_known(name, TABLES, "tables") for name in take.texts("tables")),
        windows=take.count("windows", 1),
        repeats=take.count("repeats", 1),
        duration=take.duration("duration", 60_000_000),
        warmup=take.duration("warmup", 10_000_000),
        attempts=take.count("attempts", 3),
        tune_duration=take.maybe_duration("tune_duration"),
        seed=take.count("seed", 1, 0),
        quick_arms=take.texts("quick_arms"),
        quick_duration=take.duration("quick_duration", 90_000_000),
        online_class=take.text("online_class", "chat"),
        raw=kept,
    )
    take.end()
    _check(plan, stem)
    return plan


def _known(name: str, names: Iterable[str], where: str) -> str:
    names = list(names)
    if name not in names:
        raise BadInput(where, "", name, "no such name", names)
    return name


def _flat_tables(rows: Mapping[str, Any], where: str) -> dict[str, dict[str, str]]:
    return {
        name: {key: as_text(value, where, key) for key, value in row.items()}
        for name, row in named(rows, where).items()
    }


def _server(name: str, table: Mapping[str, Any]) -> tree.Server:
    take = Take(table, f"[server.{name}]")
    up, parts = take.text("up"), [_part(row, name) for row in take.tables("part")]
    if up is not None and parts:
        raise BadInput(take.where, "up", up, "contradicts [[server.NAME.part]]: one of them says what is started")
    if up is None and not parts and "target" not in table:
        raise BadInput(take.where, "up", "", "is missing: what is started, or the target that runs already")
    if up is not None:
        parts = [tree.Part("server", up)]
    if len({part.name for part in parts}) != len(parts):
        raise BadInput(take.where, "part", "", "two parts have one name")
    pids = take.text("pids", "")
    for each in pids.split():
        _known(each, [part.name for part in parts], take.where)
    made = tree.Server(
        name=name,
        parts=tuple(parts),
        target=take.text("target", "http://127.0.0.1:{port}"),
        ready=take.text("ready", "/ready"),
        within=take.duration("within", 180_000_000),
        grace=take.duration("grace", 40_000_000),
        metrics=take.text("metrics"),
        control=take.text("control"),
        pids=pids,
        collect=take.texts("collect"),
        prepare=take.texts("prepare"),
        env=take.flat("env"),
        needs=take.texts("needs"),
        path=take.texts("path"),
        simulate=take.text("simulate"),
        note=take.text("note", ""),
    )
    take.choice("reset", ("none",), "none")
    take.end()
    return made


def _part(table: Mapping[str, Any], server: str) -> tree.Part:
    take = Take(table, f"[[server.{server}.part]]")
    role = take.choice("role", ("", "router", "mock"), "")
    made = tree.Part(take.need("name"), take.need("up"), take.text("ready", ""), role)
    take.end()
    return made


def _arms(take: Take, arms_at: Path | None) -> dict[str, tree.Arm]:
    rows = [(row, "[[arm]]") for row in take.tables("arm")]
    table = Take(take.table("arms"), "[arms]")
    folder = table.text("dir")
    table.end()
    if folder is not None:
        for path in sorted(_arms_folder(folder, arms_at).glob("*.toml")):
            rows.append((load_toml(path), str(path)))
    arms: dict[str, tree.Arm] = {}
    for row, where in rows:
        arm = _arm(row, where)
        if arm.name in arms:
            raise BadInput(where, "name", arm.name, "is the name of two arms")
        arms[arm.name] = arm
    return arms


def _arms_folder(folder: str, at: Path | None) -> Path:
    roots = [at] if at is not None else [Path.cwd(), PLANS.parent.parent]
    for root in roots:
        if (root / folder).is_dir():
            return root / folder
    raise BadInput("[arms]", "dir", folder, "no such folder here: run from the project's folder, or --set arms.dir=DIR")


def _arm(table: Mapping[str, Any], where: str) -> tree.Arm:
    take = Take(table, where)
    made = tree.Arm(
        name=take.need("name"),
        server=take.need("server"),
        title=take.text("title", ""),
        load=cast("tree.ArmLoad", take.choice("load", ("online", "offline", "both"), "both")),
        params=take.flat("params"),
        knob=take.text("knob"),
        settings=take.texts("settings"),
        like=take.text("like", ""),
        note=take.text("note", ""),
    )
    take.end()
    if (made.knob is None) != (not made.settings):
        raise BadInput(where, "settings", "", "a knob has settings, and settings have a knob")
    return made


def _question(table: Mapping[str, Any], loads: Mapping[str, Any], arms: Mapping[str, tree.Arm]) -> tree.Question:
    where = f"[[run]] {table.get('id', '')}".strip()
    take = Take(table, where)
    cells: dict[str, tuple[str, ...]] = {}
    for name in ("trace", "rho", "share"):
        found = take.texts(name)
        if found:
            cells[name] = found
    for name, value in take.table("vary").items():
        values = value if isinstance(value, list) else [value]
        cells[name] = tuple(as_text(one, where, name) for one in values)
    made = tree.Question(
        id=take.need("id"),
        ask=take.text("ask", ""),
        arms=tuple(_known(name, arms, where) for name in take.texts("arms")),
        load=_known(take.need("load"), loads, where),
        cells=tuple(dict(zip(cells, values, strict=True)) for values in itertools.product(*cells.values())),
        windows=take.maybe_count("windows"),
        repeats=take.maybe_count("repeats"),
        tolerances=take.shares("tolerances"),
        settings=take.count("settings", 1),
        duration=take.maybe_duration("duration"),
        warmup=take.maybe_duration("warmup"),
        probe=take.choice("probe", ("", "quickack"), ""),
    )
    take.end()
    if not made.arms:
        raise BadInput(where, "arms", "", "names no arm")
    if not made.cells:
        raise BadInput(where, "vary", "", "has a variable without values")
    return made


def _tune(table: Mapping[str, Any], arms: Mapping[str, tree.Arm]) -> tree.Tune:
    where = f"[[tune]] {table.get('arm', '')}".strip()
    take = Take(table, where)
    made = tree.Tune(
        arm=_known(take.need("arm"), arms, where),
        knob=take.need("knob"),
        search=cast("tree.Search", take.choice("search", ("bisect", "grid"), "grid")),
        probes=take.count("probes", 8),
        lo=take.text("lo", ""),
        hi=take.text("hi", ""),
        values=take.texts("values"),
        metric=take.text("metric", "chat.mean.tbt"),
        goal=cast("tree.Goal", take.choice("goal", ("within", "least", "most"), "within")),
        tolerance=take.number("tolerance", 0.2),
    )
    take.end()
    if arms[made.arm].knob != made.knob:
        raise BadInput(where, "knob", made.knob, f"the knob of {made.arm} is {arms[made.arm].knob}")
    if bool(made.values) == bool(made.lo and made.hi) or (made.search == "bisect" and made.values):
        raise BadInput(where, "values", "", "a search wants lo and hi; a grid wants them or values")
    return made


def _calibrate(table: object, loads: Mapping[str, Any], arms: Mapping[str, tree.Arm]) -> tree.Calibrate | None:
    if table is None:
        return None
    take = Take(table, "[calibrate]")
    made = tree.Calibrate(
        load=_known(take.need("load"), loads, take.where),
        online=_known(take.need("online"), arms, take.where),
        offline=_known(take.need("offline"), arms, take.where),
        cell=take.flat("cell"),
        start=take.number("start", 0.1),
        highest=take.number("highest", 100.0),
        probes=take.count("probes", 8),
        factor=take.number("factor", 5.0),
        duration=take.duration("duration", 180_000_000),
        confirm=take.duration("confirm", 600_000_000),
        online_class=take.text("class", "chat"),
    )
    take.end()
    return made


def _scaling(table: object) -> tree.Scaling | None:
    if table is None:
        return None
    take = Take(table, "[scaling]")
    none = (0, 0)
    made = tree.Scaling(
        length=take.number("length", 1.0),
        floor=take.parsed("floor", forms.floor, (1, 1)),
        tuning=take.parsed("tuning", forms.time_range, none),
        windows=take.parsed_each("windows", forms.time_range),
    )
    take.end()
    return made


def _check(plan: tree.Plan, stem: str) -> None:
    if not plan.questions:
        raise BadInput(stem, "run", "", "a plan has [[run]] tables")
    _known(plan.baseline, plan.arms, f"{stem}: baseline")
    for name in plan.quick_arms:
        _known(name, plan.arms, f"{stem}: quick_arms")
    for arm in plan.arms.values():
        _known(arm.server, plan.servers, f"arm {arm.name}: server")
        if arm.like:
            _known(arm.like, plan.arms, f"arm {arm.name}: like")
    for question in plan.questions:
        for cell in question.cells:
            if "trace" in cell:
                _known(cell["trace"], plan.traces, f"[[run]] {question.id}: trace")
            for name, value in cell.items():
                if name in plan.choices:
                    _known(value, plan.choices[name], f"[[run]] {question.id}: {name}")
        windows = question.windows or plan.windows
        if plan.scaling is not None and windows > len(plan.scaling.windows):
            raise BadInput(f"[[run]] {question.id}", "windows", str(windows), "the plan has fewer windows")
    tree.check_filled(plan)
