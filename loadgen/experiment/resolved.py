"""Writes a plan as it was used: TOML that reads as the same tables."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from loadgen.experiment.plan import Plan

_BARE: Final = re.compile(r"[A-Za-z0-9_-]+")


def to_toml(plan: Plan) -> str:
    """The plan's own tables, with its arms in it instead of a folder of them."""
    raw: dict[str, Any] = {name: value for name, value in plan.raw.items() if name not in ("arms", "arm")}
    rows = [{key: value for key, value in asdict(arm).items() if value} for arm in plan.arms.values()]
    return "\n".join(_table(raw | {"arm": rows}, ())).lstrip("\n") + "\n"


def _table(table: Mapping[str, Any], place: tuple[str, ...]) -> list[str]:
    # Plain keys come first: after a table's head everything belongs to it.
    lines = [f"{_key(name)} = {_value(value)}" for name, value in table.items() if not _is_table(value)]
    for name, value in table.items():
        inner = (*place, _key(name))
        if isinstance(value, dict):
            lines += ["", f"[{'.'.join(inner)}]", *_table(value, inner)]
        elif _is_table(value):
            for row in value:
                lines += ["", f"[[{'.'.join(inner)}]]", *_table(row, inner)]
    return lines


def _is_table(value: object) -> bool:
    rows = isinstance(value, (list, tuple)) and bool(value) and all(isinstance(row, dict) for row in value)
    return isinstance(value, dict) or rows


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else json.dumps(name)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_value(one) for one in value)}]"
    if isinstance(value, (int, float)):
        return repr(value)
    # A TOML text is a JSON text, but for DEL, which TOML wants escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
