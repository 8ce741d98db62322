"""The Python face of one episode: looking changes nothing, calling counts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from cacherl.cache.episodes.episode import Episode, EpisodeOptions, current_episode
from cacherl.cache.episodes.ledger import Ledger, LedgerRow, MissPolicy
from cacherl.cache.episodes.replay import ReplayTools
from cacherl.cache.lookup.settings import Settings, ToolRules
from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.storage.entry import CacheEntry, RecordedCall
from cacherl.cache.storage.sqlite import SqliteStore
from cacherl.core.errors import DataError, RecipeError
from cacherl.core.messages import ToolCall
from cacherl.core.tasks import Split
from cacherl.core.tools import Effects, Tier, ToolResult, ToolSpec
from tests.cache.recordings import (
    CANCEL,
    GET,
    SEARCH,
    SPACE,
    SPECS,
    call,
    result,
    task,
    trajectory,
)

A = {"order_id": "A"}
EPISODE = (
    (call(GET, order_id="A"), "paid"),
    (call(CANCEL, order_id="A"), "done"),
    (call(GET, order_id="A"), "cancelled"),
)


def shop(*steps: tuple[ToolCall, str], into: ToolCache | None = None) -> ToolCache:
    cache = into or ToolCache.open(":memory:")
    cache.record_trajectory(
        task(), trajectory(*((asked, result(asked, text)) for asked, text in steps))
    )
    return cache


def played(episode: Episode, *asked: tuple[str, dict[str, str]]) -> list[ToolResult]:
    async def play() -> list[ToolResult]:
        return [await episode.call(tool, arguments) for tool, arguments in asked]

    return asyncio.run(play())


def test_looking_changes_nothing() -> None:
    """Whoever looks before calling must get the very answers of one who does not."""
    cache = shop(*((call(GET, order_id="A"), text) for text in "abcdefgh"))

    def play(looks: int) -> list[str]:
        episode = Episode(cache, task(), rollout=3)
        texts = []
        for _ in range(6):
            hits = [episode.lookup("get_order", A) for _ in range(looks)]
            texts += [answer.text for answer in played(episode, ("get_order", A))]
            assert all(hit.observation and hit.observation.text == texts[-1] for hit in hits)
        return texts

    assert play(looks=2) == play(looks=0)
    assert len(set(play(looks=0))) > 1
    looked = Episode(cache, task())
    looked.lookup("get_order", A)
    assert looked.ledger == Ledger(rows=())


def test_a_call_changes_what_is_read_after_it() -> None:
    """A cancelled order is not paid any more, and a lookup in that state knows it."""
    episode = Episode(shop(*EPISODE), task())
    before = episode.lookup("get_order", A)
    answers = played(episode, ("cancel_order", A))
    after = episode.lookup("get_order", A)

    assert [answers[0].text, answers[0].tier] == ["done", Tier.EXACT]
    assert before.observation is not None
    assert after.observation is not None
    assert (before.observation.text, before.tier) == ("paid", Tier.EXACT)
    assert (after.observation.text, after.tier) == ("cancelled", Tier.EXACT)


def test_replay_tools_are_an_episode() -> None:
    """One meaning for the training loop and for the person at the prompt."""
    cache = shop(*EPISODE)
    tools, episode = ReplayTools(cache, task(), rollout=2), Episode(cache, task(), rollout=2)
    asked = [each for each, _ in EPISODE] + [call(CANCEL, order_id="Z"), call("nothing")]

    async def play() -> None:
        for each in asked:
            ours = await episode.call(each.name, each.arguments, call_id=each.id)
            assert await tools.call(each) == ours

    asyncio.run(play())
    assert tools.ledger == episode.ledger


class CountingStore(SqliteStore):
    """A store that counts its round trips."""

    trips = 0

    def get(self, call: RecordedCall) -> CacheEntry | None:
        self.trips += 1
        return super().get(call)

    def get_many(self, calls: Sequence[RecordedCall]) -> list[CacheEntry | None]:
        self.trips += 1
        trips = self.trips
        found = super().get_many(calls)
        self.trips = trips
        return found


def test_many_lookups_are_one_round_trip(tmp_path: Path) -> None:
    """Over a network each trip costs more than the lookup."""
    asked = [(GET.name, {"order_id": str(n)}) for n in range(50)]
    with ToolCache.open(tmp_path / "c.sqlite", mode="write") as cache:
        shop(
            *((call(tool, **arguments), arguments["order_id"]) for tool, arguments in asked),
            into=cache,
        )
    store = CountingStore(tmp_path / "c.sqlite")
    with ToolCache(store) as cache:
        episode = Episode(cache, task())
        hits = episode.lookup_many(asked)

        assert store.trips == 1
        assert [hit.observation and hit.observation.text for hit in hits] == [
            str(n) for n in range(50)
        ]
        assert hits == [episode.lookup(tool, arguments) for tool, arguments in asked]


def test_a_scenario_is_enough_where_the_cache_knows_the_tools() -> None:
    """What was recorded says what can be asked."""
    episode = Episode(shop(*EPISODE), "s1")

    assert episode.namespace == SPACE
    assert episode.lookup("get_order", A).tier is Tier.EXACT
    with pytest.raises(RecipeError, match="namespace="):
        Episode(ToolCache.open(":memory:"), "s1")
    with pytest.raises(RecipeError, match=r"no tool fly.*tools="):
        episode.lookup("fly", {})


def test_tools_that_were_never_recorded_can_be_given() -> None:
    """The first episode of all starts on an empty cache."""
    episode = Episode(ToolCache.open(":memory:"), "s1", namespace=SPACE, tools=SPECS)
    hit = episode.lookup("get_order", A)
    [answer] = played(episode, ("get_order", A))

    assert (hit.tier, hit.observation) == (Tier.MISS, None)
    assert json.loads(answer.text)["error"] == "not_recorded"
    assert played(episode, ("nothing", {}))[0].is_error


def test_the_settings_say_what_a_tool_touches() -> None:
    """What a server says of its tools is a hint; the person's file wins."""
    rules = Settings(tools={"cancel_order": ToolRules(reads=(), writes=())})
    cache = ToolCache.open(":memory:", settings=rules)
    shop((call(GET, order_id="A"), "paid"), (call(CANCEL, order_id="A"), "done"), into=cache)
    episode = Episode(cache, task())

    assert [each.tier for each in played(episode, ("cancel_order", A), ("get_order", A))] == [
        Tier.EXACT,
        Tier.EXACT,
    ]


