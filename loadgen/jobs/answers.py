"""Whether an answer is what the data set says: a letter of MMLU, a number of GSM8K. Pure."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

_CHOICES = ("A", "B", "C", "D")
_FIRST_LETTER = re.compile(r"\W*([A-D])(?![A-Za-z])")
_SAID_LETTER = re.compile(r"[Aa]nswer(?: is)?\W{0,8}([A-D])(?![A-Za-z])")
_NUMBER = r"(-?\$?-?[0-9][0-9,]*(?:\.[0-9]+)?)"
_MARKED = re.compile(rf"#### *{_NUMBER}")
_SAID = re.compile(rf"[Aa]nswer(?: is)?\W{{0,8}}?{_NUMBER}")
_ANY = re.compile(_NUMBER)
_NEXT = re.compile(r"\n+Q:")
"""A model that goes on by itself writes the next question, whose numbers are no answer."""


def is_right(answer: str, text: str) -> bool:
    """`answer`: a letter or a bare number, as the importers give it; `text`: all that was generated."""
    if answer in _CHOICES:
        return _letter(text) == answer
    want, got = _decimal(answer), _number(text)
    return want is not None and want == got


def _letter(text: str) -> str | None:
    found = _FIRST_LETTER.match(text) or _SAID_LETTER.search(text)
    return found[1] if found else None


def _number(text: str) -> Decimal | None:
    """Behind `####`, else what is called the answer, else the last number."""
    own = _NEXT.split(text, maxsplit=1)[0]
    marked = _MARKED.search(own)
    if marked:
        return _decimal(marked[1])
    found = _SAID.findall(own) or _ANY.findall(own)
    return _decimal(found[-1]) if found else None


def _decimal(text: str) -> Decimal | None:
    try:
        return Decimal(text.replace(",", "").replace("$", ""))
    except InvalidOperation:
        return None
