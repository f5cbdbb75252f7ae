"""The two ways to guess: what they find, what they never look at, and that they forget."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyworker.engine.request import Request, SamplingParams
from pyworker.spec_decode.automaton import ROOT, SuffixAutomaton
from pyworker.spec_decode.ngram import NgramProposer
from pyworker.spec_decode.suffix import SuffixProposer

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=60)


def request(prompt: list[int], output: list[int] | None = None, *, request_id: str = "r", salt: int = 0) -> Request:
    return Request(request_id, 0, list(prompt), SamplingParams(), output_ids=list(output or []), salt=salt)


def occurrences(text: list[int], run: list[int]) -> int:
    return sum(text[at : at + len(run)] == run for at in range(len(text) - len(run) + 1))


@given(TOKENS)
@settings(max_examples=200, deadline=None)
def test_the_automaton_counts_every_run(text: list[int]) -> None:
    automaton, last = SuffixAutomaton(), ROOT
    for token in text:
        last = automaton.extend(last, token)
    for begin in range(len(text)):
        state, matched = ROOT, 0
        for end in range(begin, min(begin + 8, len(text))):
            state, matched = automaton.advance(state, matched, [text[end]])
            run = text[begin : end + 1]
            assert matched == len(run)
            following = [occurrences(text, [*run, token]) for token in range(4)]
            step = automaton.likeliest(state)
            if sum(following) == 0:
                assert step is None
            else:
                assert step is not None
                assert step[0] == following.index(max(following))
                assert step[2] == pytest.approx(max(following) / sum(following))
    assert len(automaton) <= 2 * len(text) + 1


@given(TOKENS, TOKENS)
@settings(max_examples=100, deadline=None)
def test_a_match_is_the_longest_suffix_that_was_seen(text: list[int], probe: list[int]) -> None:
    automaton, last = SuffixAutomaton(), ROOT
    for token in text:
        last = automaton.extend(last, token)
    _, matched = automaton.advance(ROOT, 0, probe)
    longest = max(n for n in range(len(probe) + 1) if n == 0 or occurrences(text, probe[-n:]))
    assert matched == longest


def test_ngram_copies_what_followed_three_tokens() -> None:
    proposer = NgramProposer()
    draft = proposer.propose(request([1, 2, 3, 4, 5, 6, 9, 1, 2, 3]), 4)
    assert (draft.tokens, draft.match_len) == ((4, 5, 6, 9), 3)


def test_ngram_goes_on_with_a_repetition_past_the_end() -> None:
    assert NgramProposer().propose(request([7, 8, 7, 8, 7]), 5).tokens == (8, 7, 8, 7, 8)


def test_ngram_takes_the_newest_place() -> None:
    assert NgramProposer().propose(request([1, 2, 3, 4, 0, 1, 2, 3, 5, 0, 1, 2, 3]), 1).tokens == (5,)


def test_ngram_believes_two_tokens_only_of_a_request_that_does_well() -> None:
    proposer, one = NgramProposer(), request([1, 2, 3, 4, 9, 2, 3])
    assert proposer.propose(one, 2).tokens == ()
    two = request([1, 2, 3, 4, 5, 6, 0, 1, 2, 3], request_id="two")
    for token in (4, 5, 6):
        assert proposer.propose(two, 1).tokens == (token,)
        two.output_ids.append(token)
        proposer.observe(two, [token])
    two.output_ids += [8, 2, 3]
    proposer.observe(two, [8, 2, 3])
    assert proposer.propose(two, 2).match_len == 2


def test_ngram_forgets() -> None:
    proposer = NgramProposer()
    assert proposer.propose(request([1, 2, 3, 4, 1, 2, 3]), 1).tokens
    proposer.forget("r")
    assert proposer.propose(request([5, 6, 7]), 1).tokens == ()


def test_suffix_follows_the_likelier_branch_as_far_as_it_trusts() -> None:
    prompt = [1, 2, 3, 4, 4, 4, 0, 1, 2, 3, 5, 5, 0, 1, 2, 3, 5, 5, 0, 1, 2, 3]
    draft = SuffixProposer().propose(request(prompt), 16)
    assert draft.match_len == 10
    assert draft.tokens == (5, 5, 0, 1, 2, 3)
    assert SuffixProposer().propose(request([1, 2, 9, 1, 2, 9, 1]), 16).tokens == (2, 9, 1)


def test_suffix_learns_from_past_outputs_of_the_tenant_and_of_no_other() -> None:
    proposer = SuffixProposer()
    done = request([9], [11, 12, 13, 14, 15, 16], request_id="done", salt=5)
    proposer.observe(done, [])
    proposer.forget("done")
    assert proposer.propose(request([8, 11, 12, 13], request_id="a", salt=5), 3).tokens == (14, 15, 16)
    assert proposer.propose(request([8, 11, 12, 13], request_id="b", salt=6), 3).tokens == ()


def test_suffix_keeps_within_its_bound() -> None:
    rng = random.Random(3)
    proposer = SuffixProposer(tenant_bytes=320 * 4_096)
    for index in range(60):
        one = request([1], [rng.randrange(1000) for _ in range(300)], request_id=str(index), salt=index % 7)
        proposer.observe(one, [])
        proposer.forget(one.request_id)
        assert proposer.num_states <= 4_096 + 2 * 1_024


@given(TOKENS, TOKENS, st.sampled_from([NgramProposer, SuffixProposer]))
@settings(max_examples=100, deadline=None)
def test_guesses_do_not_depend_on_how_the_tokens_came(prompt: list[int], output: list[int], make: type) -> None:
    at_once, by_one = make(), make()
    grown = request(prompt)
    for token in output:
        by_one.propose(grown, 4)
        grown.output_ids.append(token)
        by_one.observe(grown, [token])
    drafts = by_one.propose(grown, 4), at_once.propose(request(prompt, output), 4)
    if make is SuffixProposer:
        assert drafts[0] == drafts[1]
    else:  # a match of two tokens is a matter of what the request has earned
        assert drafts[0].match_len == 2 or drafts[0] == drafts[1]


@pytest.mark.parametrize("make", [NgramProposer, SuffixProposer])
def test_a_long_prompt_is_taken_in_piece_by_piece(make: type) -> None:
    proposer, text = make(), [token % 50 for token in range(6_000)]
    one, steps = request(text), 0
    while not proposer.propose(one, 2).tokens:
        steps += 1
        assert steps < 40
    assert steps > 1


@pytest.mark.parametrize("make", [NgramProposer, SuffixProposer])
def test_of_a_long_prompt_one_piece_is_taken_in_a_step(make: type) -> None:
    """A step asks for guesses once and tells what came once; together they take in no more than one piece."""
    proposer, one = make(), request([token % 50 for token in range(6_000)])
    for pieces in range(1, 6):
        proposer.propose(one, 2)
        one.output_ids.append(7)
        proposer.observe(one, [7])
        known = proposer._histories["r"] if make is NgramProposer else proposer._requests["r"]
        assert len(known.tokens) == 512 * pieces


def test_behind_a_token_that_anything_follows_nothing_is_guessed() -> None:
    prompt = [part for token in range(300) for part in (1, 10 + token)]
    assert SuffixProposer().propose(request([*prompt[:200], 1]), 3).tokens == ()  # equally many times: not likely
    automaton = SuffixAutomaton()
    state = 0
    for token in prompt:
        state = automaton.extend(state, token)
    assert automaton.likeliest(automaton.advance(0, 0, [1])[0]) is None
    assert automaton.likeliest(automaton.advance(0, 0, [10])[0]) is not None


def test_the_count_of_states_is_that_of_all_tenants() -> None:
    proposer, rng = SuffixProposer(tenant_bytes=320 * 2_048), random.Random(7)
    for index in range(80):
        output = [rng.randrange(9) for _ in range(rng.randint(0, 90))]
        one = request([1], output, salt=rng.randrange(12))
        proposer.observe(one, [])
        proposer.forget("r")
        assert proposer.num_states == sum(tenant.num_states for tenant in proposer._tenants.values()), index
