"""Which drafts are kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyworker.spec_decode.rejection import num_emitted


@pytest.mark.parametrize(
    ("drafts", "sampled", "emitted"),
    [
        ([], [7], 1),
        ([7, 8], [7, 8, 9], 3),
        ([7, 8], [7, 1, 9], 2),
        ([7, 8], [1, 8, 9], 1),
    ],
    ids=["no drafts", "all right", "the second wrong", "the first wrong"],
)
def test_drafts_are_kept_while_they_are_what_was_sampled(drafts: list[int], sampled: list[int], emitted: int) -> None:
    assert num_emitted(drafts, sampled) == emitted


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=6))
def test_what_comes_out_is_what_would_have_come_one_by_one(drafts: list[int], truth: list[int]) -> None:
    """Where the drafts before a row are right, the row samples the truth; where they are not, anything."""
    drafts = drafts[: len(truth)]
    sampled = [truth[j] if j < len(truth) and drafts[:j] == truth[:j] else 9 for j in range(len(drafts) + 1)]
    emitted = sampled[: num_emitted(drafts, sampled)]
    right = next((j for j, draft in enumerate(drafts) if draft != truth[j]), len(drafts))
    assert len(emitted) == right + 1
    assert emitted[:right] == truth[:right]
