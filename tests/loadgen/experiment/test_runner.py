"""Experiments on a runner that sends nothing: what is run, how often, and what is left after it was broken off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from support.json_schema import broken
from support.loadgen_experiment import TABLES, FakeRunner, Fuse, Killed, experiment, small_plan

from loadgen.errors import BadInput
from loadgen.experiment import host
from loadgen.experiment import state as states
from loadgen.experiment.schedule import Selection
from loadgen.experiment.write import write_tables
from loadgen.result import schema_text

if TYPE_CHECKING:
    from loadgen.experiment.plan import Plan
    from loadgen.experiment.runner import Experiment


@pytest.fixture(autouse=True)
def _same_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tree may change under the tests. Pages are large, and have tests of their own."""
    monkeypatch.setattr(host, "tree_hash", lambda _folders: "tree")
    monkeypatch.setattr("loadgen.experiment.write.has_plotly", lambda: False)


def finished(done: Experiment, folder: Path) -> tuple[list[dict[str, Any]], dict[str, str], str]:
    """Run list, tables and summary, without what may differ between one sitting and several."""
    written = write_tables(done.plan, done.state, folder, done.chosen)
    assert written.refused == ()
    assert written.missing == ()
    rows = [msgspec.to_builtins(entry) for entry in states.load(folder).runs]  # type: ignore[union-attr]
    for row in rows:
        del row["sitting"]
    tables = {path.name: path.read_text() for path in sorted((folder / "tables").iterdir())}
    return rows, tables, (folder / "tuning.jsonl").read_text()


def short_plan() -> Plan:
    """Three arms, one window."""
    return small_plan(windows=1, run=[TABLES["run"][0] | {"settings": 1}])


def run_until_done(folder: Path, kills: list[int]) -> Experiment:
    """Killed at these moments, one a sitting."""
    for sitting, at in enumerate([*kills, 0]):
        runner = FakeRunner(folder, Fuse(at))
        found = experiment(folder, runner, short_plan(), resume=sitting > 0)
        try:
            found.run()
        except Killed:
            continue
        return found
    raise AssertionError("the last sitting is never killed")


def test_all_runs_of_a_plan(tmp_path: Path) -> None:
    runner = FakeRunner(tmp_path)
    done = experiment(tmp_path, runner)
    done.run()
    rows, tables, tuning = finished(done, tmp_path)
    # Two windows; A0, two settings of A4 and two of A6; E2 shares its runs with E1.
    assert len(rows) == 2 * 5
    assert {row["state"] for row in rows} == {"done"}
    assert len(runner.asked) == 10 + 1 + 3 + 3
    assert sorted(tables) == ["arms.csv", "frontier.csv", "pooled.csv", "runs.csv", "tolerance.csv"]
    assert len(tuning.splitlines()) == 7
    assert {row["arm"] for row in rows if "E2" in row["questions"]} == {"A0", "A4"}
    # Baseline in every block, and paired with itself it is one.
    lines = [line.split(",") for line in tables["arms.csv"].splitlines()]
    own = [dict(zip(lines[0], line, strict=True)) for line in lines[1:] if line[1] == "A0"]
    assert {line["over_baseline"] for line in own if line["figure"] == "chat.mean.ttft"} == {"1"}


