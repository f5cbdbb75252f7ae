"""From the files alone comes every number of the result; and other questions can be asked of them later."""

from __future__ import annotations

import random
import shutil
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest
from support.loadgen_records import SECOND, slo
from support.loadgen_report import anything, folder, made_up

from loadgen import result as tree
from loadgen.errors import BadData, BadInput
from loadgen.measure.summarise import summarise
from loadgen.report.load import differences, load
from loadgen.run.files import RunFolder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("seed", range(12))
def test_files_alone_reproduce_every_number(tmp_path: Path, seed: int) -> None:
    """Acceptance 4. The records are shuffled on disk: no figure may hang on who wrote first."""
    records, facts = anything(seed)
    expected = summarise(records, facts)
    mixed = list(records)
    random.Random(seed).shuffle(mixed)
    found = folder(tmp_path / "run", mixed, facts)
    found.write_result(expected)
    run = load(tmp_path / "run")
    assert tree.encode(run.result) == found.result.read_bytes()
    assert run.warnings == ()
    assert run.complete


def test_a_result_changed_by_hand_shows(tmp_path: Path, run_dir: Path) -> None:
    shutil.copytree(run_dir, tmp_path / "run")
    found = RunFolder(tmp_path / "run")
    text = found.result.read_text(encoding="utf-8")
    assert '"good": 1118' in text
    found.result.write_text(text.replace('"good": 1118', '"good": 1200'), encoding="utf-8")
    warnings = load(tmp_path / "run").warnings
    assert warnings == ("result.json disagrees with the records, which stand here: classes.chat.attainment.good",)


def test_rounding_is_no_difference(run_dir: Path) -> None:
    result = RunFolder(run_dir).load_result()
    chat = result.classes["chat"]
    assert chat.offered_per_s is not None
    for factor, expected in ((1 + 1e-13, []), (1 + 1e-6, ["classes.chat.offered_per_s"])):
        changed = msgspec.structs.replace(chat, offered_per_s=chat.offered_per_s * factor)
        other = msgspec.structs.replace(result, classes={**result.classes, "chat": changed})
        assert differences(result, other) == expected


def test_another_slo_is_judged_on_the_records(run_dir: Path) -> None:
    strict, loose = (load(run_dir, {"chat": slo(ttft=bound)}).result.classes["chat"].attainment for bound in (1, 1e6))
    assert strict is not None
    assert loose is not None
    assert (strict.slo, strict.value) == ("ttft<=1ms", 0)
    assert loose.value == pytest.approx(1229 / 1243, abs=0.001)
    assert load(run_dir, {"chat": slo(ttft=1)}).warnings == ()


def test_another_window(run_dir: Path) -> None:
    run = load(run_dir, window=(20 * SECOND, 50 * SECOND))
    assert run.window == (20 * SECOND, 50 * SECOND)
    due = run.at.due[run.at.cls == "chat"]
    inside = int(np.count_nonzero((due >= 20 * SECOND) & (due <= 50 * SECOND)))
    assert run.result.classes["chat"].offered == inside > 100
    with pytest.raises(BadInput, match="ended at"):
        load(run_dir, window=(900 * SECOND, 901 * SECOND))


def test_an_incomplete_run_is_reported_with_a_warning(tmp_path: Path) -> None:
    records, facts = made_up(500, 0)
    folder(tmp_path / "run", records[:300], facts)
    run = load(tmp_path / "run")
    assert not run.complete
    assert "incomplete" in run.warnings[0]
    # What has no record is not passed over.
    assert run.result.status == "invalid"
    assert run.result.records == 300


def test_a_run_that_never_began_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="is no folder"):
        load(tmp_path / "absent")
    with pytest.raises(BadData, match="before anything was sent"):
        load(RunFolder.create(tmp_path / "run").path)


def test_a_result_without_records_is_a_table_and_no_more(tmp_path: Path, run_dir: Path) -> None:
    shutil.copytree(run_dir, tmp_path / "run")
    RunFolder(tmp_path / "run").records.unlink()
    run = load(tmp_path / "run")
    assert run.result == RunFolder(run_dir).load_result()
    assert (len(run.at), len(run.warnings)) == (0, 1)
    with pytest.raises(BadInput, match="not kept"):
        load(tmp_path / "run", {"chat": slo(ttft=1)})


def test_assertions_of_the_scenario_are_judged_again(tmp_path: Path) -> None:
    records, facts = made_up(500, 20)
    found = folder(tmp_path / "run", records, facts)
    text = 'target = "http://127.0.0.1:8000"\nassert = ["chat.attainment>=0.5", "all.errors==0"]\n'
    found.write_scenario(f'{text}[[online]]\nname = "chat"\nslo = "ttft<=500ms"\n')
    held = {each.text: each.holds for each in load(tmp_path / "run").checks}
    assert held == {"chat.attainment>=0.5": True, "all.errors==0": False}
