"""Recorded answers in, the most trustworthy answer out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cacherl.cache.lookup.tool_cache import Draw, Hit, Scope, ToolCache, Viewpoint
from cacherl.core.errors import CacheError, DataError
from cacherl.core.tasks import Split
from cacherl.core.tools import Effects, ErrorClass, Source, Tier, ToolSpec
from tests.cache.recordings import CANCEL, GET, SEARCH, SPACE, call, result, task, trajectory

ROOT = Path(__file__).parents[2]
STATE = b"0123456789abcdef"


@pytest.fixture(params=["memory", "file"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ToolCache]:
    path = ":memory:" if request.param == "memory" else str(tmp_path / "tools.cache")
    with ToolCache.open(path, mode="write") as opened:
        yield opened


def keep(
    cache: ToolCache,
    spec: ToolSpec,
    text: str,
    scenario: str = "s1",
    split: Split = Split.TRAIN,
    error: ErrorClass | None = None,
    state: bytes = b"",
    **arguments: object,
) -> bool:
    asked = call(spec, **arguments)
    return cache.record(
        SPACE,
        spec,
        asked,
        result(asked, text, error),
        state_key=state,
        scenario=scenario,
        split=split,
    )


def ask(
    cache: ToolCache,
    spec: ToolSpec,
    view: Viewpoint | None = None,
    state: bytes = b"",
    **arguments: object,
) -> Hit:
    return cache.lookup(SPACE, spec, arguments, state_key=state, view=view or Viewpoint())


def text_of(hit: Hit) -> str | None:
    return None if hit.observation is None else hit.observation.text


def test_the_same_call_is_exact(cache: ToolCache) -> None:
    """With the rules that made it the same call told."""
    keep(cache, GET, "paid", order_id="A")
    hit = ask(cache, GET, order_id="  A ")

    assert (hit.tier, text_of(hit), hit.score) == (Tier.EXACT, "paid", None)
    assert hit.fired == ("order_id: white space",)
    assert hit.observation is not None
    assert hit.observation.latency_s == 0.25


def test_the_same_text_in_other_words_is_fuzzy(cache: ToolCache) -> None:
    """Only free text may differ."""
    keep(cache, SEARCH, "shoes!", query="red shoes", shelf="S1")

    hit = ask(cache, SEARCH, query="please the red shoe", shelf="S1")
    assert (hit.tier, text_of(hit), hit.score) == (Tier.FUZZY, "shoes!", 1.0)
    assert hit.state_matched

    other = ask(cache, SEARCH, query="please the red boat", shelf="S2")
    assert (other.tier, text_of(other)) == (Tier.MISS, None)


def test_the_nearest_call_is_best_effort_and_says_how_near(cache: ToolCache) -> None:
    """The reward and the report need to know what was stretched."""
    keep(cache, SEARCH, "shoes!", query="red shoes", shelf="S1")
    hit = ask(cache, SEARCH, query="blue boats", shelf="S1")

    assert (hit.tier, text_of(hit)) == (Tier.BEST_EFFORT, "shoes!")
    assert hit.score is not None
    assert 0.3 < hit.score < 1.0
    assert hit.matched_arguments == '{"query":"red shoes","shelf":"S1"}'


@pytest.mark.parametrize("query", ["red shoes", "the red shoes"])
def test_another_state_is_never_exact_nor_fuzzy(cache: ToolCache, query: str) -> None:
    """The answer from before a write is at most a guess, and flagged."""
    keep(cache, SEARCH, "old", query="red shoes", shelf="S1")
    hit = ask(cache, SEARCH, state=STATE, query=query, shelf="S1")
    assert (hit.tier, hit.state_matched) == (Tier.BEST_EFFORT, False)

    keep(cache, SEARCH, "new", query="red shoes", shelf="S1", state=STATE)
    assert text_of(ask(cache, SEARCH, state=STATE, query=query, shelf="S1")) == "new"
    assert text_of(ask(cache, SEARCH, query=query, shelf="S1")) == "old"


def test_the_same_state_beats_a_nearer_call_in_another(cache: ToolCache) -> None:
    """What the episode did weighs more than one field."""
    keep(cache, SEARCH, "here", query="red hat", shelf="S1", state=STATE)
    keep(cache, SEARCH, "elsewhere", query="red shoes", shelf="S1")

    hit = ask(cache, SEARCH, state=STATE, query="red shoes", shelf="S1")
    assert (text_of(hit), hit.state_matched) == ("here", True)


def test_writers_are_exact_or_nothing(cache: ToolCache) -> None:
    """Nobody else's cancellation stands in for this one."""
    keep(cache, CANCEL, "done", order_id="A")

    assert ask(cache, CANCEL, order_id="A").tier is Tier.EXACT
    assert ask(cache, CANCEL, order_id="A", state=STATE).tier is Tier.MISS
    assert ask(cache, CANCEL, order_id="B").tier is Tier.MISS


