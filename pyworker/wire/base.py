"""Base of all wire messages: keyword fields, no unknown ones, no defaults."""

from __future__ import annotations

import msgspec


class WireStruct(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What every message inherits. A field that the schema does not name is an error, as on the Rust side."""
