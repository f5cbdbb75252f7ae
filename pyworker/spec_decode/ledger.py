"""Never a loss: whoever's guesses cost more than they bring stops guessing for a while."""

from __future__ import annotations

from dataclasses import dataclass

_MOST_DEBT = 0.01
"""Of the time that the request has been decoding."""
_PAUSE_STEPS = 64


@dataclass(slots=True)
class _Account:
    debt_micros: float = 0.0
    decode_micros: float = 0.0
    pause: int = 0
    probing: bool = False


class Ledger:
    """One account a request: what its guesses took beyond the plain step, less the steps that they saved."""

    def __init__(self) -> None:
        self._accounts: dict[str, _Account] = {}

    def may_guess(self, request_id: str) -> bool:
        """Whether the request may guess in this step; asked once a step. After a pause it may once, to see."""
        account = self._accounts.setdefault(request_id, _Account())
        if account.pause > 0:
            account.pause -= 1
            account.probing = account.pause == 0
            return False
        return True

    def book(self, request_id: str, step_micros: float, extra_micros: float, saved_micros: float) -> None:
        """Book one step of the request: its time, what its guesses added to it, and what the tokens they gave saved."""
        account = self._accounts.setdefault(request_id, _Account())
        account.decode_micros += step_micros
        account.debt_micros = max(0.0, account.debt_micros + extra_micros - saved_micros)
        failed_probe = account.probing and extra_micros > saved_micros
        guessed = extra_micros > 0.0 or saved_micros > 0.0
        if guessed and account.probing:
            account.probing = False
            if not failed_probe:
                account.debt_micros = 0.0
        if guessed and (failed_probe or account.debt_micros > _MOST_DEBT * account.decode_micros):
            account.pause = _PAUSE_STEPS

    def forget(self, request_id: str) -> None:
        """Close the account."""
        self._accounts.pop(request_id, None)
