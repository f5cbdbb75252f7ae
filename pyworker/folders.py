"""Where files go when nobody says otherwise. The router follows the same rule.

A variable that is set to nothing counts as not set.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pyworker.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


def cache_dir(env: Mapping[str, str] = os.environ) -> Path:
    """Folder of converted models: `SLACKWATER_CACHE`, else `$XDG_CACHE_HOME/slackwater`, else `~/.cache/slackwater`."""
    if own := env.get("SLACKWATER_CACHE"):
        return Path(own)
    return _base(env, "XDG_CACHE_HOME", ".cache") / "slackwater"


def state_dir(flag: str | None = None, env: Mapping[str, str] = os.environ) -> Path:
    """Folder of what must last: `--state-dir`, else `$XDG_STATE_HOME/slackwater`, else `~/.local/state/slackwater`."""
    if flag:
        return Path(flag)
    return _base(env, "XDG_STATE_HOME", ".local/state") / "slackwater"


def worker_socket(state: Path, env: Mapping[str, str] = os.environ) -> Path:
    """The router's socket for workers: `$XDG_RUNTIME_DIR/slackwater/worker.sock`, else `worker.sock` in `state`."""
    if runtime := env.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "slackwater" / "worker.sock"
    return state / "worker.sock"


def _base(env: Mapping[str, str], variable: str, below_home: str) -> Path:
    if base := env.get(variable):
        return Path(base)
    home = env.get("HOME")
    if not home:
        raise ConfigError("HOME", "(not set)", f"set it, or {variable}")
    return Path(home) / below_home
