"""Asks the mock behind a router what it was asked: calls by route, which shows the extra work of some routers."""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

_MOST_BYTES = 1 << 20


def routes(control: str) -> dict[str, int]:
    """Calls by route; empty where nobody answers. `control`: address of the mock."""
    found = (get_json(f"{control}/mock/routes") or {}).get("routes")
    return {name: count for name, count in found.items() if isinstance(count, int)} if isinstance(found, dict) else {}


def get_json(address: str, within: float = 5.0) -> Mapping[str, Any] | None:
    """A JSON object of this machine; None: no such answer."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=within)
    try:
        connection.request("GET", parts.path)
        reply = connection.getresponse()
        found = json.loads(reply.read(_MOST_BYTES))
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return found if reply.status == 200 and isinstance(found, dict) else None
