"""The same events in other pieces: cut at any byte, several in one piece, CR LF, comments, UTF-8 cut in two. Pure."""

from __future__ import annotations

import itertools

import numpy as np

_COMMENTS = (b": ping\n\n", ": während wir warten 水\n\n".encode(), b":\n\n")
_MOST_PIECES = 6
_SMALL = 2


class Splitter:
    """Cuts one stream. All draws come from `seed`; no byte of an event's data is lost or added."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.Generator(np.random.Philox(key=np.array([seed, 0x5B117], dtype=np.uint64)))
        self._held = b""

    def cut(self, events: bytes, *, last: bool = False) -> list[bytes]:
        """Pieces of these whole events and of what was held back before; with `last` nothing is held back."""
        if events and self._rng.random() < 0.5:
            events = _COMMENTS[int(self._rng.integers(len(_COMMENTS)))] + events
        if self._rng.random() < 0.5:
            events = events.replace(b"\n", b"\r\n")
        data = self._held + events
        self._held = b""
        if len(data) < _SMALL:
            return [data] if data else []
        count = int(self._rng.integers(0, _MOST_PIECES))
        cuts = sorted({0, len(data), *self._rng.integers(1, len(data), size=count).tolist(), *self._in_character(data)})
        pieces = [data[start:stop] for start, stop in itertools.pairwise(cuts)]
        if not last and self._rng.random() < 0.3:
            self._held = pieces.pop()
        return pieces

    def _in_character(self, data: bytes) -> list[int]:
        """Now and then a place inside a character of several bytes."""
        places = [at for at in range(1, len(data)) if data[at] & 0xC0 == 0x80]
        if not places or self._rng.random() < 0.5:
            return []
        return [places[int(self._rng.integers(len(places)))]]
