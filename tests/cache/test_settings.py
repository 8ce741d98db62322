"""What people say of their tools: read strictly, told clearly, and stronger than what tools say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacherl.cache.identity.normalise import plan_of
from cacherl.cache.lookup.settings import (
    NO_SETTINGS,
    Compare,
    DrawPolicy,
    Settings,
    doubts,
    load_settings,
    marked,
    parse_settings,
    path_of,
    schema_at,
    steps_of,
)
from cacherl.core.errors import RecipeError
from cacherl.core.tools import UNDECLARED, Effects, ToolSpec
from tests.cache.recordings import CANCEL, GET, MYSTERY, SEARCH, SPACE

SPECS = {(SPACE, spec.name): spec for spec in (GET, CANCEL, SEARCH, MYSTERY)}

FILE = """
[tools."shop/get_order"]
reads = ["order:{order_id}"]
writes = []
idempotent = true
max_age_s = 3600
draw = "latest"
compare = "json"
volatile_paths = ["generated_at", "items[].rank"]

[tools.search]
fuzzy_min_score = 0.9
best_effort_min_score = 2
unordered = ["tags"]

[tools.search.kinds]
query = "text"
"filters.code" = "code"
filters.color = "enum"
'legs[]."a.b"' = "id"
"""


def test_a_file_says_everything_there_is_to_say(tmp_path: Path) -> None:
    """One file for kinds, effects, thresholds, ages and draws."""
    path = tmp_path / "cache.toml"
    path.write_text(FILE)
    settings = load_settings(path)

    get, search = settings.rules("shop", "get_order"), settings.rules("any", "search")
    assert (get.reads, get.writes, get.idempotent) == (("order:{order_id}",), (), True)
    assert (get.max_age_s, get.draw, get.compare) == (3600.0, DrawPolicy.LATEST, Compare.JSON)
    assert get.volatile_paths == ("generated_at", "items[].rank")
    assert (search.fuzzy_min_score, search.best_effort_min_score) == (0.9, 2.0)
    assert search.kinds == {
        "query": "text",
        "filters.code": "code",
        "filters.color": "enum",
        'legs[]."a.b"': "id",
    }
    assert settings.rules("market", "get_order") is not get
    assert msgspec.json.decode(msgspec.json.encode(settings), type=Settings) == settings


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[tols.x]", "unknown key 'tols'"),
        ("tools = 3", "`tools` is no table"),
        ("[tools]\nsearch = 3", "[tools.search] is no table"),
        ("[tools.x", "no TOML"),
        ("[tools.'a/x']\nmax_age = 3", '[tools."a/x"]: unknown key \'max_age\' (did you mean \'max_age_s\'?). Allowed are reads'),
        ("[tools.x]\nmax_age_s = 'long'", "[tools.x]: max_age_s: expected"),
        ("[tools.x]\nmax_age_s = 0", "max_age_s is 0.0. Allowed are seconds above 0"),
        ("[tools.x]\nmax_age_s = nan", "max_age_s is nan"),
        ("[tools.x]\nfuzzy_min_score = -0.1", "fuzzy_min_score is -0.1. Allowed is a score in [0, 1]"),
        ("[tools.x]\nbest_effort_min_score = nan", "best_effort_min_score is nan"),
        ("[tools.x]\ndraw = 'lates'", "draw is 'lates' (did you mean 'latest'?). Allowed are sample, sequence, majority, latest"),
        ("[tools.x]\ncompare = 'xml'", "Allowed are bytes, json, fields"),
        ("[tools.x.kinds]\nq = 'txt'", "the kind of q is 'txt' (did you mean 'text'?). Allowed are id, number"),
        ("[tools.x.kinds]\nq = 3", "the kind of q"),
        ("[tools.x]\nkinds = 3", "kinds: expected"),
        ("[tools.x.kinds]\n'a..b' = 'id'", "kinds: 'a..b' is no path (a name is missing at '.b')"),
        ("[tools.x.kinds]\n'[]' = 'id'", "'[]' is no path"),
        ("[tools.x]\nunordered = ['a[]b']", "unordered: 'a[]b' is no path (a dot is missing before 'b')"),
        ("[tools.x]\nreads = 'order'", "[tools.x]: reads: expected"),
        ("[tools.x]\nreads = ['order:{id']", "reads: 'order:{id' names no resource"),
        ("[tools.x]\nwrites = ['']", "writes: '' names no resource"),
        ("[tools.x]\nreads = ['order:{}']", "names no resource"),
    ],
)  # fmt: skip
def test_what_is_not_allowed_is_one_line(text: str, expected: str) -> None:
    """File, tool, key, what is allowed and what was probably meant."""
    with pytest.raises(RecipeError) as caught:
        parse_settings(text, "cache.toml")

    assert str(caught.value).startswith("cache.toml: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    """And how to get one to start from."""
    with pytest.raises(RecipeError, match=r"No such file.*--write"):
        load_settings(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"[tools.caf\xe9]")
    with pytest.raises(RecipeError, match="byte 10 is no UTF-8"):
        load_settings(tmp_path / "latin.toml")


def test_a_tools_file_says_effects_to_a_cache_as_well() -> None:
    """Who corrects a server's word for its live tools need not write it again for its recordings."""
    said = """
        namespace = "office"
        [policy]
        timeout_s = 10
        [mcp.files]
        command = "mcp-server-filesystem"
        [tools.read_text_file]
        reads = ["file:{path}"]
        writes = []
        timeout_s = 5
        [tools.move_file]
        hide = true
    """

    settings = parse_settings(said, "tools.toml")

    assert settings.rules("files", "read_text_file").reads == ("file:{path}",)
    assert settings.rules("files", "read_text_file").writes == ()
    assert settings.rules("files", "move_file").reads is None
    with pytest.raises(RecipeError, match=r"tools.toml: \[tools.x\]: unknown key 'raeds'"):
        parse_settings(said + '[tools.x]\nraeds = ["a"]\n', "tools.toml")


