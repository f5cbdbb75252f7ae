"""What a reader must know before any number: is the run to be believed, what was sent where, what it cannot claim."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from loadgen.report import show

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadgen.result import Result

_LENGTHS = {
    "exact": "exact: output lengths were forced, so texts and speculative acceptance are not real",
    "eos": "eos: answers ended by themselves, so compare runs per token or by pairs of equal length only",
}
_CACHES = {
    "cold": "cold: no prompt could be found in the server's cache at the beginning",
    "primed": "primed: shared prefixes were sent once in the warm-up",
    "as-is": "as-is: whatever earlier runs left in the server's cache helped this one",
}


@dataclass(frozen=True, slots=True)
class Flag:
    """Something that spoils the figures, with its reasons."""

    kind: Literal["INVALID", "OVERLOADED", "DISTURBED", "INTERRUPTED", "VIRTUAL", "QUICK", "INCOMPLETE"]
    means: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of what was done. `alarming`: in red where there is colour."""

    name: str
    text: str
    alarming: bool = False


def flags(result: Result, *, complete: bool = True) -> list[Flag]:
    """The worst first."""
    found: list[Flag] = []
    if result.invalid:
        reasons = tuple(show.plain(each) for each in result.invalid)
        found.append(Flag("INVALID", "these figures say nothing about the server", reasons))
    if not complete:
        found.append(Flag("INCOMPLETE", "there is no result.json: the run did not come to its end"))
    if result.interrupted:
        found.append(Flag("INTERRUPTED", "it was stopped before its end"))
    if result.overloaded:
        what = ", ".join(result.overloaded)
        found.append(Flag("OVERLOADED", "latencies depend on how long the run was", (f"requests piled up: {what}",)))
    if result.disturbed:
        reasons = tuple(show.plain(each) for each in result.disturbed)
        found.append(Flag("DISTURBED", "somebody else used this host; repeat the run", reasons))
    if result.mode == "virtual":
        found.append(Flag("VIRTUAL", "simulated: no server was measured"))
    if result.quick:
        found.append(Flag("QUICK", "made in a hurry: for a first look, not for tables"))
    return found


def facts(result: Result, folder: str = "") -> list[Fact]:
    """What was sent where, and how."""
    known = {name: show.plain(value) for name, value in result.identity.items()}
    seconds = (result.window.end - result.window.start) / 1e6
    model = known.get("model", "unknown")
    target = f"{known.get('target', 'unknown')} (model {model}, dialect {known.get('dialect', 'unknown')})"
    measured = f"{seconds:,.0f} s, from {show.at(result.window.start)} to {show.at(result.window.end)}"
    cut = f", {show.time(result.window.cut)} of it cut until TTFT had settled" if result.window.cut else ""
    cache, lengths = known.get("cache", "unknown"), known.get("lengths", "unknown")
    found = [
        Fact("sent", f"{result.records:,} requests to {target}"),
        Fact("measured", f"{measured}{cut}"),
        *([Fact("rate", _rates(result))] if _rates(result) else []),
        Fact("lengths", _LENGTHS.get(lengths, lengths)),
        Fact("cache", _CACHES.get(cache, cache), alarming=not cache.startswith(("cold", "primed"))),
    ]
    changed = "; ".join(f"{name}: {show.plain(text)}" for name, text in changes(result.transforms).items())
    found += [Fact("trace", changed)] if changed else []
    labels = ", ".join(f"{name[6:]}={value}" for name, value in known.items() if name.startswith("label."))
    found += [Fact("labels", labels)] if labels else []
    return [*found, *([Fact("folder", folder)] if folder else [])]


def changes(transforms: Mapping[str, str]) -> dict[str, str]:
    """By class what was done to its trace, of those to which something was."""
    return {name: text for name, text in transforms.items() if text not in ("", "none")}


def limits(result: Result) -> list[str]:
    """What this run cannot claim."""
    return [show.plain(each, 400) for each in result.notes]


def _rates(result: Result) -> str:
    """As the plan came out, which is not what was asked for: random gaps are not rescaled."""
    parts = []
    for name, each in result.classes.items():
        rate, cv = (result.realised.get(f"{name}.{what}") for what in ("rate", "cv"))
        if each.closed:
            parts.append(f"{name} closed: as fast as answers came")
        elif rate is not None:
            shape = f" (CV of gaps {cv:.2f})" if cv is not None else ""
            parts.append(f"{name} {show.number(rate)}/s realised{shape}")
    return ", ".join(parts)
