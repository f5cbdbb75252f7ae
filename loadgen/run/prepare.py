"""From a scenario to what is sent: the target looked at, the plan made and written, every request serialised."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loadgen.errors import BadInput
from loadgen.faults import flood
from loadgen.plan import payload, workload
from loadgen.plan.build import PROBE, build
from loadgen.plan.dialects import EXACT, Fields, class_fields
from loadgen.plan.text import Words
from loadgen.run.cache import CacheState, cache_state
from loadgen.run.counting import Counting, counting
from loadgen.run.discover import Target, discover
from loadgen.run.server import Server
from loadgen.scenario_checks import class_names
from loadgen.target import secret

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from loadgen.plan.model import Plan, PlannedRequest
    from loadgen.spec import OfflineSpec, OnlineSpec, Scenario

DATA = Path("../shared/data")
BLOCK = 16
_CHUNK_BYTES = 200
"""What a chunk costs on disk: the spool's copy of the event, and its record."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Of the target and of its admin listener. Never written, never shown."""

    api: str | None
    admin: str | None


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """`scenario` has nothing left open: model, dialect, lengths and warm-up are set. `classes`: by number, as in the
    index. `sent`: requests that load processes send; items of batch jobs are only in `plan`.
    """

    scenario: Scenario
    target: Target
    counting: Counting
    cache: CacheState
    plan: Plan
    sent: Plan
    wire: payload.Wire
    classes: tuple[str, ...]
    index: NDArray[np.void]
    plan_hash: str


def keys_of(scenario: Scenario) -> Keys:
    """Raises BadInput where a named variable is not set."""
    return Keys(
        secret(scenario.api_key_env, "--api-key-env", os.environ),
        secret(scenario.admin_key_env, "--admin-key-env", os.environ),
    )


def data_folder(scenario: Scenario) -> Path:
    """Where public traces are: the flag, the environment, or beside the working folder."""
    return Path(scenario.data or os.environ.get("SLACKWATER_DATA") or DATA)


def prepare(scenario: Scenario, keys: Keys, folder: Path, *, plan: Plan | None = None) -> Prepared:
    """Look, plan and write `workload.jsonl.gz`, `payload.bin` and `index.npy` into `folder`.

    `plan`: one that was made before, for another server or another round of the same.

    Raises:
        Unreachable: the target does not answer.
        BadInput, BadData: a scenario that cannot be planned, or does not fit.
    """
    server = Server(scenario.target, keys.api)
    try:
        target = discover(scenario, server)
        counted = counting(scenario, target, server)
    finally:
        server.close()
    scenario = _resolved(scenario, target, counted)
    plan = plan or flood.with_floods(build(scenario, data_folder(scenario), BLOCK), scenario)
    check_fits(plan, scenario, target.most_tokens)
    check_disk(plan, folder)
    state = cache_state(scenario, target, keys.admin)
    wire = _wire(scenario, target, counted, state)
    batched = {spec.name for spec in scenario.offline if spec.submit == "batch"}
    sent = replace(plan, requests=[each for each in plan.requests if each.cls not in batched])
    # A flood is planned like a class of its own, which no table of the scenario names.
    classes = tuple(dict.fromkeys((*class_names(scenario), *(each.cls for each in plan.requests))))
    workload.write(plan, folder / "workload.jsonl.gz")
    with (folder / "payload.bin").open("wb") as file:
        index = payload.write(sent, wire, classes, scenario.payload_limit, file)
    np.save(folder / "index.npy", index, allow_pickle=False)
    return Prepared(scenario, target, counted, state, plan, sent, wire, classes, index, workload.plan_hash(plan))


def _resolved(scenario: Scenario, target: Target, counted: Counting) -> Scenario:
    lengths = scenario.lengths
    if lengths is None:
        lengths = "exact" if EXACT[target.dialect] else "eos"
    elif lengths == "exact" and not EXACT[target.dialect]:
        raise BadInput(
            "--lengths", "", "exact", f"dialect {target.dialect} cannot force lengths; eos, or another --dialect"
        )
    return replace(scenario, model=target.model, dialect=target.dialect, lengths=lengths, tokenizer=counted.name)


def _wire(scenario: Scenario, target: Target, counted: Counting, state: CacheState) -> payload.Wire:
    specs: list[OnlineSpec | OfflineSpec] = [*scenario.online, *scenario.offline, *flood.classes(scenario)]
    fields = {spec.name: class_fields(spec, target.dialect, state.cache_salt) for spec in specs}
    if state.cache_salt is not None:
        fields[PROBE] = Fields({}, {"cache_salt": state.cache_salt})
    host = scenario.target.partition("://")[2]
    words = Words(counted.words, state.prompt_salt)
    lengths = scenario.lengths or "eos"
    return payload.Wire(host, target.model, target.dialect, lengths, words, scenario.api, fields)


def check_fits(plan: Plan, scenario: Scenario, most_tokens: int | None) -> None:
    """Every request must fit the model: a refusal in the middle of a run would be counted as the server's.

    Raises:
        BadInput: one that does not.
    """
    if most_tokens is None:
        return
    long = [each for each in plan.requests if (each.prompt.tokens or 0) + each.out > most_tokens]
    if long:
        worst: PlannedRequest = max(long, key=lambda each: (each.prompt.tokens or 0) + each.out)
        total = (worst.prompt.tokens or 0) + worst.out
        raise BadInput(
            worst.cls,
            "cap",
            "",
            f"{len(long)} of {len(plan.requests)} requests are longer than the model's {most_tokens} tokens, the "
            f"longest {total}; shorten them with len=x0.1 or cut them with cap={most_tokens // 2}",
        )
    if any(each.out < 1 for each in plan.requests):
        raise BadInput("out", "", "0", f"a request without output in {scenario.target}'s plan; floor=1/1 mends it")


def check_disk(plan: Plan, folder: Path) -> None:
    """Twice what the run may need must be free.

    Raises:
        BadInput: it is not.
    """
    need = 2 * _CHUNK_BYTES * sum(each.out for each in plan.requests)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise BadInput("--out", "", str(folder), f"{need >> 20} MiB should be free for the records, {free >> 20} are")
