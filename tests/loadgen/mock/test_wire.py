"""The mock's engine as a worker's engine; needs the worker package, but no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from loadgen.mock.options import parse
from loadgen.mock.oracle import oracle_tokens
from loadgen.mock.wire import WireEngine
from pyworker.engine import request as requests


class Host:
    def __init__(self) -> None:
        self.steps: list[object] = []

    def send(self, steps: object) -> None:
        self.steps.append(steps)

    def progress(self) -> None:
        pass


@pytest.mark.parametrize("flags", [("--mode", "engine", "--speed", "1000"), ("--mode", "canned")])
def test_tokens_credit_resume_and_cancel(flags: tuple[str, ...]) -> None:
    engine = WireEngine(parse(flags), "0" * 16, 32_768)
    host = Host()
    assert engine.attach(host).vocab_size == 32_768
    expected = oracle_tokens([300, 301], 4, 6, 32_768)
    params = requests.SamplingParams(max_tokens=6, seed=4)
    engine.submit(requests.Request("a", 1, [300, 301], params, credit_up_to=4))
    engine.submit(requests.Request("b", 2, [300, 301], params, output_ids=expected[:3], credit_up_to=6))
    engine.submit(requests.Request("c", 1, [302], params, credit_up_to=0))
    while engine.step():
        pass
    engine.grant("a", 6)
    engine.cancel("c")
    while engine.step():
        pass
    got: dict[str, list[int]] = {"a": [], "b": expected[:3], "c": []}
    finishes = {}
    for row in (row for step in host.steps for row in step.outputs):
        assert row.start == len(got[row.request_id])
        got[row.request_id] += row.token_ids
        if row.finish is not None:
            finishes[row.request_id] = row.finish.value
    assert got == {"a": expected, "b": expected, "c": []}
    assert finishes == {"a": "length", "b": "length", "c": "cancelled"}


def test_no_torch_comes_with_it() -> None:
    code = "import sys, loadgen.mock.wire, pyworker.worker, pyworker.models.hashes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
