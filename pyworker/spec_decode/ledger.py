"""Never a loss: whoever's guesses have cost more than they have brought stops guessing for a while.

What was brought counts, up to a bound: one wrong guess after many right ones is no reason to stop, and many right ones
long ago are none to go on.
"""

from __future__ import annotations

from dataclasses import dataclass

_MOST_DEBT = 0.01
"""Of the time that the request has been decoding."""
_LEAST_STEPS = 100
"""A request is judged as if it had decoded for so many steps at least: its first guesses may cost one step in all. With
less, the first wrong one would end them, before anything is known of the request.
"""
_MOST_CREDIT = 10.0
"""Allowances: what guesses brought beyond these is forgotten."""
_PAUSE_STEPS = 64


@dataclass(slots=True)
class _Account:
    debt_micros: float = 0.0
    decode_micros: float = 0.0
    steps: int = 0
    pause: int = 0
    probing: bool = False

    @property
    def allowance(self) -> float:
        """The debt that is borne."""
        return _MOST_DEBT * self.decode_micros * max(1.0, _LEAST_STEPS / max(1, self.steps))


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
        account.steps += 1
        debt = account.debt_micros + extra_micros - saved_micros
        account.debt_micros = max(debt, -_MOST_CREDIT * account.allowance)
        if extra_micros <= 0.0 and saved_micros <= 0.0:
            return
        failed_probe = account.probing and extra_micros > saved_micros
        if account.probing and not failed_probe:
            # It may guess again, and the next loss is one too many: were all forgiven, losses would add up by probes.
            account.debt_micros = min(account.allowance, account.debt_micros)
        account.probing = False
        if failed_probe or account.debt_micros > account.allowance:
            account.pause = _PAUSE_STEPS

    def forget(self, request_id: str) -> None:
        """Close the account."""
        self._accounts.pop(request_id, None)
