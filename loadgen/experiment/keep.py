"""Keeps what is finished in a folder of results, such as one that is committed. It has the form of an experiment's own
folder, so that `--resume` goes on from it: in a clone, or where the first folder is gone.

Only blocks that have ended are kept: of one that has not nothing is there, and it is done anew from there.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from loadgen.errors import BadInput
from loadgen.experiment import state as states
from loadgen.experiment.state import DONE, Entry, State, write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator

_BESIDE = ("plan.toml", "tuning.jsonl")


def place_of(keep: str, folder: Path) -> Path | None:
    """Where finished blocks of the experiment in `folder` go; None: nowhere, or it is that folder itself, or what it
    would stand in is not here.
    """
    place = Path(keep).resolve()
    is_there = place.is_dir() or place.parent.is_dir()
    return place if keep and is_there and place != folder.resolve() else None


def restore(place: Path, folder: Path, plan_hash: str) -> bool:
    """Begin where what was kept of this plan ends, if `folder` holds no experiment yet; whether something was taken
    over.

    Raises:
        BadInput: it cannot be copied.
        BadData: what is kept cannot be read.
    """
    kept = None if (folder / states.FILE).exists() else states.load(place)
    if kept is None or kept.plan_hash != plan_hash:
        return False
    try:
        for path in sorted(place.iterdir()):
            if path.is_dir():
                shutil.copytree(path, folder / path.name, dirs_exist_ok=True)
        # Last, since it says what is there.
        for name in (*_BESIDE, states.FILE):
            if (place / name).is_file():
                write_atomic(folder / name, (place / name).read_bytes())
    except OSError as error:
        raise BadInput("--resume", "keep", str(place), f"cannot be copied: {error.strerror or error}") from error
    return True


def check(place: Path, state: State) -> None:
    """Nothing that is kept may be lost.

    Raises:
        BadInput: `place` holds another experiment, or runs that are not in this one.
    """
    kept = states.load(place)
    if kept is None:
        return
    mine = {entry.key() for entry in state.runs if entry.state in DONE}
    same = (kept.plan_hash, kept.mode, kept.quick) == (state.plan_hash, state.mode, state.quick)
    if not same or any(entry.key() not in mine for entry in kept.runs if entry.state in DONE):
        why = "holds another experiment, or more of this one: --resume into an empty --out goes on with it, "
        raise BadInput("experiment", "keep", str(place), f"{why}--set keep=DIR keeps this one elsewhere")


def keep(state: State, folder: Path, place: Path) -> None:
    """Copy what is finished and not there yet: first the runs, then what says that they are there.

    Raises:
        OSError: the disk is full, or may not be written.
    """
    place.mkdir(exist_ok=True)
    finished = of_finished(state)
    for name in _folders(finished):
        _copy(folder / name, place / name)
    for name in _BESIDE:
        if (folder / name).is_file():
            write_atomic(place / name, (folder / name).read_bytes())
    states.save(finished, place)


def keep_tables(folder: Path, place: Path) -> None:
    """Tables and summary as they are now. The page is left out: it holds megabytes of script, and can be made anew.

    Raises:
        OSError: the disk is full, or may not be written.
    """
    tables = place / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    for old in tables.glob("*.csv"):
        if not (folder / "tables" / old.name).is_file():
            old.unlink()
    for path in (*(folder / "tables").glob("*.csv"), folder / "summary.md"):
        if path.is_file():
            write_atomic(place / path.relative_to(folder), path.read_bytes())


def of_finished(state: State) -> State:
    """The same, with runs of blocks that are not finished as if they were only planned."""
    made = msgspec.json.decode(msgspec.json.encode(state), type=State)
    torn = {(entry.block, entry.host) for entry in made.runs if entry.state not in (*DONE, "failed")}
    made.runs = [_planned(entry) if (entry.block, entry.host) in torn else entry for entry in made.runs]
    return made


def _planned(entry: Entry) -> Entry:
    return msgspec.structs.replace(entry, state="planned", attempts=[], binaries={}, sitting=0)


def _folders(state: State) -> Iterator[str]:
    yield from (attempt.folder for entry in state.runs for attempt in entry.attempts)
    yield from (probe.folder for probe in state.calibration_runs)
    yield from (probe.folder for probes in state.probes.values() for probe in probes)


def _copy(source: Path, target: Path) -> None:
    """A whole folder or none."""
    if target.exists() or not source.is_dir():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(source, temporary, ignore=_neither)
    temporary.rename(target)


def _neither(folder: str, names: list[str]) -> list[str]:
    """Sockets and the like, which cannot be copied."""
    paths = [(name, Path(folder, name)) for name in names]
    return [name for name, path in paths if not path.is_file() and not path.is_dir()]
