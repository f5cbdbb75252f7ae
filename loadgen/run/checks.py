"""What is judged when the records are known: assertions, the gate, and whether prompts were as long as planned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from loadgen.drive.gate import judge
from loadgen.measure import expr
from loadgen.measure.evaluate import evaluate

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from loadgen.drive.gate import HostMeters, Meters, Verdict
    from loadgen.measure.columns import Columns
    from loadgen.measure.evaluate import Outcome
    from loadgen.measure.facts import RunFacts
    from loadgen.record import Record


def assertions(
    texts: Sequence[str], at: Columns, facts: RunFacts, window: tuple[int, int], other: Mapping[str, float]
) -> list[Outcome]:
    """Each `--assert`, in the order in which they were given. `other`: figures that want a second run."""
    return [evaluate(expr.parse(text), at, facts, window, other) for text in texts]


def gate(meters: list[Meters], host: HostMeters, at: Columns, facts: RunFacts, *, experiment: bool) -> Verdict:
    """Whether the client was fit to measure, by its own meters and the median wire TTFT of the window."""
    inside = at.where((at.due >= facts.window[0]) & (at.due <= facts.window[1]))
    waits = inside.first - inside.sent
    known = waits[~np.isnan(waits)]
    median = float(np.median(known)) if len(known) else None
    return judge(meters, host, median_wire_ttft=median, experiment=experiment)


def prompt_lengths(records: Iterable[Record], *, checked: bool, template: bool) -> str | None:
    """A sentence if the server counted prompts otherwise than the plan; None if not, or if nobody can tell.

    A chat template adds the same number of tokens to each prompt (`template`), so there only a difference between
    requests is wrong. Prompts of unknown length (real text) and later turns, which carry answers, are left out.
    """
    if not checked:
        return None
    extra = [
        each.in_got - each.in_want
        for each in records
        if each.in_got is not None and each.in_want > 0 and each.turn == 0
    ]
    if not extra:
        return None
    usual = int(np.median(extra)) if template else 0
    wrong = sum(1 for each in extra if each != usual)
    if not wrong:
        return None
    return f"{wrong} of {len(extra)} prompts were not as long as planned, by the server's count"
