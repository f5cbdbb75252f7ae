"""The simulated runner: its chain against a second spelling, its faults, its tokeniser against the library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from support.engine_rig import VOCAB, RecordingHost, VirtualClock, config_for_test, request_for_test, rig_for_test
from tokenizers import Tokenizer

from pyworker.engine.outputs import ModelRunnerOutput, RowResult, SchedulerOutput, TokenLogprobs
from pyworker.engine.request import Request, RequestClass, SamplingParams
from pyworker.errors import ConfigError
from pyworker.kvcache.block_pool import KVCacheBlock
from pyworker.runner.safepoint import Yield
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


def one(request: Request, num_tokens: int, **fields: Any) -> SchedulerOutput:
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
        ((3, 4), 0, 7, "tokens 0..7 of 6, 0 drafts"),
        ((3, 4), 0, 0, "tokens 0..0 of 6, 0 drafts"),
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


PROMPT = [1, 2, 3, 4, 5, 6]
RIGHT = oracle_tokens(PROMPT, 7, 8, VOCAB)


def decoding(name: str = "a", klass: RequestClass = RequestClass.STANDARD, first_block: int = 3) -> Request:
    """A request whose next step is a decode: one output token, of which the KV is missing."""
    return with_blocks(request_for_test(name, PROMPT, klass=klass), *range(first_block, first_block + 4))


def prefilled(runner: SimRunner, request: Request) -> Request:
    runner.execute(one(request, len(PROMPT)), RecordingHost())
    request.num_computed_tokens = len(PROMPT)
    request.output_ids = RIGHT[:1]
    return request


@pytest.mark.parametrize(
    ("drafts", "emitted"),
    [
        ([], 1),
        (RIGHT[1:4], 4),
        ([RIGHT[1], 300, RIGHT[3]], 2),
        ([300, RIGHT[2]], 1),
    ],
    ids=["none", "right", "wrong in the middle", "wrong at once"],
)
def test_drafts_give_the_oracles_tokens(drafts: list[int], emitted: int) -> None:
    runner, host = SimRunner(config_for_test()), RecordingHost()
    request = prefilled(runner, decoding())
    out = one(request, 1 + len(drafts), drafts={"a": drafts})
    assert runner.execute(out, host).rows["a"].token_ids == RIGHT[1 : 1 + emitted]
    # What wrong drafts have written is written over, and read only after that.
    request.output_ids = RIGHT[: 1 + emitted]
    request.num_computed_tokens = len(PROMPT) + emitted
    assert runner.execute(one(request, 1), host).rows["a"].token_ids == RIGHT[1 + emitted : 2 + emitted]


def test_the_kv_of_a_wrong_draft_must_not_be_read() -> None:
    runner, host = SimRunner(config_for_test()), RecordingHost()
    request = prefilled(runner, decoding())
    runner.execute(one(request, 2, drafts={"a": [300]}), host)
    request.output_ids = RIGHT[:3]
    request.num_computed_tokens = len(PROMPT) + 2
    with pytest.raises(SimFault, match="position 7 holds another"):
        runner.execute(one(request, 1), host)


def test_drafts_come_after_all_known_tokens() -> None:
    request = decoding()
    with pytest.raises(SimFault, match=r"tokens 0\.\.4 of 6, 2 drafts"):
        SimRunner(config_for_test()).execute(one(request, 4, drafts={"a": [300, 301]}), RecordingHost())


def test_a_fork_reads_a_copied_tail() -> None:
    runner, host = SimRunner(config_for_test()), RecordingHost()
    prefilled(runner, decoding(first_block=3))
    # Blocks of four tokens: the first is shared, the second has one computed token and is copied.
    fork = with_blocks(request_for_test("b", PROMPT), 3, 9)
    fork.num_computed_tokens = 5
    with pytest.raises(SimFault, match="position 4 holds another"):
        runner.execute(one(fork, 1), host)
    out = one(fork, 1, block_copies=[(4, 9)])
    assert runner.execute(out, host).rows["b"].token_ids == RIGHT[:1]


@pytest.mark.parametrize("layer", range(4))
@pytest.mark.parametrize("drafts", [[], [RIGHT[1], 300]], ids=["decode", "verify"])
def test_offline_rows_leave_at_a_layer_and_go_on_from_it(layer: int, drafts: list[int]) -> None:
    clock, host = VirtualClock(), RecordingHost()
    runner = SimRunner(config_for_test(), step_micros=(400, 40), layers=4, sleep=clock.sleep)
    on = prefilled(runner, decoding("on"))
    off = prefilled(runner, decoding("off", RequestClass.OFFLINE, first_block=10))
    clock.micros, host.progressed = 0, 0
    rows = 1 + len(drafts)
    out = SchedulerOutput({"on": 1, "off": rows}, {"on": on, "off": off}, drafts={"off": drafts} if drafts else {})
    runner.ask_at(layer)
    result = runner.execute(out, host)
    assert result.rows == {"on": RowResult(RIGHT[1:2]), "off": RowResult(parked=True)}
    (parked,) = result.parked
    assert (parked.layer, parked.num_tokens, runner.safepoint.level) == (layer, {"off": rows}, Yield.OFFLINE_LEAVES)
    assert (result.step_micros, clock.micros, host.progressed) == (440 + rows * 10 * layer,) * 2 + (4,)
    again = SchedulerOutput({"off": rows}, {"off": off}, drafts=out.drafts, joins=[parked])
    assert runner.execute(again, host).parked == [parked], "the byte is still up"
    runner.safepoint.clear()
    clock.micros = host.progressed = 0
    result = runner.execute(again, host)
    assert result.rows == {"off": RowResult(RIGHT[1 : 3 if drafts else 2])}
    cost = (400 + 40 * rows) * (4 - layer) // 4
    assert (result.parked, result.step_micros, clock.micros, host.progressed) == ([], cost, cost, 4 - layer)


def test_a_slice_joins_a_running_step_at_its_layer() -> None:
    runner, host = SimRunner(config_for_test(), step_micros=(400, 40), layers=4), RecordingHost()
    on = prefilled(runner, decoding("on"))
    off = prefilled(runner, decoding("off", RequestClass.OFFLINE, first_block=10))
    runner.ask_at(3)
    (parked,) = runner.execute(one(off, 1), host).parked
    runner.safepoint.clear()
    out = SchedulerOutput({"on": 1, "off": 1}, {"on": on, "off": off}, joins=[parked])
    assert runner.execute(out, host) == ModelRunnerOutput(
        {"on": RowResult(RIGHT[1:2]), "off": RowResult(RIGHT[1:2])}, 400 + 40 + 10
    )


def test_parked_rows_have_computed_nothing_yet_and_hold_their_slots() -> None:
    runner, host = SimRunner(config_for_test(), layers=4), RecordingHost()
    off = prefilled(runner, decoding("off", RequestClass.OFFLINE))
    runner.ask_at(2)
    (parked,) = runner.execute(one(off, 1), host).parked
    runner.safepoint.clear()
    off.num_computed_tokens += 1
    off.output_ids = RIGHT[:2]
    with pytest.raises(SimFault, match="position 6 holds another"):
        runner.execute(one(off, 1), host)
    off.num_computed_tokens -= 1
    off.output_ids, off.attempt = [RIGHT[0] + 1], 1
    with pytest.raises(SimFault, match="joins with other tokens"):
        runner.execute(one(off, 1, joins=[parked]), host)
    off.output_ids, off.attempt = RIGHT[:1], 2
    thief = with_blocks(request_for_test("thief", [9, 9, 9, 9]), off.block_table[1].block_id)
    runner.execute(one(thief, 4), host)
    with pytest.raises(SimFault, match="position 4 holds another"):
        runner.execute(one(off, 1, joins=[parked]), host)


def test_a_slice_joins_only_where_its_layers_are_still_written() -> None:
    """Another text stood in its slot in between, and what came after that has been through fewer layers."""
    runner, host = SimRunner(config_for_test(), layers=4), RecordingHost()
    off = prefilled(runner, decoding("off", RequestClass.OFFLINE))
    runner.ask_at(2)
    (parked,) = runner.execute(one(off, 1), host).parked
    runner.safepoint.clear()
    off.output_ids, off.attempt = [RIGHT[0] + 1], 1
    runner.execute(one(off, 1), host)
    off.output_ids, off.attempt = RIGHT[:1], 2
    runner.ask_at(1)
    runner.execute(one(off, 1), host)
    runner.safepoint.clear()
    with pytest.raises(SimFault, match="holds another text's KV below layer 2"):
        runner.execute(one(off, 1, joins=[parked]), host)


def test_a_stop_ends_the_step_and_keeps_nothing() -> None:
    runner, host = SimRunner(config_for_test(), layers=4), RecordingHost()
    on = prefilled(runner, decoding("on"))
    runner.ask_at(1, Yield.STOP)
    assert runner.execute(one(on, 1), host) == ModelRunnerOutput({"on": RowResult(parked=True)})
    assert host.progressed == 2
    runner.safepoint.clear()
    assert runner.execute(one(on, 1), host).rows["on"].token_ids == RIGHT[1:2]


def test_online_rows_come_first_and_slices_as_they_were_parked() -> None:
    runner, host = SimRunner(config_for_test(), layers=4), RecordingHost()
    on, off = decoding("on"), decoding("off", RequestClass.OFFLINE, first_block=10)
    with pytest.raises(SimFault, match="online request stands behind"):
        runner.execute(SchedulerOutput({"off": 6, "on": 6}, {"on": on, "off": off}), host)
    runner.ask_at(2)
    (parked,) = runner.execute(one(off, 6), host).parked
    for out in (one(off, 5, joins=[parked]), one(on, 6, joins=[parked]), one(off, 6, joins=[parked, parked])):
        with pytest.raises(SimFault, match="off: joins with 6 tokens"):
            runner.execute(out, host)


def test_logprobs_can_be_recomputed_and_do_not_depend_on_chunks_and_drafts() -> None:
    params = SamplingParams(max_tokens=8, seed=7, logprobs=2, prompt_logprobs=1)
    found = []
    for chunks, drafts in (([6], []), ([2, 4], RIGHT[1:3]), ([1, 1, 1, 3], [RIGHT[1], 300])):
        runner, host = SimRunner(config_for_test()), RecordingHost()
        request = with_blocks(request_for_test("a", PROMPT, params=params), 3, 4, 5, 6)
        prompt, output = [], []
        for chunk in chunks:
            row = runner.execute(one(request, chunk), host).rows["a"]
            prompt += row.prompt_logprobs
            request.num_computed_tokens += chunk
        while True:
            output += row.logprobs
            request.output_ids += row.token_ids
            request.num_computed_tokens = len(PROMPT) + len(request.output_ids) - 1
            if len(output) >= 4:
                break
            row = runner.execute(one(request, 1 + len(drafts), drafts={"a": drafts} if drafts else {}), host).rows["a"]
            assert row.prompt_logprobs == []
            drafts = []
        found.append((prompt, output[:4]))
    assert found[0] == found[1] == found[2]
    prompt, output = found[0]
    assert [entry.top_ids for entry in prompt] == [(token,) for token in PROMPT[1:]]
    state = xxhash.xxh3_64(b"".join(little(token, 4) for token in PROMPT) + little(7, 8)).intdigest()
    first = -((state >> 32) % 1024) / 256
    assert output[0] == TokenLogprobs(first, (RIGHT[0], RIGHT[0] + 1), (first, first - 1))


class Only:
    """`TokenMasks` that allow some ids for one request, other ones after each draft."""

    def __init__(self, name: str, *allowed: set[int]) -> None:
        self._name, self._allowed = name, allowed

    def __contains__(self, request_id: object) -> bool:
        return request_id == self._name

    def fill(self, rows: Sequence[tuple[str, int]], masks: np.ndarray) -> None:
        for row, (name, count) in enumerate(rows):
            assert name == self._name
            for token in self._allowed[count]:
                masks[row].view(np.uint32)[token // 32] |= np.uint32(1 << token % 32)


def test_masks_choose_the_next_allowed_token() -> None:
    first = oracle_tokens(PROMPT, 7, 1, VOCAB)[0]
    for allowed, token in (({first, first + 1}, first), ({5, first + 2}, first + 2), ({5, 31}, 5), (set(), None)):
        request = decoding()
        out = one(request, 6)
        out.masks = Only("a", allowed)
        row = SimRunner(config_for_test()).execute(out, RecordingHost()).rows["a"]
        assert (row.token_ids, row.error) == (([token], None) if token is not None else ([], "grammar_dead_end"))


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
