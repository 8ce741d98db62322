"""Tools that are held back until a later user turn: neither shown nor callable before, both after."""

from __future__ import annotations

import json

import msgspec

from cacherl.agent import run_episode
from cacherl.core.completions import CompletionReply
from cacherl.core.messages import AssistantMessage, ToolCall
from cacherl.core.models import Limits
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import Source, Tier, ToolSpec
from cacherl.core.trajectories import Trajectory
from cacherl.render import ChatCodec, Template
from cacherl.teacher.chat import EndpointChat
from cacherl.token_chat import TokenChat
from tests.fakes import ByteTokenizer, DictTools, ScriptedEngine, ScriptedModel
from tests.teacher.completions import Told, reply

CODEC = ChatCodec(ByteTokenizer(), Template.QWEN3)
LIMITS = Limits(max_context_tokens=10_000)
ECHO, SORT = (
    ToolSpec(
        name=name,
        description="",
        parameters={"type": "object", "properties": {"text": {"type": "string"}}},
    )
    for name in ("echo", "sort")
)
TASK = Task(
    id="t1",
    split=Split.TEST,
    family="words",
    language="en",
    wording="plain",
    scenario="none",
    namespace="words",
    system="",
    user_turns=("Sort it.", "Here is sort.", "Thanks."),
    tools=(ECHO, SORT),
    late={"sort": 1},
)


def tools() -> DictTools:
    return DictTools({"echo": str, "sort": lambda text: "".join(sorted(text))})


def sort(call: int) -> AssistantMessage:
    return AssistantMessage(
        calls=(ToolCall(id=f"call_{call}", name="sort", arguments={"text": "ba"}),)
    )


TURNS = (sort(0), AssistantMessage(content="I cannot."), sort(1), AssistantMessage(content="ab"))
THANKS = AssistantMessage(content="Welcome.")


async def played() -> Trajectory:
    engine = ScriptedEngine(
        [CODEC.turn_ids(turn) for turn in (*TURNS, THANKS)],
    )
    return await run_episode(TokenChat(engine, CODEC), tools(), TASK, limits=LIMITS)


async def test_a_late_tool_is_refused_before_its_turn_and_answers_from_then_on() -> None:
    """A model that invents the missing tool must not be rewarded for it."""
    live = tools()

    episode = await run_episode(ScriptedModel([*TURNS, THANKS]), live, TASK, limits=LIMITS)

    early, late = episode.results
    assert (early.source, early.tier, early.is_error) == (Source.LOOP, Tier.EXACT, True)
    assert json.loads(early.text)["message"] == "no tool sort; there are: echo"
    assert late.text == "ab"
    assert [call.id for call in live.calls] == ["call_1"]


async def test_a_local_model_reads_of_a_late_tool_from_its_turn_on() -> None:
    """The prompt is rendered anew at a user turn, so the list in it can grow there."""
    episode = await played()

    prompts = [CODEC._tokenizer.decode(segment.prompt_ids) for segment in episode.segments]
    assert ['"name": "sort"' in prompt for prompt in prompts] == [False, True, True]
    assert all('"name": "echo"' in prompt for prompt in prompts)


async def test_training_rows_show_the_tools_as_the_model_saw_them() -> None:
    """Rows that offered the tool too early would teach to call what was not on offer."""
    episode = await played()

    segments = CODEC.training_segments(TASK.tools, episode.messages, TASK.late)

    assert [s.prompt_ids for s in segments] == [s.prompt_ids for s in episode.segments]


async def test_an_endpoint_is_sent_a_late_tool_from_its_turn_on() -> None:
    """A server that only lets declared tools be called must be told of it in time."""
    answers: list[CompletionReply] = [reply("I cannot."), reply("ab"), reply("Welcome.")]
    told = Told(lambda _, number: answers[number])

    await run_episode(EndpointChat(told, model="m"), tools(), TASK, limits=LIMITS)

    sent = [[tool["function"]["name"] for tool in asked.tools] for asked in told.asked]
    assert sent == [["echo"], ["echo", "sort"], ["echo", "sort"]]


def test_a_task_file_without_the_field_reads_as_before() -> None:
    """Task files of older versions have no late tools."""
    old = msgspec.to_builtins(TASK)
    del old["late"]

    assert msgspec.convert(old, Task).late == {}
