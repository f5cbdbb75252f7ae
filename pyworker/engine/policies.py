"""What an engine may be given to decide with. All of it is optional."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyworker.engine.parking import JoinPolicy, JoinWhenCalm
from pyworker.engine.queue import ClassOrder, OrderPolicy

if TYPE_CHECKING:
    from pyworker.engine.interface import GrammarEngine, Speculator


@dataclass(frozen=True, slots=True)
class Policies:
    """`order` is the order of waiting requests, `joins` says when parked rows may go on. Without a `speculator` nothing
    is drafted; without a `grammar` engine requests that have a grammar are refused.
    """

    order: OrderPolicy = field(default_factory=ClassOrder)
    joins: JoinPolicy = field(default_factory=JoinWhenCalm)
    speculator: Speculator | None = None
    grammar: GrammarEngine | None = None
