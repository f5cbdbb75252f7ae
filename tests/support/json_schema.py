"""The part of JSON Schema that the committed schemas use, for tests: where a value breaks one, a path and a reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_TYPES: dict[str, tuple[type, ...]] = {
    "null": (type(None),),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "array": (list,),
    "object": (dict,),
}
_LOOKED_AT = {"$ref", "anyOf", "type", "enum", "const", "properties", "required", "additionalProperties", "items"}
_KNOWN = _LOOKED_AT | {"$defs", "title", "description", "default", "version", "$schema"}


def broken(value: object, schema: dict[str, Any], root: dict[str, Any] | None = None, path: str = "$") -> Iterator[str]:
    """Every place at which `value` is not what `schema` says.

    Raises:
        AssertionError: a schema with a word that is not looked at here.
    """
    root = schema if root is None else root
    assert schema.keys() <= _KNOWN, schema.keys() - _KNOWN
    if "$ref" in schema:
        yield from broken(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root, path)
    if "anyOf" in schema and all(any(broken(value, each, root)) for each in schema["anyOf"]):
        yield f"{path}: fits none of {len(schema['anyOf'])} forms"
    if "const" in schema and value != schema["const"]:
        yield f"{path}: {value!r} is not {schema['const']!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is none of {schema['enum']}"
    if "type" in schema and not _is(value, schema["type"]):
        yield f"{path}: {value!r} is no {schema['type']}"
    elif isinstance(value, dict):
        yield from _object(value, schema, root, path)
    elif isinstance(value, list) and "items" in schema:
        for place, each in enumerate(value):
            yield from broken(each, schema["items"], root, f"{path}[{place}]")


def _object(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], path: str) -> Iterator[str]:
    known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
    yield from (f"{path}: {name} is missing" for name in schema.get("required", ()) if name not in value)
    for name, each in value.items():
        if name in known:
            yield from broken(each, known[name], root, f"{path}.{name}")
        elif isinstance(others, dict):
            yield from broken(each, others, root, f"{path}.{name}")
        elif others is False or known:
            # The schemas leave room for later keys, the program writes none.
            yield f"{path}: {name} is not in the schema"


def _is(value: object, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES[kind])
