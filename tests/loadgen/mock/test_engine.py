"""The engine mode's core, under virtual time."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.mock.engine import PRESETS, BatchEngine, EngineConfig
from loadgen.mock.kv import BlockPool
from loadgen.mock.oracle import Tokenizer, oracle_tokens
from loadgen.mock.paced import PacedEngine
from loadgen.mock.work import MockEngine, Work
from loadgen.units import dist

CONFIG = EngineConfig(1_000.0, 5_000, 100, chunk=64, rows=4, kv_tokens=256, block=16)


def run(engine: MockEngine, arrivals: list[tuple[int, Work]], until: int = 10**12) -> dict[int, list[tuple[int, int]]]:
    """(time, token) of each request."""
    out: dict[int, list[tuple[int, int]]] = defaultdict(list)
    todo = sorted(arrivals, key=lambda each: (each[0], each[1].id))
    while True:
        due = engine.due()
        if todo and (due is None or todo[0][0] <= due):
            now, work = todo.pop(0)
            assert engine.submit(work, now) is None
        elif due is None or due > until:
            return out
        else:
            for emission in engine.advance(due):
                out[emission.work.id] += [(due, token) for token in emission.tokens]
        if isinstance(engine, BatchEngine):
            engine.check()


def work(number: int, prompt: int, length: int, first: int = 300) -> Work:
    return Work(number, [first, *range(1_000, 1_000 + prompt - 1)], length)


def test_one_request_costs_prefill_and_then_steps() -> None:
    out = run(BatchEngine(CONFIG), [(0, work(1, 100, 3))])
    assert [time for time, _ in out[1]] == [100_000, 105_100, 110_200]


def test_tokens_are_the_oracles() -> None:
    asked = work(1, 100, 20)
    out = run(BatchEngine(CONFIG), [(0, asked)])
    assert [token for _, token in out[1]] == oracle_tokens(asked.prompt, 0, 20, CONFIG.vocab)


def test_rows_share_a_step() -> None:
    out = run(BatchEngine(CONFIG), [(0, work(1, 10, 3, 301)), (0, work(2, 10, 3, 302))])
    # The first begins alone; the second's prefill then shares the step of the first's decode.
    assert [time for time, _ in out[1]] == [10_000, 25_100, 30_300]
    assert [time for time, _ in out[2]] == [25_100, 30_300, 35_400]


def test_a_prefix_is_found_and_not_computed_again() -> None:
    engine = BatchEngine(CONFIG)
    first, second = work(1, 100, 2), work(2, 100, 2)
    out = run(engine, [(0, first), (1_000_000, second)])
    assert (first.cached, second.cached) == (0, 96)
    assert out[2][0][0] == 1_000_000 + 4_000
    assert engine.load().cached_tokens == 96


def test_a_salt_and_a_clear_hide_the_prefix() -> None:
    engine = BatchEngine(CONFIG)
    salted, after = work(2, 100, 2), work(3, 100, 2)
    salted.salt = 7
    run(engine, [(0, work(1, 100, 2)), (1_000_000, salted)])
    engine.clear_cache()
    run(engine, [(2_000_000, after)])
    assert (salted.cached, after.cached) == (0, 0)


def test_what_does_not_fit_is_preempted_and_still_exact() -> None:
    engine = BatchEngine(CONFIG)
    asked = [work(n, 60, 80, 300 + n) for n in range(1, 4)]
    out = run(engine, [(0, each) for each in asked])
    assert engine.load().preemptions > 0
    for each in asked:
        assert [token for _, token in out[each.id]] == oracle_tokens(each.prompt, 0, 80, CONFIG.vocab)
    assert engine.load().kv_used == 0


def test_what_can_never_fit_is_refused() -> None:
    assert (
        BatchEngine(CONFIG).submit(work(1, 200, 57), 0) == "prompt and output are 257 tokens, the KV memory holds 256"
    )
    assert BatchEngine(CONFIG).submit(Work(1, [], 1), 0) == "the prompt is empty"


def test_speed_divides_all_times() -> None:
    slow = run(BatchEngine(CONFIG), [(0, work(1, 100, 3))])[1]
    fast = run(BatchEngine(CONFIG.faster(20)), [(0, work(1, 100, 3))])[1]
    assert [time // 20 for time, _ in slow] == [time for time, _ in fast]


def test_presets_are_the_published_ones() -> None:
    gpu, cpu = PRESETS["gpu-like"], PRESETS["cpu-small"]
    assert (gpu.prefill_rate, gpu.base, gpu.slope, gpu.chunk, gpu.rows, gpu.kv_tokens) == (
        8_000.0,
        6_000,
        350,
        2_048,
        256,
        524_288,
    )
    assert (cpu.prefill_rate, cpu.base, cpu.slope, cpu.chunk, cpu.rows, cpu.kv_tokens) == (
        600.0,
        14_000,
        1_500,
        64,
        16,
        5_504,
    )
    assert gpu.block == cpu.block == 16


def test_credit_holds_a_request_back() -> None:
    for engine in (BatchEngine(CONFIG), PacedEngine(dist("10ms", "duration"), dist("5ms", "duration"))):
        asked = work(1, 10, 5)
        asked.credit = 2
        assert len(run(engine, [(0, asked)])[1]) == 2
        engine.grant(asked, 5, 1_000_000)
        assert len(run(engine, [])[1]) == 3


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 400_000),
            st.integers(1, 120),
            st.integers(1, 60),
            st.integers(0, 2),
            st.one_of(st.none(), st.integers(0, 10**6)),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_any_load_ends_exactly_with_no_block_lost(rows: list[tuple[int, int, int, int, int | None]]) -> None:
    engine = BatchEngine(EngineConfig(20_000.0, 1_000, 50, 32, 3, 192, 16, kv_events=True))
    works = [
        Work(n, [300 + group, *range(1_000, 1_000 + size)], length)
        for n, (_, size, length, group, _) in enumerate(rows)
    ]
    cancels = sorted((at, n) for n, (_, _, _, _, at) in enumerate(rows) if at is not None)
    arrivals = sorted((row[0], n) for n, row in enumerate(rows))
    got: dict[int, list[int]] = defaultdict(list)
    stored: set[int] = set()
    while True:
        due = engine.due()
        times = [
            t for t in (due, arrivals[0][0] if arrivals else None, cancels[0][0] if cancels else None) if t is not None
        ]
        if not times:
            break
        now = min(times)
        if arrivals and arrivals[0][0] == now:
            engine.submit(works[arrivals.pop(0)[1]], now)
        elif cancels and cancels[0][0] == now:
            engine.cancel(works[cancels.pop(0)[1]], now)
        else:
            for emission in engine.advance(now):
                got[emission.work.id] += emission.tokens
        engine.check()
        for event in engine.take_kv_events():
            if event.kind == "stored":
                assert event.parent is None or event.parent in stored
                assert not stored & set(event.hashes)
                stored |= set(event.hashes)
            else:
                assert set(event.hashes) <= stored
                stored -= set(event.hashes)
    for each, row in zip(works, rows, strict=True):
        expected = oracle_tokens(each.prompt, 0, each.length, 32_768)
        assert got[each.id] == expected[: len(got[each.id])]
        if row[4] is None and len(each.prompt) + each.length <= 192:
            assert len(got[each.id]) == each.length
    load = engine.load()
    assert (load.running, load.waiting, load.kv_used) == (0, 0, 0)


def test_the_cache_gives_up_leaves_first_and_the_oldest_of_them() -> None:
    pool = BlockPool(4, 1, with_events=True)

    def hold(*keys: int) -> None:
        blocks = []
        for at, key in enumerate(keys):
            block = pool.take_new()
            assert block is not None
            pool.store(block, keys[at - 1] if at else None, key, [key])
            blocks.append(block)
        pool.give_back(blocks)

    hold(1, 2)
    hold(3, 4)
    pool.events.clear()
    taken = [pool.take_new() for _ in range(4)]
    assert [event.hashes for event in pool.events] == [(2,), (1,), (4,), (3,)]
    assert pool.take_new() is None
    assert None not in taken


def test_paced_requests_wait_for_a_slot() -> None:
    engine = PacedEngine(dist("50ms", "duration"), dist("10ms", "duration"), slots=1)
    out = run(engine, [(0, work(1, 5, 3)), (0, work(2, 5, 2))])
    assert [time for time, _ in out[1]] == [50_000, 60_000, 70_000]
    assert [time for time, _ in out[2]] == [120_000, 130_000]


def test_paced_draws_depend_on_the_request_alone() -> None:
    def times(others: int) -> list[int]:
        engine = PacedEngine(dist("exp:50ms", "duration"), dist("lognormal:10ms@1", "duration"), seed=3)
        return [time for time, _ in run(engine, [(0, work(n, 5, 9)) for n in range(1, 2 + others)])[1]]

    assert times(0) == times(5)
    assert len(set(times(0))) == 9


def test_tokenizer_round_trips_its_own_tokens() -> None:
    words = Tokenizer()
    ids = words.encode("user: hello there\nassistant: t00300 t01000 t99999")
    assert ids[-3:-1] == [300, 1_000]
    assert words.encode(words.decode(ids)) == ids
    raw = Tokenizer(scheme="bytes")
    assert raw.encode("hé t00300 t00042") == [*"hé".encode(), 300, *b" t00042"]
    assert raw.decode(raw.encode("hé t00300 t00042")) == "hé t00300 t00042"
    with pytest.raises(ValueError, match="vocab"):
        Tokenizer(264)


def test_the_chain_is_that_of_the_workers_simulator() -> None:
    sim = pytest.importorskip("pyworker.runner.sim")
    assert oracle_tokens([1, 2, 3], 9, 40, 1_000) == sim.oracle_tokens([1, 2, 3], 9, 40, 1_000)
