"""Both languages put their files in the same places: the rows are read by the Rust test too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pyworker import folders
from pyworker.errors import ConfigError

ROWS = json.loads((Path(__file__).parent / "golden_folders.json").read_text())


def or_none(call: Any, *args: Any) -> str | None:
    try:
        return str(call(*args))
    except ConfigError:
        return None


@pytest.mark.parametrize("row", ROWS, ids=[str(index) for index in range(len(ROWS))])
def test_the_rule_gives_the_golden_folders(row: dict[str, Any]) -> None:
    env, flag = row["env"], row["state_dir_flag"]
    got = {
        "cache_dir": or_none(folders.cache_dir, env),
        "state_dir": or_none(folders.state_dir, flag, env),
        "socket": or_none(lambda: folders.worker_socket(folders.state_dir(flag, env), env)),
    }
    assert got == {name: row[name] for name in got}
