"""What a load process counts of each class as it goes, for the live view: cheap, and approximate where it says so."""

from __future__ import annotations

from array import array

from loadgen.drive.spool import End
from loadgen.drive.summary import ClassTally

_NAMES = {
    End.REFUSED: "refused",
    End.CLOSED: "error",
    End.TIMEOUT: "timeout",
    End.CANCELLED: "cancelled",
    End.OPEN: "open",
    End.TOO_BIG: "error",
    End.MALFORMED: "error",
    End.UNSENT: "unsent",
}
_OK = 200
_TOO_MANY, _AWAY = 429, 503


class Tally:
    """Of one class. `due`, `sent`, `ended`, `marks` are totals; the arrays are of this second, in microseconds."""

    __slots__ = ("active", "due", "e2e", "ended", "gaps", "marks", "sent", "tpot", "ttft")

    def __init__(self) -> None:
        self.due = self.sent = self.active = self.marks = 0
        self.ended: dict[str, int] = {}
        self._clear()

    def _clear(self) -> None:
        self.ttft: array[int] = array("q")
        self.tpot: array[int] = array("q")
        self.e2e: array[int] = array("q")
        self.gaps: array[int] = array("q")

    def end(
        self,
        kind: End,
        status: int,
        times: tuple[int, int],
        chunks: tuple[int, array[int]],
        *,
        retried: bool,
        told_when: bool = False,
    ) -> None:
        """`times`: due and end. `chunks`: `data:` markers and stamps. `told_when`: the server said when to come again,
        which makes a 503 a refusal and not an error.
        """
        due, end = times
        name = "ok" if kind is End.COMPLETE else _NAMES[kind]
        if kind is End.COMPLETE and status != _OK:
            name = "shed" if status == _TOO_MANY or (status == _AWAY and told_when) else "error"
        if retried:
            name = "retried"
        self.ended[name] = self.ended.get(name, 0) + 1
        if name != "ok":
            return
        marks, stamps = chunks
        first = stamps[0] if stamps else end
        self.ttft.append(first - due)
        self.e2e.append(end - due)
        # One marker says how it ends and one that it has; what is left are about the tokens.
        rest = marks - 3
        self.tpot.append((stamps[-1] - first) // rest if stamps and rest > 0 else -1)

    def taken(self) -> ClassTally:
        """All of it, with this second's arrays, which begin anew."""
        found = ClassTally(
            due=self.due,
            sent=self.sent,
            in_flight=self.active,
            ended=dict(self.ended),
            marks=self.marks,
            ttft=self.ttft.tobytes(),
            tpot=self.tpot.tobytes(),
            e2e=self.e2e.tobytes(),
            gaps=self.gaps.tobytes(),
        )
        self._clear()
        return found
