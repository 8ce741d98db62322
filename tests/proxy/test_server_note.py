"""What a recorded server says of itself to clients of other versions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.proxy.messages import HANDSHAKE_VERSIONS
from cacherl.proxy.server_note import ServerNote, agreed, keep_server, kept_server

VERSIONS = st.sampled_from(HANDSHAKE_VERSIONS)


def test_the_versions_are_those_of_the_library_that_carries_them() -> None:
    """A version that it learns and we do not would be turned away."""
    assert HANDSHAKE_VERSIONS == HANDSHAKE_PROTOCOL_VERSIONS


@pytest.mark.parametrize(
    ("wanted", "said", "offered", "answer"),
    [
        ("2025-06-18", "2025-11-25", "2025-11-25", "2025-06-18"),
        ("2025-11-25", "2025-06-18", "2025-06-18", "2025-11-25"),
        ("2025-11-25", "2024-11-05", "2025-06-18", "2024-11-05"),  # it knows no newer
        ("2025-03-26", "2025-06-18", "2025-11-25", "2025-03-26"),
        ("2025-06-18", "2025-11-25", None, "2025-06-18"),
        ("2031-01-01", "2025-11-25", "2025-11-25", "2025-11-25"),
        (None, "2025-11-25", None, "2025-11-25"),
        ([], "2025-11-25", None, "2025-11-25"),
        ("2025-06-18", "1999", "2025-11-25", "2025-06-18"),
        ("2025-06-18", None, None, "2025-06-18"),
    ],
)
def test_a_client_is_answered_its_own_version_where_the_server_would(
    wanted: object, said: object, offered: str | None, answer: str
) -> None:
    """Clients turn away from a version that they do not know."""
    assert agreed(wanted, said, offered=offered) == answer


@given(VERSIONS, VERSIONS, VERSIONS)
def test_a_server_is_replayed_as_the_protocol_has_it_negotiate(
    newest: str, recorded_with: str, wanted: str
) -> None:
    """Such a server answers the version it is asked for, or the newest it knows."""

    def live(asked: str) -> str:
        return min(asked, newest, key=HANDSHAKE_VERSIONS.index)

    note = ServerNote(
        initialize={"protocolVersion": live(recorded_with), "capabilities": {}},
        asked=recorded_with,
    )
    answer = note.greeting({"protocolVersion": wanted})["protocolVersion"]
    unknown = live(recorded_with) == recorded_with and wanted > recorded_with
    assert answer == (wanted if unknown else live(wanted))


def test_what_was_asked_for_stands_beside_the_answer() -> None:
    """A later session that only lists says nothing of it."""
    with ToolCache.open(":memory:") as cache:
        hello = {"protocolVersion": "2024-11-05", "capabilities": {}}
        keep_server(cache, "shop", ServerNote(initialize=hello, asked="2025-06-18"))
        keep_server(cache, "shop", ServerNote(lists={"tools/list": {"tools": []}}))
        kept = kept_server(cache, "shop")
    assert kept == ServerNote(
        initialize=hello, asked="2025-06-18", lists={"tools/list": {"tools": []}}
    )
