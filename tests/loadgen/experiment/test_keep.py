"""Finished blocks in a folder of results: from there an experiment goes on, in a clone and on another machine."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from support.loadgen_experiment import TABLES, FakeRunner, FakeServers, Fuse, Killed, experiment, small_plan

from loadgen.errors import BadInput
from loadgen.experiment import host, keep
from loadgen.experiment import state as states
from loadgen.experiment.runner import Context, Experiment, plan_hash
from loadgen.experiment.schedule import Selection
from loadgen.experiment.write import write_tables

if TYPE_CHECKING:
    from pathlib import Path

    from loadgen.experiment.plan import Plan

OTHER = {"cpu": "none", "name": "there"}


@pytest.fixture(autouse=True)
def _same_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "tree_hash", lambda _folders: "tree")
    monkeypatch.setattr("loadgen.experiment.write.has_plotly", lambda: False)


def two_blocks(**changes: Any) -> Plan:
    """Of three runs each, untuned."""
    return small_plan(tune=[], run=[{**TABLES["run"][0], "settings": 1}], **changes)


def made(folder: Path, runner: FakeRunner, place: Path | None, **given: Any) -> Experiment:
    folder.mkdir(exist_ok=True)
    resume = given.pop("resume", False)
    given = {"host": {"cpu": "none", "name": "here"}, "keep": place, **given}
    plan = given.pop("plan", None) or two_blocks()
    return Experiment(plan, Selection(), Context(folder, folder, runner, FakeServers(), **given), resume=resume)


def killed_in_the_second_block(folder: Path, place: Path | None, **given: Any) -> None:
    """Three moments a run: one of the three runs of the second block is done, the next has begun."""
    with pytest.raises(Killed):
        made(folder, FakeRunner(folder, Fuse(14)), place, **given).run()


def test_a_finished_block_is_kept_and_nothing_of_another(tmp_path: Path) -> None:
    folder, place = tmp_path / "out", tmp_path / "results"
    killed_in_the_second_block(folder, place)
    state = states.load(folder)
    assert state is not None
    assert state.runs[3].state == "done"
    keep.keep(state, folder, place)  # as the next sitting does before it begins
    kept = states.load(place)
    assert kept is not None
    assert [entry.state for entry in kept.runs] == ["done"] * 3 + ["planned"] * 3
    assert all((place / entry.attempts[0].folder / "result.json").is_file() for entry in kept.runs[:3])
    assert len(list(place.glob("runs/*/*/*/result.json"))) == 3


def test_an_experiment_goes_on_from_what_was_kept(tmp_path: Path) -> None:
    folder, place, clone = tmp_path / "out", tmp_path / "results", tmp_path / "clone"
    killed_in_the_second_block(folder, place)
    shutil.rmtree(folder)
    clone.mkdir()
    assert keep.restore(place, clone, plan_hash(two_blocks()))
    runner = FakeRunner(clone)
    done = made(clone, runner, place, resume=True)
    done.run()
    assert len(runner.asked) == 3, "the block that was not finished, and no other"
    written = write_tables(done.plan, done.state, clone, done.chosen)
    assert (written.refused, written.missing) == ((), ())
    keep.keep_tables(clone, place)
    assert (place / "tables" / "arms.csv").read_text() == (clone / "tables" / "arms.csv").read_text()

    again = FakeRunner(place)
    same = made(place, again, None, resume=True)
    same.run()
    assert again.asked == [], "the kept folder is an experiment's own"
    assert write_tables(same.plan, same.state, place, same.chosen).refused == ()


def test_nothing_that_is_kept_is_written_over(tmp_path: Path) -> None:
    place = tmp_path / "results"
    made(tmp_path / "out", FakeRunner(tmp_path), place).run()
    with pytest.raises(BadInput, match="holds another experiment, or more of this one"):
        made(tmp_path / "fresh", FakeRunner(tmp_path), place)
    with pytest.raises(BadInput, match="holds another experiment"):
        made(tmp_path / "other", FakeRunner(tmp_path), place, plan=two_blocks(seed=9))
    empty = tmp_path / "empty"
    empty.mkdir()
    assert not keep.restore(place, empty, "another plan")
    assert list(empty.iterdir()) == []


def test_where_it_is_kept_makes_no_other_plan() -> None:
    assert plan_hash(two_blocks(keep="results")) == plan_hash(two_blocks())
    assert plan_hash(two_blocks(seed=9)) != plan_hash(two_blocks())


def test_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert keep.place_of("", tmp_path / "out") is None
    assert keep.place_of("none/such", tmp_path / "out") is None
    assert keep.place_of("results", tmp_path / "out") == tmp_path / "results"
    assert keep.place_of("out", tmp_path / "out") is None


def test_a_full_disk_ends_nothing(tmp_path: Path) -> None:
    folder, place = tmp_path / "out", tmp_path / "results"
    said: list[str] = []
    done = made(folder, FakeRunner(folder), place, say=said.append)
    place.write_text("in the way")
    done.run()
    assert {entry.state for entry in done.state.runs} == {"done"}
    assert any("not kept" in line for line in said)


def test_what_another_machine_finished_is_taken_and_what_it_began_is_done_anew(tmp_path: Path) -> None:
    killed_in_the_second_block(tmp_path, None)
    runner = FakeRunner(tmp_path)
    done = made(tmp_path, runner, None, host=OTHER, resume=True)
    done.run()
    assert len(runner.asked) == 3
    here, there = host.fingerprint({"cpu": "none", "name": "here"}), host.fingerprint(OTHER)
    finished = [(entry.block, entry.host) for entry in done.state.runs if entry.state == "done"]
    assert finished.count(("rate5/0-0", here)) == 3
    assert finished.count(("rate5/1-0", there)) == 3
    assert ("rate5/0-0", there) not in finished
    written = write_tables(done.plan, done.state, tmp_path, done.chosen)
    assert (written.refused, written.missing) == ((), ())
    lines = (tmp_path / "tables" / "runs.csv").read_text().splitlines()
    assert len(lines) == 1 + 6, "what the first machine began of the second block is in no table"

    assert "blocks of several machines" in (tmp_path / "summary.md").read_text()

    back = FakeRunner(tmp_path)
    made(tmp_path, back, None, resume=True).run()
    assert back.asked == []


def test_an_unfinished_block_is_missing_on_whatever_machine(tmp_path: Path) -> None:
    killed_in_the_second_block(tmp_path, None)
    half = made(tmp_path, FakeRunner(tmp_path, Fuse(4)), None, host=OTHER, resume=True)
    with pytest.raises(Killed):
        half.run()
    state = states.load(tmp_path)
    assert state is not None
    missing = write_tables(half.plan, state, tmp_path, half.chosen).missing
    assert missing
    assert all(" 1-0 is " in line for line in missing)


def test_an_invalid_run_is_tried_again_by_the_next_sitting(tmp_path: Path) -> None:
    def slow(arm: str, _folder: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return (("90% of a core",) if arm == "A6" else ()), ()

    plan = two_blocks(windows=1)
    first = experiment(tmp_path, FakeRunner(tmp_path, verdict=slow), plan)
    first.run()
    assert write_tables(plan, first.state, tmp_path, first.chosen).refused != ()
    runner = FakeRunner(tmp_path)
    done = experiment(tmp_path, runner, plan, resume=True)
    done.run()
    assert [(arm, folder) for arm, _, folder in runner.asked] == [("A6", "0-0.4")]
    assert write_tables(plan, done.state, tmp_path, done.chosen).refused == ()


def test_a_disturbed_attempt_counts_before_an_invalid_one(tmp_path: Path) -> None:
    def verdict(arm: str, folder: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        if arm != "A6":
            return (), ()
        return ((), ("steal 5 %",)) if folder == "0-0" else (("90% of a core",), ())

    plan = two_blocks(windows=1)
    done = experiment(tmp_path, FakeRunner(tmp_path, verdict=verdict), plan)
    done.run()
    entry = next(entry for entry in done.state.runs if entry.arm == "A6")
    assert [each.status for each in entry.attempts] == ["disturbed", "invalid", "invalid"]
    assert entry.state == "disturbed"
    assert entry.result() is entry.attempts[0]
    assert write_tables(plan, done.state, tmp_path, done.chosen).refused == ()