def test_what_fits_no_recorded_tool_is_told(tmp_path: Path) -> None:
    """A misspelt tool would otherwise be a setting that never holds."""
    settings = parse_settings(
        """
        [tools.serch]
        [tools."shop/get_order"]
        reads = ["order:{orderid}", "x:{result.y}"]
        [tools.search]
        unordered = ["shelf"]
        kinds = { quary = "text", "shelf.row" = "id" }
        [tools.mystery.kinds]
        anything = "id"
        """,
        "cache.toml",
    )

    assert doubts(settings, SPECS) == (
        "search: kinds name quary, and it has no such parameter (did you mean 'query'?)",
        "no tool 'serch' is recorded (did you mean 'search'?)",
        "shop/get_order: its effects name {orderid}, and it has no such parameter "
        "(did you mean 'order_id'?)",
    )
    assert doubts(NO_SETTINGS, SPECS) == ()


def test_settings_win_over_what_the_tool_declares() -> None:
    """Declarations come from whoever wrote the server; the person at the terminal knows better."""
    settings = parse_settings(
        """
        [tools.mystery]
        reads = ["page:{url}"]
        writes = []
        open_world = true
        unordered = ["tags"]
        kinds = { "filter.sql" = "code", tags = "enum" }
        """,
        "cache.toml",
    )
    spec = settings.applied(SPACE, MYSTERY)

    assert spec.effects == Effects(reads=("page:{url}",), open_world=True)
    tags = plan_of(spec).normal({"tags": ["b", "a"], "filter": {"sql": "a  b"}})
    assert tags.arguments == {"tags": ["a", "b"], "filter": {"sql": "a  b"}}
    assert settings.applied(SPACE, GET) is GET
    assert MYSTERY.effects == UNDECLARED

    partial = parse_settings("[tools.mystery]\nidempotent = true", "cache.toml")
    expected = Effects(reads=("*",), writes=("*",), idempotent=True)
    assert partial.applied(SPACE, MYSTERY).effects == expected


STEPS = st.lists(
    st.text(min_size=1).filter(lambda step: step != "[]"), min_size=1, max_size=4
).flatmap(lambda names: st.permutations([*names, *["[]"] * (len(names) // 2)]))


@given(STEPS.filter(lambda steps: steps[0] != "[]"))
def test_every_path_can_be_written_and_read(steps: list[str]) -> None:
    """Whatever a tool's author calls a parameter, settings can name it."""
    assert steps_of(path_of(steps)) == tuple(steps)


NESTED: dict[str, Any] = {
    "type": "object",
    "properties": {
        "leg": {"anyOf": [{"$ref": "#/$defs/leg"}, {"type": "null"}]},
        "legs": {"type": "array", "items": {"$ref": "#/$defs/leg"}},
        "extra": {"type": "object", "additionalProperties": {"type": "integer"}},
    },
    "$defs": {
        "leg": {
            "type": "object",
            "properties": {
                "from": {"type": "string", "description": "city"},
                "stops": {"type": "integer", "default": 0},
                "next": {"anyOf": [{"$ref": "#/$defs/leg"}, {"type": "null"}]},
            },
        },
        "self": {"anyOf": [{"$ref": "#/$defs/self"}, {"type": "null"}]},
    },
}


@pytest.mark.parametrize("path", ["leg.from", "legs[].from", "leg.next.from"])
def test_a_mark_behind_a_reference_keeps_what_stands_beside_it(path: str) -> None:
    """Marking one field must not make its neighbours unknown: their normal form would change."""
    after = marked(NESTED, steps_of(path), "x-kind", "id")
    leg = {"from": "Oslo", "stops": "2"}
    arguments = {"leg": leg, "legs": [leg], "extra": {"a": "3"}}

    def normal(schema: dict[str, Any]) -> bytes:
        spec = ToolSpec(name="book", description="", parameters=schema)
        return plan_of(spec).normal(arguments).canonical

    assert normal(after) == normal(NESTED)
    assert schema_at(after, steps_of(path)) == {
        "type": "string",
        "description": "city",
        "x-kind": "id",
    }
    assert schema_at(NESTED, steps_of(path)) == {"type": "string", "description": "city"}


def test_places_of_a_schema_are_found_or_not() -> None:
    """Nothing said is not the same as a place that says nothing."""
    assert schema_at(NESTED, ("extra", "a")) == {"type": "integer"}
    assert marked(NESTED, ("extra", "a"), "x-kind", "id")["properties"]["extra"]["properties"] == {
        "a": {"type": "integer", "x-kind": "id"}
    }
    assert schema_at(NESTED, ("leg", "gone")) is None
    assert schema_at({"$ref": "#/$defs/self", **NESTED}, ("x",)) is None
    assert schema_at({"$ref": "elsewhere.json"}, ("x",)) is None
