"""Whether a fault lost, repeated or garbled tokens, and whether more were charged than came.

Wherever an answer can be known beforehand (the mock and the oracle worker, or another run of the same plan), it is
compared token by token: a failover that drops a token is a failure, and not a fast answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from loadgen.measure.facts import Integrity
from loadgen.measure.fault import met_by
from loadgen.mock.ask import prompt_ids
from loadgen.mock.oracle import Scheme, Tokenizer, oracle_tokens
from loadgen.plan.model import NOT_DUE
from loadgen.plan.payload import body

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from loadgen.measure.facts import FaultFacts
    from loadgen.plan.model import Plan
    from loadgen.plan.payload import Wire
    from loadgen.record import Record

    Expected = Callable[[int], Sequence[int] | None]
    """Id of a request to the tokens of an undisturbed answer, at least as many as came; None: nobody knows."""

_TOKEN = re.compile(r" t(\d{5})")
_TRIED = 100
"""Whole answers that are looked at to see whether the server is an oracle."""
_FEWEST = 2
_SCHEMES: tuple[Scheme, ...] = ("words", "bytes")


@dataclass(frozen=True, slots=True)
class Differences:
    """Counts of tokens."""

    lost: int = 0
    repeated: int = 0
    wrong: int = 0


def tokens_of(text: str) -> list[int]:
    """Ids of an oracle's text, in which each is written out. Whatever else stands in it counts as one wrong token each
    time, which is -1.
    """
    found: list[int] = []
    at = 0
    for token in _TOKEN.finditer(text):
        found += [-1] if token.start() > at else []
        found.append(int(token[1]))
        at = token.end()
    return [*found, -1] if at < len(text) else found


def differences(expected: Sequence[int], got: Sequence[int], *, whole: bool) -> Differences:
    """What `got` lacks and has too much. `whole`: it claims to be all of `expected`, so that a missing end is lost.

    A token that is not the next one is the one that comes soonest after it (what lies between is lost), else the latest
    before it (repeated, and the next one stays), else none of the answer's (wrong).
    """
    places: dict[int, list[int]] = {}
    for place, token in enumerate(expected):
        places.setdefault(token, []).append(place)
    next_place = lost = repeated = wrong = 0
    again: int | None = None
    """Where a repetition would go on."""
    for token in got:
        if again is not None and again < next_place and expected[again] == token:
            repeated += 1
            again += 1
            continue
        again = None
        if next_place < len(expected) and expected[next_place] == token:
            next_place += 1
            continue
        known = places.get(token, [])
        later = next((place for place in known if place > next_place), None)
        if later is not None:
            lost += later - next_place
            next_place = later + 1
        elif known:
            repeated += 1
            again = known[-1] + 1
        else:
            wrong += 1
    return Differences(lost + (len(expected) - next_place if whole else 0), repeated, wrong)


def oracle_of(plan: Plan, wire: Wire, tokenizer: Tokenizer) -> Expected:
    """What a server answers whose tokens are the chain of `mock/oracle.py`, such as the mock: recomputed from the bytes
    that were sent. `tokenizer`: as wide as the server's. A later turn of a live conversation is not known beforehand.
    """
    requests = {request.id: request for request in plan.requests if not (request.turn and request.due == NOT_DUE)}

    def expected(number: int) -> Sequence[int] | None:
        request = requests.get(number)
        if request is None:
            return None
        sent = body(request, wire)
        ids = prompt_ids(sent, chat=wire.api == "chat", tokenizer=tokenizer)
        seed = sent.get("seed")
        return oracle_tokens(ids, seed if isinstance(seed, int) else 0, request.out, tokenizer.vocab)

    return expected


def of_run(
    facts: Sequence[FaultFacts], records: Sequence[Record], texts: Mapping[int, str], plan: Plan, wire: Wire
) -> list[FaultFacts]:
    """The facts of a run, with integrity where the server turns out to answer by the chain, and as they were where it
    is a model. `texts`: by id, the outputs that were kept.
    """
    if facts and texts:
        whole = [record.id for record in records if record.outcome == "ok" and record.id in texts][:_TRIED]
        for scheme in _SCHEMES:
            expected = oracle_of(plan, wire, Tokenizer(scheme=scheme))
            if any(_agrees(expected(number), tokens_of(texts[number])) for number in whole):
                return with_integrity(facts, records, texts, expected, exact=wire.lengths == "exact")
    return list(facts)


def _agrees(wanted: Sequence[int] | None, got: Sequence[int]) -> bool:
    """One answer is enough: a chain of hashes is not met by chance, and a fault spoils some answers only."""
    return wanted is not None and len(got) >= _FEWEST and list(wanted[: len(got)]) == list(got)


def with_integrity(
    facts: Iterable[FaultFacts],
    records: Iterable[Record],
    texts: Mapping[int, str],
    expected: Expected,
    *,
    exact: bool = True,
) -> list[FaultFacts]:
    """The facts, each with what the outputs of the requests that it met say. `texts`: by id, the whole output.
    `exact`: lengths were forced, so that an answer which ends early has lost its end.
    """
    kept = [record for record in records if record.id in texts]
    found = []
    for fault in facts:
        met = [record for record in kept if met_by(fault, record)]
        found.append(msgspec.structs.replace(fault, integrity=_of(met, texts, expected, exact)))
    return found


def _of(met: Sequence[Record], texts: Mapping[int, str], expected: Expected, exact: bool) -> Integrity | None:
    checked = lost = repeated = wrong = billed = 0
    for record in met:
        wanted = expected(record.id)
        if wanted is None:
            continue
        got = tokens_of(texts[record.id])
        found = differences(wanted[: record.out_want], got, whole=exact and record.outcome == "ok")
        checked += 1
        lost, repeated, wrong = lost + found.lost, repeated + found.repeated, wrong + found.wrong
        if record.count_source == "usage" and record.out_got is not None:
            billed += max(0, record.out_got - len(got))
    if not checked:
        return None
    return Integrity(checked=checked, lost=lost, repeated=repeated, wrong=wrong, billed=billed)