def test_an_episode_sees_only_its_splits() -> None:
    """A held-out answer is invisible, whoever asks in Python."""
    cache = shop(*EPISODE)

    assert Episode(cache, task(), split=Split.TEST).lookup("get_order", A).tier is Tier.MISS
    assert (
        Episode(cache, task(), splits=frozenset({Split.TEST, Split.TRAIN}))
        .lookup("get_order", A)
        .observation
    )


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"record": "sometimes"}, 'record = \'sometimes\' is none of "none", "once"'),
        ({"draw": "dice"}, "draw = 'dice'"),
        ({"on_miss": {"get_order": "pray"}}, "on_miss of get_order = 'pray'"),
    ],
)
def test_a_wrong_option_is_named_with_the_right_ones(options: EpisodeOptions, told: str) -> None:
    """Strings are welcome, typing errors are not."""
    with pytest.raises(RecipeError) as caught:
        Episode(ToolCache.open(":memory:"), task(), **options)

    assert told in str(caught.value)


def test_a_policy_may_be_told_in_words() -> None:
    """As it stands in a recipe."""
    cache = shop((call(GET, order_id="A"), "paid"))
    episode = Episode(cache, task(), on_miss={"*": "best_effort"})

    assert played(episode, ("get_order", {"order_id": "Z"}))[0].text == "paid"
    assert episode.ledger.rows[0].policy is MissPolicy.BEST_EFFORT


def test_the_summary_counts_what_a_reward_may_trust() -> None:
    """Tiers, the worst of them, errors, policies and the live calls."""
    episode = Episode(shop(*EPISODE), task())
    played(episode, ("get_order", A), ("cancel_order", {"order_id": "B"}))
    summary = episode.ledger.summary()

    assert (summary.calls, summary.tiers) == (2, {Tier.EXACT: 1, Tier.MISS: 1})
    assert (summary.worst, summary.errors, summary.live_calls) == (Tier.MISS, 1, 0)
    assert summary.policies == {MissPolicy.ERROR: 1}
    assert (summary.mean_fidelity, summary.min_fidelity) == (None, None)
    assert Ledger(rows=()).summary().worst is Tier.LIVE


def row(tier: Tier, fidelity: float | None) -> LedgerRow:
    return LedgerRow(
        tool="t",
        tier=tier,
        key=None,
        fidelity=fidelity,
        score=None,
        state_matched=True,
        scenario_matched=True,
        is_error=False,
        observations=1,
        drawn=0,
    )


