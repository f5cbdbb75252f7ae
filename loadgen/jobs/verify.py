"""Outputs against what they should be, token by token: another run of the plan, or the oracle that the mock answers by.

Pure over plans and outputs. A token that is lost, repeated, out of order or another request's is named with its place.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from loadgen.jobs.answers import is_right
from loadgen.jobs.outputs import OutputLine, read_outputs
from loadgen.mock.ask import prompt_ids
from loadgen.mock.oracle import Tokenizer, oracle_tokens, text_of
from loadgen.plan import payload, workload
from loadgen.plan.model import NOT_DUE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from loadgen.jobs.report import JobReport
    from loadgen.mock.oracle import Scheme
    from loadgen.plan.model import Plan, PlannedRequest
    from loadgen.spec import OfflineSpec, Scenario

Kind = Literal["lost", "repeated", "reordered", "short", "long", "other"]
_PIECE = re.compile(r"\s*\S+|\s+")
_REACH = 16
"""Tokens that may be lost or repeated at once and still be known as such."""
_ALIKE = 3
"""Tokens that must agree for that."""
_SHOWN = 3
_MOST_KEPT = 1_000
_WORDS: Mapping[Kind, str] = {
    "lost": "lost {} tokens",
    "repeated": "repeats {} tokens",
    "reordered": "has {} tokens out of order",
    "short": "ends {} tokens early",
    "long": "goes on for {} tokens",
    "other": "has another token",
}


class Difference(NamedTuple):
    """The first one of an output: at token `position`; `tokens`: how many."""

    id: int
    cls: str
    position: int
    kind: Kind
    tokens: int

    def sentence(self) -> str:
        """For people."""
        return f"{self.cls}: the output of request {self.id} {_WORDS[self.kind].format(self.tokens)} at {self.position}"


@dataclass(slots=True)
class Mismatches:
    """`missing`: outputs that the other side has and this one has not, or the other way round. `differ` holds the first
    thousand; `num_differ` counts all.
    """

    compared: int = 0
    missing: int = 0
    num_differ: int = 0
    differ: list[Difference] = field(default_factory=list)

    def add(self, found: Difference | None) -> None:
        """One more output that was compared."""
        self.compared += 1
        if found is not None:
            self.num_differ += 1
            if len(self.differ) < _MOST_KEPT:
                self.differ.append(found)

    def sentences(self) -> list[str]:
        """What is wrong; empty where nothing is."""
        found = [each.sentence() for each in self.differ[:_SHOWN]]
        if self.num_differ > _SHOWN:
            found.append(f"{self.num_differ} of {self.compared} outputs differ")
        return found


def check(
    scenario: Scenario, plan: Plan, outputs: Iterable[OutputLine], reports: Sequence[JobReport]
) -> list[JobReport]:
    """Each job by its class's `verify=`, in the order given. Wrong answers are a figure (`right`), for a model may be
    wrong; another token than the reference's is a violation.

    Raises:
        BadData, BadInput: a reference that cannot be read.
    """
    specs = {spec.name: spec for spec in scenario.offline if spec.verify[0] != "count"}
    by_job: dict[str, list[OutputLine]] = defaultdict(list)
    for line in outputs:
        if line.cls in specs and line.job is not None:
            by_job[line.job].append(line)
    references = {where: _Reference(Path(where)) for where in {spec.verify[1] for spec in specs.values()} if where}
    requests = {request.id: request for request in plan.requests if request.cls in specs}
    found = []
    for report in reports:
        spec = specs.get(report.facts.cls)
        lines = by_job[report.facts.name]
        found.append(report if spec is None else _checked(report, spec, lines, requests, references))
    return found


def _checked(
    report: JobReport,
    spec: OfflineSpec,
    lines: Sequence[OutputLine],
    requests: Mapping[int, PlannedRequest],
    references: Mapping[str, _Reference],
) -> JobReport:
    if spec.verify[0] == "answers":
        right = sum(is_right(requests[line.id].answer or "", line.text) for line in lines)
        return report.with_more((), right=right)
    result = Mismatches()
    reference = references[spec.verify[1]]
    for line in lines:
        other = reference.items.get((line.job or "", line.item or 0))
        if other is None:
            result.missing += 1
        else:
            result.add(difference(other, line))
    wrong = report.facts.wrong + result.num_differ
    sentences = [f"{report.facts.name}: {sentence}" for sentence in result.sentences()]
    if result.missing and not result.compared:
        sentences.append(f"{report.facts.name}: the reference {spec.verify[1]} has none of its outputs")
    checks = {**report.facts.checks, "reference": result.num_differ, "not_compared": result.missing}
    return report.with_more(sentences, wrong=wrong, checks=checks)


class _Reference:
    """Outputs of jobs of another run, by job and item."""

    def __init__(self, folder: Path) -> None:
        lines = read_outputs(folder / "outputs.jsonl.gz")
        self.items = {(line.job, line.item): line for line in lines if line.job is not None and line.whole}


def against_reference(
    plan: Plan, outputs: Iterable[OutputLine], reference: Path, classes: Collection[str] | None = None
) -> Mismatches:
    """All outputs, online too, with those of the run in folder `reference`. Requests are paired by their place in their
    class, so that one run may have classes that the other has not. `classes`: only these.

    Raises:
        BadData: a reference that cannot be read.
    """
    theirs = workload.read(reference / "workload.jsonl.gz")
    places = _places(theirs)
    other = {places[line.id]: line for line in read_outputs(reference / "outputs.jsonl.gz") if line.whole}
    mine = _places(plan)
    result = Mismatches()
    for line in outputs:
        if classes is not None and line.cls not in classes:
            continue
        found = other.pop(mine[line.id], None)
        if found is None:
            result.missing += 1
        else:
            result.add(difference(found, line))
    result.missing += sum(classes is None or line.cls in classes for line in other.values())
    return result


def against_oracle(
    plan: Plan,
    outputs: Iterable[OutputLine],
    wire: payload.Wire,
    *,
    vocab: int = 32_768,
    scheme: Scheme = "words",
) -> Mismatches:
    """All outputs with the chain of hashes that the mock and the simulated worker answer by. Later turns of live
    conversations are `missing`: their prompts are not in the plan.
    """
    requests = {request.id: request for request in plan.requests}
    tokenizer = Tokenizer(vocab, scheme)
    result = Mismatches()
    for line in outputs:
        request = requests[line.id]
        if request.due == NOT_DUE and request.turn > 0:
            result.missing += 1
            continue
        body = payload.body(request, wire, stream=False)
        ids = prompt_ids(body, chat=wire.api == "chat", tokenizer=tokenizer)
        seed = body.get("seed", 0)
        got = _pieces(line)
        count = request.out if wire.lengths == "exact" else len(got)
        want = [text_of(token) for token in oracle_tokens(ids, seed if isinstance(seed, int) else 0, count, vocab)]
        result.add(_difference(want, got, line))
    return result


def difference(want: OutputLine, got: OutputLine) -> Difference | None:
    """The first difference of two answers; by token ids where both have them, else by words with the white space before
    them, of which equal texts have equal ones.
    """
    if want.token_ids is not None and got.token_ids is not None:
        return _difference(want.token_ids, got.token_ids, got)
    return _difference(_pieces(want), _pieces(got), got)


def _difference(want: Sequence[object], got: Sequence[object], line: OutputLine) -> Difference | None:
    both = min(len(want), len(got))
    at = next((place for place in range(both) if want[place] != got[place]), both)
    if at == len(got):
        missing = len(want) - at
        short = Difference(line.id, line.cls, at, "short", missing)
        return short if missing and line.whole else None
    if at == len(want):
        return Difference(line.id, line.cls, at, "long", len(got) - at)
    kind, count = _kind(want, got, at)
    return Difference(line.id, line.cls, at, kind, count)


def _kind(want: Sequence[object], got: Sequence[object], at: int) -> tuple[Kind, int]:
    if list(want[at : at + 2]) == list(got[at : at + 2])[::-1]:
        return "reordered", 2
    here = list(got[at : at + _ALIKE])
    for count in range(1, _REACH + 1):
        if list(want[at + count : at + count + len(here)]) == here:
            return "lost", count
        if count <= at and list(want[at - count : at - count + len(here)]) == here:
            return "repeated", count
    return "other", 1


def _pieces(line: OutputLine) -> list[str]:
    return _PIECE.findall(line.reasoning + line.text)


def _places(plan: Plan) -> dict[int, tuple[str, int]]:
    """By id: class, and place in the class in the order of ids."""
    counts: dict[str, int] = defaultdict(int)
    found = {}
    for request in sorted(plan.requests, key=lambda each: each.id):
        found[request.id] = (request.cls, counts[request.cls])
        counts[request.cls] += 1
    return found