def test_errors_replay_exactly_and_never_loosely(cache: ToolCache) -> None:
    """The model must learn from its own errors, not from another call's."""
    keep(cache, SEARCH, "bad shelf", error=ErrorClass.NOT_FOUND, query="red shoes", shelf="S9")

    hit = ask(cache, SEARCH, query="red shoes", shelf="S9")
    assert hit.tier is Tier.EXACT
    assert hit.observation is not None
    assert hit.observation.error_class is ErrorClass.NOT_FOUND
    assert ask(cache, SEARCH, query="the red shoes", shelf="S9").tier is Tier.MISS


def test_what_says_nothing_about_the_tool_is_not_recorded(cache: ToolCache) -> None:
    """Time-outs, refusals of the loop and answers that were replayed themselves."""
    asked = call(GET, order_id="A")
    useless = [
        result(asked, "slow", ErrorClass.TRANSIENT),
        result(asked, "no", ErrorClass.VALIDATION, tier=Tier.EXACT, source=Source.LOOP),
        result(asked, "guess", tier=Tier.BEST_EFFORT),
        result(asked, "again", tier=Tier.EXACT),
        result(asked, "none", ErrorClass.UNKNOWN, tier=Tier.MISS, source=None),
    ]
    kept = [
        cache.record(SPACE, GET, asked, each, scenario="s", split=Split.TRAIN) for each in useless
    ]

    assert not any(kept)
    assert ask(cache, GET, order_id="A").tier is Tier.MISS


def test_a_refusal_that_normalisation_would_have_mended_is_not_recorded(cache: ToolCache) -> None:
    """The tool refused "10" for a number; it must not be quoted as refusing 10."""
    spec = ToolSpec(
        name="take",
        description="",
        parameters={"type": "object", "properties": {"n": {"type": "integer"}}},
    )

    assert not keep(cache, spec, "no string", error=ErrorClass.VALIDATION, n="10")
    assert keep(cache, spec, "took 10", n=10)
    assert text_of(ask(cache, spec, n="10")) == "took 10"


@pytest.mark.parametrize("error", [ErrorClass.VALIDATION, ErrorClass.NOT_FOUND, ErrorClass.UNKNOWN])
def test_what_was_not_found_as_it_was_written_may_be_found_in_normal_form(
    cache: ToolCache, error: ErrorClass
) -> None:
    """No order "A " says nothing of order "A"; a refusal that is not about the arguments stays one."""
    assert not keep(cache, GET, "no such order", error=error, order_id="A ")
    assert keep(cache, GET, "not yours", error=ErrorClass.PERMISSION, order_id="B ")
    assert keep(cache, GET, "no such order", error=error, order_id="C")

    assert ask(cache, GET, order_id="A").tier is not Tier.EXACT
    assert text_of(ask(cache, GET, order_id="B")) == "not yours"
    assert text_of(ask(cache, GET, order_id="C")) == "no such order"


