"""What the `cacherl cache` commands tell."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from cacherl.cache.identity.state import touches_no_more
from cacherl.cache.lookup import queries
from cacherl.cache.lookup.settings import Settings, ToolRules, load_settings
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cli import main
from cacherl.core.errors import CacheError, RecipeError
from cacherl.core.tasks import Split
from cacherl.core.tools import UNDECLARED, Effects, Tier, ToolSpec
from tests.cache.recordings import (
    CANCEL,
    GET,
    MYSTERY,
    SEARCH,
    SPACE,
    call,
    result,
    task,
    trajectory,
)
from tests.cache.test_kinds import WISHES


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "tools.cache"
    with ToolCache.open(made, mode="write") as cache:
        for space in (SPACE, "market"):
            for order in ("A", "B"):
                asked = call(GET, order_id=order)
                answer = result(asked, f"{space} {order}")
                cache.record(space, GET, asked, answer, scenario="s", split=Split.TRAIN)
    return made


def test_a_call_is_looked_up_by_name_and_json(path: Path) -> None:
    """The schema is read from the cache, so normalisation works at the terminal too."""
    hit = queries.lookup(path, "get_order", '{"order_id": " A"}', namespace=SPACE)

    assert hit.tier is Tier.EXACT
    assert hit.observation is not None
    assert hit.observation.text == "shop A"
    assert queries.explain(path, "get_order", '{"order_id": "C"}', namespace=SPACE).closest


def test_stats_count_and_verify(path: Path) -> None:
    """The first thing to look at after recording."""
    stats = queries.stats(path)

    assert (stats.calls, stats.scenarios, stats.by_split) == (4, 1, {"train": 4})
    assert [(tool.namespace, tool.calls) for tool in stats.tools] == [("market", 2), ("shop", 2)]


WEATHER = ToolSpec(
    name="weather",
    description="",
    parameters={"type": "object", "properties": {"city": {"type": "string"}}},
    effects=Effects(reads=("*",), open_world=True),
)


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """An episode with a write in it, and tools that say little of themselves."""
    made = tmp_path / "shop.cache"
    steps = [
        (call(GET, order_id="A-1"), "paid"),
        (call(CANCEL, order_id="A-1"), "done"),
        (call(GET, order_id="A-1"), "cancelled"),
        (call(GET, order_id="A-2"), "paid"),
        (call(SEARCH, query="red shoes", shelf="S1"), "shoes!"),
        *((call(MYSTERY, wish=wish, sku=f"K-{n}"), "ok") for n, wish in enumerate(WISHES)),
        *((call(WEATHER, city=city), "rain") for city in ("Oslo", "Rome", "Bern")),
    ]
    with ToolCache.open(made, mode="write") as cache:
        asked = task(tools=[GET, CANCEL, SEARCH, MYSTERY, WEATHER])
        cache.record_trajectory(asked, trajectory(*((c, result(c, text)) for c, text in steps)))
    return made


def test_an_explanation_shows_both_values(shop: Path) -> None:
    """A mistyped id shares no field with the right one; the eye still finds it first."""
    found = queries.explain(shop, "get_order", '{"order_id": " A-3"}')

    assert found.hit.tier is Tier.MISS
    assert (found.asked, found.arguments) == ('{"order_id":" A-3"}', '{"order_id":"A-3"}')
    assert found.fired == ("order_id: white space",)
    assert found.kinds == {"order_id": "id"}
    assert found.origins == {"order_id": "schema"}
    near = found.closest[0]
    [difference] = near.differences
    assert (difference.path, difference.kind, difference.asked) == ("order_id", "id", '"A-3"')
    assert difference.recorded in ('"A-1"', '"A-2"')  # both are as near
    assert near.not_fuzzy == "an identity field differs"
    assert found.tiers["exact"] == "not recorded"
    assert "no free text" in found.tiers["fuzzy"]
    assert "0.30 is asked for" in found.tiers["best_effort"]


def test_an_explanation_names_the_guard_the_limits_and_the_state(
    shop: Path, tmp_path: Path
) -> None:
    """Why not FUZZY, by which threshold, and what the episode did before."""
    where = json.dumps({"query": "no red shoes", "shelf": "S1"})
    found = queries.explain(shop, "search", where)
    assert found.tiers["fuzzy"] == "query: a negation differs"
    assert found.fuzzy_min_score == queries.Limit(value=0.8, origin="default")
    assert [d.path for d in found.differences] == ["query"]

    settings = tmp_path / "cache.toml"
    settings.write_text("[tools.search]\nbest_effort_min_score = 0.95\nmax_age_s = 60")
    strict = queries.explain(shop, "search", where, settings=settings)
    assert strict.hit.tier is Tier.MISS
    assert strict.best_effort_min_score == queries.Limit(value=0.95, origin="settings")
    assert strict.max_age_s == queries.Limit(value=60.0, origin="settings")

    exact = queries.explain(shop, "search", json.dumps({"query": "red shoes", "shelf": "S1"}))
    assert exact.tiers == {"exact": "recorded, 1 observations to draw from"}
    assert exact.closest[0].differences == ()


def test_earlier_calls_of_the_episode_tell_the_state(shop: Path) -> None:
    """Nobody knows state keys by heart."""
    cancel = '{"name": "cancel_order", "arguments": {"order_id": "A-1"}}'
    get = '{"function": {"name": "get_order", "arguments": "{\\"order_id\\": \\"A-1\\"}"}}'

    before, after = queries.explain(shop, get), queries.explain(shop, get, after=[cancel])
    assert (before.hit.tier, after.hit.tier) == (Tier.EXACT, Tier.EXACT)
    assert before.hit.observation is not None
    assert after.hit.observation is not None
    assert (before.hit.observation.text, after.hit.observation.text) == ("paid", "cancelled")
    assert before.states == after.states == ("", after.state)
    assert after.after == ('cancel_order {"order_id":"A-1"}: taken as done',)
    assert queries.lookup(shop, get, after=[cancel]) == after.hit

    twice = queries.explain(shop, get, after=[cancel, cancel, get])
    assert twice.hit.tier is Tier.BEST_EFFORT
    assert twice.after[1].endswith("though not recorded in this state")
    assert twice.after[2].endswith("reads only: changes no state")
    assert "recorded in 2 other states only" in twice.tiers["exact"]
    other = queries.explain(shop, "get_order", '{"order_id": "A-2"}', after=[cancel])
    assert other.state == ""
    with pytest.raises(RecipeError, match="Choose one of"):
        queries.lookup(shop, get, after=[cancel], state="00")
    with pytest.raises(RecipeError, match="no call"):
        queries.lookup(shop, '{"nam": "x"}')


def test_tools_say_what_is_believed_of_them_and_why(shop: Path) -> None:
    """Before anybody trusts a hit, they can check what it rests on."""
    found = {view.tool: view for view in queries.tools(shop).tools}

    mystery = found["mystery"]
    assert mystery.effects_from == "nothing"
    assert "counts as a writer of everything" in mystery.warnings[0]
    wish, sku = mystery.parameters[1], mystery.parameters[0]
    assert (wish.path, wish.kind, wish.origin, wish.n) == ("wish", "text", "inferred", 12)
    assert wish.evidence == "12 of 12 different values are sentences"
    assert (sku.path, sku.kind, sku.origin) == ("sku", "id", "name")
    weather = found["weather"]
    assert weather.open_world
    assert any("max_age_s" in warning for warning in weather.warnings)
    assert any("name resources" in warning for warning in weather.warnings)
    city = weather.parameters[0]
    assert (city.kind, city.origin) == ("by value", "value")
    get = found["get_order"]
    assert (get.effects_from, get.calls, get.warnings) == ("tool", 3, ())
    assert (get.draw, get.draw_from, get.max_age_s) == ("sample", "default", None)


def test_the_file_to_start_from_says_what_holds_already(shop: Path, tmp_path: Path) -> None:
    """Writing it, or taking the # off every line of it, changes nothing that was believed."""
    file = tmp_path / "cache.toml"
    queries.write_starter(shop, file)
    text = file.read_text()
    before = queries.tools(shop)

    assert load_settings(file) == Settings(
        tools={f"shop/{view.tool}": ToolRules() for view in before.tools}
    )
    file.write_text(re.sub(r"^# (?=[\w\"\[]+.* = |\[)", "", text, flags=re.MULTILINE))
    for old, new in zip(before.tools, queries.tools(shop, settings=file).tools, strict=True):
        assert (new.reads, new.writes, new.idempotent) == (old.reads, old.writes, old.idempotent)
        kinds = [p.kind if p.kind != "by value" else "entity" for p in old.parameters]
        assert [p.kind for p in new.parameters] == kinds
        assert {p.origin for p in new.parameters} <= {"settings"}
    with pytest.raises(RecipeError, match="is there already"):
        queries.write_starter(shop, file)


