"""The one base of everything that crosses a file or a socket."""

from typing import Any

import msgspec

JsonObject = dict[str, Any]
"""A decoded JSON object. Its values are JSON values; keys keep the order they were read in."""


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable, and strict on read: an unknown field or a wrong type is an error."""