@pytest.mark.parametrize("query", ["red shoes", "the red shoes", "red boats"])
def test_other_splits_do_not_exist_under_any_tier(cache: ToolCache, query: str) -> None:
    """A held-out answer that leaks into training makes every figure worthless."""
    keep(cache, SEARCH, "held out", split=Split.TEST, query="red shoes", shelf="S1")
    asked: dict[str, Any] = {"query": query, "shelf": "S1"}
    train = Viewpoint(splits=frozenset({Split.TRAIN}))

    assert ask(cache, SEARCH, **asked).tier is not Tier.MISS
    assert ask(cache, SEARCH, train, **asked).tier is Tier.MISS
    assert cache.closest(SPACE, SEARCH, asked, view=train) == ()
    assert cache.explain(SPACE, SEARCH, asked, view=train, state_key=STATE).other_states == 0

    keep(cache, SEARCH, "seen", query="red shoes", shelf="S1")
    assert text_of(ask(cache, SEARCH, train, **asked)) == "seen"


def test_ones_own_scenario_comes_first(cache: ToolCache) -> None:
    """Two worlds may answer one call differently."""
    for scenario in ("s1", "s2", "s3"):
        keep(cache, GET, f"of {scenario}", scenario=scenario, order_id="A")

    for scenario in ("s1", "s2", "s3"):
        hit = ask(cache, GET, Viewpoint(scenario=scenario), order_id="A")
        assert (hit.tier, text_of(hit)) == (Tier.EXACT, f"of {scenario}")


def test_other_scenarios_are_exact_only_while_they_agree(cache: ToolCache) -> None:
    """A contradiction shows that the answer hangs on the scenario, and ours is not among them."""
    keep(cache, GET, "paid", scenario="s1", order_id="A")
    view = Viewpoint(scenario="s9")
    assert ask(cache, GET, view, order_id="A").tier is Tier.EXACT
    assert not ask(cache, GET, view, order_id="A").scenario_matched

    keep(cache, GET, "open", scenario="s2", order_id="A")
    hit = ask(cache, GET, view, order_id="A")
    assert (hit.tier, hit.state_matched, hit.scenario_matched) == (Tier.BEST_EFFORT, False, False)


def test_scenarios_with_data_of_their_own_do_not_answer_for_one_another(cache: ToolCache) -> None:
    """`Scope.SCENARIO`: a stranger's answer is a guess, whatever the tier would have been."""
    view = Viewpoint(scenario="mine", scope=Scope.SCENARIO)
    keep(cache, SEARCH, "theirs", scenario="other", query="red shoes", shelf="S1")
    keep(cache, CANCEL, "done", scenario="other", order_id="A")
    for query in ("red shoes", "the red shoes"):
        hit = ask(cache, SEARCH, view, query=query, shelf="S1")
        assert (hit.tier, hit.state_matched) == (Tier.BEST_EFFORT, False)
    assert ask(cache, CANCEL, view, order_id="A").tier is Tier.MISS

    keep(cache, SEARCH, "mine", scenario="mine", query="red shoes", shelf="S1")
    hit = ask(cache, SEARCH, view, query="the red shoes", shelf="S1")
    assert (hit.tier, text_of(hit)) == (Tier.FUZZY, "mine")


def test_draws_spread_over_the_observations_by_how_often_they_were_made(cache: ToolCache) -> None:
    """A group that shares one draw can learn the wrong sign; a rare answer should stay rare."""
    for text in ("sunny", "sunny", "sunny", "rain"):
        keep(cache, GET, text, order_id="A")
    drawn = [
        text_of(cache.lookup(SPACE, GET, {"order_id": "A"}, draw=Draw(seed=3, rollout=rollout)))
        for rollout in range(400)
    ]

    assert 240 < drawn.count("sunny") < 360
    assert drawn.count("sunny") + drawn.count("rain") == 400


DRAWS = """
from cacherl.cache.lookup.tool_cache import Draw
places = [(s, r, o) for s in range(3) for r in range(9) for o in range(3)]
print([Draw(seed=s, rollout=r, occurrence=o).place(b"key", 7) for s, r, o in places])
"""


