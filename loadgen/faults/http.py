"""A call to the server as a fault, such as `http=POST:/admin/cache/clear`: proved by an answer of 2xx."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loadgen.errors import Unreachable
from loadgen.faults import call
from loadgen.faults.base import FaultNotSeen, Proof

if TYPE_CHECKING:
    from loadgen.faults.call import Answer, Call

_SHOWN = 200


class Http:
    """One call. Nothing undoes it but another fault that calls the opposite."""

    def __init__(self, name: str, what: Call, *, patience: int = call.CALL_MICROS) -> None:
        """`patience`: microseconds within which it must be answered."""
        self.name, self.call = name, what
        self._patience = patience
        self._answer: Answer | None = None

    async def inject(self) -> None:
        """Call.

        Raises:
            FaultNotSeen: nobody answered.
        """
        try:
            self._answer = await call.send(self.call, micros=self._patience)
        except Unreachable as error:
            raise FaultNotSeen(self.name, str(error)) from error

    async def verify(self) -> Proof:
        """The answer is a 2xx. A redirect is none: what it leads to was not done."""
        answer = self._answer
        if answer is None:
            raise FaultNotSeen(self.name, "nobody was called")
        if not 200 <= answer.status < 300:
            text = ascii(answer.body[:_SHOWN].decode("utf-8", errors="replace"))
            raise FaultNotSeen(self.name, f"{self.call.method} {self.call.url} answered {answer.status}: {text}")
        return Proof(f"{self.call.method} answered {answer.status}", {"status": answer.status})

    async def heal(self) -> None:
        """Nothing to undo."""
