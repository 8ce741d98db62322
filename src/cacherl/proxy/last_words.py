"""What a server wrote to standard error before it ended: the one line that tells why. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

_TELLS_WHY = re.compile(r"error|exception|fatal|panic|cannot|not found|denied", re.IGNORECASE)
_NOISE = re.compile(
    r"at \S|File \"|Node\.js v|npm (error|ERR!)?\s*A complete log|[\W_]*$|\w+: [\w'\[\]]*,?$"
)
"""Frames of a stack, what node and npm write below an error, rules and carets."""
_SHOWN = 200


def last_words(lines: Iterable[str]) -> str:
    """Return the last line that tells why a program ended; the last of all where none does."""
    said = [" ".join(line.split()) for line in lines]
    telling = [line for line in said if line and not _NOISE.match(line)]
    why = [line for line in telling if _TELLS_WHY.search(line)]
    return next(iter((why or telling or [line for line in said if line])[-1:]), "")[:_SHOWN]
