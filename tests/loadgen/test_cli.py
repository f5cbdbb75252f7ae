from __future__ import annotations

from typing import Any

import pytest

from loadgen import cli
from loadgen.cli_build import BUILDERS
from loadgen.cli_help import SUMMARIES
from loadgen.cli_parse import TABLES, parse

TARGET = ["--target", "http://127.0.0.1:8000"]


def build(command: str, *args: str) -> Any:
    return BUILDERS[command](parse(command, list(args)))


def test_each_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(BUILDERS) == set(SUMMARIES) == set(TABLES)
    for name in BUILDERS:
        assert cli.main([name, "--help"]) == 0
        assert f"usage: slackwater-loadgen {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "args",
    [
        ["rnu"],
        ["run"],
        ["run", *TARGET, "--durations", "5s"],
        ["run", *TARGET, "--duration"],
        ["run", *TARGET, "a.toml", "b.toml"],
        ["run", *TARGET, "--ui", "x"],
        ["sweep", *TARGET],
        ["sweep", *TARGET, "--vary", "chta.rate=1..2"],
        ["compare", "--a", "http://127.0.0.1:1"],
        ["threeway", *TARGET],
        ["experiment", "colocation"],
        ["gen", "--online", "name=a"],
        ["inspect"],
        ["report"],
        ["mock", "--listen", "0.0.0.0:1"],
        ["mock", "--speed", "2"],
        ["selftest", "--procs", "0"],
    ],
)
def test_bad_input_is_one_line_and_exit_2(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(args) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_typed_options() -> None:
    made = build("sweep", *TARGET, "--vary", "chat.rate=1..8/s", "--find", "all.errors==0")
    assert (made.vary.low, made.vary.high, made.points, made.tolerance, made.confirm) == (1.0, 8.0, 8, 0.05, 3)
    assert build("mock").listen == ("127.0.0.1", 0)
    assert build("gen", "-o", "f").output == "f"
    assert build("inspect", "azure:f", "x.csv").sources[1].kind == ""
    assert build("report", "d", "--slo", "chat:ttft<=1s").slos["chat"].per_request[0].bound == 1e6
