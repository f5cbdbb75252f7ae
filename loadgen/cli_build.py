"""From parsed texts to the typed options of each command."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from loadgen import keys, keys_source, scenario
from loadgen.cli_parse import TABLES, Parsed
from loadgen.command_keys import inspected
from loadgen.errors import BadInput
from loadgen.options import (
    CompareOptions,
    ExperimentOptions,
    GenOptions,
    InspectOptions,
    ReportOptions,
    RunOptions,
    SelftestOptions,
    SweepOptions,
    ThreewayOptions,
)
from loadgen.scenario_checks import check_figure
from loadgen.target import check_loopback

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.mock.options import MockOptions
    from loadgen.spec import Scenario

_RUN_FIELDS: Final = ("out", "ui", "dry-run")


def _own(command: str, parsed: Parsed) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, given in parsed.own.items():
        # One switch given twice says the same twice.
        texts = given[:1] if TABLES[command][name].flag else given
        try:
            values |= keys.read(TABLES[command], {name: texts}, f"--{name}")
        except BadInput as error:
            raise _by_flag(error, name) from error
    return values


def _by_flag(error: BadInput, name: str) -> BadInput:
    """`--seed: x`, and not `--seed: seed=x`."""
    if error.key != name:
        return error
    return BadInput(f"--{name}", "", error.value, error.why, (error.nearest,) if error.nearest else ())


def _scenario(parsed: Parsed, *, target: str | None = None, need_target: bool = True) -> Scenario:
    run = {name: given[:1] if given == ["true"] * len(given) else given for name, given in parsed.run.items()}
    raw = scenario.from_flags(run, *(parsed.specs.get(name, []) for name in ("online", "offline", "fault")))
    if parsed.positional:
        raw = scenario.merge(scenario.from_file(parsed.positional[0]), raw)
    return scenario.build(raw, target=target, need_target=need_target)


def _fields(values: dict[str, Any], *, without: tuple[str, ...] = ()) -> dict[str, Any]:
    return {name.replace("-", "_"): value for name, value in values.items() if name not in without}


def _run_options(values: dict[str, Any], made: Scenario) -> RunOptions:
    return RunOptions(made, **_fields({name: values[name] for name in _RUN_FIELDS if name in values}))


def build_run(parsed: Parsed) -> RunOptions:
    """Of `run`."""
    return _run_options(_own("run", parsed), _scenario(parsed))


def build_threeway(parsed: Parsed) -> ThreewayOptions:
    """Of `threeway`."""
    made = _scenario(parsed)
    if not made.online or not made.offline:
        missing = "--offline" if made.online else "--online"
        raise BadInput("threeway", "", missing, "is missing: it measures both kinds, alone and together")
    return ThreewayOptions(_run_options(_own("threeway", parsed), made))


def build_sweep(parsed: Parsed) -> SweepOptions:
    """Of `sweep`."""
    values = _own("sweep", parsed)
    if "vary" not in values:
        raise BadInput("--vary", "", "", "is missing, such as chat.rate=1..20")
    made = _scenario(parsed)
    vary, find = values["vary"], values.get("find")
    varied = next((spec for spec in made.online if spec.name == vary.cls), None)
    if varied is None:
        raise BadInput("--vary", "", vary.cls, "no such online class", [spec.name for spec in made.online])
    if varied.arrivals.kind == "closed":
        raise BadInput("--vary", "", vary.cls, "a closed loop has no rate")
    if vary.values and "points" in values:
        raise BadInput("--points", "", str(values["points"]), "contradicts --vary, which lists its rates")
    for name in ("tolerance", "confirm"):
        if name in values and find is None:
            raise BadInput(f"--{name}", "", parsed.own[name][0], "applies with --find only")
    if find is not None:
        check_figure(made, find, "--find")
    if values.get("with-offline") in ("off", "both") and not made.offline:
        raise BadInput("--with-offline", "", values["with-offline"], "the scenario has no offline class")
    return SweepOptions(_run_options(values, made), **_fields(values, without=_RUN_FIELDS))


def build_compare(parsed: Parsed) -> CompareOptions:
    """Of `compare`."""
    values = _own("compare", parsed)
    for side in ("a", "b"):
        if side not in values:
            raise BadInput(f"--{side}", "", "", "is missing: the address of a server")
    made = _scenario(parsed, target=values["a"])
    check_loopback(values["b"], "--b", made.allow_remote)
    if values.get("idle", "leave") == "stop":
        for name in ("a-up", "a-down", "b-up", "b-down"):
            if name not in values:
                raise BadInput("--idle", "", "stop", f"needs --{name}, to restart that side")
    metrics = values.pop("metric", ())
    for figure in metrics:
        check_figure(made, figure, "--metric")
    return CompareOptions(_run_options(values, made), metrics=metrics, **_fields(values, without=_RUN_FIELDS))


def build_experiment(parsed: Parsed) -> ExperimentOptions:
    """Of `experiment`."""
    values = _own("experiment", parsed)
    values["set"] = dict(values.get("set", ()))
    out = values.pop("out", None)
    if out is None and not values.get("list") and not values.get("dry-run"):
        raise BadInput("--out", "", "", "is missing: where the runs are kept")
    return ExperimentOptions(parsed.positional[0], out, **_fields(values))


def build_gen(parsed: Parsed) -> GenOptions:
    """Of `gen`."""
    values = _own("gen", parsed)
    if "output" not in values:
        raise BadInput("-o", "", "", "is missing: the file of the plan")
    return GenOptions(_scenario(parsed, need_target=False), values["output"])


def build_inspect(parsed: Parsed) -> InspectOptions:
    """Of `inspect`."""
    values = _own("inspect", parsed)
    source_key = replace(keys.choice("source", tuple(keys_source.SOURCES), ""), parse=inspected)
    sources = tuple(keys.read_one(source_key, text, "inspect") for text in parsed.positional)
    for source in sources:
        if source.kind:
            refuse = keys_source.Refuse("inspect", {})
            keys_source.kind_of(source, tuple(keys_source.SOURCES), refuse)
    rest = {name: value for name, value in values.items() if name not in keys_source.TRANSFORM_KEYS}
    return InspectOptions(sources, keys_source.transforms(values), **_fields(rest))


def build_report(parsed: Parsed) -> ReportOptions:
    """Of `report`."""
    values = _own("report", parsed)
    slos: dict[str, Any] = {}
    for cls, slo in values.pop("slo", ()):
        if cls in slos:
            raise BadInput("--slo", "", cls, "is given twice")
        slos[cls] = slo
    return ReportOptions(parsed.positional, slos, **_fields(values))


def build_mock(parsed: Parsed) -> MockOptions:
    """Of `mock`."""
    # Imported only now: an engine is a lot to load for a command that does not have one.
    from loadgen.mock.options import MockOptions

    values = _own("mock", parsed)
    engine = values.get("mode") == "engine"
    simple = "ttft" in values or "tpot" in values
    for names, fits, why in (
        (("preset", "ttft", "tpot", "slots", "speed", "kv-events"), engine, "applies to --mode engine only"),
        (("shape", "text", "procs"), not engine, "applies to --mode canned only"),
        (("slots",), simple, "applies with --ttft or --tpot only"),
        (("preset", "kv-events"), not simple, "contradicts --ttft and --tpot, which make another engine"),
        (("workers", "model-dir"), "wire" in values, "applies with --wire only"),
        (("listen", "procs"), "wire" not in values, "contradicts --wire, which serves no HTTP"),
    ):
        for name in names:
            if name in values and not fits:
                raise BadInput(f"--{name}", "", parsed.own[name][0], why)
    made = MockOptions(faults=values.pop("fault", ()), **_fields(values))
    try:
        made.make_tokenizer()
    except ValueError as error:
        raise BadInput("--vocab", "", str(made.vocab), str(error)) from error
    return made


def build_selftest(parsed: Parsed) -> SelftestOptions:
    """Of `selftest`."""
    return SelftestOptions(**_fields(_own("selftest", parsed)))


BUILDERS: Final[dict[str, Callable[[Parsed], Any]]] = {
    "run": build_run,
    "sweep": build_sweep,
    "compare": build_compare,
    "threeway": build_threeway,
    "experiment": build_experiment,
    "gen": build_gen,
    "inspect": build_inspect,
    "report": build_report,
    "mock": build_mock,
    "selftest": build_selftest,
}
"""By command; `loadgen.commands.NAME.main` takes what it makes."""
