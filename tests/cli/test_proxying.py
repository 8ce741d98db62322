"""What is said of tools when they are recorded holds when they are replayed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cacherl.cache.lookup.tool_cache import ToolCache
from tests.adapters.through import text, wired

PLAIN = ("--", sys.executable, str(Path(__file__).parents[1] / "proxy" / "plain_server.py"))


def test_settings_of_a_recording_are_kept_for_its_replay(tmp_path: Path) -> None:
    """Under other effects a recording means something else: who forgets the file would miss everything.

    The server says that a cancellation changes the order; we know that it only opens a ticket.
    """
    cache, settings = str(tmp_path / "a.cache"), tmp_path / "tools.toml"
    settings.write_text(
        'namespace = "shop"\n[tools.cancel_order]\nreads = []\nwrites = ["ticket:{order_id}"]\n'
    )
    with wired("--record", cache, "--settings", str(settings), *PLAIN) as wire:
        wire.hello()
        first = wire.call(1, "get_order", order_id="A-1")
        wire.call(2, "cancel_order", order_id="A-1")
        wire.end()
        wire.rest()

    with wired("--replay", cache) as wire:
        wire.hello()
        wire.call(1, "cancel_order", order_id="A-1")
        again = json.loads(wire.call(2, "get_order", order_id="A-1"))["result"]

    assert text(again) == text(json.loads(first)["result"])
    assert again["_meta"]["cacherl/tier"] == "exact"
    with ToolCache.open(cache) as found:
        assert found.settings.rules("shop", "cancel_order").writes == ("ticket:{order_id}",)
