"""The page holds everything, asks the network for nothing, and lets no text of a server become a part of it."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import msgspec
import pytest
from support.loadgen_report import anything, folder

from loadgen.errors import BadInput, ExitCode
from loadgen.report import html, html_run, markdown
from loadgen.report.against import compare
from loadgen.report.charts import Chart
from loadgen.report.load import load
from loadgen.report.tables import Table
from loadgen.report.text import summary

if TYPE_CHECKING:
    from pathlib import Path

    from loadgen.report.load import LoadedRun

NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\u2028"


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    """plotly itself is 5 MB that say nothing here; one test takes the real one."""
    monkeypatch.setattr(html, "plotly_script", lambda: "/* plotly */")


class _Page(HTMLParser):
    """Elements with attributes, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data


def _nasty(run: LoadedRun) -> LoadedRun:
    at = replace(run.at, reason=run.at.reason.astype("<U200"))
    at.reason[at.reason != ""] = NASTY
    chat = msgspec.structs.replace(run.result.classes["chat"], reasons={NASTY: 3})
    result = msgspec.structs.replace(
        run.result,
        classes={**run.result.classes, "chat": chat},
        identity={**run.result.identity, "model": NASTY, NASTY: NASTY},
        invalid=[NASTY],
        notes=[NASTY],
    )
    return replace(run, result=result, at=at, warnings=(NASTY,))


def test_text_of_a_server_stays_text(run: LoadedRun, base: LoadedRun) -> None:
    page = _Page(html_run.report([_nasty(run)], [compare(run, base)], 1_000_000))
    assert len(page.scripts) == 3
    assert not [tag for tag, attrs in page.tags if tag == "img" or "onerror" in attrs]
    assert "alert(1)" in page.scripts[1]
    assert "<" not in page.scripts[1]


def test_no_text_ends_the_element_that_it_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    chart = Chart("C", [{"name": NASTY}], {"title": NASTY})
    page = _Page(html.page("Title", [html.Section("Part", [chart])]))
    assert msgspec.json.decode(page.scripts[1]) == [{"data": [{"name": NASTY}], "layout": {"title": NASTY}}]
    assert len(page.scripts) == 3
    pytest.importorskip("plotly")
    monkeypatch.undo()
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "let x = '</script>'")
    assert html.plotly_script() == "let x = '<\\/script>'"


def test_the_charts_are_data_that_the_page_places(run: LoadedRun, base: LoadedRun) -> None:
    page = _Page(html_run.report([run], [compare(run, base)], 1_000_000))
    held = msgspec.json.decode(page.scripts[1])
    places = [int(attrs["data-chart"] or "") for tag, attrs in page.tags if "data-chart" in attrs]
    assert places == list(range(len(held)))
    assert len(held) == 10
    assert all(set(each) == {"data", "layout"} for each in held)
    assert page.scripts[0].strip() == "/* plotly */"


def test_the_network_is_asked_for_nothing(run: LoadedRun) -> None:
    text = html_run.report([run], [], 1_000_000)
    page = _Page(text)
    assert not [attrs for _, attrs in page.tags if {"src", "href"} & set(attrs)]
    assert not re.search(r"url\(|@import|fetch\(|XMLHttp", text)
    policy = next(attrs["content"] for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


@pytest.mark.parametrize(
    ("change", "stamp"),
    [
        ({"invalid": ["slow"]}, "INVALID"),
        ({"mode": "virtual"}, "VIRTUAL"),
        ({"invalid": ["slow"], "mode": "virtual"}, "INVALID"),
        ({}, ""),
    ],
)
def test_the_stamp(run: LoadedRun, change: dict[str, object], stamp: str) -> None:
    text = html_run.report([replace(run, result=msgspec.structs.replace(run.result, **change))], [], 1_000_000)
    found = re.search(r'<div class="stamp"[^>]*><span>(\w+)</span>', text)
    assert (found[1] if found else "") == stamp
    assert text.count("<title>") == 1


def test_several_runs_stand_on_one_page(run: LoadedRun, base: LoadedRun) -> None:
    text = html_run.report([run, base], [], 1_000_000)
    assert "Attainment against rate" in text
    many = html_run.report([run] * 7, [], 1_000_000)
    # Tables of each, and charts of none: two of all together.
    assert many.count("data-chart=") == 2
    assert many.count("What this run cannot claim") == 7


def test_all_figures_stand_in_tables_too(run: LoadedRun) -> None:
    text = html_run.report([run], [], 1_000_000)
    for figure in ("89.9 %", "1.51 s", "400 of 400", "chat 15.0 s, code 20.0 s", "as-is", "7 status_429"):
        assert figure in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("seed", range(5))
def test_a_page_is_made_of_whatever_there_is(tmp_path: Path, seed: int) -> None:
    records, facts = anything(seed)
    folder(tmp_path / "run", records if seed else [], facts)
    run = load(tmp_path / "run")
    page = _Page(html_run.report([run, run], [compare(run, run)], 1_000_000))
    assert "NaN" not in page.scripts[1]
    assert summary(run.result)
    assert markdown.summary([run])


def test_a_page_of_other_parts() -> None:
    sections = [html.Section("Part", [html.Row((Chart("C", [], {}), Table("T", ("a",), (("NO",),))))])]
    page = _Page(html.page("Title", sections, status="ok"))
    assert [attrs["class"] for _, attrs in page.tags if attrs.get("class") in ("box four", "box eight")] == [
        "box four",
        "box eight",
    ]
    assert [attrs.get("class") for tag, attrs in page.tags if tag == "td"] == ["w bad"]


def test_without_plotly_it_says_what_to_install(run: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(BadInput, match=r"pip install 'slackwater\[report\]'") as error:
        html_run.report([run], [], 1_000_000)
    assert error.value.code is ExitCode.BAD_INPUT


def test_the_real_library_is_there_once(run: LoadedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("plotly")
    monkeypatch.undo()
    text = html_run.report([run], [], 1_000_000)
    assert len(re.findall(r"plotly\.js v\d", text)) == 1
    assert len(_Page(text).scripts) == 3
