"""The loop that every stage runs: what a model and its tools can do to it, and what it records."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence

import pytest

from cacherl.agent import run_episode
from cacherl.core.errors import ModelError, ToolError
from cacherl.core.messages import (
    AssistantMessage,
    MalformedCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from cacherl.core.models import Limits, ModelTurn
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import ErrorClass, Source, Tier, ToolResult, ToolSpec
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.render import ChatCodec, Template
from cacherl.token_chat import TokenChat
from tests.fakes import ByteTokenizer, DictTools, Script, ScriptedEngine, ScriptedModel

ADD = ToolSpec(
    name="add",
    description="Add two numbers.",
    parameters={
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
)
REPEAT = ToolSpec(
    name="repeat",
    description="Repeat a word.",
    parameters={
        "type": "object",
        "properties": {"word": {"type": "string"}, "times": {"type": "integer"}},
        "required": ["word", "times"],
    },
)


def task(*users: str, system: str = "You add.") -> Task:
    return Task(
        id="t1",
        split=Split.TRAIN,
        family="sums",
        language="en",
        wording="plain",
        scenario="none",
        namespace="sums",
        system=system,
        user_turns=users or ("What is 1 + 2?",),
        tools=(ADD, REPEAT),
    )


def tools() -> DictTools:
    functions: dict[str, Callable[..., str]] = {
        "add": lambda a, b: json.dumps({"sum": a + b}),
        "repeat": lambda word, times: word * times,
    }
    return DictTools(functions)


def add(a: int, b: int, call: int = 0) -> ToolCall:
    return ToolCall(id=f"call_{call}", name="add", arguments={"a": a, "b": b})


def says(content: str, *calls: ToolCall | MalformedCall) -> AssistantMessage:
    return AssistantMessage(content=content, calls=calls)


async def play(
    script: Sequence[Script],
    *users: str,
    live: DictTools | None = None,
    limits: Limits | None = None,
) -> Trajectory:
    return await run_episode(
        ScriptedModel(script), live or tools(), task(*users), limits=limits or Limits()
    )


async def test_an_episode_ends_with_the_answer_and_holds_all_that_was_said() -> None:
    """Scoring, training and reports see an episode only through its trajectory."""
    call = add(1, 2)

    episode = await play([says("", call), says("It is 3.")])

    assert episode.stop is StopReason.ANSWER
    assert episode.messages == (
        SystemMessage(content="You add."),
        UserMessage(content="What is 1 + 2?"),
        says("", call),
        ToolMessage(call_id="call_0", name="add", content='{"sum": 3}'),
        says("It is 3."),
    )
    assert [result.text for result in episode.results] == ['{"sum": 3}']
    assert (episode.task_id, episode.policy) == ("t1", "scripted")
    assert episode.usage.completion_tokens == 2


async def test_calls_of_one_turn_are_made_and_answered_in_their_order() -> None:
    """Two writes of one turn must not race, and a replay must see what the recording saw."""
    live = tools()
    calls = [add(n, n, call=n) for n in range(5)]

    episode = await play([says("", *calls), says("Done.")], live=live)

    assert live.calls == calls
    assert [result.call_id for result in episode.results] == [call.id for call in calls]
    shown = [m for m in episode.messages if isinstance(m, ToolMessage)]
    assert [m.content for m in shown] == [f'{{"sum": {2 * n}}}' for n in range(5)]


@pytest.mark.parametrize(
    ("call", "kind", "says_why"),
    [
        (MalformedCall(id="call_0", text="{", problem="not JSON"), "malformed_call", "not JSON"),
        (ToolCall(id="call_0", name="subtract", arguments={}), "unknown_tool", "add, repeat"),
        (ToolCall(id="call_0", name="add", arguments={"a": 1}), "invalid_arguments", "'b'"),
        (
            ToolCall(id="call_0", name="add", arguments={"a": 1, "b": "two"}),
            "invalid_arguments",
            "b: 'two'",
        ),
        (
            ToolCall(id="call_0", name="add", arguments={"a": 1, "b": 2, "c": 3}),
            "invalid_arguments",
            "'c'",
        ),
    ],
)
async def test_a_call_that_cannot_be_made_is_answered_and_the_episode_goes_on(
    call: ToolCall | MalformedCall, kind: str, says_why: str
) -> None:
    """Dropped calls cost other teams a quarter of their rollouts, and taught the model nothing."""
    live = tools()

    episode = await play([says("", call), says("", add(1, 2, call=1)), says("3")], live=live)

    refused, made = episode.results
    answer = json.loads(refused.text)
    assert answer["error"] == kind
    assert says_why in answer["message"]
    assert refused.is_error
    assert refused.error_class is ErrorClass.VALIDATION
    assert (refused.tier, refused.source) == (Tier.EXACT, Source.LOOP)
    assert not made.is_error
    assert live.calls == [add(1, 2, call=1)]
    assert episode.stop is StopReason.ANSWER


async def test_a_bad_call_between_good_ones_is_answered_in_its_place() -> None:
    """Results are matched to calls by their order."""
    bad = MalformedCall(id="call_1", text="?", problem="not JSON")

    episode = await play([says("", add(1, 1), bad, add(2, 2, call=2)), says("ok")])

    assert [result.call_id for result in episode.results] == ["call_0", "call_1", "call_2"]
    assert [result.is_error for result in episode.results] == [False, True, False]


async def test_a_failing_tool_is_something_the_model_sees() -> None:
    """Models must learn from errors; an episode is not over because a tool failed."""
    call = ToolCall(id="call_0", name="repeat", arguments={"word": "x", "times": 2})

    episode = await play([says("", call), says("Sorry.")], live=DictTools({}))

    assert episode.results[0].is_error
    assert episode.results[0].source is Source.LIVE
    assert episode.stop is StopReason.ANSWER


async def test_the_next_user_turn_comes_when_the_model_has_answered() -> None:
    """Conversations of several user turns are played in full, with one system message."""
    model = ScriptedModel([says("", add(1, 2)), says("3"), says("You are welcome.")])

    episode = await run_episode(model, tools(), task("1 + 2?", "Thanks!"), limits=Limits())

    assert [type(m).__name__ for m in episode.messages] == [
        "SystemMessage",
        "UserMessage",
        "AssistantMessage",
        "ToolMessage",
        "AssistantMessage",
        "UserMessage",
        "AssistantMessage",
    ]
    assert model.sessions[0].seen[2] == [UserMessage(content="Thanks!")]
    assert episode.stop is StopReason.ANSWER


async def test_a_model_that_never_stops_calling_is_stopped() -> None:
    """Every call is answered, also the last ones: the trajectory stays whole."""
    turns = [says("", add(n, n, call=n)) for n in range(9)]

    episode = await play(turns, limits=Limits(max_turns=3))

    assert episode.stop is StopReason.MAX_TURNS
    assert len(episode.results) == 3
    assert isinstance(episode.messages[-1], ToolMessage)


async def test_turns_are_counted_over_all_user_turns() -> None:
    """`max_turns` bounds what an episode can cost."""
    episode = await play(
        [says("a"), says("b"), says("c")], "1", "2", "3", limits=Limits(max_turns=2)
    )

    assert episode.stop is StopReason.MAX_TURNS
    assert sum(isinstance(m, AssistantMessage) for m in episode.messages) == 2


async def test_the_calls_of_a_truncated_turn_are_not_made() -> None:
    """Half a turn may hold half a plan; a write must not follow from it."""
    live = tools()
    turn = ModelTurn(message=says("", add(1, 2)), truncated=True, completion_tokens=7)

    episode = await play([turn], live=live)

    assert episode.stop is StopReason.TRUNCATED
    assert live.calls == []
    assert episode.messages[-1] == turn.message
    assert episode.usage.completion_tokens == 7


async def test_a_full_context_ends_the_episode_without_an_empty_turn() -> None:
    """An empty assistant message would be scored as an answer."""
    full = ModelTurn(message=AssistantMessage(), context_full=True)

    episode = await play([says("", add(1, 2)), full])

    assert episode.stop is StopReason.CONTEXT_FULL
    assert isinstance(episode.messages[-1], ToolMessage)


async def test_a_long_result_is_shown_cut_and_kept_whole() -> None:
    """The model's context is bounded; the cache and the reward see what the tool said."""
    call = ToolCall(id="call_0", name="repeat", arguments={"word": "x", "times": 50})

    episode = await play([says("", call), says("ok")], limits=Limits(max_result_tokens=10))

    shown = next(m for m in episode.messages if isinstance(m, ToolMessage))
    assert shown.content == "x" * 10 + "... [cut]"
    assert episode.results[0].text == "x" * 50


