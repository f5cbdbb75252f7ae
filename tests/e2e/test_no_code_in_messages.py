"""A worker that serves runs nothing but its own code: it unpickles, compiles and starts nothing, whatever it is asked.

The worker of these tests ends with status 99 where it does (`support/audit_hook.py`).
"""

from __future__ import annotations

import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support import audit_hook
from support.http import call, stream_events, text_of
from support.server import Server, ServerEnded

from pyworker.llm import LLM, SamplingParams

if TYPE_CHECKING:
    from collections.abc import Iterator

COMPLETIONS = "/v1/completions"
TESTS = Path(__file__).resolve().parents[1]
HOOK = shlex.join([sys.executable, str(TESTS / "support/audit_hook.py")])
PROMPTS = [[1 + index, 40, 41, 42] for index in range(4)]
SAMPLINGS: list[dict[str, Any]] = [{"temperature": 0.0}, {"temperature": 0.9, "top_p": 0.9, "seed": 11}]
EVALUATES = """
import sys
del sys.path[0]
sys.path.append(sys.argv.pop(1))
from support import audit_hook
from pyworker.transport.host import LinkHost
apply = LinkHost.apply
LinkHost.apply = lambda host, batch: (eval("1"), apply(host, batch))
sys.exit(audit_hook.main())
"""
"""A worker that evaluates a text whenever it looks for orders: allowed until READY, and then its end."""


@pytest.fixture(scope="module")
def wanted() -> list[str]:
    """The texts of all prompts under all samplings, without a router and a hook."""
    with LLM("tiny", kv_cache_bytes=1 << 22) as llm:
        return [
            llm.generate([prompt], SamplingParams(max_tokens=24, ignore_eos=True, **sampling))[0].text
            for prompt in PROMPTS
            for sampling in SAMPLINGS
        ]


@pytest.fixture
def watched() -> Iterator[Server]:
    with Server("serve", "tiny", "--worker-command", HOOK) as server:
        yield server.wait_ready()


def ask(prompt: list[int], sampling: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    common = {"model": "tiny", "prompt": prompt, "max_tokens": 24, "ignore_eos": True}
    return {**common, **sampling, "stream": stream}


def test_a_worker_serves_and_drains_without_running_any_code_from_data(watched: Server, wanted: list[str]) -> None:
    api = watched.api

    def streamed(body: dict[str, Any]) -> str:
        return text_of(stream_events(api, COMPLETIONS, body))

    def whole(body: dict[str, Any]) -> Any:
        return call(api, "POST", COMPLETIONS, body).json()["choices"][0]["text"]

    for one, stream in ((streamed, True), (whole, False)):
        bodies = [ask(prompt, sampling, stream=stream) for prompt in PROMPTS for sampling in SAMPLINGS]
        with ThreadPoolExecutor(len(bodies)) as pool:
            assert list(pool.map(one, bodies)) == wanted
    chat = {"model": "tiny", "messages": [{"role": "user", "content": "__import__('os')"}], "max_tokens": 3}
    assert call(api, "POST", "/v1/chat/completions", chat).status == 200
    assert call(api, "POST", COMPLETIONS, ask([10**6], {}, stream=False)).status == 400
    assert list(watched.pids) == ["w0"]
    assert watched.stop() == 0
    with pytest.raises(ServerEnded, match="ended with 0 before"):
        watched.wait_for(r"audit:|cause=Exited")
    assert [line for line in watched.lines if "audit:" in line] == []


def test_the_hook_ends_a_worker_that_evaluates_a_text(tmp_path: Path) -> None:
    script = tmp_path / "evaluates.py"
    script.write_text(EVALUATES)
    command = shlex.join([sys.executable, str(script), str(TESTS)])
    with Server("serve", "tiny", "--worker-command", command) as server:
        server.wait_listening()
        server.wait_for(r"^audit: compile ")
        server.wait_for(rf"worker ended .*cause=Exited\({audit_hook.ABORTED}\)")
