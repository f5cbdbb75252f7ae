"""Sweep, compare and threeway with real runs of a second against a mock. Lags are not judged: the host may be busy."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loadgen.cli import main
from loadgen.compare import record as compare_record
from loadgen.errors import ExitCode
from loadgen.selftest.mock_process import MockProcess
from loadgen.sweep import record as sweep_record
from loadgen.threeway import decode

if TYPE_CHECKING:
    from collections.abc import Iterator

CHAT = "name=chat,arrivals=const:20/s,in=fixed:8,out=fixed:4,slo=ttft<=5s&tpot<=5s"
COMMON = (
    "--tokenizer",
    "words",
    "--cache",
    "as-is",
    "--warmup",
    "200ms",
    "--drain",
    "10s",
    "--allow-lag",
    "--ui",
    "none",
)


@pytest.fixture(scope="module")
def mock() -> Iterator[MockProcess]:
    with MockProcess("--mode", "engine", "--ttft", "fixed:5ms", "--tpot", "fixed:2ms") as running:
        yield running


def test_a_sweep_leaves_a_folder_for_each_rate(mock: MockProcess, tmp_path: Path) -> None:
    flags = ("--vary", "chat.rate=10,20", "--find", "chat.attainment>=0.5", "--confirm", "0", "--duration", "1s")
    out = tmp_path / "sweep"
    code = main(["sweep", "--target", mock.url, "--online", CHAT, *flags, *COMMON, "--out", str(out)])
    made = sweep_record.decode((out / "sweep.json").read_bytes())
    assert [(each.rate, each.purpose) for each in made.points] == [(10, "point"), (20, "point")]
    assert [each.realised for each in made.points] == pytest.approx([10, 20], rel=0.1)
    assert all((out / each.folder / "result.json").is_file() for each in made.points)
    assert (made.found[0].low, made.found[0].limit, int(code)) == (20, "range", ExitCode.OK)


def test_both_sides_are_sent_one_plan_by_one_process(mock: MockProcess, tmp_path: Path) -> None:
    scenario = tmp_path / "scenario.toml"
    scenario.write_text("seed = 3\n")
    out = tmp_path / "compare"
    flags = ("--a", mock.url, "--b", mock.url, "--block", "1s", "--pairs", "1", "--metric", "chat.p50.ttft,chat.errors")
    code = main(["compare", str(scenario), *flags, "--online", CHAT, *COMMON, "--out", str(out)])
    made = compare_record.decode((out / "compare.json").read_bytes())
    assert [each.side for each in made.blocks] == ["a", "b"]
    assert made.one_client
    assert len({each.plan_hash for each in made.blocks}) == 1
    plans = [gzip.decompress((out / each.folder / "workload.jsonl.gz").read_bytes()) for each in made.blocks]
    assert plans[0] == plans[1]
    ttft, errors = made.figures
    assert (ttft.kind, ttft.used, errors.kind, errors.mean) == ("ratio", 1, "difference", 0.0)
    assert code == ExitCode.OK


def test_threeway_pairs_the_stream_with_itself(mock: MockProcess, tmp_path: Path) -> None:
    out = tmp_path / "threeway"
    job = "name=eval,source=synth,submit=stream,items=20,in=fixed:8,out=fixed:8,window=4"
    flags = ("--online", CHAT, "--offline", job, "--duration", "1s", "--assert", "eval.harvest>=0")
    code = main(["threeway", "--target", mock.url, *flags, *COMMON, "--out", str(out)])
    made = decode((out / "threeway.json").read_bytes())
    assert [each.part for each in made.runs] == ["online", "offline", "both"]
    (entry,) = made.classes["chat"]
    assert 18 <= entry.pairs <= 20
    assert entry.loss == 0
    (harvest,) = made.harvest["eval"]
    assert harvest is not None
    assert harvest > 0
    assert [each.holds for each in made.checks] == [True]
    assert code == ExitCode.OK
