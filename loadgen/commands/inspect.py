"""`slackwater-loadgen inspect`: what traces and data sets are like, before anything is planned from them."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from loadgen.errors import BadInput, ExitCode
from loadgen.plan import transforms, workload
from loadgen.plan.profile import Profile, profile
from loadgen.plan.sources import files, open_source
from loadgen.plan.sources.burstgpt import BurstGpt
from loadgen.plan.sources.detect import kind_of
from loadgen.plan.sources.servegen import ServeGen, volume
from loadgen.plan.streams import stream
from loadgen.run.prepare import BLOCK, DATA

if TYPE_CHECKING:
    from loadgen.options import InspectOptions
    from loadgen.plan.profile import Arrivals, Cost, Hits, Lengths
    from loadgen.plan.rows import Source, SourceRow
    from loadgen.spec import SourceSpec, Transforms

_SEED: Final = 0
_CLASS: Final = "inspect"
_DRAWN: Final = 60_000_000
"""Of a ServeGen profile without `--window`: its raw rate is hundreds of requests a second."""
_FOREVER: Final = 1 << 60
_WIDTH: Final = 12


def main(options: InspectOptions) -> ExitCode:
    """Print a profile of each source, as text or as one line of JSON each.

    Raises:
        BadInput: a transform that a source cannot have.
        BadData: file, row and field of what cannot be used.
    """
    for place, spec in enumerate(options.sources):
        found = _profile(spec, options)
        if options.json:
            sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
        else:
            sys.stdout.write(("\n" if place else "") + "\n".join(_lines(found)) + "\n")
    return ExitCode.OK


def _profile(spec: SourceSpec, options: InspectOptions) -> Profile:
    asked = options.transforms
    data = Path(options.data or os.environ.get("SLACKWATER_DATA") or DATA)
    if not spec.kind:
        spec = replace(spec, kind=kind_of(files.find(spec.paths[0], data)))
    if spec.kind == "synth":
        raise BadInput("inspect", "", "synth", "is drawn without end, from in= and out=; inspect wants a file")
    until = _DRAWN if spec.kind == "servegen" and asked.window is None else 0 if asked.window else _FOREVER
    # `until` is in the plan's time, and a scale is in the trace's.
    source = open_source(spec, data, replace(asked, scale=1.0), _SEED, _CLASS, until)
    rows = list(source.rows())
    more = _more(source, spec, data, rows)
    if spec.kind == "servegen":
        more["drawn_seconds"] = max(until, asked.window[1] if asked.window else 0) / 1e6
    planned = transforms.apply(rows, asked, BLOCK, stream(_SEED, _CLASS, "thin"))
    if not planned:
        raise BadInput("inspect", "", source.name, "it has no rows after the transforms")
    return profile(
        source.name,
        transforms.words(asked),
        planned,
        span=_span(asked, until),
        cache_blocks=options.cache_blocks,
        capacity=options.capacity,
        more=more,
    )


def _span(asked: Transforms, until: int) -> int | None:
    """Microseconds of what was asked for, where that is known without the rows."""
    if asked.window is not None:
        return round((asked.window[1] - asked.window[0]) / asked.scale)
    return round(until / asked.scale) if 0 < until < _FOREVER else None


def _more(source: Source, spec: SourceSpec, data: Path, rows: list[SourceRow]) -> dict[str, float | str]:
    """What only this kind has."""
    if isinstance(source, ServeGen):
        volumes = {client: volume(windows) for client, windows in source.rates.items()}
        told = sum(volumes[client] for client in source.lengths if client in volumes)
        return {
            "clients": len(source.rates),
            "rate_rows": sum(map(len, source.rates.values())),
            "clients_with_lengths": len(source.lengths),
            "volume_with_lengths": told / sum(volumes.values()),
        }
    if isinstance(source, BurstGpt):
        counts = source.counts()
        return {"hours": len(counts), "sessions": sum(count for _, count in counts), "note": "an envelope only"}
    if spec.kind == "work":
        plan = workload.read(files.find(spec.paths[0], data))
        return {"plan_hash": workload.plan_hash(plan), "seed": plan.seed, "jobs": len(plan.jobs)}
    # A row is what the user says; the set's own count is of both sides.
    return {"turns": 2 * len(rows)} if spec.kind == "chat" else {}


def _lines(found: Profile) -> list[str]:
    pairs: list[tuple[str, str]] = [("rows", _count(found.rows))]
    pairs += [
        (name, _count(value))
        for name, value in (("sessions", found.sessions), ("groups", found.groups), ("answers", found.answers or None))
        if value is not None
    ]
    if found.transforms != "none":
        pairs.append(("transforms", found.transforms))
    pairs += _arrivals(found.arrivals)
    pairs += _lengths("prompt", found.prompt)
    pairs += _lengths("output", found.output)
    pairs += _hits(found.hits)
    pairs += _cost(found.cost)
    pairs += [(name.replace("_", " "), _value(value)) for name, value in found.more.items()]
    width = max(_WIDTH, max(len(name) for name, _ in pairs) + 2)
    return [found.source, *(f"  {name:<{width}}{text}" for name, text in pairs)]


def _arrivals(found: Arrivals | None) -> list[tuple[str, str]]:
    if found is None:
        return [("arrivals", "none: it has no times")]
    shown = ", ".join(f"{_value(value)} at {bin_}" for bin_, value in found.dispersion.items() if value is not None)
    return [
        ("span", f"{found.span_seconds:,.1f} s"),
        ("rate", f"{found.rate:.4g}/s, CV of gaps {_value(found.cv)}, {_count(found.instants)} different times"),
        ("dispersion", f"{shown or 'too short'} (1: Poisson)"),
    ]


def _lengths(name: str, found: Lengths | None) -> list[tuple[str, str]]:
    if found is None:
        return [(name, "tokens are not told")]
    shown = f"p50 {found.p50:.0f}, p90 {found.p90:.0f}, p99 {found.p99:.0f}, most {found.most}"
    return [(name, f"{_count(found.total)} tokens, mean {found.mean:.1f}, {shown}")]


def _hits(found: Hits | None) -> list[tuple[str, str]]:
    if found is None:
        return []
    share = found.endless / found.blocks
    pairs = [
        ("blocks", f"{_count(found.blocks)} of {found.block_tokens} tokens, {_count(found.distinct)} different"),
        ("ideal hits", f"{_count(found.endless)} ({share:.1%}) in a cache without end"),
    ]
    return pairs + [("", f"{_count(hits)} in one of {int(size):,} blocks") for size, hits in found.lru.items()]


def _cost(found: Cost | None) -> list[tuple[str, str]]:
    if found is None:
        return []
    prefill = f"{found.prefill:,.0f} tok/s"
    if found.uncached != found.prefill:
        prefill += f", {found.uncached:,.0f} not in a cache without end"
    return [
        ("prefill", prefill + _of_capacity(found.prefill_share)),
        ("decode", f"{found.decode:,.0f} tok/s" + _of_capacity(found.decode_share)),
    ]


def _of_capacity(share: float | None) -> str:
    return "" if share is None else f": {share:.1%} of the capacity"


def _count(value: float) -> str:
    return f"{value:,}"


def _value(value: float | str | None) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return "unknown"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
