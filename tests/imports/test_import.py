"""Other people's files into a folder: all that can be read, a report of the rest, and nothing broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from cacherl.cache.lookup.tool_cache import ToolCache
from cacherl.cli import main
from cacherl.core.errors import DataError, RecipeError
from cacherl.core.folders import DataFolder
from cacherl.core.jsonl import read_jsonl
from cacherl.core.messages import AssistantMessage, ToolCall, ToolMessage
from cacherl.core.schema import error_text
from cacherl.core.tasks import Split, Task
from cacherl.core.tools import ErrorClass, Source, Tier, ToolResult
from cacherl.core.trajectories import Trajectory
from cacherl.formats.rows import Skipped
from cacherl.imports import ALL_BAD, ImportOptions, ImportSummary, import_files, replay_folder
from tests.formats.conversations import answered, kept, task_of


def chat(
    said: str = "Oslo?", *, answer: str = "rain", calls: int = 1, **more: Any
) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [{"role": "user", "content": said}]
    for number in range(calls):
        function = {"name": "weather", "arguments": json.dumps({"city": said, "n": number})}
        call = {"id": f"c{number}", "type": "function", "function": function}
        messages += [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"c{number}", "content": answer},
        ]
    messages.append({"role": "assistant", "content": "Done."})
    return {"messages": messages, **more}


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return path


def brought(
    source: Path, folder: Path, **options: Any
) -> tuple[ImportSummary, list[Task], list[Trajectory]]:
    summary = import_files(source, folder, ImportOptions(**options))
    root = DataFolder(folder)
    return (
        summary,
        list(read_jsonl(root.tasks, Task)),
        list(read_jsonl(root.trajectories, Trajectory)),
    )


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# ---- what comes in


def test_an_import_leaves_what_later_stages_go_on_from(tmp_path: Path) -> None:
    """Tasks, trajectories and a cache that belong together, and where each came from."""
    source = lines(tmp_path / "shop.jsonl", chat("Oslo?"), chat("Rome?", calls=2))

    summary, tasks, trajectories = brought(
        source, tmp_path / "out", split=Split.DEV, language="en", licence="MIT"
    )

    assert (summary.format, summary.tasks, summary.trajectories, summary.calls) == (
        "openai",
        2,
        2,
        3,
    )
    assert [task.namespace for task in tasks] == ["shop", "shop"]
    assert {(task.split, task.language) for task in tasks} == {(Split.DEV, "en")}
    assert [t.notes["from"] for t in trajectories] == [f"{source}:1", f"{source}:2"]
    assert {t.notes["licence"] for t in trajectories} == {"MIT"}
    with ToolCache.open(tmp_path / "out" / "cache.sqlite") as cache:
        hit = cache.lookup("shop", tasks[0].tools[0], {"city": "Oslo?", "n": 0})
    assert hit.tier is Tier.EXACT
    assert summary.skipped == 0
    assert not (tmp_path / "out" / ".importing").exists()


def test_what_is_left_out_is_reported_by_line_field_and_reason(tmp_path: Path) -> None:
    """Nobody can judge an import, or mend its file, without knowing what is missing."""
    source = lines(
        tmp_path / "a.jsonl",
        chat(),
        "{nope",
        chat("Rome?"),
        {"messages": [{"role": "wizard", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x"}, {"role": "bard", "content": "x"}]},
        {"text": "x"},
    )

    summary, tasks, _ = brought(source, tmp_path / "out")

    skipped = list(read_jsonl(tmp_path / "out" / "skipped.jsonl", Skipped))
    assert len(tasks) == 2
    assert [(each.where, each.field) for each in skipped] == [
        (f"{source}:2", ""),
        (f"{source}:4", "messages[0].role"),
        (f"{source}:5", "messages[1].role"),
        (f"{source}:6", "messages"),
    ]
    assert summary.skipped == 4
    assert summary.problems["messages[].role: unknown role …"] == 2


def test_two_tasks_of_one_id_get_two_ids(tmp_path: Path) -> None:
    """Shards number their rows from zero, each for itself; as one task they would be scored as one."""
    (tmp_path / "shards").mkdir()
    for shard, said in (("0", "Oslo?"), ("1", "Rome?"), ("2", "Oslo?")):
        lines(tmp_path / "shards" / f"{shard}.jsonl", chat(said, id=7))

    summary, tasks, trajectories = brought(tmp_path / "shards", tmp_path / "out")

    assert [(task.id, task.user_turns, task.scenario) for task in tasks] == [
        ("shards-7", ("Oslo?",), "shards-7"),
        ("shards-7~2", ("Rome?",), "shards-7~2"),
    ]
    assert [(t.task_id, t.rollout) for t in trajectories] == [
        ("shards-7", 0),
        ("shards-7~2", 0),
        ("shards-7", 1),
    ]
    assert (summary.files, summary.renamed) == (3, 1)


def test_one_task_answered_many_times_is_one_task_with_rollouts(tmp_path: Path) -> None:
    """`best_of` files repeat the task; every conversation stays, and can be told from the others."""
    rows = [chat("Oslo?", answer=f"{n}", id="t") for n in range(50)]

    _, tasks, trajectories = brought(lines(tmp_path / "a.jsonl", *rows), tmp_path / "out")

    assert len(tasks) == 1
    assert [t.rollout for t in trajectories] == list(range(50))


def test_the_cache_is_what_recording_one_by_one_would_make(tmp_path: Path) -> None:
    """Many conversations go into one transaction; that may change nothing but the time."""
    rows = [chat(f"{n % 7}", answer=f"{n % 3}", calls=2) for n in range(600)]
    _, tasks, trajectories = brought(lines(tmp_path / "a.jsonl", *rows), tmp_path / "out")
    by_id = {task.id: task for task in tasks}
    with ToolCache.open(tmp_path / "one.sqlite", mode="write") as alone:
        for trajectory in trajectories:
            alone.record_trajectory(by_id[trajectory.task_id], trajectory)
        expected = list(alone.store.entries())

    with ToolCache.open(tmp_path / "out" / "cache.sqlite") as cache:
        assert list(cache.store.entries()) == expected


def test_limits_and_switches(tmp_path: Path) -> None:
    """A look at the first hundred of a million; tasks without a cache."""
    source = lines(tmp_path / "a.jsonl", *(chat(f"{n}") for n in range(9)))

    summary, tasks, _ = brought(
        source, tmp_path / "out", limit=4, cache=False, namespace="mine", format_name="openai"
    )

    assert (summary.trajectories, summary.calls) == (4, 0)
    assert tasks[0].namespace == "mine"
    assert sorted(listing(tmp_path / "out")) == [
        "import.json",
        "skipped.jsonl",
        "tasks.jsonl",
        "trajectories.jsonl",
    ]


async def test_a_conversation_with_a_missing_result_replays_as_far_as_is_known(
    tmp_path: Path,
) -> None:
    """The results after it stand in a state that nobody knows: neither served nor called different."""
    row = chat("Oslo?", calls=4)
    del row["messages"][4]  # the second result

    brought(lines(tmp_path / "a.jsonl", row, chat("Rome?")), tmp_path / "out")
    summary = await replay_folder(tmp_path / "out")

    assert (summary.identical, summary.unanswered, summary.in_doubt) == (2, 1, 2)
    assert summary.different == 0


async def test_a_transient_failure_is_in_doubt_and_no_difference(tmp_path: Path) -> None:
    """It is on record and served to nobody: a recording that met one time-out must still pass its check."""
    told = error_text("timeout", "no answer within 1 s. The tool only reads: nothing was changed.")
    task = task_of()
    trajectory = answered(task)
    asked = AssistantMessage(calls=(ToolCall(id="c1", name="weather", arguments={"city": "Oslo"}),))
    failed = ToolResult(
        call_id="c1",
        name="weather",
        text=told,
        is_error=True,
        error_class=ErrorClass.TRANSIENT,
        tier=Tier.LIVE,
        source=Source.LIVE,
    )
    first, *rest = trajectory.messages
    trajectory = msgspec.structs.replace(
        trajectory,
        messages=(first, asked, ToolMessage(call_id="c1", name="weather", content=told), *rest),
        results=(failed,),
    )

    summary = await replay_folder(kept(tmp_path, (task, trajectory)))

    assert (summary.in_doubt, summary.different, summary.results) == (1, 0, 0)


# ---- what must not happen


def test_a_wrong_format_is_said_with_the_right_one(tmp_path: Path) -> None:
    """After a hundred bad rows the format is wrong, not the rows; a million need not be read for it."""
    rows = [{"id": n, "conversations": [{"from": "human", "value": "x"}]} for n in range(5_000)]
    source = lines(tmp_path / "a.jsonl", *rows)

    with pytest.raises(DataError, match=rf"first {ALL_BAD} rows is openai.*--format sharegpt"):
        brought(source, tmp_path / "out", format_name="openai")

    assert not (tmp_path / "out" / "tasks.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("a.jsonl", '{"x": 1}\n', "no format that cacherl knows"),
        ("a.jsonl", "", "is empty"),
        ("typo.jsonl", None, "no such file"),
    ],
)
def test_a_file_that_nobody_knows_is_one_line(
    tmp_path: Path, name: str, text: str | None, complaint: str
) -> None:
    """What to do next, before anything is written."""
    if text is not None:
        (tmp_path / name).write_text(text)

    with pytest.raises(DataError, match=complaint):
        brought(tmp_path / name, tmp_path / "out")
    with pytest.raises((RecipeError, DataError), match=r"no format 'moon'|no such file"):
        brought(tmp_path / name, tmp_path / "out", format_name="moon")
    assert not (tmp_path / "out").exists()


def test_a_failed_import_leaves_the_earlier_one_as_it_was(tmp_path: Path) -> None:
    """A second try must not cost what the first one brought."""
    brought(lines(tmp_path / "a.jsonl", chat()), tmp_path / "out")
    before = listing(tmp_path / "out")

    def broken(done: int, total: int, found: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_files(
            lines(tmp_path / "a.jsonl", chat("Rome?")),
            tmp_path / "out",
            ImportOptions(),
            on_progress=broken,
        )

    assert listing(tmp_path / "out") == before


def test_another_source_takes_no_import_away(tmp_path: Path) -> None:
    """A slip of --out must not replace Monday's import with Tuesday's file; what is there is named."""
    out = tmp_path / "out"
    brought(lines(tmp_path / "a.jsonl", chat()), out)
    other = lines(tmp_path / "b.jsonl", chat("Rome?"))
    before = listing(out)

    with pytest.raises(DataError) as caught:
        brought(other, out)

    for word in (f"holds an import of {tmp_path / 'a.jsonl'}", str(other), "--out", "--force"):
        assert word in str(caught.value)
    assert listing(out) == before
    _, tasks, _ = brought(other, out, force=True)
    assert [task.user_turns for task in tasks] == [("Rome?",)]


def test_an_import_takes_the_place_of_an_import(tmp_path: Path) -> None:
    """The newer file is what somebody wants; nothing of the older one may be mixed into it."""
    brought(lines(tmp_path / "a.jsonl", chat()), tmp_path / "out")
    (tmp_path / "out" / "cache.sqlite-wal").write_bytes(b"of the older cache")

    _, tasks, _ = brought(lines(tmp_path / "a.jsonl", chat("Rome?")), tmp_path / "out")

    assert [task.user_turns for task in tasks] == [("Rome?",)]
    assert not (tmp_path / "out" / "cache.sqlite-wal").exists()


@pytest.mark.parametrize(
    ("prepare", "complaint"),
    [
        (lambda root: (root.root / "import.json").unlink(), "was not written by an import"),
        (lambda root: root.selected.touch(), "selected.jsonl: was made from what importing"),
        (lambda root: root.augmented.touch(), "augmented.jsonl: was made from what importing"),
    ],
    ids=["recorded", "selected", "augmented"],
)
def test_other_peoples_work_is_not_written_over(
    tmp_path: Path, prepare: Callable[[DataFolder], object], complaint: str
) -> None:
    """Recorded tasks cost money; a slip of --out must not take them."""
    source = lines(tmp_path / "a.jsonl", chat())
    brought(source, tmp_path / "out")
    prepare(DataFolder(tmp_path / "out"))
    before = listing(tmp_path / "out")

    with pytest.raises(DataError, match=complaint):
        brought(source, tmp_path / "out")

    assert listing(tmp_path / "out") == before
    assert brought(source, tmp_path / "out", force=True)[0].tasks == 1


# ---- at the terminal


def test_the_command_says_what_happened_and_what_to_do_next(tmp_path: Path) -> None:
    """A person reads five lines, not a file."""
    rows = [chat(f"{n}") for n in range(3)]
    bad = [{"messages": [{"role": f"r{n % 7}\x1b[31m", "content": ""}]} for n in range(20)]
    source = lines(tmp_path / "a.jsonl", *rows, *bad, "{", '{"text": 1}')

    result = CliRunner().invoke(main, ["import", str(source), "--out", str(tmp_path / "out")])

    assert result.exit_code == 0, result.output
    assert "3 trajectories of 3 tasks, read as openai; 3 calls, 3 answers kept" in result.stdout
    assert "22 left out" in result.stdout
    assert "messages[].role: unknown role" in result.stdout
    assert "Next: cacherl cache stats" in result.stdout
    assert "\x1b" not in result.stdout


def test_the_command_prints_figures_as_json(tmp_path: Path) -> None:
    """For scripts; the same as import.json."""
    source = lines(tmp_path / "a.jsonl", chat())
    out = tmp_path / "out"

    result = CliRunner().invoke(main, ["import", str(source), "--out", str(out), "--json"])

    said = json.loads(result.stdout)
    kept = json.loads((out / "import.json").read_text())
    assert said == {key: value for key, value in kept.items() if key != "_sum"}
