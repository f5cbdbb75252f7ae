"""The programs in `examples/` do what their first lines say."""

from __future__ import annotations

import ast
import importlib.util
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from support.engine_contract import EngineContract
from support.fake_router import FakeRouter
from support.worker_process import ROOT, ended, run, started
from support.worker_rig import short_folder

from pyworker.llm import LLM, SamplingParams
from pyworker.models.hashes import text_hash
from pyworker.models.prepare import prepare
from pyworker.runner.sim_model import write_sim_model
from pyworker.wire import messages as wire

if TYPE_CHECKING:
    import pytest

    from pyworker.engine.interface import Engine

A = "a" * 32


def example(name: str) -> str:
    return str(ROOT / "examples" / f"{name}.py")


def make_parrot(folder: Path) -> Engine:
    spec = importlib.util.spec_from_file_location("own_engine", example("own_engine"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    engine: Engine = module.Parrot(folder, "polly", 512)
    return engine


def test_generate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLACKWATER_CACHE", str(tmp_path))
    done = run(sys.executable, example("generate"), "tiny", folder=tmp_path, SLACKWATER_CACHE=str(tmp_path))
    with LLM("tiny", kv_cache_bytes=1 << 22) as llm:
        [first] = llm.generate(["The tide"], SamplingParams(max_tokens=32, seed=7))
        [second] = llm.generate(["Once upon a time"], SamplingParams(max_tokens=32, temperature=0))
    # The toy model's text may hold any character; a pipe that is read as text has one kind of line break.
    said = f"{first.text} {first.finish_reason}\n{second.text}\n".replace("\r\n", "\n").replace("\r", "\n")
    assert done == (0, said, "")


def test_embed_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLACKWATER_CACHE", str(tmp_path))
    with short_folder() as folder, FakeRouter(folder) as router:
        command = (sys.executable, example("embed_worker"), "tiny", router.endpoint)
        with started(*command, folder=tmp_path, SLACKWATER_CACHE=str(tmp_path)) as process:
            link = router.join()
            assert link.ready is not None
            assert (link.ready.model_name, link.ready.text_hash) == ("tiny", text_hash(prepare("tiny").model_dir))
            link.submit(A, [1, 2, 3], max_tokens=4)
            assert len(link.collect([(A, 1)])[A, 1].tokens) == 4
            process.send_signal(signal.SIGTERM)
            link.next(wire.Bye)
            router.cut()
            assert ended(process) == (0, "", "")


def test_own_engine(tmp_path: Path) -> None:
    write_sim_model(tmp_path / "model", 512)
    with short_folder() as folder, FakeRouter(folder) as router:
        command = (sys.executable, example("own_engine"), str(tmp_path / "model"), "polly", router.endpoint)
        with started(*command, folder=tmp_path) as process:
            link = router.join()
            assert link.ready is not None
            assert (link.ready.model_name, link.ready.text_hash) == ("polly", text_hash(tmp_path / "model"))
            link.submit(A, [5, 6, 7], max_tokens=5)
            assert link.collect([(A, 1)])[A, 1].tokens == [5, 6, 7, 5, 6]
            process.send_signal(signal.SIGTERM)
            link.next(wire.Bye)
            router.cut()
            assert ended(process) == (0, "", "")


def test_a_form_is_filled_in(tmp_path: Path) -> None:
    code, out, err = run(sys.executable, example("structured"), folder=tmp_path)
    assert code == 0, err
    forms = [ast.literal_eval(line) for line in out.splitlines()]
    assert [(sorted(form), form["mood"] in ("calm", "rough")) for form in forms] == [(["mood", "name"], True)] * 3


class TestOwnEngineKeepsTheContract(EngineContract):
    def make_engine(self) -> Engine:
        with TemporaryDirectory() as folder:
            write_sim_model(Path(folder), 512)
            return make_parrot(Path(folder))
