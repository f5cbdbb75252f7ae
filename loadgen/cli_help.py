"""`--help`, made from the tables of keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loadgen import keys, keys_fault, keys_offline, keys_online
from loadgen.cli_parse import POSITIONAL, TABLES, run_keys, spec_flags
from loadgen.errors import BadInput
from loadgen.measure import expr

if TYPE_CHECKING:
    from loadgen.keys import Key, Table

PROGRAM: Final = "slackwater-loadgen"
SUMMARIES: Final = {
    "run": "drive online classes and offline jobs at one server, and report both",
    "sweep": "the same at several rates, or find the largest rate at which something holds",
    "compare": "two servers in turn, with one plan",
    "threeway": "online alone, offline alone, both: what each costs the other",
    "experiment": "all runs of a plan, resumable",
    "gen": "write the plan of a run, and send nothing",
    "inspect": "what is in a trace or a set of prompts",
    "report": "figures of finished runs",
    "mock": "a server with known times, tokens and faults",
    "selftest": "what this host can measure",
}
_SPEC_TABLES: Final[dict[str, Table]] = {
    "online": keys_online.KEYS,
    "offline": keys_offline.KEYS,
    "fault": keys_fault.KEYS,
}
_UNITS: Final = (
    "Durations 90s 10m, rates 6/s 1/10m, shares 2%, sizes 64KiB,\n"
    "DIST fixed:v uniform:a..b exp:mean lognormal:mean@cv hist:FILE."
)


def help_for(topic: str | None) -> str:
    """Of the program, a command, or `online`, `offline`, `fault`, `expr`.

    Raises:
        BadInput: no such topic.
    """
    if topic is None:
        return _overview()
    if topic in SUMMARIES:
        return _command(topic)
    if topic in _SPEC_TABLES:
        lines = keys.help_lines(_SPEC_TABLES[topic])
        form = f"--{topic} key=value,key=value   or [[{topic}]] in the scenario file"
        return "\n".join([form, "", *lines, "", _UNITS, ""])
    if topic == "expr":
        return _expressions()
    raise BadInput("help", "", topic, "no such topic", (*SUMMARIES, *_SPEC_TABLES, "expr"))


def _overview() -> str:
    lines = [f"  {name.ljust(12)}{summary}" for name, summary in SUMMARIES.items()]
    exits = "Exit: 0 ok, 1 an assertion failed, 2 bad input, 3 no target or aborted, 4 INVALID, 130 interrupted."
    more = f"More: {PROGRAM} COMMAND --help, {PROGRAM} help online|offline|fault|expr."
    return "\n".join([f"usage: {PROGRAM} COMMAND ...", "", *lines, "", more, exits, ""])


def _command(name: str) -> str:
    form, count = POSITIONAL.get(name, ("", "0"))
    shown = {"?": f" [{form}]", "1": f" {form}", "+": f" {form}..."}.get(count, "")
    rows = [_row(key) for key in TABLES[name].values()]
    rows += [_row(key) for key in run_keys(name).values()]
    rows += [(f"--{spec} SPEC", f"may be repeated; keys: {PROGRAM} help {spec}") for spec in spec_flags(name)]
    width = max(len(left) for left, _ in rows)
    lines = [f"  {left.ljust(width)}  {right}" for left, right in rows]
    return "\n".join([f"usage: {PROGRAM} {name}{shown} [flags]", "", SUMMARIES[name], "", *lines, "", _UNITS, ""])


def _row(key: Key) -> tuple[str, str]:
    form = "" if key.flag else f" {key.form or '|'.join(key.choices)}"
    again = " (may be repeated)" if key.many else ""
    return f"--{key.name}{form}", f"{key.help}{again}{f'; default {key.default}' if key.default else ''}"


def _expressions() -> str:
    groups = (
        ("many values, ask for pNN. or mean.", expr.SPREAD),
        ("of jobs", expr.JOB),
        ("of online classes", expr.ONLINE),
        ("of any class", expr.COMMON),
    )
    lines = [f"  {what}: {' '.join(names)}" for what, names in groups]
    form = "CLASS.[pNN.|mean.]METRIC[(all|during FAULT|after FAULT)] OP VALUE"
    examples = "chat.attainment>=0.99   chat.p99.ttft(during kill1)<=2s   all.errors==0"
    return "\n".join([form, "", *lines, "", examples, ""])
