"""`chat:FILE`: Schema-Guided Dialogues: real turns of a user, and what the system replied.

Calls of services are told in the reply as they were made; their results stand before it, as a tool's answer would.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from loadgen.errors import BadData
from loadgen.plan.rows import SourceRow
from loadgen.plan.sources import files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Dialogues:
    """See the module."""

    has_times = False

    def __init__(self, path: Path, tools: bool = True) -> None:
        """`tools`: with calls and results in the replies."""
        self.name = f"chat:{path.name}"
        self._path, self._tools = path, tools

    def rows(self) -> Iterator[SourceRow]:
        """See `Source`: one row a turn of the user, `answer` is the system's turn after it."""
        path = self._path
        for row, values in files.json_rows(path, ("dialogue_id", "turns")):
            name = files.text(path, row, "dialogue_id", values["dialogue_id"])
            turns = values["turns"]
            if not isinstance(turns, list) or not turns or len(turns) % 2:
                raise BadData(str(path), row, "turns", "not a list of turns in pairs")
            for number in range(0, len(turns), 2):
                text = self._said(row, turns[number], "USER")
                reply = self._said(row, turns[number + 1], "SYSTEM")
                yield SourceRow(text=text, answer=reply, session=name, turn=number // 2)

    def _said(self, row: int, turn: object, speaker: str) -> str:
        if not isinstance(turn, dict) or turn.get("speaker") != speaker:
            raise BadData(str(self._path), row, "turns", f"expected a turn of {speaker}")
        spoken = files.text(self._path, row, "utterance", turn.get("utterance"))
        if not self._tools or not turn.get("service_calls"):
            return spoken
        calls = msgspec.json.encode(turn["service_calls"], order="deterministic").decode()
        results = msgspec.json.encode(turn.get("service_results", []), order="deterministic").decode()
        return f"{calls}\n{results}\n{spoken}"


def tools_of(path: Path) -> list[dict[str, Any]]:
    """The schema's intents as tools of a chat request.

    Raises:
        BadData: not the data set's schema.
    """
    found: list[dict[str, Any]] = []
    try:
        for service in msgspec.json.decode(path.read_bytes()):
            slots = {slot["name"]: slot for slot in service["slots"]}
            found += [_tool(service["service_name"], intent, slots) for intent in service["intents"]]
    except (OSError, msgspec.DecodeError, KeyError, TypeError) as error:
        raise BadData(str(path), 0, "", f"not a schema of services: {error!r}") from error
    return found


def _tool(service: str, intent: dict[str, Any], slots: dict[str, dict[str, Any]]) -> dict[str, Any]:
    names = [*intent["required_slots"], *intent["optional_slots"]]
    properties = {name: {"type": "string", "description": slots[name]["description"]} for name in names}
    return {
        "type": "function",
        "function": {
            "name": f"{service}_{intent['name']}",
            "description": intent["description"],
            "parameters": {"type": "object", "properties": properties, "required": intent["required_slots"]},
        },
    }
