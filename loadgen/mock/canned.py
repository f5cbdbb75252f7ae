"""Canned answers: what an engine would take away from the measure of a router is left out.

Bytes are made beforehand wherever two requests would get the same. With `text=prompt` tokens follow the oracle for each
request; with `fixed` they are the oracle's for an empty prompt and seed 0, and nothing of the body is read but its
`stream`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from loadgen.errors import BadInput
from loadgen.units import duration


@dataclass(frozen=True, slots=True)
class Shape:
    """`json`: whole answers or streams in one piece, of `tokens`; `burst`: so many chunks at once; `paced`: one each
    `gap` microseconds.
    """

    kind: Literal["json", "burst", "paced"]
    tokens: int
    gap: int = 0


def parse_shape(text: str) -> Shape:
    """`json`, `json:N`, `burst:N` or `paced:N@20ms`.

    Raises:
        BadInput: something else.
    """
    kind, _, rest = text.partition(":")
    count, at, gap = rest.partition("@")
    try:
        tokens = int(count) if count else 16
        if tokens < 1:
            raise ValueError("at least one token")
        if kind == "paced" and at:
            return Shape("paced", tokens, duration(gap))
        if kind == "json" and not at:
            return Shape("json", tokens)
        if kind == "burst" and count and not at:
            return Shape("burst", tokens)
    except ValueError as error:
        raise BadInput("--shape", "", text, str(error)) from error
    raise BadInput("--shape", "", text, "is json, burst:N or paced:N@20ms", ("json", "burst:16", "paced:100@20ms"))
