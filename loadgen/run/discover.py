"""What the target is: its model, its kind, and how long a request may be. Asked once, before anything is planned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from loadgen.errors import BadInput, Unreachable

if TYPE_CHECKING:
    from loadgen.run.server import Server
    from loadgen.spec import Dialect, Scenario

_OWNERS: dict[str, Dialect] = {
    "slackwater": "slackwater",
    "vllm": "vllm",
    "sglang": "sglang",
    "llamacpp": "llamacpp",
}
"""`owned_by` of a model, which most servers set to their own name."""


@dataclass(frozen=True, slots=True)
class Target:
    """`most_tokens`: of prompt and output together, None if the server does not say. `can_tokenize`: it has
    `POST /tokenize`.
    """

    model: str
    dialect: Dialect
    version: str | None
    model_hash: str | None
    most_tokens: int | None
    can_tokenize: bool


def discover(scenario: Scenario, server: Server) -> Target:
    """Look at the target.

    Raises:
        Unreachable: it does not answer within ten seconds, or lists no model.
        BadInput: `--model` is none that it has.
    """
    models = server.wait("/v1/models")
    if models.status in (401, 403):
        raise Unreachable(server.base_url, f"{models.status}: it wants a key; name its variable with --api-key-env")
    listed = _listed(models.json)
    model = _chosen(scenario.model, listed, server.base_url)
    entry = next((each for each in listed if each.get("id") == model), {})
    version = _version(server)
    found = scenario.dialect or _dialect(version, entry)
    length = entry.get("max_model_len")
    return Target(
        model=model,
        dialect=found,
        version=version,
        model_hash=_text(entry.get("text_hash")),
        most_tokens=length if isinstance(length, int) and length > 0 else None,
        can_tokenize=_can_tokenize(server, model),
    )


def _listed(found: Any) -> list[dict[str, Any]]:  # noqa: ANN401 - an answer may be anything
    rows = found.get("data") if isinstance(found, dict) else None
    return [row for row in rows if isinstance(row, dict) and row.get("id")] if isinstance(rows, list) else []


def _chosen(asked: str | None, listed: list[dict[str, Any]], base_url: str) -> str:
    names = [str(row["id"]) for row in listed]
    if asked is None:
        if not names:
            raise Unreachable(base_url, "GET /v1/models lists no model; name one with --model")
        return names[0]
    if names and asked not in names:
        raise BadInput("--model", "", asked, f"the server has {', '.join(names[:5])}", names)
    return asked


def _version(server: Server) -> str | None:
    try:
        reply = server.call("GET", "/version")
    except Unreachable:
        return None
    if reply.status != 200 or not isinstance(reply.json, dict):
        return None
    return _text(reply.json.get("version"))


def _dialect(version: str | None, entry: dict[str, Any]) -> Dialect:
    told = (version or "").lower()
    if "slackwater" in told:
        return "slackwater"
    return _OWNERS.get(str(entry.get("owned_by", "")).lower(), "openai")


def _can_tokenize(server: Server, model: str) -> bool:
    try:
        reply = server.call("POST", "/tokenize", {"model": model, "prompt": "the"})
    except Unreachable:
        return False
    return reply.status == 200 and isinstance(reply.json, dict) and isinstance(reply.json.get("count"), int)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
