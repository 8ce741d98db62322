"""The rows of `bench_record`: each measures, says how, and holds the figure to its bar."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from benchmarks.record_server import TOOL
from benchmarks.record_workload import (
    DIRECT,
    PROXY,
    STAGES,
    Call,
    Conversations,
    in_turns,
    over_http,
    over_stdio,
    proxying,
    serving,
    staged,
)
from benchmarks.rows import Row, judged, percentile, say, told_us, us
from cacherl.core.completions import CompletionReply, CompletionRequest
from cacherl.core.folders import DataFolder
from cacherl.core.messages import AssistantMessage, ToolCall, UserMessage
from cacherl.core.models import ChatSession, Limits
from cacherl.core.tasks import Split, Task
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.record.folder import Plan, record_folder
from cacherl.record.live_calls import LiveCalls
from cacherl.recorded import RecordedModel
from cacherl.teacher.budget import Budget, Caps
from cacherl.teacher.journal import Book, Journal
from cacherl.teacher.ledger import Tally
from cacherl.teacher.pace import Pace, Retries
from cacherl.teacher.prices import PriceTable
from cacherl.toolbox.world import Place, ToolboxWorld
from cacherl.worlds.desk import DeskExpert, DeskWorld

BAR_S = 1e-3
"""Of the median, added to one call."""
MB_PER_S = 50.0
EPISODES_PER_S = 64.0
"""512 episodes under way, as a batch endpoint wants them, of eight turns that take a second each."""
CALLS_EACH = 10
WARM = 50
IMPORTS = 2  # the better one counts: what disturbs an import only ever makes it slower
LIMITS = Limits(max_turns=40, max_turn_tokens=4096, max_context_tokens=65536)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One run: what it was asked for."""

    work: Path
    """A folder that is thrown away afterwards."""
    seed: int
    calls: int
    """Each way, over stdio."""
    http_calls: int
    episodes: int
    requests: int
    file_bytes: int
    facts: dict[str, Any] = field(default_factory=dict)

    @contextmanager
    def folder(self) -> Iterator[Path]:
        """Yield an empty folder, gone afterwards."""
        with tempfile.TemporaryDirectory(dir=self.work) as path:
            yield Path(path)


# ---- the proxy


def stdio_rows(bench: Bench) -> list[Row]:
    """The official client and a server, then the proxy between them, then the proxy alone."""

    async def run(folder: Path) -> list[Row]:
        cache, quiet = str(folder / "a.cache"), ("--log", str(folder / "log"))
        record = (*PROXY, "--record", cache, *quiet, "--", *DIRECT)
        replay = (*PROXY, "--replay", cache, *quiet)
        rows = []
        for name, command in (("record", record), ("replay", replay)):
            async with over_stdio(DIRECT) as direct, over_stdio(command) as through:
                taken = await _measured(direct, through, bench.calls)
            rows.append(_added(f"stdio, proxy --{name}", *taken))
        return rows

    with bench.folder() as folder:
        return asyncio.run(run(folder))


def http_rows(bench: Bench) -> list[Row]:
    """The same over streamable HTTP, the server's too, for information: what is asked for is stdio.

    Recording takes one more exchange there, come what may.
    """

    async def run(folder: Path, server: str, name: str, words: tuple[str, ...]) -> Row:
        with proxying(*words, log=folder / name) as proxy:
            async with over_http(server) as direct, over_http(proxy) as through:
                taken = await _measured(direct, through, bench.http_calls)
        row = _added(f"HTTP, proxy --{name}", *taken)
        return msgspec.structs.replace(row, target="none", verdict="for information")

    with bench.folder() as folder, serving() as server:
        cache = str(folder / "a.cache")
        return [
            asyncio.run(run(folder, server, "record", ("--record", cache, "--url", server))),
            asyncio.run(run(folder, server, "replay", ("--replay", cache))),
        ]


async def _measured(
    direct: Call, through: Call, calls: int
) -> tuple[dict[str, list[float]], list[float]]:
    """Return the seconds of all calls each way, and of what the second way adds to each."""
    ways = {"direct": direct, "through": through}
    await in_turns(ways, WARM)
    gc.collect()
    taken = await in_turns(ways, calls, start=WARM)
    added = [b - a for a, b in zip(taken["direct"], taken["through"], strict=True)]
    return taken, added


def _added(row: str, taken: dict[str, list[float]], added: list[float]) -> Row:
    """Return what the second way adds to a call, held to the bar."""
    direct, through = median(taken["direct"]), median(taken["through"])
    overhead = through - direct
    return judged(
        row,
        f"{overhead * 1e6:+.0f} us",
        f"{told_us(through)}, direct {told_us(direct)}; p95 {percentile(added, 0.95) * 1e6:+.0f} us",
        f"median under +{BAR_S * 1e6:.0f} us",
        overhead < BAR_S,
        calls=len(added),
        direct_us={"median": us(direct), "p95": us(percentile(taken["direct"], 0.95))},
        through_us={"median": us(through), "p95": us(percentile(taken["through"], 0.95))},
        times_direct=round(through / direct, 3),
        added_us={"median": us(median(added)), "p95": us(percentile(added, 0.95))},
    )


