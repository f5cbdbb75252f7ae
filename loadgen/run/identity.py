"""What says which run this was. What cannot be known is left out, and becomes `unknown` in the result."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadgen.run.prepare import Prepared


def identity_of(prepared: Prepared, host: Mapping[str, str], started_micros: int, procs: int) -> dict[str, str]:
    """`host`: what `observe.host` knows of the machine. `started_micros`: wall clock of `t0`, since 1970."""
    scenario, target = prepared.scenario, prepared.target
    found = {
        "target": scenario.target,
        "model": target.model,
        "model_hash": target.model_hash or "",
        "server_version": target.version or "",
        "api": scenario.api,
        "dialect": target.dialect,
        "seed": str(scenario.seed),
        "plan_hash": prepared.plan_hash,
        "cache": prepared.cache.words,
        "lengths": scenario.lengths or "",
        "tokenizer": prepared.counting.name,
        "procs": str(procs),
        "started": datetime.fromtimestamp(started_micros / 1e6, UTC).isoformat(timespec="milliseconds"),
        "loadgen_version": own_version(),
    }
    found |= {f"label.{name}": value for name, value in scenario.labels.items()}
    return {name: value for name, value in {**host, **found}.items() if value}


def own_version() -> str:
    """Of the installed package, empty in a bare tree."""
    try:
        return version("slackwater")
    except PackageNotFoundError:
        return ""
