"""The newcomer's page is true: every path on it exists, and every package of the tree is on it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/structures.md").read_text()
QUOTED = re.findall(r"`([^`]+)`", PAGE)
PATH = re.compile(r"^(router|pyworker|loadgen|kernels|bindings|slackwater|tests|docs|scripts)/[\w./-]+$")
NOT_YET = {"router/store"}


def test_every_path_on_the_page_exists() -> None:
    paths = {quoted for quoted in QUOTED if PATH.match(quoted)} - NOT_YET
    assert len(paths) > 30
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_every_package_is_on_the_page() -> None:
    members = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["members"]
    python = [
        str(init.parent.relative_to(ROOT))
        for top in ("pyworker", "loadgen")
        for init in (ROOT / top).rglob("__init__.py")
    ]
    assert [
        package for package in [*members, *python, "slackwater"] if package not in {*QUOTED, "pyworker", "loadgen"}
    ] == []


def test_what_is_called_future_is() -> None:
    assert [path for path in NOT_YET if (ROOT / path).exists()] == []
