"""`experiment.json`: what was asked for and what is done, written whole and by rename after each step."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from loadgen.errors import BadData, BadInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

FILE: Final = "experiment.json"
STATE_VERSION: Final = 1
RunState = Literal["planned", "running", "done", "disturbed", "failed"]
DONE: Final = ("done", "disturbed")
_WORTH: Final = ("failed", "invalid", "disturbed", "ok")


class Attempt(msgspec.Struct, kw_only=True):
    """One folder. `status`: of its result, or `failed` where there is none; `reasons`: why."""

    folder: str
    status: str
    reasons: list[str] = []
    classes: dict[str, str] = {}
    """By class: the hash of what was planned to be sent."""


class Entry(msgspec.Struct, kw_only=True):
    """A run. `disturbed`: done, and none of its attempts was quiet. `sitting`: the invocation in which it was done."""

    arm: str
    setting: str
    window: int
    repeat: int
    host: str
    block: str
    cell: dict[str, str]
    knob: str | None = None
    questions: list[str] = []
    state: RunState = "planned"
    attempts: list[Attempt] = []
    binaries: dict[str, str] = {}
    sitting: int = 0

    def key(self) -> tuple[str, str, int, int, str]:
        """What makes it the same run."""
        return self.arm, self.setting, self.window, self.repeat, self.host

    def result(self) -> Attempt | None:
        """The attempt that counts, if any has a result."""
        found = best_of(self.attempts)
        return None if found is None or found.status == "failed" else found


def best_of(attempts: Sequence[Attempt]) -> Attempt | None:
    """The one that counts: a quiet one, else the last that says something about the server, else the last."""
    return max(enumerate(attempts), key=lambda each: (_WORTH.index(each[1].status), each[0]), default=(0, None))[1]


def counted(runs: Sequence[Entry]) -> list[Entry]:
    """Those that may stand in a table: of a block that one machine has finished, what another began is left out."""
    places: dict[tuple[str, str], list[Entry]] = {}
    for entry in runs:
        places.setdefault((entry.block, entry.host), []).append(entry)
    whole = {place for place, entries in places.items() if all(each.state in DONE for each in entries)}
    finished = {block for block, _ in whole}
    return [entry for entry in runs if entry.block not in finished or (entry.block, entry.host) in whole]


class Probe(msgspec.Struct, kw_only=True):
    """A run of tuning or calibration. `value`: of the knob, or the rate. `figures`: of the table, by name."""

    name: str
    value: str
    folder: str
    status: str
    figures: dict[str, float | None] = {}


class State(msgspec.Struct, kw_only=True):
    """The whole. `tuned`: chosen settings by arm. `scaled`: what scaling gave, by cell and window."""

    version: int = STATE_VERSION
    plan: str
    plan_hash: str
    mode: Literal["measured", "virtual"] = "measured"
    quick: bool = False
    seed: int
    hosts: dict[str, dict[str, str]] = {}
    calibration: dict[str, float] = {}
    calibration_runs: list[Probe] = []
    probes: dict[str, list[Probe]] = {}
    tuned: dict[str, list[str]] = {}
    scaled: dict[str, dict[str, float]] = {}
    skipped: dict[str, str] = {}
    runs: list[Entry] = []
    sittings: int = 0
    notes: list[str] = []


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Nobody else may carry out the experiment of this folder meanwhile: a second one would end the servers of the
    first as left over.

    Raises:
        BadInput: somebody does.
    """
    with (folder / ".lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadInput("--out", "", str(folder), "another process carries this experiment out") from error
        yield


def write_atomic(path: Path, content: bytes) -> None:
    """All of it or nothing, also when the machine stops: a temporary name, synced, renamed."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def save(state: State, folder: Path) -> None:
    """Write `experiment.json`."""
    write_atomic(folder / FILE, msgspec.json.format(msgspec.json.encode(state), indent=1) + b"\n")


def load(folder: Path) -> State | None:
    """What was written; None: nothing yet.

    Raises:
        BadData: another version, or no such tree.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        state = msgspec.json.decode(path.read_bytes(), type=State)
    except (msgspec.DecodeError, OSError) as error:
        raise BadData(str(path), 0, "", f"is no experiment: {error}") from error
    if state.version != STATE_VERSION:
        raise BadData(str(path), 0, "version", f"{state.version}; this program reads {STATE_VERSION}")
    return state


def schema() -> dict[str, Any]:
    """JSON schema of `experiment.json`."""
    made = msgspec.json.schema(State)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "version": STATE_VERSION, **made}