# ---- live tools


def _world(tasks: list[Task]) -> ToolboxWorld:
    from cacherl.adapters.mcp_tools import McpServer, McpSource

    first, *rest = DIRECT
    server = McpServer(name="orders", command=first, args=tuple(rest))
    place = Place(name="orders", open=lambda scenario: McpSource(server, scenario=scenario))
    return ToolboxWorld([place], namespace="orders", tasks=tasks)


def _task(number: int, tools: tuple[Any, ...] = ()) -> Task:
    return Task(
        id=f"t{number}",
        split=Split.TRAIN,
        family="f",
        language="en",
        wording="w",
        scenario="s",
        namespace="orders",
        system="You look orders up.",
        user_turns=("Where are my orders?",),
        tools=tools,
    )


def toolbox_rows(bench: Bench) -> list[Row]:
    """What `cacherl record` does around one call of a tool, without the model."""

    async def run(folder: Path) -> Row:
        world = _world([])
        with LiveCalls(folder / "live_calls.jsonl") as memory:
            live = world.open("s")
            tools = memory.tools(live, _task(0, tuple(await live.start())), 0)

            async def through(order_id: str) -> str:
                call = ToolCall(id=order_id, name=TOOL["name"], arguments={"order_id": order_id})
                return (await tools.call(call)).text

            try:
                async with over_stdio(DIRECT) as direct:
                    taken = await _measured(direct, through, bench.calls)
            finally:
                await tools.aclose()
                await world.aclose()
        return _added("toolbox and journal of calls", *taken)

    with bench.folder() as folder:
        return [asyncio.run(run(folder))]


class _Script:
    """A teacher that asks for ten orders and is done, in no time."""

    name = "script"

    def start(self, task: Task, *, limits: Limits, seed: int) -> ChatSession:
        turns = [
            AssistantMessage(
                calls=(
                    ToolCall(
                        id=f"c{number}",
                        name=TOOL["name"],
                        arguments={"order_id": f"{task.id}-{number}"},
                    ),
                )
            )
            for number in range(CALLS_EACH)
        ]
        said = Trajectory(
            task_id=task.id,
            policy=self.name,
            messages=(UserMessage(content=""), *turns, AssistantMessage(content="Found.")),
            results=(),
            stop=StopReason.ANSWER,
        )
        return RecordedModel(said).start(task, limits=limits, seed=seed)


def episode_rows(bench: Bench) -> list[Row]:
    """Whole recordings: the built-in world and its expert, then a real server and a script."""
    rows = []
    desk = DeskWorld()
    tasks = desk.tasks(Split.TRAIN, count=bench.episodes, seed=bench.seed)
    plan = Plan(teacher="expert", limits=LIMITS, seed=bench.seed)
    with bench.folder() as folder:
        begun = time.perf_counter()
        found = asyncio.run(
            record_folder(DataFolder(folder), DeskExpert(seed=bench.seed), desk, tasks, plan)
        )
        taken = time.perf_counter() - begun
    rate, calls = found.folder.episodes / taken, found.folder.calls
    rows.append(
        judged(
            "record, the desk's expert",
            f"{rate:,.0f} episodes/s",
            f"{rate / EPISODES_PER_S:.1f} of {EPISODES_PER_S:g}/s; {calls / taken:,.0f} calls/s",
            f"at least {EPISODES_PER_S:g} episodes/s",
            rate >= EPISODES_PER_S,
            episodes=found.folder.episodes,
            calls=calls,
            s=round(taken, 3),
        )
    )
    rows.append(_whole_row(bench))
    return rows


