"""`cacherl record` against a teacher that misbehaves, killed again and again: nothing lost, nothing twice."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cache.upkeep.diff import diff_files
from cacherl.core.folders import DataFolder
from cacherl.core.jsonl import read_jsonl, write_jsonl
from cacherl.core.messages import AssistantMessage, ToolCall
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import ErrorClass, Source, ToolResult
from cacherl.core.trajectories import StopReason, Trajectory
from cacherl.record.folder import Manifest
from cacherl.record.into_cache import CacheOfFile
from cacherl.worlds.desk import DeskWorld
from cacherl.worlds.desk.tools import WRITERS
from tests.record import lasting_desk as lasting
from tests.record.preloaded import Preloaded
from tests.teacher_server import TeacherServer, Trouble

NOISE = (
    Trouble("rate_limit", every=7),
    Trouble("broken_json", every=11),
    Trouble("unknown_tool", every=13),
    Trouble("timeout", at=(29, 71)),
    Trouble("cut", at=(41,)),
    Trouble("html", at=(53,)),
    Trouble("error", at=(67,)),
)


@pytest.fixture
def cacherl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Preloaded]:
    with Preloaded(tmp_path_factory.mktemp("preloaded")) as preloaded:
        yield preloaded


def recording(teacher: TeacherServer, out: Path, *more: str | Path) -> list[str | Path]:
    return [
        *("record", "--teacher", f"openai:desk@{teacher.url}", "--out", out, "--best-of", "2"),
        *("--timeout-s", "1", "--concurrency", "4", *more),
    ]


def desk(teacher: TeacherServer, out: Path) -> list[str | Path]:
    return recording(teacher, out, "--world", "desk", "--count", "8")


def lasting_desk(teacher: TeacherServer, out: Path, beside: Path) -> list[str | Path]:
    """Tools that keep what was done to them, and tasks for them: files, as a person has them."""
    tools, file = beside / "tools.toml", beside / "wanted.jsonl"
    tools.write_text(lasting.TOOLS.format(module=Path(lasting.__file__)))
    every = DeskWorld().tasks(Split.TRAIN, count=200, seed=0)
    write_jsonl(
        file,
        [
            msgspec.structs.replace(task, tools=(), namespace="lasting-desk")
            for task in every
            if task.family == "cancel"
        ][:8],
    )
    return recording(teacher, out, "--tools", tools, "--tasks", file)


def lines(folder: DataFolder) -> int:
    """Count what has been written so far in all the files that a kill could tear."""
    files = (folder.journal / "requests.jsonl", folder.trajectories, folder.live_calls)
    return sum(path.read_bytes().count(b"\n") for path in files if path.exists())


def done(cacherl: Preloaded, command: list[str | Path], code: int = 0) -> None:
    assert cacherl.run(command) == code, cacherl.log.read_text()[-3000:]


def killed_until_done(
    cacherl: Preloaded,
    command: list[str | Path],
    teacher: TeacherServer,
    when: Callable[[], Callable[[], bool]],
    *,
    kills: int,
) -> int:
    """Run the command, kill it so many times as `when` says, then let it end; return the kills."""
    killed = 0

    def looked_after() -> None:
        if not teacher.alive:
            teacher.start_again()

    for _ in range(40):
        due = when() if killed < kills else lambda: False

        def until(due: Callable[[], bool] = due) -> bool:
            looked_after()
            return due()

        code = cacherl.run(command, until=until)
        if code == -signal.SIGKILL:
            killed += 1
        elif code == 0 and killed >= kills:
            return killed
        else:
            assert code == 0, cacherl.log.read_text()[-3000:]
            kills = killed  # it ended before it could be killed again
    raise AssertionError("it does not get done")


def check_whole(folder: DataFolder, teacher: TeacherServer, beside: Path, *, episodes: int) -> None:
    """Every episode once, every call in the cache once, every request billed once."""
    trajectories = list(read_jsonl(folder.trajectories, Trajectory))
    pairs = Counter((each.task_id, each.rollout) for each in trajectories)
    assert len(pairs) == episodes
    assert set(pairs.values()) == {1}
    billed = Counter(bill.digest for bill in teacher.bills())
    assert max(billed.values()) == 1
    tasks = {task.id: task for task in read_jsonl(folder.tasks, Task)}
    manifest = msgspec.json.decode(folder.manifest.read_bytes(), type=Manifest)
    with ToolCache.open(beside, mode="write") as cache:
        level = CacheOfFile(cache, manifest.folder, tasks, resets=manifest.resets)
        for trajectory in trajectories:
            level.add(trajectory)
    found = diff_files(str(folder.cache), str(beside))
    assert found.same > 0
    assert (found.changed, found.contradicting, found.only_a, found.only_b) == (0, 0, 0, 0)
    assert found.notes == ()


def test_a_misbehaving_teacher_and_kills_at_many_lines_lose_nothing(
    cacherl: Preloaded, tmp_path: Path
) -> None:
    """The issue's own promise: every task done or its failure on record, and paid for once."""
    folder, drawn = DataFolder(tmp_path / "data"), random.Random(4)
    with TeacherServer(
        *NOISE, Trouble("die", at=(60,)), folder=tmp_path, honours_keys=True, latency_s=0.01
    ) as teacher:

        def some_lines_on() -> Callable[[], bool]:
            goal = lines(folder) + drawn.randint(3, 25)
            return lambda: lines(folder) >= goal

        killed = killed_until_done(
            cacherl, desk(teacher, folder.root), teacher, some_lines_on, kills=8
        )
        while any(each.stop is StopReason.MODEL_FAILED for each in on_file(folder)):
            assert cacherl.run(desk(teacher, folder.root)) == 0

        assert killed >= 5
        check_whole(folder, teacher, tmp_path / "built.sqlite", episodes=16)