def test_settings_that_were_kept_are_written_and_read_again(shop: Path, tmp_path: Path) -> None:
    """Nothing that somebody decided is lost by asking for a file."""
    file, again = tmp_path / "cache.toml", tmp_path / "again.toml"
    file.write_text(
        """
        [tools.mystery]
        reads = ["wish:{wish}"]
        writes = []
        draw = "latest"
        volatile_paths = ["at"]
        [tools.mystery.kinds]
        'a."b.c"[]' = "code"
        wish = "text"
        [tools.'other/"x"']
        max_age_s = 5
        """
    )
    applied = queries.apply(shop, file)
    assert applied.changed == applied.narrowed == ("shop/mystery",)
    assert any('other/"x"' in doubt for doubt in applied.doubts)
    assert queries.tools(shop).settings == "kept with the cache"

    queries.write_starter(shop, again)
    kept = {
        name: rules for name, rules in load_settings(again).tools.items() if rules != ToolRules()
    }
    assert kept == load_settings(file).tools
    mystery = queries.explain(shop, "mystery", '{"wish": "x"}')
    assert mystery.origins == {"wish": "schema"}
    assert "never" not in mystery.tiers["fuzzy"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("[tools.get_order]\nreads = ['*']", "read or write more than when it was recorded"),
        ("[tools.search]\nwrites = ['article:*']", "read or write more"),
        ("[tools.search.kinds]\nshelf = 'volatile'", "rekey"),
        ("[tools.serch.kinds]\nshelf = 'txt'", "did you mean"),
    ],
)
def test_settings_under_which_recordings_would_lie_are_not_kept(
    shop: Path, tmp_path: Path, said: str, expected: str
) -> None:
    """A recording from after a write must not pass for one from before it."""
    file = tmp_path / "cache.toml"
    file.write_text(said)
    with pytest.raises((CacheError, RecipeError), match=expected):
        queries.apply(shop, file)
    assert queries.tools(shop).settings == "none"
    file.write_text("")
    with pytest.raises(CacheError, match="no such cache"):
        queries.apply(tmp_path / "typo", file)
    assert not (tmp_path / "typo").exists()


