"""One made-up run on disk, which tests read and do not change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.loadgen_report import folder, made_up

from loadgen.report.load import LoadedRun, load
from loadgen.run.files import publish

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Published, without the page: that has tests of its own."""
    path = tmp_path_factory.mktemp("report") / "run"
    records, facts = made_up()
    publish(folder(path, records, facts), facts, started_micros=1_700_000_000_000_000, html=False)
    return path


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same plan, quicker and without offline work."""
    path = tmp_path_factory.mktemp("report") / "base"
    records, facts = made_up(items=0, slower=0.8)
    publish(folder(path, records, facts), facts, started_micros=1_700_000_000_000_000, html=False)
    return path


@pytest.fixture(scope="session")
def run(run_dir: Path) -> LoadedRun:
    return load(run_dir)


@pytest.fixture(scope="session")
def base(base_dir: Path) -> LoadedRun:
    return load(base_dir)
