"""Every live call, written down before it is made and after it was answered.

For tools that act on something outside (`World.resets` is False): a run that was killed inside an
episode must neither make a call again that ran, nor forget what it was answered.

- Answered: the answer is given from here, as long as the model makes the same calls.
- Begun and never answered: a tool that only reads is asked again. A tool that writes is not, because
  it may have run: the model gets a TRANSIENT error that says so, and decides.
- Another call than the one on record: nothing here can be trusted to be what the model now relies
  on, so the episode ends with a `ToolError` (TOOLS_FAILED).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import msgspec

from cacherl.cache.identity.normalise import is_writer
from cacherl.core.errors import DataError, ToolError
from cacherl.core.jsonl import JsonlAppender, decode_line
from cacherl.core.messages import ToolCall
from cacherl.core.records import Record
from cacherl.core.schema import error_text
from cacherl.core.tasks import Task
from cacherl.core.tools import ErrorClass, Source, Tier, ToolResult
from cacherl.core.worlds import WorldTools

Episode = tuple[str, int]
"""Task id and rollout."""

GRACE_S = 10.0
"""How long an interrupted episode waits for the answer to the call that is under way: a write cannot
be called back, and knowing what it did is better than wondering."""

T = TypeVar("T")


class Started(Record, frozen=True, kw_only=True, tag_field="kind", tag="started"):
    """A live call is about to be made."""

    task_id: str
    rollout: int
    position: int
    """0 for the episode's first call that reached its tools."""
    call: ToolCall


class Answered(Record, frozen=True, kw_only=True, tag_field="kind", tag="answered"):
    """What it was answered."""

    task_id: str
    rollout: int
    position: int
    result: ToolResult


@dataclass(frozen=True, slots=True)
class Made:
    """A call that an earlier run made, and its answer if it came."""

    call: ToolCall
    result: ToolResult | None


def read_live_calls(path: Path, *, without: Container[Episode] = ()) -> dict[Episode, list[Made]]:
    """Return the calls of each episode in order, those of episodes in `without` left out.

    Raises:
        DataError: a line is damaged, or an answer stands where no call began.
    """
    episodes: dict[Episode, list[Made]] = {}
    if not path.exists():
        return episodes
    with path.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            if not line.endswith(b"\n"):
                break  # torn by a kill: opening the file to append cuts it off
            where = f"{path}:{number}"
            entry: Started | Answered = decode_line(line, Started | Answered, where)  # type: ignore[arg-type]
            episode = (entry.task_id, entry.rollout)
            if episode in without:
                continue
            made = episodes.setdefault(episode, [])
            match entry:
                case Started() if entry.position == len(made):
                    made.append(Made(entry.call, None))
                case Started() if entry.position == len(made) - 1 and made[-1].result is None:
                    made[-1] = Made(entry.call, None)  # a reader that was asked again
                case Answered() if entry.position == len(made) - 1 and made[-1].result is None:
                    made[-1] = Made(made[-1].call, entry.result)
                case _:
                    raise DataError(
                        f"{where}: call {entry.position} of task {entry.task_id}, rollout "
                        f"{entry.rollout}, stands out of order. Lines of this file must not be "
                        "edited; restore it, or delete every line of that task."
                    )
    return episodes


def recalled(made: Made | None, call: ToolCall, *, writes: bool) -> ToolResult | None:
    """Return how a call must be answered without making it, or None: make it.

    Args:
        made: what stands on record at this position of the episode.
        call: what the model asks now.
        writes: whether the tool may change anything.

    Raises:
        ToolError: the model asks something else than before.
    """
    if made is None:
        return None
    if _asked(made.call) != _asked(call):
        raise ToolError(
            f"before it was stopped this episode called {made.call.name}, and now the model calls "
            f"{call.name} {'with other arguments ' if made.call.name == call.name else ''}instead: "
            "what it did to the live tools cannot be taken up. Look what state they are in, then "
            "delete the lines of this task from the file of live calls to begin it anew."
        )
    if made.result is not None:
        return msgspec.structs.replace(made.result, call_id=call.id)
    return _unknown_outcome(call) if writes else None


def _asked(call: ToolCall) -> bytes:
    return msgspec.json.encode((call.name, call.arguments), order="sorted")


def _unknown_outcome(call: ToolCall) -> ToolResult:
    return ToolResult(
        call_id=call.id,
        name=call.name,
        text=error_text(
            "unknown_outcome",
            f"the connection was lost while {call.name} ran: it is not known whether it took "
            "effect. It was not made again. Check before you repeat it.",
        ),
        is_error=True,
        error_class=ErrorClass.TRANSIENT,
        tier=Tier.LIVE,
        source=Source.LIVE,
    )


class LiveCalls:
    """The file of live calls of one recording, open to go on. Its lines hold what tools really said."""

    def __init__(self, path: Path, *, without: Container[Episode] = ()) -> None:
        """Open the file, or make it, readable by its owner only.

        Args:
            path: the file.
            without: episodes that are finished and need no memory.

        Raises:
            DataError: a line is damaged.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
        self._made = read_live_calls(path, without=without)
        self._file = JsonlAppender(path)

    def tools(self, tools: WorldTools, task: Task, rollout: int) -> WorldTools:
        """Return the tools of an episode: calls of earlier runs answered from here, new ones kept."""
        made = self._made.pop((task.id, rollout), [])
        return _Remembered(tools, task, rollout, made, self._file)

    def close(self) -> None:
        """Sync to disk and close."""
        self._file.close()

    def __enter__(self) -> LiveCalls:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Remembered:
    def __init__(
        self,
        tools: WorldTools,
        task: Task,
        rollout: int,
        made: Sequence[Made],
        file: JsonlAppender,
    ) -> None:
        self._tools, self._made, self._file = tools, made, file
        self._task, self._rollout = task.id, rollout
        self._readers = frozenset(spec.name for spec in task.tools if not is_writer(spec.effects))
        self._position = 0

    async def call(self, call: ToolCall) -> ToolResult:
        position, self._position = self._position, self._position + 1
        made = self._made[position] if position < len(self._made) else None
        result = recalled(made, call, writes=call.name not in self._readers)
        if result is None:
            self._file.append(
                Started(task_id=self._task, rollout=self._rollout, position=position, call=call)
            )
            return await _to_its_end(self._live(position, call))
        if made is not None and made.result is None:
            self._answered(position, result)
        return result

    async def _live(self, position: int, call: ToolCall) -> ToolResult:
        result = await self._tools.call(call)
        self._answered(position, result)
        return result

    def _answered(self, position: int, result: ToolResult) -> None:
        self._file.append(
            Answered(task_id=self._task, rollout=self._rollout, position=position, result=result)
        )

    def fingerprint(self) -> str:
        return self._tools.fingerprint()

    async def aclose(self) -> None:
        await self._tools.aclose()


async def _to_its_end(work: Awaitable[T]) -> T:
    """Await `work`; when cancelled, however often, first let it end within `GRACE_S`."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        until = time.monotonic() + GRACE_S
        while not task.done() and (left := until - time.monotonic()) > 0:
            # A run that ends cancels its episodes more than once.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({task}, timeout=left)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        raise
