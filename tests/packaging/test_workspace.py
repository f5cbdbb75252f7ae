"""Rules that hold for every crate of the workspace."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_crate_takes_the_lints_of_the_workspace() -> None:
    members = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["members"]
    found = {
        str(path.parent.relative_to(ROOT))
        for folder in ("router", "kernels", "bindings")
        for path in _manifests(folder)
    }
    assert found == set(members)
    loose = [member for member in members if _manifest(member).get("lints") != {"workspace": True}]
    assert loose == []


def _manifests(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("Cargo.toml"))


def _manifest(member: str) -> dict[str, object]:
    return tomllib.loads((ROOT / member / "Cargo.toml").read_text())
