"""The server's prefix cache at the start of a run, as `--cache` wants it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from loadgen.errors import BadInput, Unreachable
from loadgen.plan.dialects import SALTED
from loadgen.run.server import Server

if TYPE_CHECKING:
    from loadgen.run.discover import Target
    from loadgen.spec import Scenario

ADMIN_CLEAR = "/admin/cache/clear"
PRIMED_MOST = 4096
"""Prefixes that are sent before the run."""


@dataclass(frozen=True, slots=True)
class CacheState:
    """`words`: for the result. `cache_salt`: a field of each request. `prompt_salt`: words that replace the first of
    each prompt. At most one of the two is there.
    """

    words: str
    cache_salt: str | None = None
    prompt_salt: str = ""


def cache_state(scenario: Scenario, target: Target, admin_key: str | None) -> CacheState:
    """Make the cache cold by the surest way that there is: a reset, else a salt of the server's, else one of the words.

    Raises:
        BadInput: the reset that was asked for does not answer 2xx.
    """
    if scenario.cache == "as-is":
        return CacheState("as-is: whatever earlier requests left")
    state = _cold(scenario, target, admin_key)
    if scenario.cache == "primed":
        return CacheState(f"primed with the plan's shared prefixes, {state.words} before", *_salts(state))
    return state


def _salts(state: CacheState) -> tuple[str | None, str]:
    return state.cache_salt, state.prompt_salt


def _cold(scenario: Scenario, target: Target, admin_key: str | None) -> CacheState:
    if scenario.reset_url is not None:
        parts = urlsplit(scenario.reset_url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        status = _post(Server(f"{parts.scheme}://{parts.netloc}", admin_key), path or "/")
        if status is None or not 200 <= status < 300:
            raise BadInput("--reset-url", "", scenario.reset_url, f"answered {status or 'nothing'}, wanted 2xx")
        return CacheState("cold: reset")
    if scenario.admin_url is not None and target.dialect == "slackwater":
        status = _post(Server(scenario.admin_url, admin_key), ADMIN_CLEAR)
        if status is not None and 200 <= status < 300:
            return CacheState("cold: reset")
    # Each run has its own: nothing that an earlier run left is found, and what this run shares is shared.
    salt = secrets.token_hex(8)
    if target.dialect in SALTED:
        return CacheState("cold: cache_salt", cache_salt=salt)
    return CacheState("cold: first words", prompt_salt=salt)


def _post(server: Server, path: str) -> int | None:
    try:
        return server.call("POST", path).status
    except Unreachable:
        return None
    finally:
        server.close()
