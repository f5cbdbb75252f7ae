"""Which kind of source a bare file is, by what stands in its first line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from loadgen.errors import BadData
from loadgen.plan.sources import files

if TYPE_CHECKING:
    from pathlib import Path

_COLUMNS = {
    "azure": {"TIMESTAMP", "ContextTokens", "GeneratedTokens"},
    "burstgpt": {"time_bin", "session_count"},
    "lengths": {"num_prefill_tokens", "num_decode_tokens"},
    "mmlu": {"subject", "question", "answer"},
    "servegen": {"client_id", "rate_rps"},
}
_FIELDS = {
    "mooncake": {"timestamp", "input_length", "output_length", "hash_ids"},
    "agent": {"timestamp", "input", "output", "session_id"},
    "chat": {"dialogue_id", "turns"},
    "work": {"version", "seed", "jobs", "requests", "window"},
    "gsm8k": {"question", "answer"},
    "servegen": {"client_id", "input_tokens"},
}
_PROMPTS = ({"turns"}, {"prompt"}, {"text"})
_DOCUMENTS = ({"meeting_transcripts"}, {"document", "questions"}, {"input", "qa_pairs"})


def kind_of(path: Path) -> str:
    """A name of `sources`.

    Raises:
        BadData: none that is known, or half of one that wants two files.
    """
    _, first = next(files.lines(path), (0, ""))
    found = _of_json(first) if first.lstrip().startswith("{") else _of_csv(first)
    if found == "servegen":
        raise BadData(str(path), 0, "", "is half of a ServeGen profile; write servegen:RATES+LENGTHS")
    if found is None:
        raise BadData(str(path), 1, "", "no source begins so; write KIND:FILE, such as azure:FILE")
    return found


def _of_csv(first: str) -> str | None:
    header = {name.strip() for name in first.split(",")}
    return next((kind for kind, wanted in _COLUMNS.items() if wanted <= header), None)


def _of_json(first: str) -> str | None:
    try:
        value = msgspec.json.decode(first)
    except msgspec.DecodeError:
        return None
    fields = set(value) if isinstance(value, dict) else set()
    for kind, wanted in _FIELDS.items():
        if wanted <= fields:
            return kind
    if any(wanted <= fields for wanted in _DOCUMENTS):
        return "documents"
    return "prompts" if any(wanted <= fields for wanted in _PROMPTS) else None
