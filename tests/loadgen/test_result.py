"""The committed schemas are the code's, and real output passes through them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from support.loadgen_records import facts, streamed

import loadgen
from loadgen import result
from loadgen.measure.summarise import summarise

SCHEMA = Path(loadgen.__file__).parent / "schema"


@pytest.mark.parametrize("name", sorted(result.schemas()))
def test_committed_schema_is_the_codes(name: str) -> None:
    assert (SCHEMA / name).read_text(encoding="utf-8") == result.schema_text(result.schemas()[name])


def test_result_survives_its_file() -> None:
    found = summarise([streamed(each, 100.0 * each, 10, 2, 5) for each in range(600)], facts())
    text = result.encode(found)
    assert result.decode(text) == found
    assert b"NaN" not in text
    assert b"Infinity" not in text


def test_another_version_is_refused() -> None:
    found = summarise([streamed(1, 0, 10, 2, 5)], facts())
    with pytest.raises(msgspec.ValidationError, match="version 99"):
        result.decode(result.encode(msgspec.structs.replace(found, version=99)))
