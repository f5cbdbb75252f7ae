"""Alone, alone and together: what the jobs take from the stream, and what they get for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.loadgen_queue import QueueEngine

from loadgen.cli_build import BUILDERS
from loadgen.cli_parse import parse
from loadgen.commands.threeway import main
from loadgen.errors import ExitCode
from loadgen.threeway import Threeway, ThreewayRecord, decode, part_scenario, text

if TYPE_CHECKING:
    from loadgen.options import ThreewayOptions

CHAT = "name=chat,arrivals=poisson:8/s,in=fixed:8,out=fixed:2,slo=ttft<=400ms"
JOB = "name=eval,source=synth,items=10"


def asked(*flags: str) -> ThreewayOptions:
    fixed = ("--target", "http://127.0.0.1:1", "--duration", "100s", "--online", CHAT, "--offline", JOB)
    options: ThreewayOptions = BUILDERS["threeway"](parse("threeway", [*fixed, *flags]))
    return options


def made(folder: Path, engine: QueueEngine, *flags: str) -> tuple[ThreewayRecord, ExitCode]:
    code = Threeway(asked(*flags).run, folder, engine.tools).run()
    return decode((folder / "threeway.json").read_bytes()), code


def test_the_cost_is_paired_request_by_request(tmp_path: Path) -> None:
    engine = QueueEngine(burden=1.5)
    record, code = made(tmp_path, engine)
    assert [each.part for each in record.runs] == [each.folder for each in record.runs] == ["online", "offline", "both"]
    (entry,) = record.classes["chat"]
    alone, beside = (engine.kept[tmp_path / each] for each in ("online", "both"))
    inside = [each.at.where(each.at.due <= 100_000_000) for each in (alone, beside)]
    shares = [np.mean(each.first - each.due <= 400_000) for each in inside]
    assert entry.pairs == len(inside[0])
    assert entry.loss == pytest.approx(shares[0] - shares[1])
    assert entry.loss is not None
    assert entry.loss > 0.02
    ratio = next(each.ratio for each in entry.changes if (each.metric, each.statistic) == ("ttft", "mean"))
    assert ratio is not None
    assert ratio > 1.5
    # Jobs get the idle share: 1 - 8 * 75 ms a second.
    assert record.harvest["eval"] == [pytest.approx(0.4, abs=0.06)]
    assert code is ExitCode.OK
    shown = text(record)
    assert "attainment lost" in shown
    assert "fewer than 6 rounds" in shown


def test_rounds_have_seeds_of_their_own_and_begin_with_another_part(tmp_path: Path) -> None:
    engine = QueueEngine(burden=1.2)
    record, _ = made(tmp_path, engine, "--repeat", "6", "--seed", "5")
    first = [each.part for each in record.runs[::3]]
    assert first == ["online", "offline", "both"] * 2
    assert [each.scenario.seed for each in engine.runs[::3]] == [5, 6, 7, 8, 9, 10]
    spread = record.loss_over_rounds["chat"]
    assert spread is not None
    assert spread.low is not None
    assert spread.low <= np.mean([each.loss for each in record.classes["chat"] if each.loss is not None])
    ratios = record.ratios_over_rounds["chat"]["ttft mean"]
    assert ratios is not None
    assert ratios.low is not None
    assert ratios.low > 1
    assert record.harvest_over_rounds["eval"] is not None
    assert "fewer than 6 rounds" not in text(record)


def test_assertions_on_two_runs_are_judged_here_and_kept_from_the_runs(tmp_path: Path) -> None:
    engine = QueueEngine(burden=1.5)
    flags = ("--assert", "eval.harvest>=0.99", "--assert", "chat.interference<=50%", "--assert", "chat.attainment>=0.1")
    record, code = made(tmp_path, engine, *flags)
    assert [(each.text, each.holds) for each in record.checks] == [
        ("eval.harvest>=0.99", False),
        ("chat.interference<=0.5", True),
    ]
    assert [each.scenario.asserts for each in engine.runs] == [(), (), ("chat.attainment>=0.1",)]
    assert code is ExitCode.ASSERTION
    assert "FAILS: eval.harvest>=0.99" in text(record)


def test_a_part_keeps_only_what_belongs_to_it() -> None:
    flags = ("--abort", "eval.errors>3", "--abort", "chat.errors>3", "--probe", "1/s")
    scenario = asked(*flags).run.scenario
    online = part_scenario(scenario, "online")
    assert (online.offline, online.aborts, online.probe) == ((), ("chat.errors>3",), 1.0)
    offline = part_scenario(scenario, "offline")
    assert (offline.online, offline.aborts, offline.probe) == ((), (), None)
    assert part_scenario(scenario, "both") == scenario


def test_jobs_that_end_in_one_run_only_have_no_harvest(tmp_path: Path) -> None:
    record, _ = made(tmp_path, QueueEngine(jobs_end=0.5))
    assert record.harvest == {"eval": [None]}
    assert "its jobs ended within one of the runs" in text(record)


def test_ctrl_c_keeps_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = QueueEngine(before=lambda number: frozenset([ExitCode.INTERRUPTED] if number == 5 else []))
    assert main(asked("--repeat", "3", "--out", str(tmp_path / "o")), engine.tools) is ExitCode.INTERRUPTED
    record = decode((tmp_path / "o" / "threeway.json").read_bytes())
    assert (len(record.runs), len(record.classes["chat"]), record.interrupted) == (4, 1, True)
    assert capsys.readouterr().out.startswith("INTERRUPTED")
