"""The scheduling half can be imported without what it must not use."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import pyworker.engine
import pyworker.kvcache

FORBIDDEN = ["asyncio", "torch", "transformers", "zmq"]
MODULES = sorted(
    found.name
    for package in (pyworker.engine, pyworker.kvcache)
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
)
SIM = ["pyworker.runner.sim", "pyworker.runner.sim_model"]


def loaded_by(modules: list[str]) -> list[str]:
    """Which of the forbidden modules a fresh interpreter has after it has imported these."""
    code = f"import json, sys, {', '.join(modules)}; print(json.dumps([m for m in {FORBIDDEN} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


def test_there_is_something_to_check() -> None:
    assert {"pyworker.engine.core", "pyworker.engine.scheduler", "pyworker.kvcache.manager"} <= set(MODULES)


@pytest.mark.parametrize("module", [*MODULES, *SIM])
def test_no_module_brings_in_what_it_must_not(module: str) -> None:
    assert loaded_by([module]) == []


def test_the_check_can_see() -> None:
    assert loaded_by(["asyncio"]) == ["asyncio"]