def on_file(folder: DataFolder) -> list[Trajectory]:
    return list(read_jsonl(folder.trajectories, Trajectory))


def test_kills_at_random_times_change_nothing_in_what_is_recorded(
    cacherl: Preloaded, tmp_path: Path
) -> None:
    """An episode that was cut short goes on to where it would have gone anyway."""
    drawn = random.Random(9)
    with TeacherServer(folder=tmp_path, honours_keys=True, latency_s=0.02) as teacher:
        whole, cut = DataFolder(tmp_path / "whole"), DataFolder(tmp_path / "cut")
        done(cacherl, desk(teacher, whole.root))
        (tmp_path / "bills.jsonl").rename(tmp_path / "bills-of-whole.jsonl")
        teacher.start_again()

        def after_a_while() -> Callable[[], bool]:
            at = time.monotonic() + drawn.uniform(0.05, 0.4)
            return lambda: time.monotonic() > at

        killed_until_done(cacherl, desk(teacher, cut.root), teacher, after_a_while, kills=8)

        check_whole(cut, teacher, tmp_path / "built.sqlite", episodes=16)

    def told(folder: DataFolder) -> dict[tuple[str, int], tuple[object, ...]]:
        return {
            (each.task_id, each.rollout): (
                each.messages,
                each.stop,
                each.final_state,
                each.usage.prompt_tokens,
                each.usage.completion_tokens,
            )
            for each in on_file(folder)
        }

    assert told(cut) == told(whole)


def test_no_write_is_repeated_on_tools_that_act_on_something_outside(
    cacherl: Preloaded, tmp_path: Path
) -> None:
    """A second refund is real money, whoever was killed in between."""
    folder, drawn = DataFolder(tmp_path / "data"), random.Random(1)
    with TeacherServer(
        Trouble("unknown_tool", every=13), folder=tmp_path, honours_keys=True, latency_s=0.005
    ) as teacher:

        def some_lines_on() -> Callable[[], bool]:
            goal = lines(folder) + drawn.randint(2, 20)
            return lambda: lines(folder) >= goal

        command = lasting_desk(teacher, folder.root, tmp_path)
        killed = killed_until_done(cacherl, command, teacher, some_lines_on, kills=8)
        assert killed >= 5
        check_whole(folder, teacher, tmp_path / "built.sqlite", episodes=16)

    check_writes(folder, cacherl.folder)


def check_writes(folder: DataFolder, beside: Path) -> None:
    """Each write that reached the desk was asked for by an episode, and each that was answered did."""
    tasks = {task.id: task for task in read_jsonl(folder.tasks, Task)}
    asked: Counter[tuple[str, str, str]] = Counter()
    answered: Counter[tuple[str, str, str]] = Counter()
    for each in on_file(folder):
        for call, result in calls_of(each):
            if call.name in WRITERS and result.source is not Source.LOOP:
                arguments = json.dumps(call.arguments, sort_keys=True)
                write = (tasks[each.task_id].scenario, call.name, arguments)
                asked[write] += 1
                answered[write] += result.error_class is not ErrorClass.TRANSIENT
    done = lasting.writes_done(beside)
    assert sum(asked.values()) > 4
    assert not done - asked, "a write was made that no episode on file asked for"
    assert not answered - done, "an episode holds the answer to a write that was never made"


def calls_of(trajectory: Trajectory) -> Iterator[tuple[ToolCall, ToolResult]]:
    calls = [
        call
        for message in trajectory.messages
        if isinstance(message, AssistantMessage)
        for call in message.calls
    ]
    for call, result in zip(calls, trajectory.results, strict=False):
        if isinstance(call, ToolCall):
            yield call, result


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_kills_nothing_is_lost(cacherl: Preloaded, tmp_path: Path, seed: int) -> None:
    """The same at many more points, with every trouble at once."""
    folder, drawn = DataFolder(tmp_path / "data"), random.Random(seed)
    with TeacherServer(
        *NOISE,
        Trouble("die", at=(drawn.randint(5, 90),)),
        folder=tmp_path,
        honours_keys=True,
        latency_s=0.01,
    ) as teacher:

        def somewhere() -> Callable[[], bool]:
            goal = lines(folder) + drawn.randint(1, 12)
            at = time.monotonic() + drawn.uniform(0.1, 3.0)
            return lambda: lines(folder) >= goal or time.monotonic() > at

        killed_until_done(cacherl, desk(teacher, folder.root), teacher, somewhere, kills=15)
        while any(each.stop is StopReason.MODEL_FAILED for each in on_file(folder)):
            done(cacherl, desk(teacher, folder.root))
        check_whole(folder, teacher, tmp_path / "built.sqlite", episodes=16)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_kills_no_write_is_repeated(
    cacherl: Preloaded, tmp_path: Path, seed: int
) -> None:
    """The same for tools that act on something outside."""
    folder, drawn = DataFolder(tmp_path / "data"), random.Random(seed)
    with TeacherServer(
        Trouble("broken_json", every=11), folder=tmp_path, honours_keys=True, latency_s=0.005
    ) as teacher:

        def some_lines_on() -> Callable[[], bool]:
            goal = lines(folder) + drawn.randint(1, 12)
            return lambda: lines(folder) >= goal

        command = lasting_desk(teacher, folder.root, tmp_path)
        killed_until_done(cacherl, command, teacher, some_lines_on, kills=15)
        check_whole(folder, teacher, tmp_path / "built.sqlite", episodes=16)
    check_writes(folder, cacherl.folder)