class BrokenTools(DictTools):
    """A tool server that went away."""

    async def call(self, call: ToolCall) -> ToolResult:
        raise ToolError(f"{call.name}: the tool server is gone. Start it again.")


@pytest.mark.parametrize(
    ("script", "live", "stop"),
    [
        ([ModelError("the endpoint is gone")], tools(), StopReason.MODEL_FAILED),
        ([says("", add(1, 2))], BrokenTools({}), StopReason.TOOLS_FAILED),
    ],
)
async def test_a_failing_infrastructure_is_not_the_models_fault(
    script: list[Script], live: DictTools, stop: StopReason
) -> None:
    """Such episodes are left out of rewards; the error's text says why, and the session is closed."""
    model = ScriptedModel(script)

    episode = await run_episode(model, live, task(), limits=Limits())

    assert episode.stop is stop
    assert "gone" in episode.notes["error"]
    assert model.sessions[0].closed == 1


async def test_a_bug_in_a_tool_is_not_swallowed() -> None:
    """Only what the vocabulary names is data; anything else keeps its traceback, and the session closes."""

    class Buggy(DictTools):
        async def call(self, call: ToolCall) -> ToolResult:
            raise ZeroDivisionError

    model = ScriptedModel([says("", add(1, 2))])

    with pytest.raises(ZeroDivisionError):
        await run_episode(model, Buggy({}), task(), limits=Limits())
    assert model.sessions[0].closed == 1


