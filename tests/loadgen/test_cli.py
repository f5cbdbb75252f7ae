from __future__ import annotations

import errno
import os
import subprocess
from typing import Any

import pytest
from support.loadgen_mock import command

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


def test_a_reader_that_left_is_no_bug() -> None:
    read, write = os.pipe()
    os.close(read)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    try:
        done = subprocess.run(command("help"), stdout=write, stderr=subprocess.PIPE, env=env, timeout=60, check=False)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def full(_: list[str]) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/x/records.jsonl.gz.part")

    monkeypatch.setattr(cli, "_main", full)
    assert cli.main(["run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device: 'runs/x/records.jsonl.gz.part'" in line


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
