"""A run's folder: whole files or none, never written twice, and read back as they were."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import numpy as np
import pytest
from support.loadgen_records import facts, streamed
from support.loadgen_report import folder, made_up

from loadgen.errors import BadData, BadInput
from loadgen.measure.summarise import summarise
from loadgen.run.files import RunFolder, publish
from loadgen.run.series import read_series

if TYPE_CHECKING:
    from pathlib import Path


def test_records_and_facts_come_back_as_they_were(tmp_path: Path) -> None:
    records, told = made_up(200, 20)
    found = folder(tmp_path / "run", records, told)
    assert list(found.read_records()) == records
    assert found.load_facts() == told


def test_equal_records_make_equal_bytes(tmp_path: Path) -> None:
    records, told = made_up(200, 20)
    one, other = (folder(tmp_path / name, records, told) for name in ("one", "other"))
    assert one.records.read_bytes() == other.records.read_bytes()
    # No name in the header, and no time: two runs of the test may fall into one second.
    assert one.records.read_bytes()[3:8] == bytes(5)


def test_a_finished_run_is_never_written_again(tmp_path: Path) -> None:
    found = RunFolder.create(tmp_path / "run")
    assert RunFolder.create(tmp_path / "run").path == found.path
    found.write_result(summarise([streamed(1, 0, 10, 2, 5)], facts()))
    with pytest.raises(BadInput, match="finished run"):
        RunFolder.create(tmp_path / "run")


def test_records_have_their_name_only_when_all_are_in(tmp_path: Path) -> None:
    found = RunFolder.create(tmp_path / "run")
    with found.records_writer() as writer:
        writer.write(streamed(1, 0, 10, 2, 5))
        assert not found.records.exists()
    assert (writer.count, found.records.exists()) == (1, True)


def test_a_torn_file_is_read_up_to_the_tear_when_asked(tmp_path: Path) -> None:
    records, told = made_up(2000, 0)
    found = folder(tmp_path / "run", records, told)
    whole = found.records.read_bytes()
    found.records.unlink()
    found.records.with_name("records.jsonl.gz.part").write_bytes(whole[: len(whole) // 2])
    kept = list(found.read_records(torn=True))
    assert 100 < len(kept) < len(records)
    assert kept == records[: len(kept)]
    with pytest.raises(BadData, match=r"records\.jsonl\.gz"):
        list(found.read_records())


def test_a_wrong_line_is_named(tmp_path: Path) -> None:
    found = folder(tmp_path / "run", *made_up(10, 0))
    lines = gzip.decompress(found.records.read_bytes()).splitlines()
    lines[3] = b'{"id": "x"}'
    found.records.write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    with pytest.raises(BadData, match="row 4"):
        list(found.read_records())


def test_missing_and_broken_files_say_so(tmp_path: Path) -> None:
    found = RunFolder(tmp_path)
    with pytest.raises(BadData, match="incomplete"):
        found.load_result()
    found.facts.write_bytes(b"[]")
    with pytest.raises(BadData, match=r"facts\.json"):
        found.load_facts()
    assert found.load_faults() == []
    found.faults.write_bytes(b'{"name": "kill1"}\n\nnonsense\n')
    with pytest.raises(BadData, match="row 3"):
        found.load_faults()


def test_series(tmp_path: Path) -> None:
    path = tmp_path / "server.csv"
    assert len(read_series(path).times) == 0
    path.write_text("t_micros,queue,kv_use\n0,1,\n1000000,,0.5\n2000000,3,0.6\n", encoding="utf-8")
    found = read_series(path)
    times, use = found.known("kv_usage", "kv_use")
    assert (times.tolist(), use.tolist()) == ([1e6, 2e6], [0.5, 0.6])
    assert found.known("queue")[1].tolist() == [1, 3]
    assert found.known("absent")[0].tolist() == []
    path.write_text("t,queue\n1.5,2\n", encoding="utf-8")
    assert read_series(path).times.tolist() == [1.5e6]
    path.write_text("t,queue\n1.5,two\n", encoding="utf-8")
    with pytest.raises(BadData, match="row 2, queue"):
        read_series(path)
    path.write_text("t,queue\n1.5,2,3\n", encoding="utf-8")
    with pytest.raises(BadData, match="3 values for 2 columns"):
        read_series(path)


def test_publishing_writes_what_the_page_lists(run_dir: Path) -> None:
    names = {each.name for each in run_dir.iterdir()}
    assert {"facts.json", "intervals.csv", "summary.md", "result.json", "hist", "records.jsonl.gz"} <= names
    assert not [name for name in names if name.endswith(".part")]
    assert (run_dir / "hist" / "chat.ttft.window.hlog").is_file()


def test_publishing_with_plotly_makes_the_page(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    records, told = made_up(50, 5)
    found = folder(tmp_path / "run", records, told)
    result = publish(found, told, started_micros=0)
    assert found.load_result() == result
    assert found.report.stat().st_size > 1_000_000
    assert np.isfinite(result.window.end)