def _whole_row(bench: Bench) -> Row:
    """All that a call costs, its share of the episode's files and of the cache included."""
    count = max(1, bench.calls // CALLS_EACH)
    plan = Plan(teacher=_Script.name, limits=LIMITS, concurrency=1)

    async def run(folder: Path) -> tuple[float, float, int]:
        world = _world([_task(number) for number in range(count)])
        try:
            tasks = world.tasks(Split.TRAIN, count=count, seed=bench.seed)
            begun = time.perf_counter()
            found = await record_folder(DataFolder(folder), _Script(), world, tasks, plan)
            taken = time.perf_counter() - begun
            async with over_stdio(DIRECT) as direct:
                alone = await in_turns({"direct": direct}, bench.calls)
        finally:
            await world.aclose()
        return taken, median(alone["direct"]), found.folder.calls

    with bench.folder() as folder:
        taken, direct, calls = asyncio.run(run(folder))
    each = taken / calls
    return judged(
        "record, a server, all of a call",
        f"{(each - direct) * 1e6:+.0f} us",
        f"{told_us(each)} / {told_us(direct)} direct = {each / direct:.2f}",
        f"mean under +{BAR_S * 1e6:.0f} us",
        each - direct < BAR_S,
        calls=calls,
        s=round(taken, 3),
        direct_us=us(direct),
    )


# ---- a paid teacher


class _Free:
    """An endpoint that answers at once."""

    name = "bench:free"

    async def complete(self, request: CompletionRequest) -> CompletionReply:
        said = {"role": "assistant", "content": "Found it. " * 40}
        return CompletionReply(
            message=said, finish_reason="stop", prompt_tokens=2000, completion_tokens=100
        )

    async def aclose(self) -> None:
        """Nothing is held."""


def journal_rows(bench: Bench) -> list[Row]:
    """What stands around a paid request: journal, retries, budget, pace, ledger. Then all once more."""
    draw = Conversations(bench.seed)
    rows = [draw.row(number) for number in range(50)]
    requests = [
        CompletionRequest(
            model="free",
            messages=tuple(rows[number % len(rows)]["messages"]),
            tools=tuple(rows[number % len(rows)]["tools"]),
            max_tokens=1000,
            purpose=f"record/t{number}/0",
        )
        for number in range(bench.requests)
    ]

    async def asked(folder: Path) -> list[float]:
        book = Book.open(folder)
        try:
            tally = Tally(PriceTable.read(None))
            book.follow(tally)
            paced = Pace(_Free(), book)
            stack = Journal(
                Retries(Budget(paced, book, tally, Caps(tokens=1 << 40)), retries=3), book
            )
            taken = []
            for request in requests:
                begun = time.perf_counter()
                await stack.complete(request)
                taken.append(time.perf_counter() - begun)
        finally:
            book.close()
        return taken

    with bench.folder() as folder:
        gc.collect()
        first = asyncio.run(asked(folder))
        again = asyncio.run(asked(folder))
    size = sum(len(str(request.messages)) for request in requests) / len(requests)
    figures = {"requests": len(requests), "request_chars": round(size)}
    return [
        judged(
            name,
            f"{median(taken) * 1e6:.0f} us",
            f"p95 {told_us(percentile(taken, 0.95))}; requests of {size / 1000:.1f} kB",
            f"median under {BAR_S * 1e6:.0f} us",
            median(taken) < BAR_S,
            median_us=us(median(taken)),
            p95_us=us(percentile(taken, 0.95)),
            **figures,
        )
        for name, taken in (
            ("journal, a paid request", first),
            ("journal, answered from it", again),
        )
    ]


# ---- other people's files


def import_rows(bench: Bench) -> list[Row]:
    """OpenAI messages: read, converted, imported, and imported with a cache of the answers. On one core."""
    rows = []
    with bench.folder() as folder:
        path = folder / "rows.jsonl"
        count = Conversations(bench.seed).write(path, bench.file_bytes)
        size = path.stat().st_size
        bench.facts["import"] = {"bytes": size, "rows": count, "bytes_a_row": round(size / count)}
        say(f"  import: {count:,} rows, {size / 1e6:.0f} MB, {size / count / 1e3:.1f} kB each")
        for stage in STAGES:
            rounds = [_staged(stage, path, folder) for _ in range(IMPORTS)]
            found = min(rounds, key=lambda each: float(each["s"]))
            if found["rows"] != count:
                raise AssertionError(f"{stage}: {found['rows']} of {count} rows")
            rate, of_cpu = size / 1e6 / found["s"], size / 1e6 / found["cpu_s"]
            rows.append(
                judged(
                    f"import, {_STAGED[stage]}",
                    f"{rate:.0f} MB/s",
                    f"{of_cpu:.0f} MB a second of CPU; peak {found['peak_mb']:.0f} MB",
                    f"at least {MB_PER_S:.0f} MB/s",
                    rate >= MB_PER_S,
                    rounds=rounds,
                )
            )
    return rows


def _staged(stage: str, path: Path, folder: Path) -> dict[str, Any]:
    spawning = multiprocessing.get_context("spawn")
    told = spawning.SimpleQueue()
    process = spawning.Process(target=staged, args=(stage, str(path), str(folder), told))
    process.start()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the stage {stage} failed; see its message above")
    found: dict[str, Any] = told.get()
    return found


_STAGED = {
    "read": "rows read",
    "convert": "read and converted",
    "import": "whole, no cache",
    "import_cached": "whole, with the cache",
}

ROWS: dict[str, Callable[[Bench], list[Row]]] = {
    "stdio": stdio_rows,
    "http": http_rows,
    "toolbox": toolbox_rows,
    "episodes": episode_rows,
    "journal": journal_rows,
    "import": import_rows,
}
