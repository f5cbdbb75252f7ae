"""The engine keeps what every engine must keep, with room to spare and without."""

from __future__ import annotations

from support.engine_contract import EngineContract
from support.engine_rig import rig_for_test

from pyworker.engine.interface import Engine


class TestEngineCoreKeepsTheContract(EngineContract):
    def make_engine(self) -> Engine:
        return rig_for_test(max_num_seqs=4).engine


class TestTightEngineCoreKeepsTheContract(EngineContract):
    """Few blocks, few rows and no cache: the same promises."""

    def make_engine(self) -> Engine:
        tight = rig_for_test(
            num_blocks=17, max_num_seqs=3, max_num_batched_tokens=20, max_model_len=64, enable_prefix_caching=False
        )
        return tight.engine
