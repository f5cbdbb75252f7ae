"""Data sets, profiles and dialogues: the golden values of the design, and the traps that it names."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest

from loadgen.errors import BadData, BadInput
from loadgen.plan.sources import files, servegen
from loadgen.plan.sources.agent import Agent
from loadgen.plan.sources.burstgpt import BurstGpt
from loadgen.plan.sources.documents import Documents
from loadgen.plan.sources.gsm8k import Gsm8k
from loadgen.plan.sources.mmlu import Mmlu
from loadgen.plan.sources.sgd import Dialogues, tools_of
from loadgen.plan.streams import stream

if TYPE_CHECKING:
    from pathlib import Path


def test_mmlu(data: Path) -> None:
    rows = list(Mmlu(data / "mmlu/test_even_subjects.csv.gz").rows())
    assert len(rows) == 7_675
    assert len({row.group for row in rows}) == 29
    assert {row.answer for row in rows} == set("ABCD")
    first = [row.text or "" for row in rows if row.group == "abstract_algebra"]
    shared = first[0][: first[0].rindex("Find the degree")]
    assert shared.count("Answer:") == 5
    assert all(text.startswith(shared) and text.count("Answer:") == 6 for text in first)
    with pytest.raises(BadInput):
        Mmlu(data / "x", shots=6)


def test_gsm8k(data: Path) -> None:
    path = data / "gsm8k/train_rows0-2999.jsonl.gz"
    assert len(list(Gsm8k(path, shots=0).rows())) == 3_000
    rows = list(Gsm8k(path).rows())
    assert len(rows) == 2_992
    assert all(row.answer and float(row.answer) == float(row.answer) for row in rows)
    assert "<<" not in (rows[0].text or "")


@pytest.mark.parametrize(
    ("path", "groups", "questions"),
    [
        ("qmsum/val.jsonl.gz", 35, 272),
        ("squality/v1-3_dev.jsonl.gz", 25, 125),
        ("loogle/wikipedia_qa_dev.jsonl.gz", 5, None),
    ],
)
def test_documents(data: Path, path: str, groups: int, questions: int | None) -> None:
    rows = list(Documents(data / path).rows())
    counts = Counter(row.group for row in rows)
    assert len(counts) == groups
    assert min(counts.values()) > 1
    if questions is not None:
        assert len(rows) == questions


def test_agent(data: Path) -> None:
    for name, calls, sessions in (("taubench", 249, 12), ("miniswe", 176, 9)):
        rows = list(Agent(data / f"agent-runs/{name}_even_sessions.jsonl.gz").rows())
        assert (len(rows), len({row.session for row in rows})) == (calls, sessions)
        assert [row.time or 0 for row in rows] == sorted(row.time or 0 for row in rows)
        by_session: dict[str | None, list[str]] = {}
        for row in rows:
            by_session.setdefault(row.session, []).append(row.text or "")
        steps = [b.startswith(a) for texts in by_session.values() for a, b in itertools.pairwise(texts)]
        # The design's share is that of the file's lines, some of which are out of order; by time it is higher.
        lines: dict[str | None, list[str]] = {}
        for _, call in files.json_rows(data / f"agent-runs/{name}_even_sessions.jsonl.gz", ()):
            lines.setdefault(call["session_id"], []).append(call["input"])
        as_lines = [b.startswith(a) for texts in lines.values() for a, b in itertools.pairwise(texts)]
        assert np.mean(as_lines) == pytest.approx({"miniswe": 0.72, "taubench": 0.54}[name], abs=0.01)
        assert np.mean(steps) == pytest.approx({"miniswe": 1.0, "taubench": 0.586}[name], abs=0.001)


def test_dialogues(data: Path) -> None:
    rows = list(Dialogues(data / "sgd-dialogues/dev_001-006.jsonl.gz").rows())
    assert (len({row.session for row in rows}), 2 * len(rows)) == (768, 10_930)
    assert sum((row.answer or "").startswith('[{"') for row in rows) == 1_567
    tools = tools_of(data / "sgd-dialogues/dev_schema.json")
    assert len({tool["function"]["name"] for tool in tools}) == len(tools) > 17


def test_burstgpt(data: Path) -> None:
    path = data / "burstgpt-derived/hourly_sessions_days00-39.csv"
    source = BurstGpt(path, stream(1, "chat", "burstgpt"), 86_400_000_000)
    counts = source.counts()
    assert (len(counts), sum(count for _, count in counts)) == (563, 780_328)
    rows = list(source.rows())
    assert len(rows) == sum(count for hour, count in counts if hour < 86_400)


@pytest.mark.parametrize(
    ("name", "clients", "rows", "with_lengths", "share"),
    [("m-small_week1", 35, 19_640, 12, 0.38), ("deepseek-r1_day_oddrank", 37, 1_602, 12, 0.91)],
)
def test_servegen(data: Path, name: str, clients: int, rows: int, with_lengths: int, share: float) -> None:
    folder = data / "servegen"
    rates, maps = folder / f"{name}_rates.csv.gz", folder / f"{name}_lengths.jsonl.gz"
    with pytest.raises(BadInput, match="pool or drop"):
        servegen.ServeGen(rates, maps, None, 1, "chat", 10_000_000)
    source = servegen.ServeGen(rates, maps, "drop", 1, "chat", 60_000_000)
    assert (len(source.rates), sum(map(len, source.rates.values()))) == (clients, rows)
    assert len(source.lengths) == with_lengths
    volumes = {client: servegen.volume(windows) for client, windows in source.rates.items()}
    told = sum(volumes[client] for client in source.lengths if client in volumes) / sum(volumes.values())
    assert told == pytest.approx(share, abs=0.005)
    for windows in source.lengths.values():
        assert all(abs(window.out[1].sum() - 1) < 1e-9 for window in windows)
        assert all((window.reason_ratio is not None) == name.startswith("deep") for window in windows)
    found = list(source.rows())
    asked = sum(source.rates[client][0].rate for client in source.lengths if source.rates[client][0].begin == 0)
    assert len(found) / 60 == pytest.approx(asked, rel=0.25)
    assert [row.time or 0 for row in found] == sorted(row.time or 0 for row in found)


@pytest.mark.parametrize("law", ["Gamma", "Weibull"])
def test_servegen_gaps_have_the_rate(law: str) -> None:
    window = servegen.RateWindow(0, 4.0, 1.0, law, 0.7)  # type: ignore[arg-type]
    gaps = window.gaps(stream(1, "chat", "gaps"), 100_000)
    assert np.mean(gaps) == pytest.approx(0.25, rel=0.02)


def test_bad_rows(tmp_path: Path) -> None:
    path = tmp_path / "test_x.csv"
    path.write_text("subject,question,A,B,C,D,answer\ns,q,1,2,3,4,E\n")
    with pytest.raises(BadData) as caught:
        list(Mmlu(path, shots=0).rows())
    assert (caught.value.row, caught.value.field) == (2, "answer")
    path.write_text('{"questions": []}\n')
    with pytest.raises(BadData) as caught:
        list(Documents(path).rows())
    assert caught.value.field == "document"
    path.write_text("time_bin,session_count\n3600,1\n0,1\n")
    with pytest.raises(BadData) as caught:
        BurstGpt(path, stream(1, "c", "b"), 1).counts()
    assert (caught.value.row, caught.value.field) == (3, "time_bin")
