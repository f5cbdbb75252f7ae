"""Who gets how many tokens in the next step, and what a step's result means for each request.

A prefill chunk, a decode and the recomputation of a preempted request are one subtraction: known tokens less computed
tokens. Between two steps a request waits (and holds no blocks) or runs (and holds blocks); it leaves by exactly one
output with `finish`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyworker.engine.admission import Admission
from pyworker.engine.ahead import Ahead
from pyworker.engine.budget import ChunkBudget
from pyworker.engine.drafts import DraftPlanner
from pyworker.engine.entrance import Entrance
from pyworker.engine.outputs import SchedulerOutput, StepOutputs
from pyworker.engine.policies import Policies
from pyworker.engine.queue import due_micros
from pyworker.engine.request import Request, RequestStatus
from pyworker.engine.results import Results
from pyworker.engine.roster import Roster
from pyworker.engine.yielding import all_yielding, first_to_yield, last_from

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pyworker.engine.config import EngineConfig
    from pyworker.engine.entrance import Beginning
    from pyworker.engine.metrics import EngineMetrics
    from pyworker.engine.outputs import ModelRunnerOutput, RequestOutput
    from pyworker.engine.parking import Parked
    from pyworker.kvcache.manager import KVCacheManager


class Scheduler:
    """Continuous batching over a paged KV cache. No clock, no torch, no IO: equal calls give equal answers."""

    def __init__(
        self,
        config: EngineConfig,
        kv_cache: KVCacheManager,
        metrics: EngineMetrics,
        policies: Policies | None = None,
    ) -> None:
        self._config = config
        self._kv_cache = kv_cache
        self._metrics = metrics
        policies = policies or Policies()
        self._joins = policies.joins
        self._grammar = policies.grammar
        self._speculator = policies.speculator
        self._drafts = (
            DraftPlanner(config, kv_cache, policies.speculator, policies.grammar) if policies.speculator else None
        )
        self._roster = roster = Roster(config, kv_cache, metrics, policies)
        self._results = Results(config, kv_cache, metrics, policies, roster)
        self._admission = Admission(config, kv_cache, roster.lengths)
        self._entrance = Entrance(config, kv_cache, roster.groups)
        self._ahead = Ahead(config, kv_cache)

    @property
    def num_running(self) -> int:
        """Requests that hold blocks."""
        return len(self._roster.running)

    @property
    def num_waiting(self) -> int:
        """Requests that hold none."""
        return len(self._roster.waiting)

    @property
    def num_compiling(self) -> int:
        """Requests among the waiting whose grammars are not ready."""
        return len(self._roster.compiling)

    @property
    def num_parked(self) -> int:
        """Slices that left a step and have not gone on."""
        return len(self._roster.parking)

    def add(self, request: Request) -> bool:
        """Take a request. False: a higher attempt of it is here already, and this one is ignored.

        A lower attempt that is here is dropped without an output, even if the new one is then refused.

        Raises:
            DuplicateAttempt: this very attempt is here.
            InvalidRequest: no engine with this model would take it.
        """
        return self._roster.add(request)

    def check_new(self, request: Request) -> None:
        """Refuse what can never run.

        Raises:
            InvalidRequest: no engine with this model would take it.
        """
        self._roster.check_new(request)

    def cancel(self, request_id: str) -> None:
        """End a request at the next step boundary; its output says `cancelled`. Unknown ids are ignored."""
        self._roster.cancel(request_id)

    def grant(self, request_id: str, up_to: int) -> None:
        """Let a request produce tokens up to this output position. Credit never shrinks; unknown ids are ignored."""
        self._roster.grant(request_id, up_to)

    def schedule(self, now: int) -> SchedulerOutput:
        """Choose the next step's rows. `now` in microseconds.

        All that somebody waits for comes first: decodes, chunks of what runs, then what waits. Offline rows get what is
        left, anew in each step: those that go on from where they were parked, decodes, chunks, then what waits. Drafts
        come last. What was planned ahead is taken over as far as it has come true.
        """
        self._roster.end_cancelled()
        self._roster.poll_grammars()
        out = SchedulerOutput()
        if not self._take_plan(out):
            self._choose(out, now)
        if out.num_scheduled_tokens:
            self._plan_drafts(out)
            self._complete(out)
        return out

    def plan_ahead(self, out: SchedulerOutput) -> None:
        """Plan the step after `out`, which may be running meanwhile on another thread: no request that is in it loses a
        block or changes a number. To be called at most once between `schedule` and `update_from_output`.
        """
        self._ahead.plan(out, len(self._roster.running))

    def forget_plan(self) -> None:
        """Drop what was planned ahead."""
        self._ahead.forget()

    @property
    def has_plan(self) -> bool:
        """Whether the next step is known to have rows, unless they are cancelled before."""
        return self._ahead.has_any()

    def _take_plan(self, out: SchedulerOutput) -> bool:
        """Put the rows of the plan into the step that could not come out otherwise. True: those are all.

        Online rows decode in any step; the plan left blocks for all the others that do, so none has to give way to one
        of them. Offline rows stand back where there is more to decide.
        """
        planned = self._ahead.take()
        if not planned or len(self._roster.parking):
            return False
        is_all = self._is_all(planned)
        for request in planned:
            if is_all or not request.is_offline:
                self._plan(out, request, 1)
        return is_all

    def _is_all(self, planned: Sequence[Request]) -> bool:
        """Whether nobody but these rows can be in the next step."""
        num_others = len(self._roster.running) - len(planned)
        if len(self._roster.waiting):
            is_full = self._roster.is_full
            return is_full and not num_others and not any(request.is_offline for request in planned)
        names = {request.request_id for request in planned} if num_others else set()
        return not num_others or not any(
            _wanted(request, request.num_computed_tokens) > 0
            for request in self._roster.running
            if request.request_id not in names
        )

    def _choose(self, out: SchedulerOutput, now: int) -> None:
        """Fill the step with all who are not in it yet."""
        lots = self._roster.parking.expire(now)
        for lot in lots:
            if lot.has_online and self._has_room(lot, out):
                self._join(lot, out)
        self._schedule_decodes(out, offline=False)
        budget = ChunkBudget(self._config, out.total_tokens)
        self._schedule_chunks(out, budget, offline=False)
        room_left = self._schedule_waiting(out, budget, now, offline=False)
        self._join_offline(lots, out, budget, now)
        self._schedule_decodes(out, offline=True, budget=budget)
        self._schedule_chunks(out, budget, offline=True)
        if room_left:
            self._schedule_waiting(out, budget, now, offline=True)

    def update_from_output(self, out: SchedulerOutput, result: ModelRunnerOutput) -> StepOutputs:
        """Take a step's result: advance, append, find stops, free. Outputs made since the last step come first."""
        steps = StepOutputs(self.take_outputs(), max(1, result.step_micros))
        self._entrance.observe_step(steps.step_micros)
        steps.outputs += self._results.apply(out, result)
        if self._speculator is not None:
            # A step that rows have left tells nothing of what so many tokens take.
            num_tokens = 0 if any(row.parked for row in result.rows.values()) else out.total_tokens
            self._speculator.observe_step(num_tokens, len(out.num_scheduled_tokens), steps.step_micros)
        steps.kv_events = self._kv_cache.take_events()
        return steps

    def take_outputs(self) -> list[RequestOutput]:
        """Outputs that came about outside a step, each handed out once."""
        return self._roster.take_outputs()

    def check(self) -> None:
        """Compare all books; meant for every moment at which nothing can be scheduled.

        Raises:
            IntegrityError: blocks or requests do not add up.
        """
        self._roster.check()

    def _join_offline(self, lots: Sequence[Parked], out: SchedulerOutput, budget: ChunkBudget, now: int) -> None:
        """Bring back parked offline rows, as far as the step has room for whole slices."""
        for lot in lots:
            num_tokens = sum(lot.slice.num_tokens.values())
            is_there = not lot.has_online and all(name in self._roster.parking for name in lot.slice.num_tokens)
            fits = num_tokens <= budget.left and self._has_room(lot, out)
            if is_there and fits and self._joins.may_join(lot.slice, out, now):
                budget.spend(num_tokens)
                self._join(lot, out)

    def _has_room(self, lot: Parked, out: SchedulerOutput) -> bool:
        """Whether the step's memory for logits has room for the lot's drafts; of a step's first lot it has."""
        return out.num_drafts + sum(map(len, lot.drafts.values())) <= self._config.max_step_drafts

    def _join(self, lot: Parked, out: SchedulerOutput) -> None:
        self._roster.parking.take(lot)
        out.joins.append(lot.slice)
        out.drafts.update(lot.drafts)
        out.forced |= lot.forced
        for request in lot.requests:
            self._plan(out, request, lot.slice.num_tokens[request.request_id])

    def _schedule_decodes(self, out: SchedulerOutput, *, offline: bool, budget: ChunkBudget | None = None) -> None:
        """One token for each running request that lacks only that one and has credit; others yield blocks to it.

        First those that may not go on anyway, then the lowest class, in both the youngest first. Whoever stands after a
        request has no place in the step yet when that request needs a block, so a victim never has to be taken out.
        """
        for request in self._rows(out, offline):
            if request.status is not RequestStatus.RUNNING or not request.has_credit:
                continue
            if request.num_tokens - request.num_computed_tokens != 1:
                continue
            if budget is not None and not budget.spend_decode():
                return
            while self._kv_cache.allocate_slots(request, 1) is None:
                victim = self._yielding(request, out) or last_from(self._roster.running, request, out)
                self._roster.preempt(victim)
                if victim is request:
                    break
            else:
                self._plan(out, request, 1)

    def _schedule_chunks(self, out: SchedulerOutput, budget: ChunkBudget, *, offline: bool) -> None:
        """Chunks of what runs, in each class the most urgent first."""
        rows = self._rows(out, offline)
        for request in sorted(rows, key=lambda row: (row.klass.rank, due_micros(row), row.arrival)):
            num_tokens = budget.fit(_wanted(request, request.num_computed_tokens), request.num_computed_tokens)
            # The blocks have been there since the request was let in, so this cannot fail.
            if num_tokens > 0 and self._kv_cache.allocate_slots(request, num_tokens) is not None:
                budget.spend(num_tokens)
                self._plan(out, request, num_tokens)

    def _schedule_waiting(self, out: SchedulerOutput, budget: ChunkBudget, now: int, *, offline: bool) -> bool:
        """Let requests in, in order, until the first that does not fit: nobody overtakes for being small. False: there
        was one that did not fit.

        Those without credit can only compute in advance. They are passed over where there is no room, and hold up none.
        """
        for request in self._roster.waiting.in_order(now):
            if request.is_offline is not offline or request.request_id in self._roster.compiling:
                continue
            if request.status is RequestStatus.PREEMPTED and not request.has_credit:
                continue  # it would only compute again what it cannot go on from
            if not self._let_in(out, budget, request, now):
                return False
        return True

    def _let_in(self, out: SchedulerOutput, budget: ChunkBudget, request: Request, now: int) -> bool:
        """Let one request in if it fits. False: nobody behind it may go before it."""
        is_full = self._roster.is_full
        if is_full and self._yielding(request, out) is None:
            return not request.has_credit
        first = self._entrance.beginning(request, out, now)
        if first is None:
            return True
        beginnings = [first]
        if first.leader is not None:
            beginnings.append(self._entrance.from_cache(request))  # then choice 0 may yield to it
        for beginning in beginnings:
            num_computed = beginning.num_computed
            wanted = _wanted(request, num_computed)
            num_tokens = budget.fit(wanted, num_computed)
            if not wanted:
                return True  # all that can be done without credit is done
            if not num_tokens:
                return False
            if self._make_room(out, request, num_tokens, beginning):
                self._roster.start(request, num_computed)
                budget.spend(num_tokens)
                self._plan(out, request, num_tokens)
                out.new_requests.append(request.request_id)
                return True
        return not request.has_credit

    def _make_room(self, out: SchedulerOutput, request: Request, num_tokens: int, beginning: Beginning) -> bool:
        """A row and blocks for a waiting request; some must yield theirs to it if it has credit."""
        yielding = all_yielding(self._roster.running, request, out, beginning.leader)
        stay = [other for other in self._roster.running if other not in yielding]
        if not self._admission.allows(request, self._entrance.taken_blocks(request, beginning), stay, yielding):
            return False
        while self._roster.is_full or (not self._entrance.allocate(request, num_tokens, beginning, out)):
            victim = self._yielding(request, out, beginning.leader)
            if victim is None:
                return False
            self._roster.preempt(victim)
        if beginning.leader is not None:
            self._metrics.add("forks", 1)
        return True

    def _plan_drafts(self, out: SchedulerOutput) -> None:
        """Drafts for the decodes. None while blocks are short: requests that grow faster than one token a step take
        blocks before others have given theirs back.
        """
        if self._drafts is None or not self._admission.is_ample(
            row for row in self._roster.running if not row.is_offline
        ):
            return
        joined = {name for parked in out.joins for name in parked.num_tokens}
        decodes = [
            request
            for name, request in out.requests.items()
            if name not in joined and request.has_credit and request.num_tokens - request.num_computed_tokens == 1
        ]
        self._drafts.plan(out, decodes)

    def _complete(self, out: SchedulerOutput) -> None:
        out.finished_ids = self._roster.take_finished()
        rows = out.num_scheduled_tokens.items()
        out.num_scheduled_tokens = dict(sorted(rows, key=lambda row: out.requests[row[0]].is_offline))
        if self._grammar is not None:
            followed = {name: row for name, row in out.requests.items() if row.params.grammar is not None}
            out.masks = self._grammar.masks(out.drafts, followed) if followed else None

    def _rows(self, out: SchedulerOutput, offline: bool) -> list[Request]:
        """Running rows of one kind that are neither in the step nor parked."""
        return [
            request
            for request in self._roster.running
            if request.is_offline is offline
            and request.request_id not in out.num_scheduled_tokens
            and request.request_id not in self._roster.parking
        ]

    def _yielding(self, request: Request, out: SchedulerOutput, keep: Request | None = None) -> Request | None:
        return first_to_yield(all_yielding(self._roster.running, request, out, keep), self._roster.parking)

    def _plan(self, out: SchedulerOutput, request: Request, num_tokens: int) -> None:
        out.num_scheduled_tokens[request.request_id] = num_tokens
        out.requests[request.request_id] = request


def _wanted(request: Request, num_computed: int) -> int:
    """Tokens to compute; without credit all but the last, whose computation would produce a token."""
    return request.num_tokens - num_computed - (0 if request.has_credit else 1)
