"""Streams of an `LLM`: what they hold and when they let go of it, alone and with other threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from pyworker.inprocess import Answer, GenerationFailed
from pyworker.llm import LLM, SamplingParams
from pyworker.runner.sim import oracle_tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyworker.llm import TextStream

VOCAB = 4096


@pytest.fixture
def llm(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[LLM]:
    monkeypatch.setenv("SLACKWATER_CACHE", str(tmp_path_factory.getbasetemp() / "llm-streams"))
    with LLM("sim", sim=True, max_num_seqs=4) as llm:
        yield llm


def params(n: int) -> SamplingParams:
    return SamplingParams(max_tokens=n, seed=3)


def text(prompt: list[int], n: int) -> str:
    # The logits are wider than the tokeniser by eight ids, which are no text.
    return "".join(f" t{token:05d}" for token in oracle_tokens(prompt, 3, n, VOCAB) if token < VOCAB - 8)


def held(llm: LLM) -> tuple[int, int, int, int]:
    stats = llm.stats()
    return stats.num_running, stats.num_waiting, stats.kv_blocks_used, len(llm._driver._host.answers)


def test_a_stream_asks_for_nothing_before_its_first_piece(llm: LLM) -> None:
    streams = [llm.stream([number], params(1_000)) for number in range(8)]
    assert held(llm) == (0, 0, 0, 0)
    next(streams[3])
    assert held(llm)[0] == 1
    del streams
    assert held(llm) == (0, 0, 0, 0)


def test_a_stream_that_nobody_has_any_more_frees_what_it_held(llm: LLM) -> None:
    stream = llm.stream([1], params(1_000))
    next(stream)
    del stream
    assert held(llm) == (0, 0, 0, 0)


def test_a_stream_is_a_context_manager(llm: LLM) -> None:
    with llm.stream([1], params(1_000)) as stream:
        assert next(stream) == text([1], 1)
    assert list(stream) == []
    assert held(llm) == (0, 0, 0, 0)


def test_a_stream_that_was_closed_before_it_began_never_begins(llm: LLM) -> None:
    stream = llm.stream([1], params(5))
    stream.close()
    stream.close()
    assert list(stream) == []
    assert held(llm) == (0, 0, 0, 0)


def test_a_stream_that_is_closed_in_the_middle_of_a_step_goes_after_it(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the collector did it: on the thread that steps, while the engine's books are open."""
    engine, leaver = llm._driver._engine, llm.stream([1], params(1_000))
    next(leaver)
    depth, depths = 0, []
    step = engine.step

    def counted() -> bool:
        nonlocal depth
        depth += 1
        depths.append(depth)
        try:
            leaver.close()
            return step()
        finally:
            depth -= 1

    monkeypatch.setattr(engine, "step", counted)
    assert "".join(llm.stream([2], params(5))) == text([2], 5)
    assert set(depths) == {1}
    assert held(llm) == (0, 0, 0, 0)


def test_a_failed_stream_gives_its_text_then_the_error_then_nothing(llm: LLM) -> None:
    stream = llm.stream([1], params(1_000))
    first = next(stream)
    [answer] = llm._driver._host.answers.values()
    answer.text += " more"
    answer.failure, answer.finish_reason = GenerationFailed("internal", "for a test"), "error"
    assert (first, next(stream)) == (text([1], 1), " more")
    with pytest.raises(GenerationFailed, match="for a test"):
        next(stream)
    assert list(stream) == []
    assert held(llm) == (0, 0, 0, 0)


def test_nobody_gets_between_a_look_at_an_answer_and_the_step_after_it(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else another thread's step could end the request there, and its last text would never be seen."""
    take_text, got_between = Answer.take_text, []

    def another_tries() -> bool:
        turn = llm._driver._turn
        free = turn.acquire(blocking=False)
        if free:
            turn.release()
        return free

    def looked(answer: Answer) -> str:
        piece = take_text(answer)
        got_between.append(other.submit(another_tries).result())
        return piece

    monkeypatch.setattr(Answer, "take_text", looked)
    with ThreadPoolExecutor(1) as other:
        assert "".join(llm.stream([1], params(5))) == text([1], 5)
        assert other.submit(another_tries).result()
    assert set(got_between) == {False}


def test_threads_each_get_their_own_whole_text(llm: LLM) -> None:
    def ask(number: int) -> str:
        if number % 2:
            return llm.generate([[number]], params(60))[0].text
        return "".join(llm.stream([number], params(60)))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(24))) == [text([number], 60) for number in range(24)]
    assert held(llm) == (0, 0, 0, 0)


def test_two_threads_that_share_a_stream_share_its_text(llm: LLM) -> None:
    def read(stream: TextStream) -> list[str]:
        return list(stream)

    stream = llm.stream([1], params(100))
    with ThreadPoolExecutor(2) as pool:
        pieces = [piece for part in pool.map(read, [stream, stream]) for piece in part]
    wanted = text([1], 100)
    tokens = sorted(wanted[at : at + 7] for at in range(0, len(wanted), 7))
    joined = "".join(pieces)
    assert sorted(joined[at : at + 7] for at in range(0, len(joined), 7)) == tokens