ORDER, ORDERS = Effects(reads=("order:{id}",)), Effects(reads=("order:*",))


@pytest.mark.parametrize(
    ("old", "new", "no_more"),
    [
        (UNDECLARED, ORDER, True),
        (ORDERS, ORDER, True),
        (ORDER, ORDERS, False),
        (ORDER, Effects(), True),
        (Effects(), ORDER, False),
        (Effects(writes=("order",)), Effects(reads=("order:{id}",), writes=("order:{id}",)), True),
        (Effects(writes=("order:{result.id}",)), Effects(writes=("order:*",)), False),
        (Effects(reads=("{kind}:*",)), Effects(reads=("{kind}:1",)), False),
        (UNDECLARED, msgspec.structs.replace(UNDECLARED, idempotent=True), True),
        (msgspec.structs.replace(UNDECLARED, idempotent=True), UNDECLARED, False),
    ],
)
def test_effects_may_shrink_but_not_grow(old: Effects, new: Effects, no_more: bool) -> None:
    """Under smaller effects, a recording that no write touched is still one that none touched."""
    assert touches_no_more(old, new) is no_more


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["cache", *map(str, arguments)])


def test_the_terminal_shows_tools_and_explanations(shop: Path, tmp_path: Path) -> None:
    """What people see, from looking to keeping."""
    file = tmp_path / "cache.toml"
    shown = run("tools", shop, "--write", file)
    assert shown.exit_code == 0
    assert "wish" in shown.output
    assert "inferred" in shown.output
    assert f"--settings {file}" in shown.output
    kept = run("tools", shop, "--settings", file, "--apply")
    assert kept.exit_code == 0
    assert "changes nothing" in kept.output
    assert [view["tool"] for view in json.loads(run("tools", shop, "--json").output)["tools"]] == [
        "cancel_order",
        "get_order",
        "mystery",
        "search",
        "weather",
    ]
    assert run("tools", shop, "--apply").exit_code == 2
    assert "there are: cancel_order" in run("tools", shop, "--tool", "x").output

    told = run("explain", shop, "get_order", '{"order_id": "A-3"}')
    assert told.exit_code == 0
    assert 'order_id (id): asked "A-3", recorded "A-1"' in told.output
    found = json.loads(run("explain", shop, "get_order", '{"order_id": "A-1"}', "--json").output)
    assert msgspec.convert(found, queries.Explained).hit.tier is Tier.EXACT
    call_text = '{"name": "get_order", "arguments": {"order_id": "A-1"}}'
    assert run("lookup", shop, call_text).output.startswith("exact")


@pytest.mark.parametrize("arguments", ["[1]", "{", "nonsense", '"x"', '{"a": "\ud800"}'])
def test_arguments_that_are_no_object_are_one_line(path: Path, arguments: str) -> None:
    """What was typed is shown, and how to type it."""
    with pytest.raises(RecipeError, match="no JSON object"):
        queries.lookup(path, "get_order", arguments, namespace=SPACE)


def test_an_ambiguous_or_unknown_tool_is_one_line(path: Path) -> None:
    """Never a guess between two worlds."""
    with pytest.raises(RecipeError, match="market, shop"):
        queries.lookup(path, "get_order", "{}")
    with pytest.raises(CacheError, match="no tool"):
        queries.lookup(path, "get_ordr", "{}")
    with pytest.raises(RecipeError, match="no hex"):
        queries.lookup(path, "get_order", "{}", state="zz")
    with pytest.raises(CacheError, match="no such cache"):
        queries.stats(path.with_name("typo"))


def test_a_tool_without_arguments_is_told_what_is_missing(shop: Path) -> None:
    """It is no broken JSON, so nobody should look for a bracket."""
    with pytest.raises(RecipeError, match="alone is no call"):
        queries.lookup(shop, "get_order", None)
