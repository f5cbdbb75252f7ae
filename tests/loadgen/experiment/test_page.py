"""The page of an experiment: what it shows, what it refuses to show, and that no text on it is markup."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from support.loadgen_experiment import TABLES, FakeRunner, experiment, small_plan

from loadgen.experiment import host, page
from loadgen.experiment.analyse import Run
from loadgen.experiment.write import write_tables
from loadgen.report import html

if TYPE_CHECKING:
    from pathlib import Path

    from loadgen.experiment.runner import Experiment


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is the same with a script of a few bytes as with the megabytes of the real one."""
    monkeypatch.setattr(host, "tree_hash", lambda _folders: "tree")
    monkeypatch.setattr(html, "plotly_script", lambda: "plotly")
    monkeypatch.setattr("loadgen.experiment.write.has_plotly", lambda: True)


def done(folder: Path, **changes: Any) -> Experiment:
    made = experiment(folder, FakeRunner(folder), small_plan(tune=[], windows=1, run=[TABLES["run"][0]], **changes))
    made.run()
    return made


def charts(text: str) -> list[dict[str, Any]]:
    found = re.search(r'id="charts">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return list(json.loads(found[1]))


def test_what_stands_on_the_page(tmp_path: Path) -> None:
    made = done(tmp_path)
    assert write_tables(made.plan, made.state, tmp_path, made.chosen).page
    text = (tmp_path / "report.html").read_text()
    assert "Medians over blocks" in text
    assert "<summary>arms.csv</summary>" in text
    assert "Only ratios within a block count" in text
    # Mean and p99 TTFT want more requests than these few; all tokens/s and the frontier are there.
    titles = re.findall(r"<h3>(.*?)</h3>", text)
    assert {"TBT, mean", "All tokens/s", "Harvest against attainment"} <= set(titles)
    ratios = next(each for each in charts(text) if "arm over A0" in json.dumps(each["layout"]))
    assert "A0" not in ratios["layout"]["yaxis"]["ticktext"]
    assert "A6 10ms" in ratios["layout"]["yaxis"]["ticktext"]


def test_a_page_of_runs_that_may_not_stand_together_has_no_figure_of_them(tmp_path: Path) -> None:
    made = done(tmp_path)
    made.state.runs[0].attempts[-1].status = "invalid"
    written = write_tables(made.plan, made.state, tmp_path, made.chosen)
    assert written.refused != ()
    text = (tmp_path / "report.html").read_text()
    assert '<div class="stamp" aria-hidden="true"><span>NO TABLES</span>' in text
    assert "is INVALID" in text
    assert "Medians over blocks" not in text
    assert charts(text) == []


def test_words_of_a_plan_and_of_a_server_are_no_markup(tmp_path: Path) -> None:
    made = done(tmp_path, about="<script>alert(1)</script>", note="<b>bold</b>")
    made.state.notes.append("</script><img src=x onerror=alert(2)>")
    made.state.skipped["<i>A8</i>"] = "<u>why</u>"
    write_tables(made.plan, made.state, tmp_path, made.chosen)
    text = (tmp_path / "report.html").read_text()
    for bad in ("<script>alert", "<b>bold", "<img", "<i>A8", "<u>why"):
        assert bad not in text
    assert "&lt;img src=x" in text


def test_an_arm_without_the_figure_in_some_block_has_no_ratio() -> None:
    plan = small_plan()
    runs = [
        Run(arm, "c", "", window, 0, "h", "ok", 1, {"chat.mean.tbt": 10.0}) for window in (0, 1) for arm in ("A0", "A4")
    ]
    assert list(page._ratios(plan, runs, "chat.mean.tbt")) == ["A4"]
    runs[-1] = Run("A4", "c", "", 1, 0, "h", "ok", 1, {"chat.mean.tbt": None})
    assert page._ratios(plan, runs, "chat.mean.tbt") == {}


def test_without_plotly_an_old_page_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = done(tmp_path)
    write_tables(made.plan, made.state, tmp_path, made.chosen)
    assert (tmp_path / "report.html").is_file()
    monkeypatch.setattr("loadgen.experiment.write.has_plotly", lambda: False)
    assert not write_tables(made.plan, made.state, tmp_path, made.chosen).page
    assert not (tmp_path / "report.html").exists()
