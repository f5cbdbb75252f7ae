"""Carries out a comparison: blocks in turn, both of a pair with one plan, each noted as soon as it is there."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from loadgen.campaign import Interrupted, carry_out, part_of, value_in
from loadgen.compare import analyse, record
from loadgen.compare.blocks import Block, blocks
from loadgen.compare.record import BlockRecord, CompareRecord
from loadgen.errors import BadInput, ExitCode, LoadgenError, first_of
from loadgen.plan import workload
from loadgen.run.files import RunFolder, write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from loadgen.campaign import Tools
    from loadgen.compare.blocks import Side
    from loadgen.compare.sides import SideControl
    from loadgen.measure.expr import Figure
    from loadgen.options import CompareOptions
    from loadgen.run.stage import RunOutcome, Stage
    from loadgen.spec import Scenario

_OTHER: dict[Side, Side] = {"a": "b", "b": "a"}


@dataclass(slots=True)
class Compare:
    """One comparison. `stage`: what all blocks share; with a crew in it, both sides are sent by the same processes."""

    options: CompareOptions
    folder: Path
    tools: Tools
    sides: Mapping[Side, SideControl]
    stage: Stage
    record: CompareRecord = field(init=False)
    codes: set[ExitCode] = field(default_factory=set)
    _lengths: dict[Side, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        options = self.options
        self.record = CompareRecord(
            a=options.a,
            b=options.b,
            order=options.order,
            idle=options.idle,
            pairs=options.pairs,
            block_micros=options.block,
            one_client=self.stage.crew is not None,
        )

    @property
    def figures(self) -> tuple[Figure, ...]:
        """What is compared."""
        return self.options.metrics or analyse.default_figures(self.options.run.scenario)

    def run(self) -> ExitCode:
        """All blocks. What there is by then stays when the user or an error ends it; the servers are always let go.

        Raises:
            LoadgenError: a block could not be made, or the sides cannot be compared.
        """
        try:
            for block in blocks(self.options.pairs, self.options.order, self.options.run.scenario.seed):
                self._block(block)
        except (Interrupted, KeyboardInterrupt):
            self.record.interrupted = True
            self.codes.add(ExitCode.INTERRUPTED)
        except LoadgenError:
            self.record.interrupted = True
            raise
        finally:
            self._close()
            self._save()
        return first_of(self.codes)

    def _close(self) -> None:
        try:
            self.sides["a"].close()
        finally:
            self.sides["b"].close()

    def _block(self, block: Block) -> None:
        self.sides[_OTHER[block.side]].rest()
        self.sides[block.side].activate()
        folder = self.folder / "blocks" / f"{block.pair + 1:03}-{block.side}"
        outcome = carry_out(self.tools, part_of(self.options.run, self._scenario(block), folder), self._stage(block))
        self._check_lengths(block, outcome)
        self._note(block, outcome)

    def _scenario(self, block: Block) -> Scenario:
        scenario = self.options.run.scenario
        return replace(
            scenario,
            target=self.options.a if block.side == "a" else self.options.b,
            duration=self.options.block,
            # Pairs are draws of their own; within a pair the plan is one and the same.
            seed=scenario.seed + block.pair,
            repeat=1,
        )

    def _stage(self, block: Block) -> Stage:
        """The second block of a pair plays the first one's plan, byte for byte."""
        first = next((each for each in self.record.blocks if each.pair == block.pair), None)
        if first is None:
            return self.stage
        path = RunFolder(self.folder / first.folder).workload
        return replace(self.stage, plan=workload.read(path)) if path.is_file() else self.stage

    def _check_lengths(self, block: Block, outcome: RunOutcome) -> None:
        self._lengths[block.side] = outcome.result.identity.get("lengths", "unknown")
        modes = self._lengths
        self.record.lengths = modes[block.side]
        if len(modes) == 2 and modes["a"] != modes["b"]:
            told = f"A has {modes['a']}, B has {modes['b']}"
            raise BadInput(
                "--lengths", "", "", f"{told}: answers of unequal length cannot be compared; give one for both"
            )

    def _note(self, block: Block, outcome: RunOutcome) -> None:
        self.codes |= outcome.codes
        result = outcome.result
        evidence = self.tools.opener(outcome)
        found = {str(figure): value_in(figure, evidence) for figure in self.figures}
        made = BlockRecord(
            pair=block.pair,
            side=block.side,
            seed=self.options.run.scenario.seed + block.pair,
            folder=str(outcome.folder.relative_to(self.folder)),
            status=result.status,
            invalid=list(result.invalid),
            plan_hash=result.identity.get("plan_hash", "unknown"),
            values={name: each.number for name, each in found.items()},
            reasons={name: each.reason for name, each in found.items() if each.reason},
        )
        self._check_plan(made)
        self.record.blocks.append(made)
        self._save()
        values = ", ".join(f"{name} {each.number:.6g}" for name, each in found.items() if each.number is not None)
        self.tools.say(f"pair {block.pair + 1} {block.side.upper()}: {result.status}, {values or 'no figure'}")

    def _check_plan(self, made: BlockRecord) -> None:
        other = next((each for each in self.record.blocks if each.pair == made.pair), None)
        if other is not None and other.plan_hash != made.plan_hash:
            raise BadInput("compare", "", made.plan_hash, f"another plan than that of the pair, {other.plan_hash}")

    def _save(self) -> None:
        self.record.left_out = sorted({each.pair for each in self.record.blocks if each.invalid})
        self.record.figures = [self._compared(figure) for figure in self.figures]
        write_whole(self.folder / "compare.json", record.encode(self.record))

    def _compared(self, figure: Figure) -> analyse.Comparison:
        name = str(figure)
        by = {(each.pair, each.side): each for each in self.record.blocks if each.pair not in self.record.left_out}
        whole = sorted({pair for pair, _ in by if (pair, "a") in by and (pair, "b") in by})
        pairs = [analyse.Pair(pair, by[pair, "a"].values[name], by[pair, "b"].values[name]) for pair in whole]
        reason = next((each.reasons[name] for each in by.values() if name in each.reasons), None)
        return analyse.compare(figure, pairs, self.options.run.scenario.seed, reason)
