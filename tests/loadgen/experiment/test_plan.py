"""Plans as text: what is read, what is refused, what `--set` changes, and that those of the program can be meant."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from support.loadgen_experiment import TABLES, small_plan

from loadgen.errors import BadInput
from loadgen.experiment import load
from loadgen.experiment.fill import fill, fill_all, words
from loadgen.experiment.listing import dry_run, listing
from loadgen.experiment.plan import cell_name, setting_name
from loadgen.experiment.plan_read import load_toml, parse_plan, plan_names, put, read_plan
from loadgen.experiment.resolved import to_toml
from loadgen.experiment.schedule import Selection, schedule

TREE = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", plan_names())
def test_plans_of_the_program(name: str, tmp_path: Path) -> None:
    plan = read_plan(name, {}, TREE)
    assert plan.name == name
    load.check_loads(plan, tmp_path)
    assert plan.baseline in dry_run(plan, Selection())
    assert all(arm in listing(plan) for arm in plan.arms)


def test_the_seven_plans() -> None:
    names = ["cache-routing", "colocation", "failover", "peers", "router-overhead", "slo-classes", "threeway"]
    assert plan_names() == names


def test_colocation_is_the_arms_and_hours_that_were_promised() -> None:
    plan = read_plan("colocation", {}, TREE)
    assert {f"A{number}" for number in range(10)} | {"A3b", "A6b"} <= set(plan.arms)
    assert {tune.probes for tune in plan.tunes} == {8}
    assert [arm.load for arm in (plan.arms["A0"], plan.arms["A1"], plan.arms["A9"])] == ["online", "offline", "both"]
    assert plan.scaling is not None
    assert plan.scaling.tuning == (0, 480_000_000)
    assert plan.scaling.windows[0] == (480_000_000, 1_080_000_000)
    assert "16.0 h" in dry_run(plan, Selection()).replace("15.9 h", "16.0 h")


def changed(path: str, value: Any) -> dict[str, Any]:
    raw = copy.deepcopy(TABLES)
    at: Any = raw
    *way, last = path.split(".")
    for step in way:
        at = at[int(step)] if step.isdigit() else at[step]
    at[last] = value
    return raw


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("bseline", "A0", "bseline: no such key; did you mean 'baseline'"),
        ("baseline", "A", "no such name; did you mean"),
        ("windows", 0, "whole number, 1 or more"),
        ("duration", "4", "a duration is a number and"),
        ("tables", ["poled"], "did you mean 'pooled'"),
        ("server.fake.redy", "x", "did you mean 'ready'"),
        ("server.fake", {"ready": "x"}, "up: is missing"),
        ("arm.1.server", "fke", "did you mean 'fake'"),
        ("arm.1.load", "online only", "expected online or offline or both"),
        ("arm.1.settings", [], "a knob has settings"),
        ("arm.1.name", "A0", "is the name of two arms"),
        ("run.0.arms", ["A0", "A5"], "did you mean"),
        ("run.0.load", "boht", "did you mean 'both'"),
        ("run.0.tolerances", ["x"], "tolerances=x"),
        ("run.0.vary", {"rate": []}, "has a variable without values"),
        ("quick_arms", ["A0", "A5"], "quick_arms: A5: no such name"),
        ("tune.0.tolerance", float("nan"), "expected a number above zero"),
        ("tune.0.knob", "budget", "the knob of A4 is chunk"),
        ("tune.0.hi", "", "a search wants lo and hi"),
        ("vars", {"rat": "5"}, ""),
        ("load.both.online", [{"name": "chat", "arrivals": "poisson:{rte}/s"}], "did you mean 'rate'"),
        ("server.fake.target", "http://127.0.0.1:{prt}", "did you mean 'port'"),
    ],
)
def test_what_cannot_be_meant(path: str, value: Any, said: str) -> None:
    raw = changed(path, value)
    if not said:
        # The cells of the runs give it too, so the variable is not needed.
        parse_plan(raw, "small")
        return
    with pytest.raises(BadInput, match=said):
        parse_plan(raw, "small")


def test_set_changes_values_and_refuses_paths_that_are_not_there() -> None:
    raw = copy.deepcopy(TABLES)
    put(raw, "windows", "3")
    put(raw, "vars.rate", "7")
    put(raw, "run.E1.settings", "1")
    put(raw, "run.E2.vary.rate", "[7, 8]")
    put(raw, "tune.A4.lo", "32")
    put(raw, "duration", "9s")
    plan = parse_plan(raw, "small")
    assert (plan.windows, plan.variables["rate"], plan.duration) == (3, "7", 9_000_000)
    assert plan.questions[1].cells == ({"rate": "7"}, {"rate": "8"})
    assert [question.settings for question in plan.questions] == [1, 1]
    assert plan.tunes[0].lo == "32"
    for key, said in (("vrs.rate", "did you mean 'vars'"), ("run.E9.settings", "no such row"), ("name.x", "no table")):
        with pytest.raises(BadInput, match=said):
            put(raw, key, "1")


def test_the_plan_that_is_kept_reads_the_same(tmp_path: Path) -> None:
    for name in ("colocation", "router-overhead"):
        plan = read_plan(name, {"seed": "5"}, TREE)
        path = tmp_path / f"{name}.toml"
        path.write_text(to_toml(plan))
        again = parse_plan(load_toml(path), name)
        assert again.seed == 5
        for part in ("servers", "arms", "loads", "questions", "tunes", "scaling", "calibrate", "choices", "traces"):
            assert getattr(again, part) == getattr(plan, part), part


def test_placeholders() -> None:
    values = {"a": "1 2", "b": "{a}", "loop": "{loop}"}
    assert fill('{"x": {b}}', values, "here") == '{"x": 1 2}'
    assert fill_all({"k": ["{a}", 3]}, values, "here") == {"k": ["1 2", 3]}
    assert words("run {b} 'x y'", values, "here") == ["run", "1", "2", "x y"]
    with pytest.raises(BadInput, match="without end"):
        fill("{loop}", values, "here")
    with pytest.raises(BadInput, match="no value"):
        fill("{c}", values, "here")


def test_names_of_settings() -> None:
    plan = small_plan()
    assert cell_name({"trace": "azure-conv", "rho": "0.3"}) == "azure-conv,rho0.3"
    assert setting_name({"x": "1/2"}, plan.arms["A4"], "64") == "x1_2+chunk=64"
    assert setting_name({}, plan.arms["A0"], None) == "all"


def test_runs_that_are_asked_for() -> None:
    plan = small_plan()
    assert len(schedule(plan, Selection(), "h", {}, {})) == 10
    assert len(schedule(plan, Selection(runs=("E2",)), "h", {}, {})) == 4
    assert {run.key.arm for run in schedule(plan, Selection(arms=("A6",)), "h", {}, {})} == {"A0", "A6"}
    assert len(schedule(plan, Selection(windows=1, repeats=3), "h", {}, {})) == 15
    assert {run.knob for run in schedule(plan, Selection(runs=("E2",)), "h", {"A4": ["9", "8"]}, {})} == {None, "9"}
    for wrong in (Selection(runs=("E3",)), Selection(arms=("A1",))):
        with pytest.raises(BadInput, match="did you mean"):
            schedule(plan, wrong, "h", {}, {})


def test_one_key_is_one_run() -> None:
    raw = changed("run.1.duration", "9s")
    with pytest.raises(BadInput, match="differs in length between E1 and E2"):
        schedule(parse_plan(raw, "small"), Selection(), "h", {}, {})
