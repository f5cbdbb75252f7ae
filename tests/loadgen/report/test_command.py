"""`report` as it is called: its exit code, its forms, and what it refuses."""

from __future__ import annotations

import ast
import csv
import io
import json
import shutil
import sys
from pathlib import Path

import msgspec
import pytest

import loadgen.report
from loadgen import cli
from loadgen.run.files import RunFolder

Captured = pytest.CaptureFixture[str]


def _invalid(tmp_path: Path, run_dir: Path) -> Path:
    path = tmp_path / "bad"
    shutil.copytree(run_dir, path)
    found = RunFolder(path)
    facts = msgspec.structs.replace(found.load_facts(), invalid=("load process 0: 90% of a core, bound 70%",))
    found.write_facts(facts)
    found.result.unlink()
    found.write_result(
        msgspec.structs.replace(RunFolder(run_dir).load_result(), invalid=list(facts.invalid), status="invalid")
    )
    return path


def test_text(run_dir: Path, capsys: Captured) -> None:
    assert cli.main(["report", str(run_dir)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("sent ")
    assert "89.9 %" in out


@pytest.mark.parametrize("form", ["text", "md", "json", "csv"])
def test_invalid_stays_invalid_and_is_said_first(tmp_path: Path, run_dir: Path, capsys: Captured, form: str) -> None:
    assert cli.main(["report", str(_invalid(tmp_path, run_dir)), "--format", form]) == 4
    out, err = capsys.readouterr()
    if form == "text":
        assert out.startswith("INVALID: these figures say nothing about the server\n  - load process 0: 90% of a core")
    elif form == "md":
        assert out.index("**INVALID**") < out.index("sent")
    else:
        assert err.startswith("INVALID: ")
        assert "invalid" in out


def test_invalid_among_several_is_said_before_their_table(tmp_path: Path, run_dir: Path, capsys: Captured) -> None:
    assert cli.main(["report", str(run_dir), str(_invalid(tmp_path, run_dir))]) == 4
    assert capsys.readouterr().out.startswith("INVALID: ")


def test_json(run_dir: Path, base_dir: Path, capsys: Captured) -> None:
    assert cli.main(["report", str(run_dir), "--format", "json", "--against", str(base_dir)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["runs"][0]["result"] == json.loads(RunFolder(run_dir).result.read_text(encoding="utf-8"))
    chat = found["against"][0]["classes"]["chat"]
    assert (chat["paired"], chat["pairs"]) == ("plan", 1243)


def test_csv(tmp_path: Path, run_dir: Path, base_dir: Path, capsys: Captured) -> None:
    assert cli.main(["report", str(run_dir), str(base_dir), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["class"] for row in rows] == ["chat", "code", "eval", "chat", "code"]
    result = RunFolder(run_dir).load_result()
    told = result.classes["chat"].metrics["ttft"].quantiles
    assert float(rows[0]["ttft_p99"]) == next(each.value for each in told if each.q == 0.99)
    assert rows[0]["ttft_p99.9"] == ""
    assert rows[0]["shed"] == "7"
    out = tmp_path / "out.csv"
    assert cli.main(["report", str(run_dir), "--format", "csv", "--bucket", "10s", "-o", str(out)]) == 0
    beside = list(csv.DictReader(io.StringIO((tmp_path / "out.intervals.csv").read_text(encoding="utf-8"))))
    assert {row["run"] for row in beside} == {str(run_dir)}
    assert [row["start_micros"] for row in beside if row["class"] == "chat"][:2] == ["0", "10000000"]


def test_a_spreadsheet_computes_nothing(tmp_path: Path, run_dir: Path, capsys: Captured) -> None:
    path = tmp_path / "run"
    shutil.copytree(run_dir, path)
    facts = RunFolder(path).load_facts()
    RunFolder(path).write_facts(msgspec.structs.replace(facts, identity={"model": "=cmd()"}))
    assert cli.main(["report", str(path), "--format", "csv"]) == 0
    assert next(csv.DictReader(io.StringIO(capsys.readouterr().out)))["model"] == "'=cmd()"


def test_another_slo_and_window(run_dir: Path, capsys: Captured) -> None:
    assert cli.main(["report", str(run_dir), "--slo", "chat:ttft<=1ms", "--window", "20s..60s"]) == 0
    out = capsys.readouterr().out
    assert "ttft<=1ms" in out
    assert "40 s, from 20.0 s to 60.0 s" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--slo", "chta:ttft<=1ms"], "did you mean 'chat'?"),
        (["--window", "2h..3h"], "ended at 170 s"),
        (["--against", "no/such"], "is no folder"),
        (["-o", "no/such/folder/x.txt"], "No such file"),
    ],
)
def test_what_cannot_be_meant_is_two(run_dir: Path, capsys: Captured, args: list[str], said: str) -> None:
    assert cli.main(["report", str(run_dir), *args]) == 2
    assert said in capsys.readouterr().err


def test_a_virtual_run_beside_a_measured_one_is_refused(tmp_path: Path, run_dir: Path, capsys: Captured) -> None:
    path = tmp_path / "virtual"
    shutil.copytree(run_dir, path)
    facts = msgspec.structs.replace(RunFolder(path).load_facts(), mode="virtual")
    RunFolder(path).write_facts(facts)
    assert cli.main(["report", str(run_dir), str(path)]) == 2
    assert "simulated" in capsys.readouterr().err


def test_an_incomplete_run_says_so(tmp_path: Path, run_dir: Path, capsys: Captured) -> None:
    path = tmp_path / "run"
    shutil.copytree(run_dir, path)
    RunFolder(path).result.unlink()
    assert cli.main(["report", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("INCOMPLETE: there is no result.json")
    assert "89.9 %" in out


def test_all_but_the_page_want_no_plotly(run_dir: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("plotly", "plotly.offline"):
        monkeypatch.setitem(sys.modules, name, None)
    for form in ("text", "md", "json", "csv"):
        assert cli.main(["report", str(run_dir), "--format", form]) == 0
    capsys.readouterr()
    assert cli.main(["report", str(run_dir), "--format", "html"]) == 2
    assert "pip install 'slackwater[report]'" in capsys.readouterr().err


def test_reports_know_no_clock_socket_or_chance() -> None:
    forbidden = {"socket", "asyncio", "time", "datetime", "random", "secrets", "subprocess", "threading", "urllib"}
    for path in Path(loadgen.report.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & forbidden, path.name


def test_a_folder_of_runs_stands_for_them(tmp_path: Path, run_dir: Path, capsys: Captured) -> None:
    for name in ("1", "2", "10"):
        shutil.copytree(run_dir, tmp_path / "repeat" / name)
    assert cli.main(["report", str(tmp_path / "repeat"), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [Path(row["run"]).name for row in rows if row["class"] == "chat"] == ["1", "2", "10"]


def test_lines_of_json_are_a_table(tmp_path: Path, capsys: Captured) -> None:
    path = tmp_path / "conformance.jsonl"
    path.write_text(
        '{"row": "C1", "ok": true, "tries": 2}\n\n{"row": "C2", "ok": false, "why": "=x|y"}\n', encoding="utf-8"
    )
    assert cli.main(["report", str(path)]) == 0
    out = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert out[1:] == [["row", "ok", "tries", "why"], ["C1", "yes", "2"], ["C2", "NO", "=x|y"]]
    assert cli.main(["report", str(path), "--format", "csv"]) == 0
    assert capsys.readouterr().out == "row,ok,tries,why\nC1,yes,2,\nC2,NO,,'=x|y\n"
    assert cli.main(["report", str(path), "--format", "md"]) == 0
    assert r"| C2 | NO |  | =x\|y |" in capsys.readouterr().out
    assert cli.main(["report", str(path), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["rows"][1]["ok"] == "NO"
    path.write_text("[]\n", encoding="utf-8")
    assert cli.main(["report", str(path)]) == 2
    assert "row 1: not a JSON object" in capsys.readouterr().err
