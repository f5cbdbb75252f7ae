"""The files of a run: where each stands, how it is written whole or not at all, and how it is read back.

`result.json` is written last and under another name first: a folder without it holds an incomplete run.
"""

from __future__ import annotations

import gzip
import os
import zlib
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from loadgen import result as tree
from loadgen import scenario as scenarios
from loadgen.drive.spool import MAGIC
from loadgen.errors import BadData, BadInput
from loadgen.measure.columns import columns
from loadgen.measure.facts import RunFacts
from loadgen.record import Record
from loadgen.run.series import Series, read_series

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from loadgen.measure.columns import Columns
    from loadgen.spec import Scenario

_LEVEL = 6
_BLOCK = 1 << 20
_PART = ".part"
_T = TypeVar("_T")


class RecordsWriter:
    """Takes records one by one; `count` of them so far."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file
        self._encoder = msgspec.json.Encoder()
        self._held = bytearray()
        self.count = 0

    def write(self, record: Record) -> None:
        """One line."""
        self._held += self._encoder.encode(record)
        self._held += b"\n"
        self.count += 1
        if len(self._held) >= _BLOCK:
            self.flush()

    def flush(self) -> None:
        """Hand over what is held."""
        self._file.write(self._held)
        self._held.clear()


class RunFolder:
    """One run's folder, which need not exist yet."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.scenario = self.path / "scenario.toml"
        self.workload = self.path / "workload.jsonl.gz"
        self.records = self.path / "records.jsonl.gz"
        self.outputs = self.path / "outputs.jsonl.gz"
        self.result = self.path / "result.json"
        self.facts = self.path / "facts.json"
        self.intervals = self.path / "intervals.csv"
        self.hist = self.path / "hist"
        self.server = self.path / "server.csv"
        self.host = self.path / "host.csv"
        self.faults = self.path / "faults.jsonl"
        self.jobs = self.path / "jobs"
        self.report = self.path / "report.html"
        self.summary = self.path / "summary.md"
        self.spool = self.path / "spool"

    @classmethod
    def create(cls, path: str | Path) -> RunFolder:
        """A folder to write a run into; one that an incomplete run left may be used again.

        Raises:
            BadInput: it holds a finished run, which is never written again, or it cannot be made.
        """
        folder = cls(path)
        if folder.complete:
            raise BadInput("--out", "", str(path), "holds a finished run, which is never written over")
        try:
            for each in (folder.path, folder.hist, folder.jobs):
                each.mkdir(parents=True, exist_ok=True)
            # Of an incomplete run: what is parsed there already are another run's answers.
            for stale in folder.path.glob(f"{folder.spool.name}.[0-9]*"):
                stale.unlink()
        except OSError as error:
            raise BadInput("--out", "", str(path), f"cannot be made: {error.strerror or error}") from error
        return folder

    @property
    def complete(self) -> bool:
        """Whether the run came to its end and wrote all its files."""
        return self.result.is_file()

    @property
    def is_unsent(self) -> bool:
        """Whether no load process has told of a request."""
        return all(each.stat().st_size <= len(MAGIC) for each in self.path.glob(f"{self.spool.name}.[0-9]*"))

    def write_scenario(self, text: str) -> None:
        """As `scenario.to_toml` gives it."""
        write_whole(self.scenario, text.encode())

    def write_facts(self, facts: RunFacts) -> None:
        """Before the run what is planned, so that a run cut short can be looked at; after it what came of it."""
        write_whole(self.facts, msgspec.json.format(msgspec.json.encode(facts), indent=1) + b"\n")

    def write_result(self, result: tree.Result) -> None:
        """The last thing that a run does."""
        write_whole(self.result, tree.encode(result))

    @contextmanager
    def records_writer(self) -> Iterator[RecordsWriter]:
        """The file has its name only when all records are in it."""
        part = self.records.with_name(self.records.name + _PART)
        with part.open("wb") as raw:
            # No time and no name get into the gzip: equal records make equal bytes.
            with gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as packed:
                writer = RecordsWriter(packed)
                yield writer
                writer.flush()
            raw.flush()
            os.fsync(raw.fileno())
        part.replace(self.records)

    def read_records(self, *, torn: bool = False) -> Iterator[Record]:
        """One by one. `torn`: of a run cut short, up to where its file breaks off.

        Raises:
            BadData: there is no such file, or a line that is no record.
        """
        path = self.records
        if torn and not path.is_file():
            path = path.with_name(path.name + _PART)
        decoder = msgspec.json.Decoder(Record)
        row = 0
        try:
            with gzip.open(path, "rb") as file:
                for line in file:
                    row += 1
                    yield decoder.decode(line)
        except (OSError, EOFError, zlib.error, msgspec.DecodeError) as error:
            if torn and path.is_file():
                return
            raise BadData(str(path), row, "", f"cannot be read: {error}") from error

    def load_records(self, *, torn: bool = False) -> Columns:
        """As arrays."""
        return columns(self.read_records(torn=torn), str(self.records))

    def load_facts(self) -> RunFacts:
        """What stands beside the records.

        Raises:
            BadData: there are none, or they are not of this kind.
        """
        return _decoded(self.facts, RunFacts)

    def load_result(self) -> tree.Result:
        """What the run found.

        Raises:
            BadData: the run is incomplete, or the file is not of this kind or version.
        """
        text = _bytes(self.result, "there is none, so the run is incomplete")
        try:
            return tree.decode(text)
        except msgspec.DecodeError as error:
            raise BadData(str(self.result), 0, "", str(error)) from error

    def load_scenario(self) -> Scenario:
        """What was asked for."""
        return scenarios.build(scenarios.from_file(str(self.scenario)))

    def load_server(self) -> Series:
        """The server's counters; empty where nobody read them."""
        return read_series(self.server)

    def load_host(self) -> Series:
        """What the host did; empty where nobody looked."""
        return read_series(self.host)

    def load_faults(self) -> list[dict[str, Any]]:
        """The lines of `faults.jsonl`, none where there were no faults."""
        if not self.faults.is_file():
            return []
        rows = enumerate(_bytes(self.faults, "").splitlines(), 1)
        return [_line(self.faults, row, line) for row, line in rows if line.strip()]


