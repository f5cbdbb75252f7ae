"""Calibration and scaling as steps of an experiment, simulated runs, the command, and a whole pass over real mocks."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.json_schema import broken
from support.loadgen_experiment import HOST, TABLES, FakeRunner, FakeServers, experiment, small_plan
from support.loadgen_records import facts, record, streamed

from loadgen.commands import experiment as command
from loadgen.errors import BadInput, ExitCode
from loadgen.experiment import host
from loadgen.experiment import state as states
from loadgen.experiment.armrun import RealServers, beside_of
from loadgen.experiment.contract import real_runner
from loadgen.experiment.figures import figures
from loadgen.experiment.resolved import to_toml
from loadgen.experiment.runner import Context, Experiment
from loadgen.experiment.schedule import Selection, tuned_arms
from loadgen.experiment.tune import tried
from loadgen.experiment.virtual import Simulation
from loadgen.experiment.write import write_tables
from loadgen.measure.facts import ClassFacts
from loadgen.measure.summarise import summarise
from loadgen.options import ExperimentOptions
from loadgen.report.html import has_plotly
from loadgen.run.files import RunFolder
from loadgen.selftest.limits import Highest, Limit, Limits

if TYPE_CHECKING:
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


def known(rate: float) -> Limits:
    """What a host can send: so many requests a second, and chunks without end."""
    asked, chunks = (
        Highest(rate=each, cpu=0.1, micros=1.0, all_micros=1.0, limited_by="gate", reason="") for each in (rate, 1e9)
    )
    return Limits(host={}, taken="", timers={}, limits=[Limit(procs=1, requests=asked, chunks=chunks)])


def told_of_room(folder: Path, plan: Plan, rate: float) -> list[str]:
    folder.mkdir()
    said: list[str] = []
    servers = FakeServers()
    context = Context(folder, folder, FakeRunner(folder), servers, HOST, limits=known(rate), say=said.append)
    done = Experiment(plan, Selection(), context, resume=False)
    done.run()
    told = [note for note in done.state.notes if "are planned" in note]
    assert [line.removeprefix("warning: ") for line in said if "are planned" in line] == told
    return told


def test_a_load_that_this_host_can_hardly_send_is_told(tmp_path: Path) -> None:
    plan = small_plan(tune=[], windows=1)
    assert told_of_room(tmp_path / "enough", plan, 1_000.0) == []
    [note] = told_of_room(tmp_path / "few", plan, 12.0)
    assert note.startswith("both rate5: ")
    assert "4 times that with room; 1 load processes reach 12 here" in note


def test_a_scaled_load_is_looked_at_when_its_rate_is_known(tmp_path: Path) -> None:
    [note] = told_of_room(tmp_path / "few", scaled_plan(), 12.0)
    assert note.startswith("both drawn,rho0.5: ")


def test_offline_work_that_got_nothing_is_none_and_not_unknown(tmp_path: Path) -> None:
    made = [streamed(each, 100.0 * each, 10, 2, 5) for each in range(20)]
    made.append(record(90, 0, outcome="cut", cls="work", job="work", sent=None, end=None, in_got=None))
    classes = {"chat": ClassFacts(), "work": ClassFacts(online=False)}
    run = RunFolder.create(tmp_path / "run")
    with run.records_writer() as writer:
        for each in made:
            writer.write(each)
    run.write_result(summarise(made, facts(4, classes=classes)))
    found = figures(run.path)
    assert found["offline.tokens_per_s"] == 0
    assert found["total.tokens_per_s"] == found["chat.tokens_per_s"] == pytest.approx(20 * 15 / 4)


def test_only_what_is_asked_for_is_tuned(tmp_path: Path) -> None:
    runner = FakeRunner(tmp_path)
    done = experiment(tmp_path, runner, small_plan(windows=1), Selection(arms=("A4",)))
    done.run()
    assert sorted(done.state.tuned) == ["A4"]
    like = [*TABLES["arm"], {**TABLES["arm"][2], "name": "A6b", "like": "A6"}]
    plan = small_plan(arm=like, run=[{**TABLES["run"][0], "arms": ["A0", "A6b"]}])
    assert tuned_arms(plan, Selection()) == {"A0", "A6", "A6b"}


def test_a_probe_in_which_the_client_was_too_slow_holds_nothing(tmp_path: Path) -> None:
    def slow(arm: str, folder: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return (("90% of a core",) if arm == "A6" and folder.startswith("02") else ()), ()

    done = experiment(tmp_path, FakeRunner(tmp_path, verdict=slow), small_plan(windows=1))
    done.run()
    bad = done.state.probes["A6"][2]
    assert (bad.status, tried(bad).figures) == ("invalid", {})
    assert tried(done.state.probes["A6"][1]).figures
    assert write_tables(done.plan, done.state, tmp_path, done.chosen).refused == ()
    assert f"INVALID while tuning, and so not chosen: A6 {bad.value}" in (tmp_path / "summary.md").read_text()


def test_quick_estimates(tmp_path: Path) -> None:
    runner = FakeRunner(tmp_path)
    done = experiment(tmp_path, runner, scaled_plan(), Selection(quick=True))
    done.run()
    assert [each.name for each in done.state.calibration_runs] == ["c_off"]
    assert done.state.calibration["r_sat"] == pytest.approx(0.6 * done.state.calibration["c_off"] / 12)
    written = write_tables(done.plan, done.state, tmp_path, done.chosen)
    assert written.refused == ("quick runs are for a first look only",)
    assert (tmp_path / "tables" / "runs.csv").read_text().splitlines()[1].startswith("quick,")


def test_thinning_has_no_place_beside_a_stretch(tmp_path: Path) -> None:
    trace = {"drawn": {"arrivals": "trace", "thin": "0.5", "source": "azure:none.csv"}}
    with pytest.raises(BadInput, match="another experiment than the stretch"):
        experiment(tmp_path, FakeRunner(tmp_path), scaled_plan(trace=trace), Selection(quick=True)).run()


def test_what_cannot_be_scheduled_is_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(scaled_plan()))
    with pytest.raises(BadInput, match="the plan has 1"):
        command.main(ExperimentOptions(str(path), str(tmp_path / "out"), windows=2))
    assert not (tmp_path / "out").exists()


def test_two_at_once_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "real_runner", lambda: FakeRunner(tmp_path))
    monkeypatch.setattr(host, "preflight", lambda _folder: [])
    path = tmp_path / "mine.toml"
    path.write_text(to_toml(small_plan()))
    with states.alone(tmp_path), pytest.raises(BadInput, match="another process carries this experiment out"):
        command.main(ExperimentOptions(str(path), str(tmp_path), resume=True))
    with states.alone(tmp_path):
        assert not (tmp_path / states.FILE).exists(), "it is free again, and nothing was done"


def test_a_full_disk_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "mine.toml"
    path.write_text(to_toml(small_plan()))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(command, "real_runner", lambda: FakeRunner(tmp_path))
    monkeypatch.setattr(host, "preflight", lambda _folder: [])
    monkeypatch.setattr(Experiment, "save", full)
    with pytest.raises(BadInput, match="No space left on device; --resume goes on"):
        command.main(ExperimentOptions(str(path), str(tmp_path / "out")))


def test_the_command_keeps_blocks_and_goes_on_from_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path, place = tmp_path / "mine.toml", tmp_path / "results"
    path.write_text(to_toml(small_plan(keep=str(place))))
    runner = FakeRunner(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(command, "real_runner", lambda: runner)
    monkeypatch.setattr(host, "preflight", lambda _folder: [])
    assert command.main(ExperimentOptions(str(path), str(tmp_path / "out"))) == ExitCode.OK
    assert (place / "tables" / "arms.csv").is_file()
    runner.asked.clear()
    assert command.main(ExperimentOptions(str(path), str(tmp_path / "clone"), resume=True)) == ExitCode.OK
    assert runner.asked == []
    assert f"goes on from {place}" in capsys.readouterr().err


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
    lines = [line.split(",")[0] for line in (folder / "tables" / "runs.csv").read_text().splitlines()]
    assert set(lines) == {"mode", "virtual"}
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
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(command, "real_runner", lambda: runner)
    monkeypatch.setattr(host, "preflight", lambda _folder: ["somebody else is busy"])
    options = ExperimentOptions(str(path), str(tmp_path / "out"))
    assert command.main(options) == ExitCode.OK
    assert (tmp_path / "out" / "plan.toml").is_file()
    assert (tmp_path / "out" / "report.html").is_file() == has_plotly()
    summary = (tmp_path / "out" / "summary.md").read_text()
    assert "somebody else is busy" in summary
    assert "selftest finds out, and should be run first" in summary
    with pytest.raises(BadInput, match="--resume"):
        command.main(options)

    runner.interrupt = lambda arm: arm == "A6"
    assert command.main(ExperimentOptions(str(path), str(tmp_path / "stopped"))) == ExitCode.INTERRUPTED
    runner.interrupt = lambda _arm: False
    runner.verdict = lambda arm, _folder: ((("too slow",) if arm == "A4" else ()), ())
    assert command.main(ExperimentOptions(str(path), str(tmp_path / "invalid"))) == ExitCode.INVALID


SCHEMAS = ("experiment", "result", "record")
MOCK = "{python} -m loadgen.mock --listen 127.0.0.1:{port} --mode engine --ttft {first} --tpot 1ms"


def files_fit_their_schemas(folder: Path, run: Path) -> None:
    """Of an experiment and of one real run in it: result, every record, and `experiment.json`."""
    committed = Path(states.__file__).parent.parent / "schema"
    schemas = {name: json.loads((committed / f"{name}.schema.json").read_text()) for name in SCHEMAS}
    assert list(broken(json.loads((folder / "experiment.json").read_text()), schemas["experiment"])) == []
    assert list(broken(json.loads((run / "result.json").read_text()), schemas["result"])) == []
    with gzip.open(run / "records.jsonl.gz", "rt") as file:
        records = [json.loads(line) for line in file]
    assert records
    assert [why for record in records for why in broken(record, schemas["record"])] == []


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
    files_fit_their_schemas(tmp_path, runs["B"])
    beside = beside_of(runs["B"])
    assert beside.routes[0]["POST /v1/chat/completions"] == 48
    assert "--ttft 120ms" in beside.command[0]
    lines = (tmp_path / "tables" / "runs.csv").read_text().splitlines()
    header = lines[0].split(",")
    found = {row["arm"]: row for row in (dict(zip(header, line.split(","), strict=True)) for line in lines[1:])}
    assert float(found["B"]["chat.mean.ttft"]) >= 120_000, "the mock answers no earlier than it was told"
    assert float(found["A0"]["router.cpu_us_per_request"]) > 0
