"""Calibration and scaling as steps of an experiment, simulated runs, the command, and a whole pass over real mocks."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
from support.loadgen_experiment import HOST, TABLES, FakeRunner, experiment, small_plan

from loadgen.commands import experiment as command
from loadgen.errors import BadInput, ExitCode
from loadgen.experiment import host
from loadgen.experiment import state as states
from loadgen.experiment.armrun import RealServers, beside_of
from loadgen.experiment.contract import real_runner
from loadgen.experiment.resolved import to_toml
from loadgen.experiment.runner import Context, Experiment
from loadgen.experiment.schedule import Selection
from loadgen.experiment.virtual import Simulation
from loadgen.experiment.write import write_tables
from loadgen.options import ExperimentOptions

if TYPE_CHECKING:
    from pathlib import Path

    from loadgen.experiment.plan import Plan


@pytest.fixture(autouse=True)
def _same_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "tree_hash", lambda _folders: "tree")


def scaled_plan(**changes: Any) -> Plan:
    """With a drawn trace, whose rate follows from what was calibrated."""
    online = [{"name": "chat", "slo": "ttft<=90ms"}]
    tables: dict[str, Any] = {
        "windows": 1,
        "tune": [],
        "trace": {"drawn": {"arrivals": "poisson:{rate}/s", "in": "8", "out": "4"}},
        "scaling": {"length": 1.0, "tuning": "0s..8m", "windows": ["8m..18m"]},
        "load": {"both": {**TABLES["load"]["both"], "online": online}},
        "arm": [*TABLES["arm"], {"name": "A1", "server": "fake", "load": "offline"}],
        "run": [{"id": "E1", "arms": ["A0", "A1", "A4"], "load": "both", "trace": "drawn", "rho": [0.5]}],
        "calibrate": {
            "load": "both", "online": "A0", "offline": "A1", "cell": {"trace": "drawn"}, "start": 10, "highest": 20,
            "duration": "3s", "confirm": "4s",
        },
    }  # fmt: skip
    return small_plan(**{**tables, **changes})


def test_calibrate_scale_and_run(tmp_path: Path) -> None:
    runner = FakeRunner(tmp_path)
    done = experiment(tmp_path, runner, scaled_plan())
    done.run()
    known = done.state.calibration
    assert known["r_sat"] == 20.0, "all rates pass on this runner, up to the highest"
    assert known["c_off"] > 0
    names = [each.name for each in done.state.calibration_runs]
    assert names == ["c_off", "rate-00", "rate-01", "confirm-0"]
    assert done.state.scaled["drawn,rho0.5/0"]["rate_per_s"] == 10.0
    assert {entry.state for entry in done.state.runs} == {"done"}
    scenario = (tmp_path / "runs/A0/drawn,rho0.5/0-0/scenario.toml").exists()
    assert not scenario, "the stand-in writes none"
    assert write_tables(done.plan, done.state, tmp_path, done.chosen).refused == ()

    again = FakeRunner(tmp_path)
    experiment(tmp_path, again, scaled_plan(), resume=True).run()
    assert again.asked == []


def test_a_rate_that_cannot_be_measured_ends_it(tmp_path: Path) -> None:
    plan = scaled_plan(calibrate={**scaled_plan().raw["calibrate"], "start": 1})
    with pytest.raises(BadInput, match="could be measured"):
        experiment(tmp_path, FakeRunner(tmp_path), plan).run()


def test_quick_estimates(tmp_path: Path) -> None:
    runner = FakeRunner(tmp_path)
    done = experiment(tmp_path, runner, scaled_plan(), Selection(quick=True))
    done.run()
    assert [each.name for each in done.state.calibration_runs] == ["c_off"]
    assert done.state.calibration["r_sat"] == pytest.approx(0.6 * done.state.calibration["c_off"] / 12)
    written = write_tables(done.plan, done.state, tmp_path, done.chosen)
    assert written.refused == ("quick runs are for a first look only",)


def test_thinning_has_no_place_beside_a_stretch(tmp_path: Path) -> None:
    trace = {"drawn": {"arrivals": "trace", "thin": "0.5", "source": "azure:none.csv"}}
    with pytest.raises(BadInput, match="another experiment than the stretch"):
        experiment(tmp_path, FakeRunner(tmp_path), scaled_plan(trace=trace), Selection(quick=True)).run()


SIMULATOR = (
    "import json,sys; from loadgen.result import encode, decode; from pathlib import Path;"
    "made=json.loads(Path('{shared_result}').read_text()); made['mode']='{mode}';"
    "assert Path('{workload}').is_file(); Path('{dir}/result.json').write_text(json.dumps(made))"
)


def simulated(tmp_path: Path, mode: str) -> Experiment:
    source = tmp_path / "source"
    small = small_plan(tune=[], windows=1, run=[TABLES["run"][1]])
    experiment(source, FakeRunner(tmp_path), small).run()
    made = source / "runs/A0/rate5/0-0/result.json"
    command_text = f'{sys.executable} -c "{SIMULATOR.replace("{shared_result}", str(made)).replace("{mode}", mode)}"'
    fake = {**TABLES["server"]["fake"], "simulate": command_text}
    plan = small_plan(tune=[], windows=1, run=[TABLES["run"][1]], server={"fake": fake})
    simulation = Simulation(tmp_path)
    folder = tmp_path / "virtual"
    folder.mkdir()
    context = Context(folder, tmp_path, simulation, simulation, HOST, virtual=True)
    return Experiment(plan, Selection(), context, resume=False)


def test_simulated_runs_are_marked_and_have_no_tables(tmp_path: Path) -> None:
    done = simulated(tmp_path, "virtual")
    done.run()
    folder = tmp_path / "virtual"
    assert states.load(folder).mode == "virtual"  # type: ignore[union-attr]
    assert {entry.state for entry in done.state.runs} == {"done"}
    written = write_tables(done.plan, done.state, folder, done.chosen)
    assert written.refused == ("the runs are simulated: a simulated figure is no measurement",)
    assert "No figure here is a measurement" in (folder / "summary.md").read_text()
    with pytest.raises(BadInput, match="holds a virtual experiment; a measured one goes elsewhere"):
        experiment(folder, FakeRunner(tmp_path), done.plan, resume=True)


def test_a_simulation_that_does_not_say_so_is_refused(tmp_path: Path) -> None:
    done = simulated(tmp_path, "measured")
    done.run()
    assert {entry.state for entry in done.state.runs} == {"failed"}
    assert "not marked" in done.state.runs[0].attempts[0].reasons[0]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(small_plan()))
    assert command.main(ExperimentOptions(str(path), None, list=True)) == ExitCode.OK
    assert "A6" in capsys.readouterr().out
    assert command.main(ExperimentOptions(str(path), None, dry_run=True)) == ExitCode.OK
    assert "10 runs" in capsys.readouterr().out

    runner = FakeRunner(tmp_path)
    monkeypatch.setattr(command, "real_runner", lambda: runner)
    monkeypatch.setattr(host, "preflight", lambda _folder: ["somebody else is busy"])
    options = ExperimentOptions(str(path), str(tmp_path / "out"))
    assert command.main(options) == ExitCode.OK
    assert (tmp_path / "out" / "plan.toml").is_file()
    assert "somebody else is busy" in (tmp_path / "out" / "summary.md").read_text()
    with pytest.raises(BadInput, match="--resume"):
        command.main(options)

    runner.interrupt = lambda arm: arm == "A6"
    assert command.main(ExperimentOptions(str(path), str(tmp_path / "stopped"))) == ExitCode.INTERRUPTED
    runner.interrupt = lambda _arm: False
    runner.verdict = lambda arm, _folder: ((("too slow",) if arm == "A4" else ()), ())
    assert command.main(ExperimentOptions(str(path), str(tmp_path / "invalid"))) == ExitCode.INVALID


MOCK = "{python} -m loadgen.mock --listen 127.0.0.1:{port} --mode engine --ttft {first} --tpot 1ms"


def test_a_whole_pass_over_mocks(tmp_path: Path) -> None:
    """Real processes, real load: the slower mock is seen to be slower, and its time on the processor is known."""
    part = {"name": "mock", "role": "router", "up": MOCK, "ready": "/health"}
    server = {"part": [part], "ready": "/health", "control": "http://127.0.0.1:{port}"}
    online = {"name": "chat", "arrivals": "const:40/s", "in": "8", "out": "4", "slo": "ttft<=9s"}
    plan = small_plan(
        server={"mock": server},
        arm=[
            {"name": "A0", "server": "mock", "load": "online", "params": {"first": "1ms"}},
            {"name": "B", "server": "mock", "load": "online", "params": {"first": "120ms"}},
        ],
        load={"calm": {"dialect": "vllm", "tokenizer": "words", "procs": 1, "drain": "5s", "online": [online]}},
        run=[{"id": "E", "arms": ["A0", "B"], "load": "calm"}],
        tune=[],
        tables=["overhead"],
        windows=1,
        duration="1s",
        warmup="200ms",
        attempts=1,
    )
    context = Context(tmp_path, tmp_path, real_runner(), RealServers(), HOST)
    done = Experiment(plan, Selection(), context, resume=False)
    done.run()
    written = write_tables(plan, done.state, tmp_path, done.chosen)
    # A busy machine may disturb it, or make the client too slow; neither may stop it.
    assert [why for why in written.refused if "INVALID" not in why] == []
    runs = {entry.arm: tmp_path / entry.attempts[0].folder for entry in done.state.runs}
    beside = beside_of(runs["B"])
    assert beside.routes[0]["POST /v1/chat/completions"] == 48
    assert "--ttft 120ms" in beside.command[0]
    lines = (tmp_path / "tables" / "runs.csv").read_text().splitlines()
    header = lines[0].split(",")
    found = {row["arm"]: row for row in (dict(zip(header, line.split(","), strict=True)) for line in lines[1:])}
    assert float(found["B"]["chat.mean.ttft"]) >= 120_000, "the mock answers no earlier than it was told"
    assert float(found["A0"]["router.cpu_us_per_request"]) > 0
