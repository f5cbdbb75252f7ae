"""Splits a command line into texts by key. What they mean is read later, by the tables."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Never

from loadgen import command_keys, keys_run
from loadgen.errors import BadInput

if TYPE_CHECKING:
    from loadgen.keys import Given, Table

SPECS: Final = ("online", "offline", "fault")
TABLES: Final[dict[str, Table]] = {
    "run": command_keys.RUN,
    "sweep": command_keys.SWEEP,
    "compare": command_keys.COMPARE,
    "threeway": command_keys.RUN,
    "experiment": command_keys.EXPERIMENT,
    "gen": command_keys.GEN,
    "inspect": command_keys.INSPECT,
    "report": command_keys.REPORT,
    "mock": command_keys.MOCK,
    "selftest": command_keys.SELFTEST,
}
"""Flags of each command beside the run's."""

POSITIONAL: Final[dict[str, tuple[str, str]]] = {
    "run": ("SCENARIO.toml", "?"),
    "sweep": ("SCENARIO.toml", "?"),
    "threeway": ("SCENARIO.toml", "?"),
    "compare": ("SCENARIO.toml", "1"),
    "experiment": ("PLAN", "1"),
    "inspect": ("SOURCE", "+"),
    "report": ("DIR", "+"),
}


@dataclass(frozen=True, slots=True)
class Parsed:
    """`own`: flags of the command; `run`: those of a run; `specs`: by `online`, `offline`, `fault`, as written."""

    positional: tuple[str, ...] = ()
    own: Given = field(default_factory=dict)
    run: Given = field(default_factory=dict)
    specs: dict[str, list[str]] = field(default_factory=dict)


def run_keys(command: str) -> Table:
    """Those of a run that the command has too."""
    if command == "gen":
        return {name: keys_run.KEYS[name] for name in command_keys.GEN_RUN}
    if command == "compare":
        return {name: key for name, key in keys_run.KEYS.items() if name != "target"}
    return keys_run.KEYS if command in ("run", "sweep", "threeway") else {}


def spec_flags(command: str) -> tuple[str, ...]:
    """Which of the SPEC flags it has."""
    if command == "gen":
        return ("online", "offline")
    return SPECS if run_keys(command) else ()


class _Parser(argparse.ArgumentParser):
    """Raises what any other mistake raises."""

    def __init__(self, command: str) -> None:
        super().__init__(prog=command, add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)

    def error(self, message: str) -> Never:
        raise BadInput(self.prog, "", message, "see --help")


def parse(command: str, args: list[str]) -> Parsed:
    """Texts by key.

    Raises:
        BadInput: a flag that the command does not have, or one without its value.
    """
    own, run, specs = TABLES[command], run_keys(command), spec_flags(command)
    parser = _Parser(command)
    for name, key in {**run, **own}.items():
        names = [f"--{name}", *(["-o"] if name == "output" else [])]
        if key.flag:
            parser.add_argument(*names, dest=name, action="append_const", const="true")
        else:
            parser.add_argument(*names, dest=name, action="append")
    for name in specs:
        parser.add_argument(f"--{name}", dest=f"spec {name}", action="append")
    found, left = parser.parse_known_args(args)
    flags = [arg for arg in left if arg.startswith("-") and arg != "-"]
    if flags:
        valid = [f"--{name}" for name in (*specs, *run, *own)]
        raise BadInput(command, flags[0].partition("=")[0], "", "no such flag", valid)
    given = dict(vars(found))
    _check_positional(command, left)
    return Parsed(
        tuple(left),
        {name: texts for name, texts in given.items() if name in own},
        {name: texts for name, texts in given.items() if name in run and name not in own},
        {name: given.get(f"spec {name}", []) for name in SPECS},
    )


def _check_positional(command: str, left: list[str]) -> None:
    form, count = POSITIONAL.get(command, ("", "0"))
    if count in ("1", "+") and not left:
        raise BadInput(command, "", form, "is missing")
    most = {"0": 0, "?": 1, "1": 1}.get(count, len(left))
    if len(left) > most:
        raise BadInput(command, "", left[most], "is one word too many; flags begin with --")