# ---- the same loop over token ids ------------------------------------------------------------


def written(codec: ChatCodec, *messages: AssistantMessage) -> list[list[int]]:
    return [codec.turn_ids(message) for message in messages]


def thinks(thought: str, content: str, *calls: ToolCall) -> AssistantMessage:
    return AssistantMessage(thinking=thought, content=content, calls=calls)


CODEC = ChatCodec(ByteTokenizer(), Template.QWEN3_THINKING_2507)
TURNS = (
    thinks("sum", "", add(1, 2), add(3, 4, call=1)),
    thinks("both known", "3 and 7."),
    thinks("polite", "You are welcome."),
)


async def test_the_token_stream_is_the_training_stream() -> None:
    """What was sampled in a rollout and what SFT would train on are the same ids with the same mask."""
    model = TokenChat(ScriptedEngine(written(CODEC, *TURNS)), CODEC)
    job = task("1 + 2, 3 + 4?", "Thanks!")

    episode = await run_episode(model, tools(), job, limits=Limits(max_context_tokens=10_000))

    assert episode.stop is StopReason.ANSWER
    assert [m for m in episode.messages if isinstance(m, AssistantMessage)] == list(TURNS)
    segments = CODEC.training_segments(job.tools, episode.messages)
    assert [(s.prompt_ids, s.completion_ids, s.mask) for s in episode.segments] == [
        (s.prompt_ids, s.completion_ids, s.mask) for s in segments
    ]


async def test_sampled_ids_and_log_probabilities_stand_under_mask_one() -> None:
    """One shifted index trains the model on its tools' words."""
    turns = written(CODEC, *TURNS[:2])
    model = TokenChat(ScriptedEngine(turns), CODEC)

    episode = await run_episode(
        model, tools(), task("1 + 2, 3 + 4?"), limits=Limits(max_context_tokens=10_000)
    )

    (segment,) = episode.segments
    sampled = list(itertools.compress(segment.completion_ids, segment.mask))
    assert sampled == [i for turn in turns for i in turn]
    assert segment.logprobs is not None
    assert segment.logprobs == tuple(-0.5 * bit for bit in segment.mask)


async def test_each_turn_extends_the_stream_of_the_one_before() -> None:
    """The engine keeps its KV only for a stream that is never rewritten within a user turn."""
    engine = ScriptedEngine(written(CODEC, *TURNS))

    await run_episode(
        TokenChat(engine, CODEC),
        tools(),
        task("1 + 2, 3 + 4?", "Thanks!"),
        limits=Limits(max_context_tokens=10_000, first_turn_min_tokens=5),
    )

    first, second, third = (stream for _, stream, _, _ in engine.asked)
    assert second[: len(first)] == first
    assert third[: len(second)] != second  # old thinking is gone
    assert [min_new for _, _, _, min_new in engine.asked] == [5, 0, 0]


async def test_a_turn_that_does_not_fit_the_context_is_cut_and_counted() -> None:
    """The stream never outgrows the context, and what was sampled stays in the segments."""
    turns = written(CODEC, *TURNS)
    prompt = len(
        CODEC.prompt_ids(
            task().tools, [SystemMessage(content="You add."), UserMessage(content="Hi")]
        )
    )
    engine = ScriptedEngine(turns)

    episode = await run_episode(
        TokenChat(engine, CODEC),
        tools(),
        task("Hi"),
        limits=Limits(max_context_tokens=prompt + 10, max_turn_tokens=500),
    )

    assert episode.stop is StopReason.TRUNCATED
    assert engine.asked[0][2] == 10
    assert episode.segments[0].completion_ids == tuple(turns[0][:10])


async def test_tool_results_that_fill_the_context_end_the_episode() -> None:
    """The sampled ids before them are still there to train on."""
    turns = written(CODEC, *TURNS)
    prompt = len(
        CODEC.prompt_ids(
            task().tools, [SystemMessage(content="You add."), UserMessage(content="Hi")]
        )
    )

    episode = await run_episode(
        TokenChat(ScriptedEngine(turns), CODEC),
        tools(),
        task("Hi"),
        limits=Limits(max_context_tokens=prompt + len(turns[0]) + 5, max_turn_tokens=500),
    )

    assert episode.stop is StopReason.CONTEXT_FULL
    assert episode.segments[0].completion_ids == tuple(turns[0])
    assert set(episode.segments[0].mask) == {1}
