"""`compare.json`: every block, and what the pairs say together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import msgspec

from loadgen.campaign import in_columns, shown
from loadgen.compare.analyse import Comparison
from loadgen.compare.blocks import Side

if TYPE_CHECKING:
    from pathlib import Path

COMPARE_VERSION = 1


class BlockRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One block. `values`: by figure; `null` with a reason in `reasons`."""

    pair: int
    side: Side
    seed: int
    folder: str
    status: str
    invalid: list[str]
    plan_hash: str
    values: dict[str, float | None]
    reasons: dict[str, str] = {}


class CompareRecord(msgspec.Struct, kw_only=True):
    """The whole; written anew after every block."""

    version: int = COMPARE_VERSION
    a: str
    b: str
    order: Literal["abba", "random"]
    idle: Literal["leave", "freeze", "stop"]
    pairs: int
    block_micros: int
    lengths: str = "unknown"
    one_client: bool = False
    """Both sides were sent from the same load processes."""
    interrupted: bool = False
    left_out: list[int] = []
    """Pairs of which a block was INVALID."""
    blocks: list[BlockRecord] = []
    figures: list[Comparison] = []


def encode(record: CompareRecord) -> bytes:
    """As it stands in the file."""
    return msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"


def decode(text: bytes) -> CompareRecord:
    """What `encode` wrote.

    Raises:
        msgspec.ValidationError: not such a tree, or of another version.
    """
    found = msgspec.json.decode(text, type=CompareRecord)
    if found.version != COMPARE_VERSION:
        raise msgspec.ValidationError(
            f"compare.json is of version {found.version}, this program reads {COMPARE_VERSION}"
        )
    return found


def text(record: CompareRecord, folder: Path) -> str:
    """As a table."""
    done = len({each.pair for each in record.blocks})
    head = [f"A {record.a}\nB {record.b}"]
    head.append(
        f"{done} of {record.pairs} pairs, blocks of {record.block_micros / 1e6:g} s, order {record.order}, "
        f"idle side: {record.idle}, lengths {record.lengths}, times in ms"
    )
    if record.interrupted:
        head.insert(0, "INTERRUPTED: this is what there was")
    if record.left_out:
        head.append(f"INVALID, and left out: pairs {', '.join(str(each + 1) for each in record.left_out)}")
    if not record.one_client:
        head.append("each block had load processes of its own: small differences may be theirs")
    if record.lengths == "eos":
        head.append("lengths eos: the answers of the two sides differ in length, so compare per token only")
    rows: list[tuple[str, ...]] = [("figure", "A", "B", "B over A", "95 %", "p", "pairs", "")]
    rows += [_row(each) for each in record.figures]
    notes = [f"{each.figure}: {each.reason}" for each in record.figures if each.reason]
    notes += _doubts(record)
    return "\n".join([*head, "", in_columns(rows), *notes, str(folder / "compare.json"), ""])


def _row(each: Comparison) -> tuple[str, ...]:
    unit = {"time": "ms", "share": "%"}.get(each.unit, "")
    a, b = shown(each.a_median, unit), shown(each.b_median, unit)
    if each.kind is None:
        return (each.figure, a, b, "-", "-", "-", "0", "")
    unit, mark = ("", "x") if each.kind == "ratio" else (unit, " less A")
    interval = "-" if each.low is None else f"{shown(each.low, unit)}..{shown(each.high, unit)}"
    p = "-" if each.p is None else f"{each.p:.3g}{'' if each.exact else ' (drawn)'}"
    return (
        each.figure,
        a,
        b,
        f"{shown(each.mean, unit)}{mark}",
        interval,
        p,
        str(each.used),
        "*" if each.differs else "",
    )


def _doubts(record: CompareRecord) -> list[str]:
    found = []
    if any(each.differs for each in record.figures):
        found.append("* differs at 5 % (exact sign flip over pairs)")
    if len(record.figures) > 1:
        found.append(f"{len(record.figures)} figures: at 5 %, one in twenty differs by chance")
    few = [each for each in record.figures if each.least_p is not None and each.least_p > 0.05]
    if few:
        found.append(f"{few[0].used} pairs cannot show a difference at 5 %: the smallest p is {few[0].least_p:.3g}")
    return found
