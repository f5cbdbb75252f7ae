"""The generator's words are those of an independent implementation, and its numbers stay inside (0, 1)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from support.sampler_model import uniform_by_id

from pyworker.runner.philox import philox4x32, uniform

ROWS = json.loads((Path(__file__).parents[1] / "wire" / "golden_philox.json").read_text())


def test_golden_vectors() -> None:
    got = [
        [f"{word:08x}" for word in philox4x32(int(row["key"], 16), np.array([row["counter"]], dtype=np.uint32))[0]]
        for row in ROWS
    ]
    assert got == [row["words"] for row in ROWS]


def test_rows_of_counters_do_not_influence_each_other() -> None:
    counters = np.array([row["counter"] for row in ROWS], dtype=np.uint32)
    together = philox4x32(7, counters)
    alone = [philox4x32(7, counters[index : index + 1])[0].tolist() for index in range(len(counters))]
    assert together.tolist() == alone


def test_uniform_numbers_are_exact_in_float32_and_never_an_end() -> None:
    ends = uniform(np.array([0, 0xFFFFFFFF], dtype=np.uint32))
    assert ends.tolist() == [2.0**-24, 1.0 - 2.0**-24]
    assert ends.astype(np.float32).astype(np.float64).tolist() == ends.tolist()


def test_the_number_of_an_id_is_its_word_of_its_counter() -> None:
    ids = np.array([3, 4, 7, 49151], dtype=np.int64)
    got = uniform_by_id(5, ids, position=9, choice=2)
    words = [philox4x32(5, np.array([[v >> 2, 9, 2, 0]], dtype=np.uint32))[0, v & 3] for v in ids.tolist()]
    assert got.tolist() == uniform(np.array(words, dtype=np.uint32)).tolist()
