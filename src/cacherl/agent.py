"""The loop: model <-> tools until a stop reason. Every stage runs this one.

Record, rollout, evaluation and shadow runs differ only in the model and the tools handed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cacherl.core.errors import ModelError, ToolError
from cacherl.core.messages import (
    Call,
    MalformedCall,
    Message,
    SystemMessage,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from cacherl.core.models import ChatModel, ChatSession, Limits, ModelTurn
from cacherl.core.records import JsonObject
from cacherl.core.schema import argument_problem, error_text
from cacherl.core.tasks import Task
from cacherl.core.tools import ErrorClass, Source, Tier, ToolResult, Tools, ToolSpec
from cacherl.core.trajectories import StopReason, Trajectory, Usage
from cacherl.core.worlds import Epilogue, Person


async def run_episode(
    model: ChatModel,
    tools: Tools,
    task: Task,
    *,
    limits: Limits,
    seed: int = 0,
    rollout: int = 0,
) -> Trajectory:
    """Play one task to its end and return everything that happened.

    Nothing a model or a tool does raises: malformed calls, unknown tools, bad arguments and
    failing tools are answered with an error that the model sees, in the order of the calls.
    A model or a tool world that cannot be used at all ends the episode with MODEL_FAILED or
    TOOLS_FAILED and the error's text in `notes["error"]`.

    Source: CacheRL, arXiv:2606.14179, CacheAgentLoop.
    """
    messages: list[Message] = []
    results: list[ToolResult] = []
    turns: list[ModelTurn] = []
    notes: JsonObject = {}
    session = model.start(task, limits=limits, seed=seed)
    try:
        stop = await _play(session, tools, task, limits, messages, results, turns)
        if isinstance(tools, Epilogue):
            notes.update(await tools.epilogue())
    except ModelError as error:
        stop, notes["error"] = StopReason.MODEL_FAILED, str(error)
        if error.kind is not None:
            notes["error_kind"] = str(error.kind)
    except ToolError as error:
        stop, notes["error"] = StopReason.TOOLS_FAILED, str(error)
    finally:
        session.close()
    return Trajectory(
        task_id=task.id,
        policy=model.name,
        seed=seed,
        rollout=rollout,
        messages=tuple(messages),
        results=tuple(results),
        stop=stop,
        segments=session.segments(),
        usage=Usage(
            prompt_tokens=sum(turn.prompt_tokens for turn in turns),
            completion_tokens=sum(turn.completion_tokens for turn in turns),
            model_s=sum(turn.model_s for turn in turns),
            dollars=_dollars(turns),
        ),
        notes=notes,
    )


def _dollars(turns: Sequence[ModelTurn]) -> float | None:
    known = [turn.dollars for turn in turns if turn.dollars is not None]
    return sum(known) if turns and len(known) == len(turns) else None


async def _play(
    session: ChatSession,
    tools: Tools,
    task: Task,
    limits: Limits,
    messages: list[Message],
    results: list[ToolResult],
    turns: list[ModelTurn],
) -> StopReason:
    users = list(task.user_turns)
    new: list[Message] = [SystemMessage(content=task.system)] if task.system else []
    said = await _user_turn(users, tools, "")
    if said is None:
        raise ToolError(
            f"task {task.id}: nobody says anything. Give it a user turn, or tools that play the user."
        )
    new.append(said)
    while True:
        messages += new
        if len(turns) >= limits.max_turns:
            return StopReason.MAX_TURNS
        turn = await session.reply(new)
        if turn.context_full:
            return StopReason.CONTEXT_FULL
        turns.append(turn)
        messages.append(turn.message)
        if turn.truncated:
            return StopReason.TRUNCATED
        if turn.message.calls:
            turn_index = sum(isinstance(message, UserMessage) for message in messages) - 1
            specs = {spec.name: spec for spec in task.offered(turn_index)}
            answered = await _answer(session, tools, specs, turn.message.calls, limits)
            results += (result for result, _ in answered)
            new = [message for _, message in answered]
        else:
            said = await _user_turn(users, tools, turn.message.content)
            if said is None:
                return StopReason.ANSWER
            new = [said]


async def _user_turn(users: list[str], tools: Tools, heard: str) -> UserMessage | None:
    """Return what the user says next: what is written, then what tools that play the user make up."""
    if users:
        return UserMessage(content=users.pop(0))
    said = await tools.say(heard) if isinstance(tools, Person) else None
    return None if said is None else UserMessage(content=said)


async def _answer(
    session: ChatSession,
    tools: Tools,
    specs: Mapping[str, ToolSpec],
    calls: Sequence[Call],
    limits: Limits,
) -> list[tuple[ToolResult, ToolMessage]]:
    answered = []
    # One after the other: two writes of one turn must not race, and a replay must see their order.
    for call in calls:
        result = refusal(call, specs)
        if result is None and isinstance(call, ToolCall):
            result = await tools.call(call)
        if result is None:
            raise TypeError(f"a {type(call).__name__} is neither a call nor refused")
        shown = session.clip(result.text, limits.max_result_tokens)
        answered.append((result, ToolMessage(call_id=call.id, name=result.name, content=shown)))
    return answered


def refusal(call: Call, specs: Mapping[str, ToolSpec]) -> ToolResult | None:
    """Return the loop's own answer to a call that must not reach any tool, or None.

    Malformed calls, tools that were not offered and arguments that do not fit the schema are
    refused the same way whether the tools are live or cached, so the tier is EXACT.
    """
    if isinstance(call, MalformedCall):
        name, text = "", error_text("malformed_call", call.problem)
    elif call.name not in specs:
        offered = ", ".join(specs) or "none"
        name, text = (
            call.name,
            error_text("unknown_tool", f"no tool {call.name}; there are: {offered}"),
        )
    else:
        problem = argument_problem(specs[call.name], call.arguments)
        if problem is None:
            return None
        name, text = call.name, error_text("invalid_arguments", problem)
    return ToolResult(
        call_id=call.id,
        name=name,
        text=text,
        is_error=True,
        error_class=ErrorClass.VALIDATION,
        tier=Tier.EXACT,
        source=Source.LOOP,
    )
