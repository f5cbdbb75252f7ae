"""Outputs token by token, answers, and where they are kept."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import pytest
from support import loadgen_jobs as rig

from loadgen.errors import BadData
from loadgen.jobs.answers import is_right
from loadgen.jobs.outputs import OutputLine, needs_outputs, outputs_of, read_outputs, write_outputs
from loadgen.jobs.report import ItemResult, JobReport, write_reports
from loadgen.jobs.verify import against_oracle, against_reference, check, difference
from loadgen.measure.facts import JobFacts
from loadgen.plan import workload
from loadgen.plan.sources.gsm8k import Gsm8k
from loadgen.plan.sources.mmlu import Mmlu

if TYPE_CHECKING:
    from pathlib import Path

    from loadgen.plan.model import Plan

TOKENS = [f" t{number:05d}" for number in range(300, 340)]


def line(tokens: list[str], number: int = 0, **more: object) -> OutputLine:
    given: dict[str, object] = {"id": number, "cls": "eval", "job": "eval", "item": number, "text": "".join(tokens)}
    return OutputLine(**{**given, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("got", "at", "kind", "count"),
    [
        (TOKENS[:10] + TOKENS[11:], 10, "lost", 1),
        (TOKENS[:10] + TOKENS[13:], 10, "lost", 3),
        (TOKENS[:10] + TOKENS[9:], 10, "repeated", 1),
        (TOKENS[:10] + TOKENS[6:], 10, "repeated", 4),
        ([*TOKENS[:10], TOKENS[11], TOKENS[10], *TOKENS[12:]], 10, "reordered", 2),
        ([*TOKENS[:10], " t00999", *TOKENS[11:]], 10, "other", 1),
        ([*TOKENS, " t00999"], 40, "long", 1),
        (TOKENS[:38], 38, "short", 2),
        (TOKENS[1:], 0, "lost", 1),
        ([], 0, "short", 40),
    ],
)
def test_each_kind_of_difference_has_its_name_and_place(got: list[str], at: int, kind: str, count: int) -> None:
    found = difference(line(TOKENS), line(got))
    assert found is not None
    assert (found.position, found.kind, found.tokens) == (at, kind, count)
    by_ids = difference(line([], token_ids=[int(each[2:]) for each in TOKENS]), line([], token_ids=_ids(got)))
    assert by_ids == found


def _ids(tokens: list[str]) -> list[int]:
    return [int(each[2:]) for each in tokens]


def test_equal_outputs_and_those_that_broke_off_do_not_differ() -> None:
    assert difference(line(TOKENS), line(TOKENS)) is None
    assert difference(line(TOKENS), line(TOKENS[:7], whole=False)) is None
    assert difference(line(TOKENS), line([*TOKENS[:6], " t00999"], whole=False)) is not None
    # White space and reasoning count.
    assert difference(line(["a b"]), line(["a  b"])) is not None
    assert difference(line(["b"], reasoning="a "), line(["a b"])) is None


def outputs_by_mock(folder: Path, *flags: str) -> tuple[Plan, list[OutputLine], list[JobReport]]:
    plan = rig.planned(rig.scenario(6))
    found: list[JobReport] = []

    async def main() -> None:
        async with rig.serving(*flags) as server:
            found.append(await rig.ran(server, rig.inputs(folder, 6)[0]))

    rig.go(main())
    return plan, list(outputs_of(found, plan)), found


def test_the_mock_answers_by_the_oracle_and_a_wrong_token_is_found(tmp_path: Path) -> None:
    plan, lines, _ = outputs_by_mock(tmp_path)
    assert [(each.cls, each.job, each.item) for each in lines] == [("eval", "eval", n) for n in range(6)]
    found = against_oracle(plan, lines, rig.WIRE)
    assert (found.compared, found.missing, found.differ) == (6, 0, [])
    pieces = lines[2].text.split(" ")
    lines[2] = msgspec.structs.replace(lines[2], text=" ".join(pieces[:2] + pieces[3:]))
    lines[4] = msgspec.structs.replace(lines[4], text=lines[5].text)
    found = against_oracle(plan, lines, rig.WIRE)
    assert [(each.id, each.position) for each in found.differ] == [(2, 1), (4, 0)]
    assert found.sentences()[1] == "eval: the output of request 4 has another token at 0"


def test_another_run_is_a_reference(tmp_path: Path) -> None:
    plan, lines, reports = outputs_by_mock(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    workload.write(plan, other / "workload.jsonl.gz")
    assert write_outputs(lines, other / "outputs.jsonl.gz") == 6
    assert list(read_outputs(other / "outputs.jsonl.gz")) == lines
    # This run has a class before it, so that its ids are others.
    moved = replace(plan, requests=[replace(each, id=each.id + 100) for each in plan.requests])
    mine = [msgspec.structs.replace(each, id=each.id + 100) for each in lines]
    found = against_reference(moved, mine, other)
    assert (found.compared, found.missing, found.sentences()) == (6, 0, [])
    mine[3] = msgspec.structs.replace(mine[3], text=mine[3].text + " t00300")
    found = against_reference(moved, mine[:5], other)
    assert (found.compared, found.missing) == (5, 1)
    assert found.sentences() == ["eval: the output of request 103 goes on for 1 tokens at 3"]
    assert against_reference(moved, mine, other, classes=("chat",)).compared == 0
    asked = rig.scenario(6, verify=("reference", str(other)))
    [report] = check(asked, moved, mine, reports)
    assert report.violations == ["eval: eval: the output of request 103 goes on for 1 tokens at 3"]
    assert (report.facts.wrong, report.facts.checks["reference"]) == (1, 1)
    assert report.facts.violations == tuple(report.violations)
    with pytest.raises(BadData, match="kept no outputs"):
        check(rig.scenario(6, verify=("reference", str(tmp_path / "none"))), moved, mine, reports)


def test_a_reference_without_any_of_it_is_no_reference(tmp_path: Path) -> None:
    plan, lines, reports = outputs_by_mock(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    write_outputs([msgspec.structs.replace(each, job="else") for each in lines], other / "outputs.jsonl.gz")
    [report] = check(rig.scenario(6, verify=("reference", str(other))), plan, lines, reports)
    assert report.violations == [f"eval: the reference {other} has none of its outputs"]


@pytest.mark.parametrize(
    ("answer", "text", "right"),
    [
        ("B", " B", True),
        ("B", "B. Paris", True),
        ("B", "(B)", True),
        ("B", " The answer is B.", True),
        ("B", " A", False),
        ("B", "Because", False),
        ("B", "", False),
        ("18", " 6 * 3 = 18\n#### 18", True),
        ("18", "She has 18 eggs.\n\nQ: Tom has 7 cars", True),
        ("18", "The answer is $18.00, of 20", True),
        ("1200", "so 1,200.", True),
        ("-3", "#### -3", True),
        ("18", "#### 180", False),
        ("18", "6 * 3 = 18, no, 17", False),
        ("18", "eighteen", False),
    ],
)
def test_answers(answer: str, text: str, right: bool) -> None:
    assert is_right(answer, text) is right


def test_right_answers_are_a_figure_and_wrong_ones_no_violation(tmp_path: Path) -> None:
    rows = "subject,question,A,B,C,D,answer\n" + "".join(
        f"s,q{n},a,b,c,d,{letter}\n" for n, letter in enumerate("ABCD")
    )
    (tmp_path / "test_x.csv").write_text(rows)
    source = replace(rig.scenario().offline[0].source, kind="mmlu", paths=(str(tmp_path / "test_x.csv"),))
    source = replace(source, options={"shots": "0"})
    asked = rig.scenario(4, verify=("answers", ""), output=None, input=None)
    asked = replace(asked, offline=(replace(asked.offline[0], source=source),))
    plan = rig.planned(asked)
    assert [each.answer for each in plan.requests] == ["A", "B", "C", "D"]
    lines = [line([text], number) for number, text in enumerate([" A", " B", " A"])]
    report = JobReport(JobFacts(name="eval", cls="eval", submitted=0, items=4))
    [found] = check(asked, plan, lines, [report])
    assert (found.facts.right, found.violations) == (2, [])
    assert needs_outputs(asked)
    assert not needs_outputs(rig.scenario())


def test_the_data_sets_answers_are_right_by_their_own_word(data: Path) -> None:
    for row in Mmlu(data / "mmlu" / "test_even_subjects.csv.gz", 0).rows():
        assert row.answer is not None
        assert is_right(row.answer, f" {row.answer}")
    files = sorted((data / "gsm8k").glob("*.jsonl*"))
    worked = list(Gsm8k(files[0], 0).rows())
    assert len(worked) >= 1_000
    for row in worked:
        assert row.answer is not None
        assert is_right(row.answer, f" so it is {row.answer}.\n#### {row.answer}")


def test_outputs_that_are_torn_are_told(tmp_path: Path) -> None:
    path = tmp_path / "outputs.jsonl.gz"
    write_outputs([line(TOKENS, n) for n in range(50)], path)
    whole = path.read_bytes()
    write_outputs([line(TOKENS, n) for n in range(50)], path)
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-30])
    with pytest.raises(BadData, match="cannot be read"):
        list(read_outputs(path))


def test_reports_are_written_with_what_was_not_ok(tmp_path: Path) -> None:
    items = [ItemResult(0, "ok", 1, 2, "text", None), ItemResult(1, "failed", None, None, None, "status_500")]
    facts = JobFacts(name="eval", cls="eval", submitted=0, items=2, completed=1, failed=1)
    write_reports([JobReport(facts, items)], tmp_path)
    found = msgspec.json.decode((tmp_path / "eval.json").read_bytes())
    assert found["not_ok"] == [{"item": 1, "status": "failed", "error": "status_500"}]
    assert msgspec.convert(found["facts"], JobFacts) == facts
