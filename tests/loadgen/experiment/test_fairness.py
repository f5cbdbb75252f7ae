"""Runs that may not stand in one table, and that the table is then not written."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from support.loadgen_experiment import TABLES, FakeRunner, experiment, small_plan

from loadgen.experiment import host
from loadgen.experiment.fairness import Seen, refusals
from loadgen.experiment.state import Entry, Probe, State
from loadgen.experiment.write import write_tables

if TYPE_CHECKING:
    from pathlib import Path


def seen(arm: str, **given: Any) -> Seen:
    entry = Entry(
        arm=arm,
        setting="all",
        window=0,
        repeat=0,
        host=given.pop("host", "h"),
        block=given.pop("block", "b"),
        cell={},
        binaries=given.pop("binaries", {"slackwater": "1"}),
    )
    fields: dict[str, Any] = {
        "status": "ok",
        "mode": "measured",
        "quick": False,
        "server": "fake",
        "classes": {"chat": "c1"} | ({} if arm == "A0" else {"work": "w1"}),
        "identity": {"cache": "cold", "server_version": "1"},
    }
    return Seen(entry=entry, **{**fields, **given})


def judged(*runs: Seen, state: State | None = None, **plan: Any) -> list[str]:
    return refusals(small_plan(**plan), state or State(plan="small", plan_hash="", seed=1), runs)


def test_what_is_fair() -> None:
    assert judged(seen("A0"), seen("A4"), seen("A6", status="disturbed")) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"host": "other"}, "block b on other: A0 is missing"),
        ({"classes": {"chat": "c2"}}, "class chat was not the same plan in all arms"),
        ({"classes": {}}, "does not say what was planned"),
        ({"binaries": {"slackwater": "2"}}, "the program of fake changed between its runs"),
        ({"identity": {"cache": "as-is"}}, "cache differs: as-is and cold"),
        ({"identity": {"server_version": "2"}}, "server_version of fake differs"),
        ({"status": "invalid", "reasons": ["send lag"]}, "A6 all 0-0 is INVALID: send lag"),
        ({"mode": "virtual"}, "runs of different modes: measured and virtual"),
        ({"quick": True}, "quick runs are for a first look only"),
    ],
)
def test_what_is_not(changed: dict[str, Any], said: str) -> None:
    found = judged(seen("A0"), seen("A4"), seen("A6", **changed))
    assert len(found) == 1
    assert said in found[0]


def test_other_servers_may_be_other_programs() -> None:
    other = seen("A6", server="peer", binaries={"vllm": "9"}, identity={"cache": "cold", "server_version": "0.32"})
    assert judged(seen("A0"), seen("A4"), other) == []


def test_all_simulated_is_no_measurement() -> None:
    found = judged(seen("A0", mode="virtual"), seen("A4", mode="virtual"))
    assert found == ["the runs are simulated: a simulated figure is no measurement"]


def test_a_block_without_its_baseline() -> None:
    found = judged(seen("A0"), seen("A4"), seen("A4", block="c"))
    assert found == ["block c: A0 is missing, with which all else is paired"]


def probes(count: int) -> list[Probe]:
    return [Probe(name=f"{each}", value="1", folder="", status="ok") for each in range(count)]


def test_unequal_probes() -> None:
    state = State(plan="small", plan_hash="", seed=1, probes={"A4": probes(3), "A6": probes(2), "baseline": probes(1)})
    assert judged(seen("A0"), state=state) == ["arms were tuned with unequal numbers of probes: A4 3, A6 2"]
    state.probes["A6"] = probes(3)
    assert judged(seen("A0"), state=state) == []


def test_an_arm_that_was_not_tuned_beside_one_that_was() -> None:
    state = State(plan="small", plan_hash="", seed=1, probes={"A4": probes(3), "baseline": probes(1)})
    runs, tunes = [seen("A0"), seen("A4"), seen("A6")], TABLES["tune"][:1]
    assert judged(*runs, state=state, tune=tunes) == ["arms were tuned with unequal numbers of probes: A4 3, A6 0"]
    like = [*TABLES["arm"][:2], {**TABLES["arm"][2], "knob": "chunk", "like": "A4"}]
    assert judged(*runs, state=state, tune=tunes, arm=like) == []


def test_a_baseline_that_nobody_may_be_held_against() -> None:
    bad = [Probe(name="baseline", value="", folder="", status="invalid")]
    state = State(plan="small", plan_hash="", seed=1, probes={"A4": probes(3), "A6": probes(3), "baseline": bad})
    assert judged(seen("A0"), state=state) == ["A0 is INVALID on the tuning window, where all else is held against it"]


def test_an_invalid_run_of_a_router_is_a_void_cell_and_no_reason_against_the_table() -> None:
    assert judged(seen("A0"), seen("A6", status="invalid"), tables=["overhead"]) == []


def test_two_machines_are_two_blocks() -> None:
    assert judged(seen("A0"), seen("A4"), seen("A0", host="other"), seen("A4", host="other")) == []


def test_windows_that_overlap() -> None:
    scaling = {"length": 1.0, "tuning": "0s..8m", "windows": ["7m..17m", "18m..28m"]}
    assert judged(seen("A0"), scaling=scaling) == ["test window 0 overlaps the tuning window"]


def test_no_tables_are_written_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "tree_hash", lambda _folders: "tree")
    plan = small_plan(windows=1, run=[TABLES["run"][0]])
    done = experiment(tmp_path, FakeRunner(tmp_path), plan)
    done.run()
    assert write_tables(plan, done.state, tmp_path, done.chosen).refused == ()
    assert (tmp_path / "tables" / "arms.csv").is_file()

    entry = next(entry for entry in done.state.runs if entry.arm == "A6")
    result = tmp_path / entry.attempts[-1].folder / "result.json"
    measured = result.read_text()
    result.write_text(json.dumps({**json.loads(measured), "mode": "virtual"}))
    written = write_tables(plan, done.state, tmp_path, done.chosen)
    assert written.tables == ("runs",)
    assert "different modes" in written.refused[0]
    assert [path.name for path in (tmp_path / "tables").iterdir()] == ["runs.csv"]
    assert "a simulated figure never stands beside a measured one" in (tmp_path / "summary.md").read_text()

    result.write_text(measured)
    entry.attempts[-1].status = "invalid"
    assert "INVALID" in write_tables(plan, done.state, tmp_path, done.chosen).refused[0]
    entry.attempts[-1].status = "ok"
    done.state.probes["A4"].pop()
    assert "unequal numbers of probes" in write_tables(plan, done.state, tmp_path, done.chosen).refused[0]


def test_an_invalid_run_is_repeated_and_then_refuses(tmp_path: Path) -> None:
    def verdict(arm: str, _folder: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return (("load process 0: 90% of a core",) if arm == "A6" else ()), ()

    plan = small_plan(windows=1, run=[TABLES["run"][1], {**TABLES["run"][0], "settings": 1}], tune=[])
    done = experiment(tmp_path, FakeRunner(tmp_path, verdict=verdict), plan)
    done.run()
    entry = next(entry for entry in done.state.runs if entry.arm == "A6")
    assert [each.status for each in entry.attempts] == ["invalid"] * 3
    written = write_tables(plan, done.state, tmp_path, done.chosen)
    assert any("A6" in why and "90% of a core" in why for why in written.refused)