def test_fidelity_is_summed_up_over_what_is_known() -> None:
    """A live answer is the truth; an answer that nobody calibrated says nothing."""
    ledger = Ledger(
        rows=(
            row(Tier.LIVE, None),
            row(Tier.FUZZY, 0.5),
            row(Tier.EXACT, 0.9),
            row(Tier.EXACT, None),
        )
    )

    assert ledger.summary().mean_fidelity == pytest.approx(0.8)
    assert ledger.summary().min_fidelity == 0.5


def test_an_explanation_stands_where_the_episode_stands() -> None:
    """Why did the second read not hit? Because of the write between."""
    cache = shop((call(GET, order_id="A"), "paid"))
    shop((call(CANCEL, order_id="A"), "done"), into=cache)
    episode = Episode(cache, task())
    played(episode, ("cancel_order", A))

    told = episode.explain("get_order", A)
    assert told.hit == episode.lookup("get_order", A)
    assert (told.hit.state_matched, told.other_states) == (False, 1)


def test_the_innermost_episode_of_a_cache_is_the_current_one() -> None:
    """Functions behind the cache find it there, each task its own."""
    cache, other = shop(*EPISODE), ToolCache.open(":memory:")

    async def alone(scenario: str) -> str | None:
        with Episode(cache, task(scenario)):
            await asyncio.sleep(0)
            current = current_episode(cache)
            return None if current is None else current.scenario

    async def both() -> list[str | None]:
        return list(await asyncio.gather(alone("s1"), alone("s2")))

    assert asyncio.run(both()) == ["s1", "s2"]
    with Episode(cache, task()) as outer:
        with Episode(cache, task("s2")) as inner:
            assert current_episode(cache) is inner
            assert current_episode(other) is None
        assert current_episode(cache) is outer
    assert current_episode(cache) is None


def test_loose_tiers_answer_in_an_episode_too() -> None:
    """Free text may differ; the ledger says so."""
    cache = shop((call(SEARCH, query="red shoes", shelf="S1"), "x"))
    episode = Episode(cache, task())
    [answer] = played(episode, ("search", {"query": "the red shoe", "shelf": "S1"}))

    assert (answer.tier, answer.text) == (Tier.FUZZY, "x")
    assert episode.ledger.rows[0].score == answer.score
    strict = Episode(cache, task(), fuzzy_min_score=2.0, best_effort_min_score=2.0)
    assert strict.lookup("search", {"query": "the red shoe", "shelf": "S1"}).tier is Tier.MISS


async def test_an_environment_that_tells_its_state_is_followed() -> None:
    """A counter changes by a call that no effect declares: only its fingerprint knows, and is right."""
    tick = ToolSpec(
        name="tick", description="", parameters={"type": "object"}, effects=Effects(reads=("x",))
    )
    shop, asked = task(tools=[tick]), call(tick)
    made = trajectory(*[(asked, result(asked, str(n))) for n in range(3)])
    with ToolCache.open(":memory:") as cache:
        cache.record_trajectory(shop, made, fingerprints=["at 0", "at 1", "at 2", "at 3"])

        followed = cache.episode(shop)
        said = [await followed.answer(asked) for _ in range(4)]
        beside = cache.episode(shop, fingerprint=lambda: "at 2")
        there = await beside.answer(asked)

    assert [(each.text, each.tier) for each in said[:3]] == [
        ("0", Tier.EXACT),
        ("1", Tier.EXACT),
        ("2", Tier.EXACT),
    ]
    assert said[3].tier is Tier.BEST_EFFORT  # nobody recorded what comes after
    assert (there.text, there.tier) == ("2", Tier.EXACT)


def test_fingerprints_that_do_not_fit_the_calls_are_refused() -> None:
    """One missing would shift every state by one, and every answer with it."""
    with (
        ToolCache.open(":memory:") as cache,
        pytest.raises(DataError, match="0 fingerprints for 0 well-formed calls"),
    ):
        cache.record_trajectory(task(), trajectory(), fingerprints=[])


def test_a_scope_may_be_said_as_a_word() -> None:
    """A word that is taken and not understood would hand one world's answers to another."""
    with ToolCache.open(":memory:") as cache:
        asked = call(GET, order_id="A")
        cache.record_trajectory(task(scenario="s1"), trajectory((asked, result(asked, "paid"))))

        shared = cache.episode(task(scenario="s2")).lookup("get_order", A)
        own = cache.episode(task(scenario="s2"), scope="scenario").lookup("get_order", A)
        with pytest.raises(RecipeError, match="scope"):
            cache.episode(task(), scope="scenarios")

    assert (shared.tier, own.tier) == (Tier.EXACT, Tier.BEST_EFFORT)
