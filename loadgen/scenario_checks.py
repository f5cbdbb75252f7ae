"""What only the whole of a scenario shows: names that clash or lead nowhere, bounds, and flags that contradict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loadgen.errors import BadInput
from loadgen.keys_fault import hangup_of, worker_of
from loadgen.measure import expr
from loadgen.target import check_loopback, is_loopback

if TYPE_CHECKING:
    from loadgen.measure.expr import Figure
    from loadgen.spec import FaultSpec, Scenario

PROBE: Final = "probe"


def class_names(scenario: Scenario) -> tuple[str, ...]:
    """Of all classes, `probe` among them where it is asked for."""
    probe = (PROBE,) if scenario.probe else ()
    return (*(spec.name for spec in scenario.online), *(spec.name for spec in scenario.offline), *probe)


def check(scenario: Scenario) -> None:
    """All of the checks.

    Raises:
        BadInput: the first that fails.
    """
    _unique("name", class_names(scenario), "is the name of two classes")
    _unique("--fault", tuple(fault.name for fault in scenario.faults), "is the name of two faults")
    _unique("--proxy", tuple(proxy.name for proxy in scenario.proxies), "is the name of two proxies")
    _check_bounds(scenario)
    _check_addresses(scenario)
    _check_flags(scenario)
    for fault in scenario.faults:
        _check_fault(scenario, fault)
    for where, texts in (("--assert", scenario.asserts), ("--abort", scenario.aborts)):
        for text in texts:
            check_figure(scenario, expr.parse(text, where), where)


def check_figure(scenario: Scenario, figure: Figure, where: str) -> None:
    """Can a run of this scenario have this figure?

    Raises:
        BadInput: its class or fault is not there, or its class has no such figure.
    """
    names = class_names(scenario)
    if figure.cls not in (*names, expr.ALL):
        raise BadInput(where, "", figure.cls, f"no class of this name in {figure}", (*names, expr.ALL))
    faults = tuple(fault.name for fault in scenario.faults)
    if figure.fault is not None and figure.fault not in faults:
        raise BadInput(where, "", figure.fault, f"no fault of this name in {figure}", faults)
    if figure.cls == expr.ALL:
        return
    offline = figure.cls in {spec.name for spec in scenario.offline}
    if figure.metric in expr.JOB and not offline:
        raise BadInput(where, figure.metric, "", f"is a figure of jobs, and {figure.cls} is an online class")
    if figure.metric in expr.ONLINE and offline:
        raise BadInput(where, figure.metric, "", f"is a figure of online classes, and {figure.cls} is a job")
    slo = next((spec.slo for spec in scenario.online if spec.name == figure.cls), None)
    if figure.metric in ("attainment", "recovery", "goodput", "late", "stalled") and not (slo and slo.per_request):
        raise BadInput(where, figure.metric, "", f"needs an slo of each request, and class {figure.cls} has none")


def _unique(where: str, names: tuple[str, ...], why: str) -> None:
    for place, name in enumerate(names):
        if name in names[:place]:
            raise BadInput(where, "", name, why)


def _check_bounds(scenario: Scenario) -> None:
    if scenario.duration > scenario.max_duration:
        why = f"is above --max-duration, {_seconds(scenario.max_duration)}"
        raise BadInput("--duration", "", _seconds(scenario.duration), why)


def _check_addresses(scenario: Scenario) -> None:
    named = {
        "--target": scenario.target,
        "--reset-url": scenario.reset_url,
        "--metrics-url": scenario.metrics_url,
        "--admin-url": scenario.admin_url,
    }
    for where, address in named.items():
        if address:
            check_loopback(address, where, scenario.allow_remote)
    for proxy in scenario.proxies:
        for end in (proxy.listen, proxy.upstream):
            if not (end.startswith("unix:") or scenario.allow_remote or is_loopback(end.rpartition(":")[0])):
                raise BadInput("--proxy", "", end, "is another machine: this needs --allow-remote")


def _check_flags(scenario: Scenario) -> None:
    if scenario.admin_url and scenario.pids:
        raise BadInput("--pids", "", scenario.pids, "contradicts --admin-url: one of them says which pid a worker has")
    if scenario.admin_key_env and not scenario.admin_url:
        raise BadInput("--admin-key-env", "", scenario.admin_key_env, "does not apply without --admin-url")
    if scenario.reset_url and scenario.cache != "cold":
        raise BadInput("--reset-url", "", scenario.reset_url, f"contradicts --cache {scenario.cache}")
    if scenario.lengths == "exact" and scenario.dialect == "openai":
        raise BadInput("--lengths", "", "exact", "dialect openai cannot force a length: say --lengths eos")


def _check_fault(scenario: Scenario, fault: FaultSpec) -> None:
    end = scenario.warmup_micros + scenario.duration
    if fault.at >= end:
        why = f"{fault.name} comes after the last due time, {_seconds(end)}"
        raise BadInput("--fault", "at", _seconds(fault.at), why)
    if fault.kind == "net":
        proxies = tuple(proxy.name for proxy in scenario.proxies)
        if fault.target not in proxies:
            raise BadInput("--fault", "net", fault.target, "no such --proxy: the link must pass one", proxies)
    by_number = fault.kind in ("kill", "stop") and worker_of(fault.target) is not None
    if by_number and not scenario.admin_url and not scenario.pids:
        raise BadInput("--fault", fault.kind, fault.target, "whose pid? give --admin-url or --pids FILE")
    if fault.kind == "hangup":
        online = tuple(spec.name for spec in scenario.online)
        if hangup_of(fault.target)[0] not in online:
            raise BadInput("--fault", "hangup", fault.target, "no such online class", online)


def _seconds(micros: int) -> str:
    return f"{micros / 1e6:g}s"
