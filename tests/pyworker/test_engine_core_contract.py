"""The engine keeps what every engine must keep: simulated and with a model, with room to spare and without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from support.contract_base import ContractBase, Driven
from support.engine_contract import EngineContract
from support.engine_rig import VirtualClock, rig_for_test
from support.model_rig import built_for_test, model_dir
from support.scheduler_stubs import StubGrammar, StubSpeculator, allows, wild_guess

from pyworker.engine.core import EngineCore
from pyworker.engine.interface import Engine
from pyworker.engine.planner import InlinePlanner
from pyworker.engine.policies import Policies
from pyworker.engine.request import Grammar, GrammarKind, Request
from pyworker.runner.build import build_runner
from pyworker.runner.memory import Limits
from pyworker.spec_decode.speculator import PROPOSERS, GatedSpeculator
from pyworker.structured.guide import LLGuidance


def counted(driven: Driven, requests: Sequence[Request]) -> dict[str, float]:
    """The engine's counters after this load, of which nothing was expected to be long."""
    for request in requests:
        request.expected_output = 1
    driven.run(*requests)
    return {name: value for name, label, value in driven.engine.stats().metrics if label is None}


SIM_FEATURES = ("grammar", "kv_events", "row_drop", "safepoint")


class SimContract(ContractBase):
    """Over the simulated model, with made-up grammars."""

    also: ClassVar = frozenset({"stops"})
    grammar: ClassVar = Grammar(GrammarKind.REGEX, "1 99 7")
    bad_grammar: ClassVar = Grammar(GrammarKind.REGEX, "grammar_invalid")

    def matches(self, token_ids: Sequence[int]) -> bool:
        return all(allows(index, token, 7) for index, token in enumerate(token_ids))

    def make_plain_engine(self) -> Engine:
        policies = Policies(grammar=StubGrammar())
        return rig_for_test(policies=policies, features=SIM_FEATURES, async_scheduling=False).engine


class TestEngineCoreKeepsTheContract(SimContract, EngineContract):
    def make_engine(self) -> Engine:
        policies = Policies(grammar=StubGrammar())
        return rig_for_test(policies=policies, features=SIM_FEATURES, max_num_seqs=4).engine


class TestTightEngineCoreKeepsTheContract(SimContract, EngineContract):
    """Few blocks, few rows and no cache: the same promises."""

    def make_engine(self) -> Engine:
        tight = rig_for_test(
            policies=Policies(grammar=StubGrammar()),
            features=SIM_FEATURES,
            num_blocks=17,
            max_num_seqs=3,
            max_num_batched_tokens=20,
            max_model_len=64,
            enable_prefix_caching=False,
        )
        return tight.engine

    def test_somebody_has_to_give_way(self, driven: Driven) -> None:
        assert counted(driven, self.mixed(driven))["preemptions"] > 0


class TestGuessingEngineCoreKeepsTheContract(SimContract, EngineContract):
    """Wild drafts, forced ones, and plans that are made at the last moment."""

    def make_engine(self) -> Engine:
        policies = Policies(grammar=StubGrammar(), speculator=StubSpeculator(wild_guess(3)))
        planner = InlinePlanner(late=True)
        return rig_for_test(policies=policies, planner=planner, features=SIM_FEATURES, num_blocks=40).engine

    def test_drafts_come_true_and_do_not(self, driven: Driven) -> None:
        found = counted(driven, self.mixed(driven))
        assert found["draft_tokens"] > found["accepted_draft_tokens"] > 0


class ModelContract(ContractBase):
    """Over the toy model, whose tokens are bytes."""

    also: ClassVar = frozenset({"sampling", "stops"})
    backend: ClassVar = "native"
    dtype: ClassVar = "bfloat16"

    def make(self, limits: Limits, proposer: str | None) -> Engine:
        """An engine with real grammars; what `proposer` guesses is always tried."""
        built = build_runner(model_dir("tiny"), "tiny", backend=self.backend, dtype=self.dtype, limits=limits)
        config = replace(built.config, decode_chunk=16, async_scheduling=proposer is not None)
        speculator = GatedSpeculator(PROPOSERS[proposer](), gated=False) if proposer else None
        guidance = LLGuidance.for_model(model_dir("tiny"), config.vocab_size, sorted(config.eos_ids))
        policies = Policies(grammar=guidance, speculator=speculator)
        return EngineCore(config, built.runner, VirtualClock(), built.capabilities, policies, InlinePlanner())

    def make_plain_engine(self) -> Engine:
        return self.make(Limits(max_num_seqs=4, max_model_len=128, kv_cache_bytes=1 << 22), None)


class TestEngineOverAModelKeepsTheContract(ModelContract, EngineContract):
    def make_engine(self) -> Engine:
        limits = Limits(max_num_seqs=4, max_model_len=128, kv_cache_bytes=1 << 22, max_step_drafts=64)
        return self.make(limits, "suffix")

    def test_guesses_forks_and_cached_blocks_are_in_play(self, driven: Driven) -> None:
        found = counted(driven, self.mixed(driven))
        assert min(found["draft_tokens"], found["forks"]) > 0
        assert counted(driven, self.mixed(driven, 1))["prefix_cache_hits"] > 0


class TestTightEngineOverAModelKeepsTheContract(ModelContract, EngineContract):
    """Three blocks, and no more tokens in a step than must be."""

    backend: ClassVar = "reference"
    dtype: ClassVar = "float32"

    def make_engine(self) -> Engine:
        plan = built_for_test().plan
        size = plan.parts["kv_cache"] // plan.num_blocks
        limits = Limits(
            max_num_seqs=4, max_num_batched_tokens=32, max_model_len=64, kv_cache_bytes=3 * size, max_step_drafts=8
        )
        return self.make(limits, "ngram")

    def test_somebody_has_to_give_way(self, driven: Driven) -> None:
        assert counted(driven, self.mixed(driven))["preemptions"] > 0
