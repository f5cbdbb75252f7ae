"""The simulated runner: its chain against a second spelling, its faults, its tokeniser against the library."""

from __future__ import annotations

from pathlib import Path

import pytest
import xxhash
from support.engine_rig import VOCAB, RecordingHost, VirtualClock, config_for_test, request_for_test, rig_for_test
from tokenizers import Tokenizer

from pyworker.engine.outputs import ModelRunnerOutput, RowResult, SchedulerOutput
from pyworker.engine.request import Request
from pyworker.errors import ConfigError
from pyworker.kvcache.block_pool import KVCacheBlock
from pyworker.runner.sim import SimFault, SimRunner, oracle_tokens
from pyworker.runner.sim_model import write_sim_model


def little(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little")


def test_the_oracle_is_the_chain_as_it_is_written_down() -> None:
    state = xxhash.xxh3_64(b"".join(little(token, 4) for token in (70000, 2, 3)) + little(2**63 + 5, 8)).intdigest()
    expected = []
    for _ in range(20):
        expected.append(256 + state % (VOCAB - 256))
        state = xxhash.xxh3_64(little(state, 8) + little(expected[-1], 4)).intdigest()
    assert oracle_tokens([70000, 2, 3], 2**63 + 5, 20, VOCAB) == expected
    assert oracle_tokens([1], 0, 4, 1000) == [320, 435, 643, 726]


def with_blocks(request: Request, *block_ids: int) -> Request:
    request.block_table = [KVCacheBlock(block_id) for block_id in block_ids]
    return request


def one(request: Request, num_tokens: int, **fields: list[str]) -> SchedulerOutput:
    name = request.request_id
    return SchedulerOutput(num_scheduled_tokens={name: num_tokens}, requests={name: request}, **fields)


def test_a_chunk_gives_no_token_and_the_last_one_gives_the_oracles() -> None:
    clock, host, config = VirtualClock(), RecordingHost(), config_for_test()
    runner = SimRunner(config, step_micros=(1000, 10), layers=4, sleep=clock.sleep)
    request = with_blocks(request_for_test("a", [1, 2, 3, 4, 5, 6]), 3, 9)
    assert runner.execute(one(request, 4), host) == ModelRunnerOutput({"a": RowResult()}, 1040)
    request.num_computed_tokens = 4
    (token,) = oracle_tokens(request.prompt_ids, 7, 1, VOCAB)
    assert runner.execute(one(request, 2), host) == ModelRunnerOutput({"a": RowResult([token])}, 1020)
    assert (host.progressed, clock.micros) == (8, 2060)


def test_a_wrong_history_leads_elsewhere() -> None:
    runner, prompt = SimRunner(config_for_test()), [1, 2, 3]
    tokens = oracle_tokens(prompt, 7, 3, VOCAB)
    for name, prompt_ids, output_ids, right in (
        ("right", prompt, tokens[:2], True),
        ("folded", prompt + tokens[:2], [], False),
        ("swapped", prompt, tokens[1::-1], False),
    ):
        request = with_blocks(request_for_test(name, prompt_ids, output_ids=output_ids), 1, 2)
        result = runner.execute(one(request, 5), RecordingHost())
        assert (result.rows[name].token_ids == [tokens[2]]) is right, name


@pytest.mark.parametrize(
    ("block_ids", "computed", "num_tokens", "says"),
    [
        ((3,), 0, 6, "1 blocks for 6 tokens"),
        ((3, 0), 0, 6, "null block"),
        ((3, 4), 0, 7, "tokens 0..7 of 6"),
        ((3, 4), 0, 0, "tokens 0..0 of 6"),
        ((3, 4), 4, 2, "position 0 holds another text's KV"),
    ],
    ids=["table too short", "null block", "too many tokens", "no tokens", "not computed"],
)
def test_rows_that_cannot_be_are_refused(block_ids: tuple[int, ...], computed: int, num_tokens: int, says: str) -> None:
    request = with_blocks(request_for_test("a", [1, 2, 3, 4, 5, 6]), *block_ids)
    request.num_computed_tokens = computed
    with pytest.raises(SimFault, match=says):
        SimRunner(config_for_test()).execute(one(request, num_tokens), RecordingHost())


def test_a_block_that_was_given_away_is_seen() -> None:
    runner, host = SimRunner(config_for_test()), RecordingHost()
    request = with_blocks(request_for_test("a", [1, 2, 3, 4, 5, 6]), 3, 4)
    runner.execute(one(request, 4), host)
    request.num_computed_tokens = 4
    runner.execute(one(with_blocks(request_for_test("thief", [9]), 3), 1), host)
    with pytest.raises(SimFault, match="position 0 holds another"):
        runner.execute(one(request, 2), host)


def test_a_vocabulary_of_bytes_alone_is_refused() -> None:
    with pytest.raises(ConfigError):
        SimRunner(config_for_test(vocab_size=256))


def test_virtual_time_is_what_the_steps_cost() -> None:
    rig = rig_for_test()
    rig.engine.submit(request_for_test("a", list(range(20))))
    assert rig.run() == 8
    assert rig.clock.micros == sum(step.step_micros for step in rig.host.steps) == 8 * 1000 + 27 * 10


def test_the_tokeniser_maps_text_to_ids_and_back(tmp_path: Path) -> None:
    write_sim_model(tmp_path, 1032)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = list(range(256, 1024))
    texts = [f" t{token:05d}" for token in ids]
    assert tokenizer.get_vocab_size() == 1024
    assert [tokenizer.decode([token]) for token in ids] == texts
    assert tokenizer.decode(ids) == "".join(texts)
    assert tokenizer.encode("".join(texts)).ids == ids
    text = "Tide, t00300 Ebbe\n世界 t00042 t99999"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("a t00300é").ids == [97, 300, *"é".encode()]
    assert tokenizer.decode([300, 1031, 301]) == " t00300 t00301"


def test_equal_arguments_write_equal_folders(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_sim_model(tmp_path / name, 600)
    folders = [{file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "two")]
    assert folders[0] == folders[1]
    assert sorted(folders[0]) == ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]


@pytest.mark.parametrize("vocab", [264, 100_001])
def test_a_vocabulary_that_cannot_be_written_is_refused(tmp_path: Path, vocab: int) -> None:
    with pytest.raises(ConfigError):
        write_sim_model(tmp_path / "sim", vocab)
    assert not (tmp_path / "sim").exists()
