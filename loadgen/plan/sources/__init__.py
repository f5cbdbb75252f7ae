"""Importers of traces and data sets, by the name that a SPEC gives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.errors import BadInput
from loadgen.plan.sources import files
from loadgen.plan.sources.agent import Agent
from loadgen.plan.sources.azure import Azure
from loadgen.plan.sources.burstgpt import BurstGpt
from loadgen.plan.sources.documents import Documents
from loadgen.plan.sources.gsm8k import Gsm8k
from loadgen.plan.sources.lengths import Lengths
from loadgen.plan.sources.mmlu import Mmlu
from loadgen.plan.sources.mooncake import Mooncake
from loadgen.plan.sources.prompts import Prompts
from loadgen.plan.sources.servegen import ServeGen
from loadgen.plan.sources.sgd import Dialogues
from loadgen.plan.sources.synth import Synth
from loadgen.plan.streams import stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from loadgen.plan.rows import Source
    from loadgen.spec import SourceSpec, Transforms

_OPTIONS: dict[str, tuple[str, ...]] = {
    "synth": (),
    "azure": (),
    "mooncake": (),
    "servegen": (),
    "burstgpt": (),
    "lengths": (),
    "prompts": (),
    "agent": (),
    "chat": ("tools",),
    "mmlu": ("shots",),
    "gsm8k": ("shots",),
    "documents": (),
    "work": ("class",),
}
"""Kinds of source, with the options that each knows."""


def open_source(
    spec: SourceSpec, data: Path, asked: Transforms, seed: int, cls: str, until: int, one_turn: bool = False
) -> Source:
    """The importer of a SPEC's `source`. `until`: microseconds of the plan, for those that draw their rows.

    Raises:
        BadInput: no such kind or option, or not the right number of files.
        BadData: a file that is not there.
    """
    if spec.kind not in _OPTIONS:
        raise BadInput("source", "", spec.kind, "no such source", _OPTIONS)
    for name, value in spec.options.items():
        if name not in _OPTIONS[spec.kind]:
            raise BadInput("source", name, value, f"{spec.kind} has no such option", _OPTIONS[spec.kind])
    wanted = {"synth": 0, "servegen": 2}.get(spec.kind, 1)
    if len(spec.paths) != wanted:
        raise BadInput("source", spec.kind, "+".join(spec.paths), f"it wants {wanted} file(s)")
    paths = [files.find(path, data) for path in spec.paths]
    least = 0 if asked.floor != (1, 1) else 1
    # A window and a scale look at more of the trace than the plan is long.
    reach = max(round(until * asked.scale), asked.window[1] if asked.window else 0)
    if spec.kind == "servegen":
        return ServeGen(paths[0], paths[1], asked.missing, seed, cls, reach)
    if spec.kind == "burstgpt":
        return BurstGpt(paths[0], stream(seed, cls, "burstgpt"), reach)
    return _of_one_file(spec, paths, least, one_turn)


def _of_one_file(spec: SourceSpec, paths: list[Path], least: int, one_turn: bool) -> Source:
    from loadgen.plan.sources.work import Work

    makers: dict[str, Callable[[Path], Source]] = {
        "azure": lambda path: Azure(path, least),
        "mooncake": lambda path: Mooncake(path, least),
        "lengths": lambda path: Lengths(path, least),
        "prompts": lambda path: Prompts(path, one_turn),
        "agent": Agent,
        "chat": lambda path: Dialogues(path, spec.options.get("tools", "yes") != "no"),
        "mmlu": lambda path: Mmlu(path, _number(spec, "shots", 5)),
        "gsm8k": lambda path: Gsm8k(path, _number(spec, "shots", 8)),
        "documents": Documents,
        "work": lambda path: Work(path, spec.options.get("class")),
    }
    return makers[spec.kind](paths[0]) if paths else Synth()


def _number(spec: SourceSpec, name: str, default: int) -> int:
    try:
        return int(spec.options.get(name, default))
    except ValueError as error:
        raise BadInput("source", name, spec.options[name], "not a whole number") from error
