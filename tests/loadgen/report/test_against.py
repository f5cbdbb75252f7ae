"""Pairs are the same requests and nothing else; what cannot be compared is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from loadgen.errors import BadInput
from loadgen.report import against, runs
from loadgen.report.against import compare, refuse_mixed

if TYPE_CHECKING:
    from loadgen.report.load import LoadedRun


def _told(run: LoadedRun, **identity: str) -> LoadedRun:
    known = {**run.result.identity, **identity}
    return replace(run, result=msgspec.structs.replace(run.result, identity=known))


def test_one_plan_is_paired_by_request(run: LoadedRun, base: LoadedRun) -> None:
    found = compare(run, base)
    chat = next(each for each in found.pairs if each.name == "chat")
    assert chat.paired == "plan"
    assert np.array_equal(chat.alone.id, chat.here.id)
    assert chat.found is not None
    # Of the window alone, or a slow warm-up would pass for interference.
    assert chat.found.pairs == run.result.classes["chat"].offered == 1243
    ratios = {(each.metric, each.statistic): each.ratio for each in chat.found.changes}
    assert ratios["ttft", "p50"] == pytest.approx(1.25, rel=1e-3)
    assert chat.found.attainment is not None
    assert chat.found.attainment.value == pytest.approx((1118 - 1152) / 1243)
    assert found.harvest is None
    row = against.tables(found)[0].rows[0]
    assert row[:5] == ("chat", "1,243", "92.7 %", "89.9 %", "-2.7 [-6.9, +1.4] points")
    assert row[5].startswith("+49.1 ms [")


def test_the_same_requests_of_two_plans_are_paired_by_order(run: LoadedRun, base: LoadedRun) -> None:
    shifted = replace(_told(base, plan_hash="other"), at=replace(base.at, id=base.at.id + 5000))
    found = compare(run, shifted)
    assert {each.paired for each in found.pairs} == {"requests"}
    same = compare(run, base)
    assert [each.found.changes for each in found.pairs if each.found] == [
        each.found.changes for each in same.pairs if each.found
    ]


def test_other_requests_are_not_paired(run: LoadedRun, base: LoadedRun) -> None:
    other = replace(_told(base, plan_hash="other"), at=replace(base.at, due=base.at.due + 1))
    found = compare(run, other)
    assert {each.paired for each in found.pairs} == {"no"}
    costs, changes = against.tables(found)
    assert [row[1] for row in costs.rows] == ["not paired"] * 2
    assert "not paired" in costs.note
    assert changes.rows[0][:2] == ("chat", "p50 ttft")


def test_harvest_is_of_the_server_s_offline_tokens(run: LoadedRun) -> None:
    found = compare(run, run)
    assert found.harvest == 1
    assert "harvest: offline work ran at 100 %" in against.tables(found)[0].note


def test_lengths_of_another_kind_are_refused(run: LoadedRun, base: LoadedRun) -> None:
    """Mistake 13."""
    with pytest.raises(BadInput, match="lengths are eos there and exact here"):
        compare(run, _told(base, lengths="eos"))


def test_simulated_and_measured_runs_stand_in_no_table_together(run: LoadedRun, base: LoadedRun) -> None:
    virtual = replace(base, result=msgspec.structs.replace(base.result, mode="virtual"))
    refuse_mixed([virtual, virtual])
    refuse_mixed([run, base])
    for first, second in ((run, virtual), (virtual, run)):
        with pytest.raises(BadInput, match="simulated"):
            refuse_mixed([first, second])


def test_an_overloaded_run_has_no_latencies_in_the_table_of_runs(run: LoadedRun) -> None:
    chat = msgspec.structs.replace(run.result.classes["chat"], overloaded=True)
    classes = {**run.result.classes, "chat": chat}
    other = replace(run, result=msgspec.structs.replace(run.result, classes=classes, status="overloaded"))
    table = runs.table([run, other])
    rows = [dict(zip(table.head, row, strict=True)) for row in table.rows if row[1] == "chat"]
    assert [row["TTFT p99"] for row in rows] == ["1.51 s", "-"]
    assert [row["status"] for row in rows] == ["ok", "OVERLOADED"]


def test_repeats_claim_only_from_six_runs(run: LoadedRun, base: LoadedRun) -> None:
    few, many = runs.repeats([run, run]), runs.repeats([run] * 6)
    assert "no claim" in few.note
    assert few.rows[0] == ("chat", "attainment", "2", "89.9 %", "89.9 %", "89.9 %", "-")
    assert many.note == ""
    assert many.rows[0][-1].startswith("89.9 % [")
    assert runs.repeats([run]).rows == ()
    # Another model is no repeat.
    assert runs.repeats([run, _told(run, model="other")]).rows == ()
    assert runs.repeats([run, base]).rows == ()
