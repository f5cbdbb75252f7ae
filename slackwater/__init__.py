"""Serves a language model to people who wait and to jobs that do not, on the same workers.

`LLM` runs a model in this process; `Worker` joins a running router with an `Engine` of this process. The names are
looked up when they are first used, so that importing this package needs no torch.
"""

from __future__ import annotations

import importlib
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyworker.engine.interface import Engine
    from pyworker.engine.request import Grammar, GrammarKind, SamplingParams
    from pyworker.llm import LLM
    from pyworker.worker import Worker

__all__ = ["LLM", "Engine", "Grammar", "GrammarKind", "SamplingParams", "Worker"]

_HOMES = {
    "LLM": "llm",
    "Engine": "engine.interface",
    "Grammar": "engine.request",
    "GrammarKind": "engine.request",
    "SamplingParams": "engine.request",
    "Worker": "worker",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"pyworker.{_HOMES[name]}"), name)


def main() -> None:
    """The program `slackwater`: exits with the status of the Rust side."""
    from slackwater import _native

    # Ctrl-C is the router's from here on; Python's own handler would raise once more after a clean stop.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(_native.main(sys.argv))