def write_whole(path: Path, content: bytes) -> None:
    """Under another name, and renamed when it is on disk: a reader sees all of it or none."""
    part = path.with_name(path.name + _PART)
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """The same for a text that is made as it is written."""
    part = path.with_name(path.name + _PART)
    with part.open("w", encoding="utf-8", newline="") as file:
        file.writelines(lines)
    part.replace(path)


def _bytes(path: Path, missing: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise BadData(str(path), 0, "", missing or "no such file") from error
    except OSError as error:
        raise BadData(str(path), 0, "", error.strerror or "cannot be read") from error


def _decoded(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(_bytes(path, ""), type=kind)
    except msgspec.DecodeError as error:
        raise BadData(str(path), 0, "", str(error)) from error


def _line(path: Path, row: int, line: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise BadData(str(path), row, "", f"not a JSON object: {error}") from error


def publish(folder: RunFolder, facts: RunFacts, *, started_micros: int, html: bool = True) -> tree.Result:
    """All that is made of the records and facts, and `result.json` last.

    `started_micros`: wall clock of `t0`, since 1970. The page is made where plotly is installed. The result comes from
    the records as they stand in the folder, so that what is reported now is what can be computed again.

    Raises:
        BadData: the records cannot be read back.
    """
    # Reports read folders, so they are known here only when one is made.
    from loadgen.report import hists, intervals, markdown
    from loadgen.report.html import has_plotly
    from loadgen.report.html_run import report
    from loadgen.report.load import judged

    folder.write_facts(facts)
    run = judged(folder, facts, folder.load_records())
    write_lines(folder.intervals, intervals.lines(run.at, facts))
    folder.hist.mkdir(exist_ok=True)
    for name, lines in hists.logs(run.at, facts, started_micros):
        write_lines(folder.hist / name, lines)
    write_whole(folder.summary, markdown.summary([run]).encode())
    if html and has_plotly():
        write_whole(folder.report, report([run], (), intervals.SECOND).encode())
    folder.write_result(run.result)
    return run.result
