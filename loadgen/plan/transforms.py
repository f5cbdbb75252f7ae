"""What is done to the rows of a trace, always in this order: window, dequantise, scale, thin, repeat, len, cap, floor.

`scale` stretches time and keeps the shape of bursts, `thin` drops requests at random, `repeat` lays shifted copies over
each other. These are three different experiments, and the report names which was done.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING

from loadgen.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator

    from loadgen.plan.rows import SourceRow
    from loadgen.spec import Transforms


def apply(rows: Sequence[SourceRow], asked: Transforms, server_block: int, rng: Generator) -> list[SourceRow]:
    """The rows as they are planned. `server_block`: tokens of the server's cache block; `rng`: for `thin`.

    Raises:
        BadInput: a transform that these rows cannot have.
    """
    timed = all(row.time is not None for row in rows)
    if not timed and (asked.window or asked.dequantise or asked.scale != 1 or asked.repeat != 1):
        raise BadInput("transforms", "", "", "window, dequantise, scale and repeat want a source with times")
    found = list(rows)
    if asked.window is not None:
        found = _window(found, *asked.window)
    if asked.dequantise:
        found = _dequantise(found, asked.dequantise)
    if asked.scale != 1:
        found = [replace(row, time=round((row.time or 0) / asked.scale)) for row in found]
    if asked.thin < 1:
        kept = rng.random(len(found)) < asked.thin
        found = [row for row, keep in zip(found, kept, strict=True) if keep]
    if asked.repeat > 1:
        found = _repeat(found, asked.repeat)
    if asked.length != 1:
        found = [_scaled(row, asked.length, server_block) for row in found]
    if asked.cap is not None:
        found = [_capped(row, asked.cap) for row in found]
    if asked.floor != (1, 1):
        found = [_raised(row, *asked.floor) for row in found]
    return found


def words(asked: Transforms) -> str:
    """The same for the report; `none` where nothing was done."""
    parts = []
    if asked.window is not None:
        parts.append(f"window={asked.window[0] / 1e6:g}s..{asked.window[1] / 1e6:g}s")
    if asked.dequantise:
        parts.append(f"dequantise={asked.dequantise / 1e6:g}s")
    if asked.scale != 1:
        parts.append(f"scale=x{asked.scale:g}")
    if asked.thin < 1:
        parts.append(f"thin={asked.thin:g}")
    if asked.repeat > 1:
        parts.append(f"repeat={asked.repeat}")
    if asked.length != 1:
        parts.append(f"len=x{asked.length:g}")
    if asked.cap is not None:
        parts.append(f"cap={asked.cap}")
    if asked.floor != (1, 1):
        parts.append(f"floor={asked.floor[0]}/{asked.floor[1]}")
    if asked.missing is not None:
        parts.append(f"missing={asked.missing}")
    return " ".join(parts) or "none"


def _window(rows: list[SourceRow], begin: int, end: int) -> list[SourceRow]:
    kept = [replace(row, time=row.time - begin) for row in rows if row.time is not None and begin <= row.time < end]
    if not kept:
        raise BadInput("transforms", "window", f"{begin / 1e6:g}s..{end / 1e6:g}s", "no row of the trace lies in it")
    return kept


def _dequantise(rows: list[SourceRow], grid: int) -> list[SourceRow]:
    """Rows of one instant, in their order, evenly over the grid's step that begins there."""
    spread: list[SourceRow] = []
    for instant, group in groupby(rows, key=lambda row: row.time or 0):
        together = list(group)
        spread += [replace(row, time=instant + place * grid // len(together)) for place, row in enumerate(together)]
    return sorted(spread, key=lambda row: row.time or 0)


def _repeat(rows: list[SourceRow], copies: int) -> list[SourceRow]:
    """Copies shifted by equal parts of the span, wrapped at its end. Each copy has blocks and sessions of its own: the
    copies are further users, and not the same prompt sent again.
    """
    if len(rows) < 2:
        return rows
    last = rows[-1].time or 0
    span = last + max(1, last // (len(rows) - 1))
    stride = 1 + max((max(row.blocks) for row in rows if row.blocks), default=0)
    found: list[tuple[int, int, SourceRow]] = []
    for copy in range(copies):
        for place, row in enumerate(rows):
            blocks = None if row.blocks is None else tuple(block + copy * stride for block in row.blocks)
            session = None if row.session is None else f"{row.session}/{copy}"
            time = ((row.time or 0) + copy * span // copies) % span
            prompt = None if copy else row.prompt
            made = replace(row, time=time, blocks=blocks, session=session, prompt=prompt)
            found.append((time, copy * len(rows) + place, made))
    return [row for _, _, row in sorted(found, key=lambda entry: entry[:2])]


def _scaled(row: SourceRow, factor: float, server_block: int) -> SourceRow:
    out = None if row.out_tokens is None else max(1, round(row.out_tokens * factor))
    if row.in_tokens is None:
        return replace(row, out_tokens=out)
    if row.blocks is None or row.block_tokens is None:
        return replace(row, in_tokens=max(1, round(row.in_tokens * factor)), out_tokens=out)
    # The block is scaled, not the sum: who shares what with whom stays as it was.
    block = max(server_block, round(row.block_tokens * factor / server_block) * server_block)
    whole = len(row.blocks) - 1
    last = max(1, round((row.in_tokens - whole * row.block_tokens) * block / row.block_tokens))
    return replace(row, in_tokens=whole * block + last, out_tokens=out, block_tokens=block)


def _capped(row: SourceRow, cap: int) -> SourceRow:
    """Prompts of at most `cap` tokens. Blocks are cut whole: a cut in mid-block would lose the shared prefix."""
    if row.in_tokens is None or row.in_tokens <= cap:
        return row
    if row.blocks is None or row.block_tokens is None:
        return replace(row, in_tokens=cap)
    kept = cap // row.block_tokens
    if kept == 0:
        raise BadInput("transforms", "cap", str(cap), f"it is below one block of {row.block_tokens} tokens")
    return replace(row, in_tokens=kept * row.block_tokens, blocks=row.blocks[:kept])


def _raised(row: SourceRow, least_in: int, least_out: int) -> SourceRow:
    prompt = row.in_tokens if row.in_tokens is None or row.blocks else max(row.in_tokens, least_in)
    out = None if row.out_tokens is None else max(row.out_tokens, least_out)
    if row.blocks and row.in_tokens is not None and row.in_tokens < least_in:
        if row.block_tokens is None or len(row.blocks) > 1 or least_in > row.block_tokens:
            raise BadInput("transforms", "floor", str(least_in), "it would make a block longer than it is")
        prompt = least_in
    return replace(row, in_tokens=prompt, out_tokens=out)
