"""The scheduler under random load: whatever comes between two steps, streams are the oracle's and limits hold."""

from __future__ import annotations

from collections import Counter

import pytest
from support.scheduler_storm import FullStorm, Storm


def counters_of(kind: type[Storm], seeds: range) -> Counter[str]:
    """Run all these storms; what their engines counted, altogether."""
    counters: Counter[str] = Counter()
    for seed in seeds:
        storm = kind(seed)
        try:
            storm.run()
        except Exception as error:
            raise AssertionError(f"seed {seed}; last steps {storm.trace[-5:]}") from error
        counters.update({name: int(value) for name, value in storm.world.counters().items()})
        counters["forced"] += storm.forced if isinstance(storm, FullStorm) else 0
    return counters


@pytest.mark.parametrize("sixty", range(2))
def test_everything_holds_in_any_storm(sixty: int) -> None:
    counters = counters_of(Storm, range(sixty * 60, sixty * 60 + 60))
    assert counters["preemptions"] > 60
    assert counters["prefix_cache_hits"] > 600


@pytest.mark.parametrize("ten", range(2))
def test_everything_holds_with_drafts_forks_grammars_and_parking(ten: int) -> None:
    counters = counters_of(FullStorm, range(ten * 10, ten * 10 + 10))
    assert counters["preemptions"] > 20
    assert counters["forks"] > 10
    assert counters["accepted_draft_tokens"] > 50
    assert counters["draft_tokens"] > counters["accepted_draft_tokens"] + 50
    assert counters["forced"] > 20
    assert counters["parked_slices"] > 40
    assert counters["parked_tokens_wasted"] > 0


@pytest.mark.parametrize(("kind", "seeds"), [(Storm, 10), (FullStorm, 3)])
def test_equal_inputs_give_equal_outputs(kind: type[Storm], seeds: int) -> None:
    for seed in range(seeds):
        one, two = kind(seed), kind(seed)
        one.run()
        two.run()
        assert one.trace == two.trace
        assert one.world.host.steps == two.world.host.steps
