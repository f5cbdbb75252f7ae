"""What each kind of source has, and the keys that change what comes from it: transforms, lengths, prefixes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from loadgen import forms, texts, units
from loadgen.errors import BadInput
from loadgen.keys import Key, choice, table
from loadgen.spec import PrefixSpec, Transforms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadgen.spec import SourceSpec
    from loadgen.units import Dist


@dataclass(frozen=True, slots=True)
class SourceKind:
    """`files`: how many a source wants, 0 for any number. What it has of its own cannot be asked for by a key."""

    name: str
    online: bool = True
    offline: bool = False
    times: bool = False
    lengths: bool = False
    text: bool = False
    sessions: bool = False
    blocks: bool = False
    files: int = 0
    options: tuple[str, ...] = ()


SOURCES: Final[Mapping[str, SourceKind]] = {
    kind.name: kind
    for kind in (
        SourceKind("azure", times=True, lengths=True),
        SourceKind("mooncake", times=True, lengths=True, blocks=True),
        SourceKind("servegen", times=True, lengths=True, files=2),
        SourceKind("burstgpt", times=True),
        SourceKind("lengths", offline=True, lengths=True),
        SourceKind("prompts", offline=True, text=True),
        SourceKind("chat", text=True, sessions=True),
        SourceKind("agent", lengths=True, text=True, sessions=True),
        SourceKind(
            "work",
            offline=True,
            times=True,
            lengths=True,
            text=True,
            sessions=True,
            blocks=True,
            files=1,
            options=("class",),
        ),
        SourceKind("synth", offline=True),
        SourceKind("mmlu", online=False, offline=True, text=True, options=("shots",)),
        SourceKind("gsm8k", online=False, offline=True, text=True, options=("shots",)),
        SourceKind("documents", online=False, offline=True, text=True),
    )
}
ANSWERED: Final = ("mmlu", "gsm8k")
"""Sources that say which answer is right."""

ONLINE_SOURCES: Final = tuple(name for name, kind in SOURCES.items() if kind.online)
OFFLINE_SOURCES: Final = tuple(name for name, kind in SOURCES.items() if kind.offline)

_TIMED = ("dequantise", "scale", "thin", "repeat")
_TRANSFORMS = ("window", *_TIMED, "len", "cap", "floor", "missing")


def _show_floor(found: tuple[int, int]) -> str:
    return f"{found[0]}/{found[1]}"


TRANSFORM_KEYS = table(
    Key("window", forms.time_range, "the part of the trace that is used", form="10m..20m", show=forms.show_time_range),
    Key("dequantise", forms.positive_duration, "spread equal times over this grid", form="3s", show=texts.duration),
    Key("scale", forms.factor, "rate factor: x0.1 stretches all gaps by ten", "x1", "x0.5", forms.show_factor),
    Key("thin", units.share, "keep each request with this probability", "1", "0.2", texts.decimal),
    Key("repeat", forms.count, "lay so many shifted copies over each other", "1", "N"),
    Key("len", forms.factor, "factor of all lengths", "x1", "x0.1", forms.show_factor),
    Key("cap", forms.count, "cut what is longer, in tokens", form="TOKENS"),
    Key("floor", forms.floor, "least prompt and output tokens", "1/1", "IN/OUT", _show_floor),
    choice("missing", ("pool", "drop"), "clients of servegen without lengths: take the others', or leave them out"),
)


def show_dist(found: Dist) -> str:
    """A distribution of plain numbers, as text."""
    return texts.dist(found)


CONTENT_KEYS = table(
    Key("in", units.dist, "prompt tokens, for synth", "lognormal:128@0.5", "DIST", show_dist),
    Key("out", units.dist, "output tokens, where the source does not say", "lognormal:64@0.5", "DIST", show_dist),
    Key(
        "prefix",
        forms.prefix,
        "what prompts share",
        "none, or the trace's blocks",
        "tree:depth=3;fanout=8;block=64;zipf=1.1|groups:N|trace|none",
        forms.show_prefix,
    ),
)
DEFAULT_IN: Final = units.dist("lognormal:128@0.5")
DEFAULT_OUT: Final = units.dist("lognormal:64@0.5")


class Refuse:
    """Says which key does not go with which, for one table."""

    def __init__(self, where: str, given: Mapping[str, list[str]]) -> None:
        self.where, self._given = where, given

    def key(self, name: str, why: str, valid: tuple[str, ...] = ()) -> BadInput:
        """The error for a key that was given."""
        return BadInput(self.where, name, ", ".join(self._given.get(name, ())), why, valid)

    def unless(self, fits: bool, name: str, why: str) -> None:
        """Raise it where the key was given and does not fit."""
        if name in self._given and not fits:
            raise self.key(name, why)


def kind_of(source: SourceSpec, allowed: tuple[str, ...], refuse: Refuse) -> SourceKind:
    """What is known of a source, after its number of files and its options were checked."""
    if source.kind not in allowed:
        other = f"{source.kind} is no source of this kind of class" if source.kind in SOURCES else "no such source"
        raise BadInput(refuse.where, "source", source.kind, f"{other}: {', '.join(allowed)}", allowed)
    kind = SOURCES[source.kind]
    if kind.files and len(source.paths) != kind.files:
        form = "RATES+LENGTHS" if kind.files == 2 else "FILE"
        raise refuse.key("source", f"expected {kind.name}:{form}")
    for option in source.options:
        if option not in kind.options:
            raise BadInput(refuse.where, "source", option, f"{kind.name} has no such option", kind.options)
    shots = source.options.get("shots", "0")
    if not (shots.isascii() and shots.isdigit() and int(shots) <= 100):
        raise BadInput(refuse.where, "source", f"shots={shots}", "expected a whole number, 0 to 100")
    return kind


def check_content(kind: SourceKind, values: Mapping[str, Any], refuse: Refuse) -> None:
    """Refuse keys for what the source has of its own, or cannot have."""
    own = f"does not apply: {kind.name} has its own"
    refuse.unless(not (kind.lengths or kind.text), "in", f"{own} prompts")
    refuse.unless(not kind.lengths, "out", f"{own} lengths")
    refuse.unless(not kind.text, "len", f"does not apply: {kind.name} is text, which has no other length")
    refuse.unless(kind.name == "servegen", "missing", "applies to servegen only")
    prefix: PrefixSpec | None = values.get("prefix")
    if prefix is None:
        return
    if prefix.kind == "trace" and not kind.blocks:
        raise refuse.key("prefix", f"{kind.name} does not say which blocks are shared")
    if prefix.kind in ("tree", "groups") and (kind.text or kind.blocks):
        raise refuse.key("prefix", f"{own} prompts")


def check_times(kind: SourceKind, arrivals_trace: bool, refuse: Refuse) -> None:
    """Refuse what needs the trace's times where they are not there or not used."""
    refuse.unless(kind.times, "window", f"does not apply: {kind.name} has no times")
    for name in _TIMED:
        refuse.unless(arrivals_trace, name, "applies to arrivals=trace only")


def lengths(kind: SourceKind, values: Mapping[str, Any]) -> tuple[Dist | None, Dist | None]:
    """Prompt and output lengths that have to be drawn; None where the source says, or the data decides."""
    drawn = not (kind.lengths or kind.text)
    return values.get("in", DEFAULT_IN if drawn else None), values.get("out", DEFAULT_OUT if drawn else None)


def transforms(values: Mapping[str, Any]) -> Transforms:
    """Of the keys that were given."""
    names = {"len": "length"}
    return Transforms(**{names.get(key, key): values[key] for key in _TRANSFORMS if key in values})


def transform_values(found: Transforms) -> dict[str, Any]:
    """Back to keys: those that change anything."""
    plain, names = Transforms(), {"len": "length"}
    pairs = {key: (getattr(found, names.get(key, key)), getattr(plain, names.get(key, key))) for key in _TRANSFORMS}
    return {key: value for key, (value, base) in pairs.items() if value != base}


def prefix_of(kind: SourceKind, values: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for; a trace that knows its blocks shares them unless told otherwise."""
    if "prefix" in values:
        return {"prefix": values["prefix"]}
    return {"prefix": PrefixSpec("trace")} if kind.blocks else {}
