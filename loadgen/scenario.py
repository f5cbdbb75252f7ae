"""Flags and a scenario file make one `Scenario`, checked as a whole, and a `Scenario` is written back as a file."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from loadgen import keys, keys_fault, keys_offline, keys_online, keys_run
from loadgen.errors import BadData, BadInput
from loadgen.scenario_checks import check
from loadgen.spec import Scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from loadgen.keys import Given

_T = TypeVar("_T")
_TABLES: Final = ("online", "offline", "fault")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,14})")
_MAX_FILE: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class Raw:
    """What was given, as text: run keys, and (where, keys) of each class, job and fault."""

    run: Given = field(default_factory=dict)
    online: tuple[tuple[str, Given], ...] = ()
    offline: tuple[tuple[str, Given], ...] = ()
    fault: tuple[tuple[str, Given], ...] = ()


def from_flags(run: Given, online: Sequence[str], offline: Sequence[str], fault: Sequence[str]) -> Raw:
    """Of a command line.

    Raises:
        BadInput: a SPEC that does not split into keys.
    """
    return Raw(
        run,
        tuple(("--online", keys.split_spec(text, "--online")) for text in online),
        tuple(("--offline", keys.split_spec(text, "--offline")) for text in offline),
        tuple(("--fault", keys.split_spec(text, "--fault", keys_fault.BARE)) for text in fault),
    )


def from_file(path: str) -> Raw:
    """Of a scenario file.

    Raises:
        BadData: it cannot be read, or is no TOML.
        BadInput: a key that no scenario has.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_FILE + 1)
    except OSError as error:
        raise BadData(path, 0, "", error.strerror or "cannot be read") from error
    if len(content) > _MAX_FILE:
        raise BadData(path, 0, "", "is larger than 4 MiB, which no scenario is")
    try:
        found = tomllib.loads(content.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadData(path, 0, "", f"is no TOML: {error}") from error
    return from_tables(found, path)


def from_tables(found: Mapping[str, Any], where: str) -> Raw:
    """Of TOML as read."""
    top = {name: value for name, value in found.items() if name not in (*_TABLES, "run")}
    under = found.get("run", {})
    if not isinstance(under, dict):
        raise BadInput(where, "run", str(under), "expected a table")
    top, under = keys_run.from_run_table(top), keys_run.from_run_table(under)
    for name in under:
        if name in top:
            raise BadInput(where, name, str(top[name]), "stands at the top and in [run]")
    run = keys.from_toml(top | under, where)
    unknown = next((name for name in run if name not in keys_run.KEYS), None)
    if unknown is not None:
        raise BadInput(where, unknown, "", "no such key", (*keys_run.KEYS, *_TABLES, "run"))
    online, offline, fault = (_tables(found, name, where) for name in _TABLES)
    return Raw(run, online, offline, fault)


def _tables(found: Mapping[str, Any], name: str, where: str) -> tuple[tuple[str, Given], ...]:
    rows = found.get(name, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadInput(where, name, "", f"expected tables: [[{name}]]")
    place = f"{where}: [[{name}]]"
    return tuple((place, keys.from_toml(row, place)) for row in rows)


def merge(base: Raw, over: Raw) -> Raw:
    """Flags over a file: key by key, and classes of the same name too; other classes are added."""
    return Raw(
        keys_run.merged(base.run, over.run),
        _merge_named(base.online, over.online, "chat"),
        _merge_named(base.offline, over.offline, "job"),
        _merge_named(base.fault, over.fault, None),
    )


def _merge_named(
    base: tuple[tuple[str, Given], ...], over: tuple[tuple[str, Given], ...], unnamed: str | None
) -> tuple[tuple[str, Given], ...]:
    result = list(base)
    names = [_name(given, unnamed) for _, given in base]
    for where, given in over:
        name = _name(given, unnamed)
        if name is not None and names.count(name) == 1:
            at = names.index(name)
            result[at] = (where, result[at][1] | given)
        else:
            result.append((where, given))
    return tuple(result)


def _name(given: Given, unnamed: str | None) -> str | None:
    return given["name"][0] if given.get("name") else unnamed


def build(raw: Raw, *, target: str | None = None, need_target: bool = True) -> Scenario:
    """The typed whole. `target`: where the command has it from elsewhere.

    Raises:
        BadInput: keys, values or parts that cannot be meant.
        BadData: a file that a key names.
    """
    values: dict[str, Any] = {}
    for name, given in raw.run.items():
        values |= keys.read(keys_run.KEYS, {name: given}, f"--{name}") if name in keys_run.KEYS else _unknown(name)
    if target is not None:
        values["target"] = target
    if need_target and "target" not in values:
        raise BadInput("--target", "", "", "is missing: the address of a server, such as http://127.0.0.1:8000")
    values.setdefault("target", "")
    if "label" in values:
        values["label"] = dict(values["label"])
    online = _each(raw.online, keys_online.online)
    offline = _each(raw.offline, keys_offline.offline)
    if not online and not offline:
        # The page's section 8: a command without a class still measures something.
        online = (keys_online.online({"name": ["chat"]}),)
    scenario = Scenario(
        online=online,
        offline=offline,
        faults=_each(raw.fault, keys_fault.fault),
        **{keys_run.field_of(name): value for name, value in values.items()},
    )
    check(scenario)
    return scenario


def _unknown(name: str) -> dict[str, Any]:
    raise BadInput(f"--{name}", name, "", "no such key", keys_run.KEYS)


def _each(rows: tuple[tuple[str, Given], ...], make: Callable[[Given, str], _T]) -> tuple[_T, ...]:
    return tuple(make(given, where) for where, given in rows)


def to_toml(scenario: Scenario) -> str:
    """A scenario file that reads as the same scenario."""
    values: dict[str, Any] = {}
    base = {declared.name: declared.default for declared in fields(Scenario)}
    for name in keys_run.KEYS:
        value = getattr(scenario, keys_run.field_of(name))
        if name == "target" and not value:
            continue
        if name == "label":
            value = tuple(scenario.labels.items())
        elif base[keys_run.field_of(name)] is not MISSING and value is False:
            continue
        values[name] = value
    lines = _lines(keys_run.KEYS, values)
    for name, table, rows in (
        ("online", keys_online.KEYS, [keys_online.values_of(spec) for spec in scenario.online]),
        ("offline", keys_offline.KEYS, [keys_offline.values_of(spec) for spec in scenario.offline]),
        ("fault", keys_fault.KEYS, [keys_fault.values_of(spec) for spec in scenario.faults]),
    ):
        for row in rows:
            lines += ["", f"[[{name}]]", *_lines(table, row)]
    return "\n".join(lines) + "\n"


def _lines(table: keys.Table, values: Mapping[str, Any]) -> list[str]:
    written = keys.write(table, values)
    return [f"{name} = {_toml(text, table[name].flag)}" for name, text in written.items()]


def _toml(text: str | list[str], flag: bool) -> str:
    if isinstance(text, list):
        return f"[{', '.join(_toml(one, flag=False) for one in text)}]"
    if flag or _NUMBER.fullmatch(text):
        return text
    # A TOML text is a JSON text, but for DEL, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