def test_broken_off_anywhere_it_ends_the_same(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    fuse = Fuse()
    whole.mkdir()
    reference = experiment(whole, FakeRunner(whole, fuse), short_plan())
    reference.run()
    expected = finished(reference, whole)
    moments = fuse.count
    rng = np.random.Generator(np.random.Philox(7))
    for number in range(20):
        folder = tmp_path / f"killed-{number}"
        folder.mkdir()
        kills = [int(each) for each in rng.integers(1, moments + 1, size=1 + number % 2)]
        assert finished(run_until_done(folder, kills), folder) == expected, kills


def test_killed_while_it_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    reference = experiment(whole, FakeRunner(whole), short_plan())
    reference.run()
    save = states.save
    fuse = Fuse()

    def burning(state: states.State, place: Path) -> None:
        fuse.burn()
        save(state, place)
        fuse.burn()

    monkeypatch.setattr(states, "save", burning)
    for at in (2, 4, 7, 8, 9):
        fuse.at, fuse.count = at, 0
        with pytest.raises(Killed):
            experiment(folder, FakeRunner(folder), short_plan(), resume=True).run()
    fuse.at = 0
    done = experiment(folder, FakeRunner(folder), short_plan(), resume=True)
    done.run()
    assert finished(done, folder) == finished(reference, whole)


def test_a_finished_experiment_runs_nothing_again(tmp_path: Path) -> None:
    experiment(tmp_path, FakeRunner(tmp_path)).run()
    again = FakeRunner(tmp_path)
    experiment(tmp_path, again, resume=True).run()
    assert again.asked == []


def test_one_more_question_adds_only_its_own_runs(tmp_path: Path) -> None:
    first = FakeRunner(tmp_path)
    experiment(tmp_path, first, chosen=Selection(runs=("E2",))).run()
    more = FakeRunner(tmp_path)
    experiment(tmp_path, more, chosen=Selection(runs=("E1", "E2")), resume=True).run()
    assert {arm for arm, _, folder in more.asked if "-" in folder} == {"A4", "A6"}
    assert "A0" not in {arm for arm, _, _ in more.asked}


def test_a_disturbed_run_is_repeated_twice_and_kept(tmp_path: Path) -> None:
    def verdict(arm: str, folder: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        noisy = arm == "A4" and folder in ("0-0", "0-0.2")
        always = arm == "A6" and folder.startswith("1-0")
        return (), ("steal 5 %",) if noisy or always else ()

    done = experiment(tmp_path, FakeRunner(tmp_path, verdict=verdict), small_plan(tune=[]))
    done.run()
    by_run = {(entry.arm, entry.window, entry.knob): entry for entry in done.state.runs}
    quiet = by_run["A4", 0, "64"]
    assert [each.status for each in quiet.attempts] == ["disturbed", "disturbed", "ok"]
    assert quiet.state == "done"
    assert [each.folder.rpartition("/")[2] for each in quiet.attempts] == ["0-0", "0-0.2", "0-0.3"]
    assert all((tmp_path / each.folder / "result.json").is_file() for each in quiet.attempts)
    loud = by_run["A6", 1, "10ms"]
    assert [each.status for each in loud.attempts] == ["disturbed"] * 3
    assert loud.state == "disturbed"
    assert by_run["A0", 0, None].attempts[0].status == "ok"
    assert len(by_run["A0", 0, None].attempts) == 1
    write_tables(done.plan, done.state, tmp_path, done.chosen)
    assert "runs were repeated" in (tmp_path / "summary.md").read_text()


def test_an_interrupted_run_is_done_again(tmp_path: Path) -> None:
    def stop(arm: str) -> bool:
        return arm == "A6"

    plan = small_plan(tune=[])
    with pytest.raises(KeyboardInterrupt):
        experiment(tmp_path, FakeRunner(tmp_path, interrupt=stop), plan).run()
    assert states.load(tmp_path) is not None
    done = experiment(tmp_path, FakeRunner(tmp_path), plan, resume=True)
    done.run()
    assert {entry.state for entry in done.state.runs} == {"done"}
    assert list(tmp_path.glob("runs/A6/*/*.torn-1/result.json")), "what was measured until then is kept"


def test_the_order_within_blocks(tmp_path: Path) -> None:
    def order(seed: int) -> list[list[str]]:
        done = experiment(tmp_path / f"seed-{seed}", FakeRunner(tmp_path), small_plan(seed=seed, windows=8))
        blocks: dict[str, list[str]] = {}
        for run in done.planned():
            blocks.setdefault(run.block, []).append(f"{run.key.arm} {run.knob}")
        return list(blocks.values())

    found = order(1)
    assert len(found) == 8
    assert all(sorted(block) == sorted(found[0]) for block in found)
    assert len({tuple(block) for block in found}) > 4
    assert order(1) == found != order(2)


def test_two_arms_go_ab_ba(tmp_path: Path) -> None:
    chosen = Selection(runs=("E2",), windows=4)
    plan = small_plan(tune=[])
    done = experiment(tmp_path, FakeRunner(tmp_path), plan, chosen)
    assert [run.key.arm for run in done.planned()] == ["A0", "A4", "A4", "A0", "A0", "A4", "A4", "A0"]


def test_the_arms_of_a_block_are_sent_the_same(tmp_path: Path) -> None:
    done = experiment(tmp_path, FakeRunner(tmp_path))
    done.run()
    by_block: dict[str, set[str]] = {}
    for entry in done.state.runs:
        by_block.setdefault(entry.block, set()).add(entry.attempts[0].classes["chat"])
    assert {len(hashes) for hashes in by_block.values()} == {1}
    assert len({next(iter(hashes)) for hashes in by_block.values()}) == 2, "windows differ"


def test_folders_are_not_mixed(tmp_path: Path) -> None:
    plan = small_plan(tune=[])
    experiment(tmp_path, FakeRunner(tmp_path), plan).run()
    with pytest.raises(BadInput, match="--resume"):
        experiment(tmp_path, FakeRunner(tmp_path), plan)
    with pytest.raises(BadInput, match="quick"):
        experiment(tmp_path, FakeRunner(tmp_path), plan, Selection(quick=True), resume=True)
    with pytest.raises(BadInput, match="another plan"):
        experiment(tmp_path, FakeRunner(tmp_path), small_plan(tune=[], seed=9), resume=True)


def test_a_server_that_is_not_there_is_left_out(tmp_path: Path) -> None:
    fake = {"target": "http://127.0.0.1:1", "ready": ""}
    servers = {"fake": fake, "other": {**fake, "needs": ["no-such-program-here"]}}
    arms = [{"name": "A0", "server": "fake", "load": "online"}, {"name": "B", "server": "other", "load": "online"}]
    run = [{"id": "E1", "arms": ["A0", "B"], "load": "both"}]
    plan = small_plan(server=servers, arm=arms, run=run, tune=[])
    done = experiment(tmp_path, FakeRunner(tmp_path), plan)
    done.run()
    assert done.state.skipped == {"B": "other is not installed: no-such-program-here is in none of its folders"}
    assert {entry.arm for entry in done.state.runs} == {"A0"}


def test_quick_takes_its_arms_and_no_tuning(tmp_path: Path) -> None:
    runner = FakeRunner(tmp_path)
    done = experiment(tmp_path, runner, chosen=Selection(quick=True))
    done.run()
    assert sorted(arm for arm, _, _ in runner.asked) == ["A0", "A4"]
    assert done.state.quick


def test_a_run_that_has_its_result_is_not_done_twice(tmp_path: Path) -> None:
    plan = small_plan(tune=[])
    first = FakeRunner(tmp_path, Fuse(3))
    with pytest.raises(Killed):
        experiment(tmp_path, first, plan).run()
    assert len(first.asked) == 1, "killed when its result was written, and before anybody was told"
    second = FakeRunner(tmp_path)
    done = experiment(tmp_path, second, plan, resume=True)
    done.run()
    assert first.asked[0] not in second.asked[:1]
    assert len(second.asked) == 9
    assert {entry.state for entry in done.state.runs} == {"done"}


def test_the_schema_is_committed_and_holds(tmp_path: Path) -> None:
    committed = Path(states.__file__).parent.parent / "schema" / "experiment.schema.json"
    assert committed.read_text() == schema_text(states.schema())
    experiment(tmp_path, FakeRunner(tmp_path), small_plan(tune=[])).run()
    written = json.loads((tmp_path / "experiment.json").read_text())
    schema = json.loads(committed.read_text())
    assert sorted(written) == sorted(schema["$defs"]["State"]["properties"])
    assert list(broken(written, schema)) == []
    written["runs"][0]["state"], written["runs"][1]["window"] = "gone", "0"
    assert [why.partition(":")[0] for why in broken(written, schema)] == ["$.runs[0].state", "$.runs[1].window"]
    written = json.loads((tmp_path / "experiment.json").read_text())
    assert msgspec.json.decode(json.dumps(written), type=states.State) == states.load(tmp_path)
