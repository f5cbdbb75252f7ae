"""Choices of one prompt: who has computed it, and how long the others wait for that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyworker.engine.request import RequestStatus

if TYPE_CHECKING:
    from pyworker.engine.request import Request

GROUP_WAIT_MICROS = 2_000_000
"""The longest that a choice waits for choice 0; then it computes its prompt itself, or finds it in the cache."""


class Groups:
    """The live choice 0 of each group."""

    def __init__(self) -> None:
        self._leaders: dict[str, Request] = {}

    def add(self, request: Request) -> None:
        """Remember a choice 0."""
        if request.group is not None and request.choice_index == 0:
            self._leaders[request.group] = request

    def remove(self, request: Request) -> None:
        """Forget a request that has ended. Does nothing if it leads no group."""
        if request.group is not None and self._leaders.get(request.group) is request:
            del self._leaders[request.group]

    def leader_of(self, request: Request) -> Request | None:
        """The live choice 0 whose prompt this fresh choice shares; `None` for all that run alone.

        One with a history does, and one that needs every position of its prompt for logprobs.
        """
        if request.group is None or request.choice_index == 0 or request.num_tokens != len(request.prompt_ids):
            return None
        leader = self._leaders.get(request.group)
        if leader is None or request.owes_prompt_logprobs:
            return None
        same = leader.salt == request.salt and leader.prompt_ids == request.prompt_ids
        return leader if same else None


def can_fork(leader: Request) -> bool:
    """Whether all of the prompt but its last token is computed; that one each choice computes for its own logits."""
    return leader.status is RequestStatus.RUNNING and leader.num_computed_tokens >= len(leader.prompt_ids) - 1


def must_wait(request: Request, leader: Request, now: int) -> bool:
    """Whether a choice still waits for its leader's prompt: only while that one is being computed or will soon be."""
    if can_fork(leader):
        return False
    on_its_way = leader.status is RequestStatus.RUNNING or (
        leader.status is RequestStatus.WAITING and leader.has_credit
    )
    return on_its_way and now - (request.queued_micros or 0) < GROUP_WAIT_MICROS
