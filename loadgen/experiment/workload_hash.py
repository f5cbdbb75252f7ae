"""What was planned to be sent, by class: the same for an arm with jobs beside and one without, since ids are left
out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import xxhash

from loadgen.errors import BadData
from loadgen.plan import workload

if TYPE_CHECKING:
    from pathlib import Path

    from loadgen.plan.model import Plan


def class_hashes(folder: Path) -> dict[str, str]:
    """Of a run's `workload.jsonl.gz`; empty where there is none that can be read, which no comparison accepts."""
    try:
        return hashes_of(workload.read(folder / "workload.jsonl.gz"))
    except (BadData, OSError):
        return {}


def hashes_of(plan: Plan) -> dict[str, str]:
    """32 hex digits for each class, over due times, prompts and lengths in the order of sending."""
    encoder = msgspec.json.Encoder(order="deterministic")
    states: dict[str, xxhash.xxh3_128] = {}
    for request in plan.requests:
        state = states.setdefault(request.cls, xxhash.xxh3_128())
        state.update(encoder.encode((request.due, request.prompt, request.out, request.turn, request.item)))
    return {name: state.hexdigest() for name, state in states.items()}
