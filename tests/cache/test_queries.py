"""What the `cacherl cache` commands tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from cacherl.cache import queries
from cacherl.cache.tool_cache import ToolCache
from cacherl.core.errors import CacheError, RecipeError
from cacherl.core.tasks import Split
from cacherl.core.tools import Tier
from tests.cache.recordings import GET, SPACE, call, result


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
