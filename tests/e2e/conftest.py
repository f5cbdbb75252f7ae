"""Servers that several tests share; each is a real process with real workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.server import Server

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def oracle() -> Iterator[Server]:
    """One oracle worker: tokens that anybody can recompute, 1 ms a step."""
    command = "slackwater-worker --sim --step-micros 1000,10"
    with Server("serve", "sim", "--worker-command", command) as server:
        yield server.wait_ready()


@pytest.fixture(scope="session")
def tiny() -> Iterator[Server]:
    """The toy model on the backend that `make serve` uses."""
    with Server("serve", "tiny") as server:
        yield server.wait_ready()