def test_draws_are_the_same_in_every_process() -> None:
    """Hash seeds differ between workers; rewards may not."""
    outputs = set()
    for hash_seed in ("0", "1"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": hash_seed}
        ran = subprocess.run(
            [sys.executable, "-c", DRAWS],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        outputs.add(ran.stdout)

    assert len(outputs) == 1
    assert len(set(msgspec.json.decode(outputs.pop()))) == 7


def test_loose_tiers_see_what_is_recorded_after_they_were_built(cache: ToolCache) -> None:
    """Recording on a miss goes on while rollouts look up."""
    keep(cache, SEARCH, "hat", query="blue hat", shelf="S1")
    assert ask(cache, SEARCH, query="the red shoes", shelf="S1").tier is Tier.BEST_EFFORT

    keep(cache, SEARCH, "shoes", query="red shoes", shelf="S1")
    hit = ask(cache, SEARCH, query="the red shoes", shelf="S1")
    assert (hit.tier, text_of(hit)) == (Tier.FUZZY, "shoes")


def test_a_trajectory_is_recorded_with_the_state_of_each_call(cache: ToolCache) -> None:
    """Read, write, read: three entries, and the two reads never meet."""
    get, cancel = call(GET, order_id="A"), call(CANCEL, order_id="A")
    walked = trajectory(
        (get, result(get, "paid")),
        (cancel, result(cancel, "done")),
        (get, result(get, "cancelled")),
    )
    report = cache.record_trajectory(task(), walked)
    assert (report.calls, report.new, report.skipped) == (3, 3, 0)

    again = cache.record_trajectory(task(), walked)
    assert (again.calls, again.new) == (3, 0)
    assert text_of(ask(cache, GET, order_id="A")) == "paid"
    stats = cache.stats()
    assert (stats.calls, stats.observations, stats.repeats) == (3, 3, 3)
    assert all(tool.contradictions == 0 for tool in stats.tools)


def test_a_failed_write_leaves_later_reads_where_they_were(cache: ToolCache) -> None:
    """Otherwise half of the recordings would be lost to calls that did nothing."""
    get, cancel = call(GET, order_id="A"), call(CANCEL, order_id="A")
    refused = result(cancel, "too late", ErrorClass.PERMISSION)
    cache.record_trajectory(task(), trajectory((cancel, refused), (get, result(get, "sent"))))

    assert ask(cache, GET, order_id="A").tier is Tier.EXACT


def test_a_write_lost_in_transit_makes_later_reads_useless_for_others(cache: ToolCache) -> None:
    """Nobody knows whether the read that followed saw the order before or after."""
    get, cancel = call(GET, order_id="A"), call(CANCEL, order_id="A")
    lost = result(cancel, "timed out", ErrorClass.TRANSIENT)
    cache.record_trajectory(task(), trajectory((cancel, lost), (get, result(get, "?"))))

    assert ask(cache, CANCEL, order_id="A").tier is Tier.MISS
    assert ask(cache, GET, order_id="A").tier is Tier.BEST_EFFORT


def test_a_trajectory_whose_results_are_mixed_up_is_refused_whole(cache: ToolCache) -> None:
    """An answer under the wrong call is worse than none."""
    get, cancel = call(GET, order_id="A"), call(CANCEL, order_id="A")
    good = trajectory((get, result(get, "paid")), (cancel, result(cancel, "done")))
    mixed = msgspec.structs.replace(good, results=tuple(reversed(good.results)))

    with pytest.raises(DataError, match="Record it again"):
        cache.record_trajectory(task(), mixed)
    assert cache.stats().calls == 0


def test_explain_says_why_and_what_came_closest(cache: ToolCache) -> None:
    """The first question after a surprising reward."""
    keep(cache, SEARCH, "shoes", query="red shoes", shelf="S1")
    keep(cache, SEARCH, "late", query="red shoes", shelf="S2", state=STATE)
    told = cache.explain(SPACE, SEARCH, {"query": "red shoes", "shelf": "S2"})

    assert told.hit.tier is Tier.BEST_EFFORT
    assert told.other_states == 1
    assert [(near.differs, near.state_matched) for near in told.closest] == [
        ((), False),
        (("shelf",), True),
    ]
    assert told.closest[1].not_fuzzy == "an identity field differs"
    assert told.kinds["query"] == "text"


def test_an_explanation_shows_nothing_that_may_not_be_seen(cache: ToolCache) -> None:
    """Arguments of a held-out scenario are held out too."""
    keep(cache, SEARCH, "red", query="red shoes", shelf="1")
    keep(cache, SEARCH, "blue", scenario="s2", query="blue hats", shelf="1")
    asked = {"query": "warm hats", "shelf": "1"}

    for view, shown in (
        (Viewpoint(), {"red shoes", "blue hats"}),
        (Viewpoint(exclude_scenarios=frozenset({"s2"})), {"red shoes"}),
        (Viewpoint(sources=frozenset({Source.TEACHER})), set()),
    ):
        closest = cache.explain(SPACE, SEARCH, asked, view=view).closest
        assert {json.loads(each.arguments)["query"] for each in closest} == shown


def test_stats_name_tools_that_contradict_themselves(cache: ToolCache) -> None:
    """One scenario, one call, one state, two answers: stochastic, or its effects are misdeclared."""
    keep(cache, GET, "a", order_id="A")
    keep(cache, GET, "b", order_id="A")
    keep(cache, SEARCH, "x", scenario="s1", query="q", shelf="S")
    keep(cache, SEARCH, "y", scenario="s2", query="q", shelf="S")
    by_tool = {tool.tool: tool for tool in cache.stats().tools}

    assert (by_tool["get_order"].contradictions, by_tool["get_order"].scenario_bound) == (1, 0)
    assert (by_tool["search"].contradictions, by_tool["search"].scenario_bound) == (0, 1)


def test_an_unknown_tool_is_named_with_the_known_ones(cache: ToolCache) -> None:
    """A typing error at the terminal should cost one look."""
    keep(cache, GET, "a", order_id="A")

    with pytest.raises(CacheError, match=r"no tool git_order of shop .* Did you mean get_order\?"):
        cache.spec(SPACE, "git_order")


def test_states_that_say_too_little_are_not_trusted() -> None:
    """Recorded when nobody knew that it reads orders, an answer from after a cancellation looks untouched."""
    blind = msgspec.structs.replace(GET, effects=Effects(reads=("weather",)))
    episode = (
        (call(CANCEL, order_id="A"), "done"),
        (call(GET, order_id="A"), "cancelled"),
    )
    with ToolCache.open(":memory:") as cache:
        cache.record_trajectory(
            task(tools=[blind, CANCEL]), trajectory(*((c, result(c, text)) for c, text in episode))
        )
        as_recorded = cache.lookup(SPACE, blind, {"order_id": "A"})
        knowing = cache.lookup(SPACE, GET, {"order_id": "A"})

    assert as_recorded.tier is Tier.EXACT
    assert knowing.tier is Tier.BEST_EFFORT
    assert not knowing.state_matched
    assert knowing.fired == ("effects: touch more than they did when this was recorded",)


def test_a_tool_that_turns_out_to_write_makes_every_state_doubtful() -> None:
    """What was filed as before the write may have come after it."""
    harmless = msgspec.structs.replace(CANCEL, effects=Effects(reads=("order:{order_id}",)))
    episode = ((call(CANCEL, order_id="A"), "done"), (call(GET, order_id="A"), "cancelled"))
    with ToolCache.open(":memory:") as cache:
        cache.record_trajectory(
            task(tools=[GET, harmless]), trajectory(*((c, result(c, text)) for c, text in episode))
        )
        before = cache.lookup(SPACE, GET, {"order_id": "A"})
        cache.episode(task(tools=[GET, CANCEL]))
        after = cache.lookup(SPACE, GET, {"order_id": "A"})

    assert before.tier is Tier.EXACT
    assert after.tier is Tier.BEST_EFFORT
