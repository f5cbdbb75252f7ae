"""The options: declared once, read as flags and as keywords, and refused by name."""

from __future__ import annotations

import json
import logging
import shutil
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest

from pyworker.cli import main
from pyworker.config import Options, build_engine, default_of, flag_of, options_of
from pyworker.engine.interface import EngineHost
from pyworker.errors import ConfigError
from pyworker.models.prepare import Prepared, prepare
from pyworker.runner.memory import Limits
from pyworker.runner.sim_model import write_sim_model
from pyworker.transport.launch import FileToken, FixedToken, resolve_endpoint, resolve_token

if TYPE_CHECKING:
    from pathlib import Path


class NoHost(EngineHost):
    """Nobody listens."""


@pytest.mark.parametrize(
    ("given", "flag"),
    [
        ({"max_num_seqs": 0}, "--max-num-seqs"),
        ({"max_num_batched_tokens": -1}, "--max-num-batched-tokens"),
        ({"max_model_len": 1}, "--max-model-len"),
        ({"backend": "x"}, "--backend"),
        ({"dtype": "int8"}, "--dtype"),
        ({"kv_dtype": "fp8"}, "--kv-dtype"),
        ({"isa": "sse9"}, "--isa"),
        ({"park_max_bytes": -1}, "--park-max-bytes"),
        ({"sim": True, "isa": "avx2"}, "--isa"),
        ({"sim": True, "kv_dtype": "float32"}, "--kv-dtype"),
        ({"slots": 2}, "--slots"),
        ({"sim": True, "kv_cache_bytes": 5}, "--kv-cache-bytes"),
        ({"sim": True, "step_micros": (1, -1)}, "--step-micros"),
    ],
)
def test_values_out_of_range_name_their_flag(given: dict[str, object], flag: str) -> None:
    with pytest.raises(ConfigError) as raised:
        options_of(given)
    assert raised.value.flag == flag


def test_keywords_make_the_options_that_flags_make() -> None:
    assert options_of({"sim": True, "step_micros": [5, 6], "slots": 3}) == Options(
        sim=True, step_micros=(5, 6), slots=3
    )
    assert options_of({}) == Options()


def test_each_option_has_a_flag_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["--help"])
    assert raised.value.code == 0
    text = capsys.readouterr().out
    assert [flag_of(each.name) for each in fields(Options) if f"  {flag_of(each.name)}" not in text] == []
    assert default_of("max_num_seqs") == 64


def test_a_simulator_takes_its_sizes_from_the_options(tmp_path: Path) -> None:
    write_sim_model(tmp_path, 512)
    options = Options(sim=True, slots=3, num_blocks=10, max_model_len=50, max_num_seqs=7)
    found = build_engine(Prepared("folder", tmp_path), options, {"SLACKWATER_MODEL_NAME": "mine"}).attach(NoHost())
    sizes = (found.slots, found.num_blocks, found.max_model_len, found.vocab_size)
    assert (found.model_name, *sizes) == ("mine", 3, 10, 50, 512)
    plain = build_engine(Prepared("folder", tmp_path), Options(sim=True), {}).attach(NoHost())
    assert (plain.model_name, plain.slots, plain.max_model_len) == ("folder", 64, 4_096)


@pytest.mark.parametrize("text", ["0", "-1", "two"])
def test_a_number_of_workers_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        build_engine(Prepared("folder", tmp_path), Options(), {"SLACKWATER_WORKERS": text})
    assert (raised.value.flag, raised.value.value) == ("SLACKWATER_WORKERS", text)


@pytest.mark.parametrize(
    ("env", "workers"), [({}, 1), ({"SLACKWATER_WORKERS": ""}, 1), ({"SLACKWATER_WORKERS": "3"}, 3)]
)
def test_the_router_says_how_many_workers_share_the_memory(
    env: dict[str, str], workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, limits: Limits, **__: object) -> None:
        raise ConfigError("limits", limits, "seen")

    monkeypatch.setattr("pyworker.runner.build.build_runner", stop)
    with pytest.raises(ConfigError) as raised:
        build_engine(Prepared("folder", tmp_path), Options(), env)
    assert raised.value.value == Limits(workers=workers, max_step_drafts=64)


def test_a_router_may_be_a_path_or_an_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    assert resolve_endpoint(None) == "ipc:///run/user/1/slackwater/worker.sock"
    assert resolve_endpoint("/a/b.sock") == "ipc:///a/b.sock"
    assert resolve_endpoint("ipc:///a/b.sock") == "ipc:///a/b.sock"
    assert resolve_endpoint("tcp://127.0.0.1:80") == "tcp://127.0.0.1:80"


@pytest.mark.parametrize("router", ["tcp://10.0.0.1:1", "tcp://0.0.0.0:1", "tcp://127.0.0.1", "http://x", "ipc://"])
def test_a_router_elsewhere_is_refused(router: str) -> None:
    with pytest.raises(ConfigError) as raised:
        resolve_endpoint(router)
    assert (raised.value.flag, raised.value.value) == ("--router", router)


def test_the_token_is_given_or_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "worker.token").write_text("abc\n")
    (tmp_path / "other").write_text("def\n")
    endpoint = f"ipc://{tmp_path}/worker.sock"
    given, beside, named = (
        resolve_token(endpoint, "xyz"),
        resolve_token(endpoint, None),
        resolve_token(endpoint, None, tmp_path / "other"),
    )
    assert (given.read(), beside.read(), named.read()) == ("xyz", "abc", "def")
    assert isinstance(given, FixedToken)
    assert isinstance(beside, FileToken)
    with pytest.raises(ConfigError):
        resolve_token("tcp://127.0.0.1:80", None)


def test_a_tokeniser_that_grammars_cannot_be_made_for_costs_only_the_grammars(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(prepare("tiny").model_dir, folder)
    options = Options(kv_cache_bytes=1 << 22)

    def features() -> set[str]:
        engine = build_engine(Prepared("mine", folder), options, {})
        try:
            return set(engine.attach(NoHost()).features)
        finally:
            engine.close()

    whole = features()
    assert {"grammar", "row_drop", "safepoint"} <= whole
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, "decoder": None}))
    with caplog.at_level(logging.WARNING, "pyworker.config"):
        assert features() == whole - {"grammar"}
    assert [record for record in caplog.messages if "no structured output" in record]
